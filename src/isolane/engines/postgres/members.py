"""The nodes that serve a database: each has a lease, which it renews from a thread of its own.

A blocked event loop loses no lease, for the thread goes on. Only the server's clock dates a beat,
and no clock is compared with another: who declares a death has seen the same beat for a whole lease
of its own steady clock, while its own beats were answered.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

import psycopg
import structlog
from sqlalchemy import Connection as SqlConnection

from isolane.engines.postgres.driver import Connection
from isolane.engines.postgres.failures import to_error
from isolane.errors import DatabaseFailed
from isolane.sql.database import Database
from isolane.sql.driver import execute, load_column

LEASE_S: Final = 5.0
"""Seconds without a new beat after which others declare a node dead."""
BEAT_S: Final = 1.0
BROKEN_S: Final = 2.5
"""Seconds between two answered beats of its own after which a node begins to watch others anew.
Otherwise the database's own absence would be everybody's death."""
SILENT_LOOP_S: Final = 120.0
"""Seconds without a turn of the event loop after which the thread renews the lease no more: a
process in which nothing runs must not hold its runs for ever."""

_NOW: Final = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint"
_REGISTER: Final = f"INSERT INTO nodes (node_id, beat_at) VALUES (?, {_NOW})"  # noqa: S608 - ours
_BEAT: Final = f"UPDATE nodes SET beat_at = {_NOW} WHERE node_id = ? RETURNING beat_at"  # noqa: S608 - ours
_OTHERS: Final = "SELECT node_id, beat_at FROM nodes WHERE node_id != ?"
_BURY: Final = "DELETE FROM nodes WHERE node_id = ? AND beat_at = ?"
_LEAVE: Final = "DELETE FROM nodes WHERE node_id = ?"
_LIVE: Final = "SELECT node_id FROM nodes"

_log = structlog.get_logger(__name__)


class Deaths:
    """Which nodes are dead, by what a living one sees. Pure."""

    def __init__(self) -> None:
        """Begin without having seen anybody."""
        self._seen: dict[str, tuple[int, float]] = {}
        """The last beat of each node, and since when it has been the last."""
        self._looked_s = float("-inf")

    def look(self, now_s: float, beats: Mapping[str, int]) -> list[tuple[str, int]]:
        """Take what the nodes' last beats are, and return those that are dead, with that beat.

        `now_s` is of a steady clock.
        """
        if now_s - self._looked_s > BROKEN_S:
            self._seen.clear()
        self._looked_s = now_s
        before, self._seen = self._seen, {}
        for node, beat in beats.items():
            seen = before.get(node)
            self._seen[node] = seen if seen is not None and seen[0] == beat else (beat, now_s)
        return [
            (node, beat)
            for node, (beat, since_s) in self._seen.items()
            if now_s - since_s >= LEASE_S
        ]


class _Beating:
    """The thread that beats for one node, and sees who beats no more."""

    def __init__(
        self, node_id: str, open_connection: Callable[[], Connection], clock: Callable[[], int]
    ) -> None:
        self.node_id = node_id
        self._open_connection = open_connection
        self._clock = clock
        self._connection: Connection | None = None
        self._ended = threading.Event()
        self._deaths = Deaths()
        self._thread = threading.Thread(target=self._run, name="isolane-beat", daemon=True)
        self.turned_s = time.monotonic()
        """When the event loop turned last, by the steady clock."""
        self.is_dead = False
        """Whether another node has declared this one dead."""
        self.skew_ms = 0

    def register(self) -> None:
        """Write the node's row, and beat from now on.

        Raises:
            Unavailable: The server can't be reached.
            DatabaseFailed: Another process is registered under this id.
        """
        try:
            self._connect().execute(_REGISTER, (self.node_id,))
        except psycopg.Error as error:
            self.end()
            if isinstance(error, psycopg.errors.UniqueViolation):
                raise DatabaseFailed(f"another process serves as node {self.node_id}") from error
            raise to_error(error) from error
        self._thread.start()

    def end(self) -> None:
        """Beat no more, and close the connection. Waits for the beat under way."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._connection is not None:
            self._connection.close()

    def _connect(self) -> Connection:
        if self._connection is None or self._connection.closed:
            self._connection = self._open_connection()
        return self._connection

    def _run(self) -> None:
        while not (self.is_dead or self._ended.wait(BEAT_S)):
            if time.monotonic() - self.turned_s > SILENT_LOOP_S:
                continue
            try:
                self._beat()
            except psycopg.Error as error:
                _log.warning("beat_failed", reason=str(error).partition("\n")[0])
                if self._connection is not None:
                    self._connection.close()

    def _beat(self) -> None:
        connection = self._connect()
        beat = connection.execute(_BEAT, (self.node_id,)).fetchone()
        if beat is None:
            self.is_dead = True
            return
        self.skew_ms = self._clock() - beat[0]
        others = dict(connection.execute(_OTHERS, (self.node_id,)).fetchall())
        for node_id, seen in self._deaths.look(time.monotonic(), others):
            if connection.execute(_BURY, (node_id, seen)).rowcount:
                _log.warning("node_declared_dead", node=node_id)


class PostgresMembers:
    """The table `nodes`. A node without a row lives no more; see `Members`."""

    def __init__(
        self,
        database: Database,
        *,
        open_connection: Callable[[], Connection],
        clock: Callable[[], int],
    ) -> None:
        """Read from `database`; `open_connection` opens the one of the thread that beats."""
        self._database = database
        self._open_connection = open_connection
        self._clock = clock
        self._beating: _Beating | None = None

    async def register(self, node_id: str) -> None:
        """Count the node among those that live, and beat for it from now on; see `Members`."""
        if self._beating is not None and self._beating.node_id == node_id:
            return
        await self._end()
        beating = _Beating(node_id, self._open_connection, self._clock)
        await asyncio.to_thread(beating.register)
        self._beating = beating

    async def beat(self, node_id: str) -> bool:
        """Let the thread know that the loop turns; say whether the node lives; see `Members`."""
        beating = self._beating
        if beating is None or beating.node_id != node_id:
            return False
        beating.turned_s = time.monotonic()
        return not beating.is_dead

    async def leave(self, node_id: str) -> None:
        """Beat no more, and count the node no longer; see `Members`."""
        await self._end()
        await self._database.write(lambda one: _leave(one, node_id))

    async def _end(self) -> None:
        beating, self._beating = self._beating, None
        if beating is not None:
            await asyncio.to_thread(beating.end)

    async def live(self) -> frozenset[str]:
        """Return the ids of the nodes that live; see `Members`."""
        return await self._database.read(lambda one: frozenset(load_column(one, _LIVE)))

    def clock_skew_ms(self) -> int:
        """Return by how much this node's clock is ahead of the server's; see `Members`."""
        return 0 if self._beating is None else self._beating.skew_ms


def _leave(connection: SqlConnection, node_id: str) -> None:
    execute(connection, _LEAVE, (node_id,))
