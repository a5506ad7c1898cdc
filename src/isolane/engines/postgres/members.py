"""The nodes that serve a database: each has a lease, which it renews from a thread of its own.

A blocked event loop loses no lease, for the thread goes on. Only the server's clock dates a beat,
and no clock is compared with another: who declares a death has seen the same beat for a whole lease
of its own steady clock, while its own beats were answered.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

import psycopg
import structlog
from sqlalchemy import Connection as SqlConnection

from isolane.contracts import NodeInfo, NodeStatus
from isolane.engines.postgres.driver import Connection
from isolane.engines.postgres.failures import to_error
from isolane.errors import DatabaseFailed, NameTaken
from isolane.sql.database import Database
from isolane.sql.driver import load_value
from isolane.sql.nodes import add_node, load_nodes, remove_node, to_agents

LEASE_S: Final = 5.0
"""Seconds without a new beat after which others declare a node dead."""
BEAT_S: Final = 1.0
BROKEN_S: Final = 2.5
"""Seconds between two answered beats of its own after which a node begins to watch others anew.
Otherwise the database's own absence would be everybody's death."""
PROMPT_S: Final = 0.5
"""Seconds within which a beat is answered that tells what the server's clock says."""
SILENT_LOOP_S: Final = 120.0
"""Seconds without a turn of the event loop after which the thread renews the lease no more: a
process in which nothing runs must not hold its runs for ever."""

_NOW: Final = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint"
_BEAT: Final = f"""
WITH own AS (
    UPDATE nodes SET beat_at = ({_NOW}), is_draining = ? WHERE node_id = ?
    RETURNING node_id, beat_at
)
SELECT node_id, beat_at, '[]', '' FROM own
UNION ALL SELECT node_id, beat_at, agents, name FROM nodes WHERE node_id != ?
"""  # noqa: S608 - ours
"""One statement, because a node does it each second: it beats, and reads who else does."""
_BURY: Final = "DELETE FROM nodes WHERE node_id = ? AND beat_at = ?"
_NAME_TRIES: Final = 5
"""Times that a node tries to take its name, which another process may take at the same moment."""

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
        self,
        node_id: str,
        info: NodeInfo,
        open_connection: Callable[[], Connection],
        clock: Callable[[], int],
    ) -> None:
        self.node_id = node_id
        self._info = info
        self._open_connection = open_connection
        self._clock = clock
        self._connection: Connection | None = None
        self._ended = threading.Event()
        self._deaths = Deaths()
        self._thread = threading.Thread(target=self._run, name="isolane-beat", daemon=True)
        self.turned_s = time.monotonic()
        """When the event loop turned last, by the steady clock."""
        self.is_dead = False
        """Whether the node has no row any more: another one has declared it dead, or has its name.
        """
        self.is_replaced = False
        """Whether another process has its name."""
        self.is_draining = False
        self.others: Mapping[str, tuple[str, ...]] = {}
        """The agents of the other nodes, by their ids."""
        self.beaten_s = time.monotonic()
        """When the last beat that was answered began, by the steady clock."""
        self.skew_ms = 0

    def start(self) -> None:
        """Beat once, and from now on each second.

        Raises:
            Unavailable: The server can't be reached.
        """
        try:
            self._beat()
        except psycopg.Error as error:
            self.end()
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
        connection, began_s = self._connect(), time.monotonic()
        values = (int(self.is_draining), self.node_id, self.node_id)
        rows = connection.execute(_BEAT, values).fetchall()
        beats = {node_id: beat for node_id, beat, _, _ in rows}
        own = beats.pop(self.node_id, None)
        if own is None:
            self.is_replaced = any(name == self._info.name for _, _, _, name in rows)
            self.is_dead = True
            return
        self.beaten_s = began_s
        now_s, now = time.monotonic(), self._clock()
        if now_s - began_s < PROMPT_S:  # a late answer says little of the clock
            self.skew_ms = now - round((now_s - began_s) * 500) - own
        self.others = {
            node_id: to_agents(agents) for node_id, _, agents, _ in rows if node_id in beats
        }
        for node_id, seen in self._deaths.look(time.monotonic(), beats):
            if connection.execute(_BURY, (node_id, seen)).rowcount:
                _log.warning("node_declared_dead", node=node_id)


class PostgresMembers:
    """The table `nodes`. A node without a row lives no more; see `Members`."""

    is_alone = False
    lease_ms = round(LEASE_S * 1000)

    def __init__(
        self,
        database: Database,
        info: NodeInfo,
        *,
        open_connection: Callable[[], Connection],
        clock: Callable[[], int],
    ) -> None:
        """Register this process, which is `info`; `open_connection` is for the thread that beats.

        All else goes through `database`.
        """
        self._database = database
        self._info = info
        self._open_connection = open_connection
        self._clock = clock
        self._beating: _Beating | None = None

    @property
    def node_id(self) -> str:
        """The id under which this process is registered; "" while it isn't."""
        return "" if self._beating is None else self._beating.node_id

    async def register(self, node_id: str) -> None:
        """Count the node among those that live, and beat for it from now on; see `Members`."""
        if self._beating is not None and self._beating.node_id == node_id:
            return
        await self._end()
        await self._add(node_id)
        beating = _Beating(node_id, self._info, self._open_connection, self._clock)
        await asyncio.to_thread(beating.start)
        self._beating = beating

    async def _add(self, node_id: str) -> None:
        for tries_left in reversed(range(_NAME_TRIES)):
            try:
                return await self._database.write(partial(_add, node_id, self._info))
            except DatabaseFailed:  # another process has taken the name at the same moment
                if not tries_left:
                    raise
        return None

    async def beat(self, node_id: str) -> bool:
        """Let the thread know that the loop turns; say whether the node lives; see `Members`."""
        beating = self._beating
        if beating is None or beating.node_id != node_id:
            return False
        beating.turned_s = time.monotonic()
        if beating.is_replaced:
            raise NameTaken(
                f"another process serves the database as {self._info.name}: give each its own "
                "ISOLANE_NODE_ID"
            )
        return not beating.is_dead

    def drain(self) -> None:
        """Tell the others with the next beat that nothing new is taken; see `Members`."""
        if self._beating is not None:
            self._beating.is_draining = True

    async def leave(self, node_id: str) -> None:
        """Beat no more, and count the node no longer; see `Members`."""
        await self._end()
        await self._database.write(lambda one: remove_node(one, node_id))

    async def _end(self) -> None:
        beating, self._beating = self._beating, None
        if beating is not None:
            await asyncio.to_thread(beating.end)

    async def load_nodes(self) -> list[NodeStatus]:
        """Return the nodes that live; see `Members`."""
        return await self._database.read(lambda one: load_nodes(one, now=load_value(one, _NOW)))

    def get_others(self) -> Mapping[str, Sequence[str]]:
        """Return the agents of the other nodes, as of the last beat; see `Members`."""
        return {} if self._beating is None else self._beating.others

    def clock_skew_ms(self) -> int:
        """Return by how much this node's clock is ahead of the server's; see `Members`."""
        return 0 if self._beating is None else self._beating.skew_ms

    def lease_age_ms(self) -> int | None:
        """Return how long ago the last answered beat began; see `Members`."""
        if self._beating is None:
            return None
        return round((time.monotonic() - self._beating.beaten_s) * 1000)


def _add(node_id: str, info: NodeInfo, connection: SqlConnection) -> None:
    add_node(connection, node_id, info, now=load_value(connection, _NOW))
