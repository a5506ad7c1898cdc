"""How many connections each user has, counted over all processes that serve the database.

All else that a user may take of a process is counted there: it protects that process.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

from sqlalchemy import Connection

from isolane.backoff import Backoff
from isolane.contracts import Limits
from isolane.errors import IsolaneError, LimitExceeded
from isolane.sql.database import Database
from isolane.sql.driver import execute
from isolane.tasks import TaskOwner

LIMIT: Final = "connectionsPerUser"
APART_S: Final = 0.002
"""Seconds for which those are collected who come and go, so that they share a transaction."""
LANE: Final = "connections of all users"
"""The lane of these transactions. One is under way in all processes together, so none counts what
another is about to write."""

# A crash of the server may take the last counts away: sockets don't outlive that by much, and each
# count is written whole.
_CARELESS: Final = "SET LOCAL synchronous_commit = off"
_PUT: Final = """
INSERT INTO slots (user_id, node_id, held)
SELECT told.user_id, ?, told.held FROM unnest(?::text[], ?::bigint[]) AS told (user_id, held)
ON CONFLICT (user_id, node_id) DO UPDATE SET held = excluded.held
"""
_DROP: Final = "DELETE FROM slots WHERE node_id = ? AND user_id = ANY(?::text[]) AND held = 0"
_OTHERS: Final = """
SELECT user_id, sum(held)::bigint FROM slots WHERE user_id = ANY(?::text[]) AND node_id != ?
AND node_id IN (SELECT node_id FROM nodes) GROUP BY user_id
"""


class SharedLimits:
    """Limits of one process, but for connections; see `Limits`."""

    def __init__(
        self,
        local: Limits,
        database: Database,
        *,
        get_node_id: Callable[[], str],
        most: int,
        tasks: TaskOwner,
    ) -> None:
        """Count in `local`, and connections in `database` too, up to `most` of each user.

        `get_node_id` tells under which id this process is registered.
        """
        self._local = local
        self._slots = _Slots(database, get_node_id=get_node_id, most=most, tasks=tasks)

    @asynccontextmanager
    async def take(self, user_id: str, limit: str) -> AsyncGenerator[None, None]:
        """Hold one of the user's places for the block; see `Limits`.

        Raises:
            LimitExceeded: On entering, the user holds all places already.
            Unavailable: On entering, the database can't be reached.
        """
        async with self._local.take(user_id, limit):
            if limit != LIMIT:
                yield
                return
            await self._slots.take(user_id)
            try:
                yield
            finally:
                self._slots.release(user_id)

    def hit(self, user_id: str, limit: str) -> None:
        """Count one event against a rate; see `Limits`."""
        self._local.hit(user_id, limit)

    def weigh(self, user_id: str, size: int) -> float:
        """Count a frame's bytes, or return the seconds after which to ask again; see `Limits`."""
        return self._local.weigh(user_id, size)


class _Slots:
    """The rows of this process in the table `slots`, written in batches, each count whole."""

    def __init__(
        self,
        database: Database,
        *,
        get_node_id: Callable[[], str],
        most: int,
        tasks: TaskOwner,
    ) -> None:
        self._database = database
        self._get_node_id = get_node_id
        self._most = most
        self._tasks = tasks
        self._held: Counter[str] = Counter()
        self._asked: defaultdict[str, list[asyncio.Future[None]]] = defaultdict(list)
        self._changed: set[str] = set()
        """Users whose rows tell another count than `_held`."""
        self._written_as = ""
        """Under which id the rows were written: others remove those of a node they think dead."""
        self._is_writing = False

    async def take(self, user_id: str) -> None:
        """Return once the user has one place more. Safe to cancel."""
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._asked[user_id].append(answer)
        self._write_soon()
        try:
            await answer
        except asyncio.CancelledError:
            if not answer.cancelled() and answer.exception() is None:  # it came with this
                self.release(user_id)
            raise

    def release(self, user_id: str) -> None:
        """Give a place back; the others hear of it in a moment."""
        self._held[user_id] -= 1
        self._changed.add(user_id)
        self._write_soon()

    def _write_soon(self) -> None:
        if not self._is_writing:
            self._is_writing = True
            self._tasks.detach(self._write(), name="connection slots")

    async def _write(self) -> None:
        backoff = Backoff()
        try:
            while self._asked or self._changed:
                await asyncio.sleep(APART_S)  # for others to join
                if not await self._write_batch():
                    await backoff.pause()  # between two tries
        finally:
            self._is_writing = False

    async def _write_batch(self) -> bool:
        """Write the counts of users who came or went; say whether the database took them."""
        asked, self._asked = self._asked, defaultdict(list)
        users, self._changed = {*asked, *self._changed}, set()
        node_id = self._get_node_id()
        if node_id != self._written_as:
            users |= set(self._held)
        counts = {user_id: self._held[user_id] + len(asked[user_id]) for user_id in users}
        try:
            work = partial(_put, node_id, counts)
            others = await self._database.write(work, lane=LANE)
        except BaseException as error:
            self._changed |= users
            waiting = [one for answers in asked.values() for one in answers if not one.done()]
            for answer in waiting:
                if isinstance(error, Exception):
                    answer.set_exception(error)
                else:  # the end of the process
                    answer.cancel()
            if not isinstance(error, IsolaneError):
                raise
            return False
        self._written_as = node_id
        for user_id, answers in asked.items():
            self._answer(user_id, answers, others.get(user_id, 0))
        self._held += Counter()  # without those who hold nothing
        return True

    def _answer(self, user_id: str, answers: list[asyncio.Future[None]], others: int) -> None:
        for answer in answers:
            if not answer.done() and self._held[user_id] + others < self._most:
                self._held[user_id] += 1
                answer.set_result(None)
                continue
            self._changed.add(user_id)  # its row counts one too many
            if not answer.done():
                answer.set_exception(LimitExceeded(LIMIT, self._most))


def _put(node_id: str, counts: Mapping[str, int], connection: Connection) -> dict[str, int]:
    """Write how many connections users have at a node; return how many they have at others."""
    users, held = list(counts), list(counts.values())
    execute(connection, _CARELESS)
    execute(connection, _PUT, (node_id, users, held))
    if 0 in held:
        execute(connection, _DROP, (node_id, users))
    return dict(execute(connection, _OTHERS, (users, node_id)).fetchall())
