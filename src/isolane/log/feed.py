"""The one road from an event to everybody who follows its thread.

The log is the truth, the bell is only a hint. A `Tail` keeps the newest records of one thread and
feeds any number of followers from them; who is further behind reads the log. Subscribe first, then
read, then repeat on a ring or after a quiet spell: resume, gap repair, slow readers and lost rings
are this one loop.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from enum import StrEnum
from typing import Final

from isolane.context import START, EventId, ThreadKey
from isolane.contracts import BatchSource, Bell, EventLog, LogBounds, RunEnd, RunLease
from isolane.events.event import Record
from isolane.health.fairness import Turns
from isolane.health.sight import Sight
from isolane.log.tail import Tail
from isolane.log.window import FULL_WINDOW, WindowSize

LOOK_S: Final = 2.0
"""Seconds between two looks where followed logs end, while the bell hears: rings may get lost."""
QUIET_S: Final = 15.0
"""After how much silence followers look into the log themselves: a ring may get lost."""

_ALL_THREADS: Final = ""
"""Stands for a thread on the bell where nodes ring for a user. No thread is called so."""
_HOUSE: Final = ""
"""Stands for a user on the bell where nodes ring one another. No user is called so."""


class HouseTopic(StrEnum):
    """What nodes ring one another for."""

    DELETIONS = "deletions"
    """A thread was deleted that may be followed at another node."""
    STOPS = "stops"
    """A run was stopped that another node may drive."""
    TURNS = "turns"
    """A run has ended, and the next of its thread may wait at another node."""


class Feed:
    """Appends to logs, rings the bell, and opens tails."""

    def __init__(
        self,
        log: EventLog,
        bell: Bell,
        *,
        sight: Sight | None = None,
        quiet_s: float = QUIET_S,
    ) -> None:
        """Join the log and the bell of this node. While `sight` is blind, nobody gets a record."""
        self._log = log
        self._bell = bell
        self.sight = sight or Sight(is_needed=False)
        """Whether this node sees what others revoke."""
        self._looked_s = float("-inf")
        self._was_deaf = False
        self._quiet_s = quiet_s
        self._turns = Turns()
        self._window_size = FULL_WINDOW
        self._tails: defaultdict[ThreadKey, set[Tail]] = defaultdict(set)
        self.readers = 0
        """Readers outside any manager: event streams."""
        self.appended = 0
        """Events committed so far."""
        self.log_reads = 0
        """Reads of a log's records so far, for all followers of its thread."""
        self.bounds_reads = 0
        """Reads of where a log begins and ends so far."""

    async def append(
        self,
        lease: RunLease,
        payloads: Sequence[bytes],
        *,
        batch: int,
        end: RunEnd | None = None,
    ) -> list[Record]:
        """Commit, then ring: nobody hears of what could still be lost. See `EventLog.append`."""
        try:
            records = await self._log.append(lease, payloads, batch=batch, end=end)
        finally:
            if end is not None:  # with it the oldest runs may have gone
                self._note_trim(lease.key)
        self.announce(lease.key, records)
        return records

    async def append_beside(self, key: ThreadKey, payload: bytes) -> Record:
        """Commit, then ring; see `EventLog.append_beside`."""
        record = await self._log.append_beside(key, payload)
        self.announce(key, [record])
        return record

    def commit_soon(self, source: BatchSource) -> None:
        """Commit a batch of `source`, who announces it; see `EventLog.commit_soon`."""
        self._log.commit_soon(source)

    def announce(self, key: ThreadKey, records: Sequence[Record]) -> None:
        """Tell everybody who follows the thread of records that are committed."""
        self.appended += len(records)
        self._bell.ring(key, records)

    def ring_house(self, topic: HouseTopic) -> None:
        """Tell the other nodes of the database that there is something for them to do."""
        self._bell.ring(ThreadKey(_HOUSE, topic), ())

    async def hear_house(self, topic: HouseTopic, call: Callable[[], None]) -> Callable[[], None]:
        """Call `call` at each ring of a topic from now on; return the function that ends that."""
        return await self._bell.listen(ThreadKey(_HOUSE, topic), lambda _: call())

    def ring_user(self, user_id: str) -> None:
        """Tell all nodes, this one too, that something of a user's threads has changed."""
        self._bell.ring(ThreadKey(user_id, _ALL_THREADS), ())

    async def hear_user(self, user_id: str, call: Callable[[], None]) -> Callable[[], None]:
        """Call `call` at each ring for a user from now on; return the function that ends that."""
        return await self._bell.listen(ThreadKey(user_id, _ALL_THREADS), lambda _: call())

    async def take_over(self, key: ThreadKey, run_id: str) -> RunLease:
        """Return a new lease of a run that hasn't ended; see `EventLog.take_over`."""
        return await self._log.take_over(key, run_id)

    async def open_tail(self, key: ThreadKey) -> Tail:
        """Return a tail that hears the bell already; its owner closes it."""
        tail = Tail(
            key,
            self,
            turns=self._turns,
            quiet_s=self._quiet_s,
            window_size=self._window_size,
            sight=self.sight,
            on_close=self._forget,
        )
        await tail.listen(self._bell)
        self._tails[key].add(tail)
        return tail

    def resize_windows(self, most: WindowSize) -> None:
        """Keep no more than `most` in each window from now on: less while memory is short."""
        if most == self._window_size:
            return
        self._window_size = most
        for tails in self._tails.values():
            for tail in tails:
                tail.resize(most)

    def _forget(self, tail: Tail) -> None:
        tails = self._tails.get(tail.key, set())
        tails.discard(tail)
        if not tails:
            self._tails.pop(tail.key, None)

    def _note_trim(self, key: ThreadKey) -> None:
        for tail in self._tails.get(key, ()):
            tail.note_trim()

    async def look_if_due(self) -> None:
        """Look where the followed logs end when a ring may have been lost.

        That is so while the bell is deaf, once it hears again, and every 2 s. To be called four
        times a second. Safe to cancel.

        Raises:
            Unavailable: The log can't be read now.
        """
        now_s, is_deaf = asyncio.get_running_loop().time(), self._bell.is_deaf
        if is_deaf or self._was_deaf or now_s - self._looked_s >= LOOK_S:
            await self.look()
            self._looked_s, self._was_deaf = now_s, is_deaf

    def look_soon(self) -> None:
        """Have the next `look_if_due` look."""
        self._looked_s = float("-inf")

    async def look(self) -> None:
        """Look where the followed logs end, and find what was committed and not rung here.

        A thread that is gone is followed no more. Safe to cancel.

        Raises:
            Unavailable: The log can't be read now.
        """
        keys = [key for key, tails in self._tails.items() if any(one.end for one in tails)]
        if not keys:
            return
        heads = await self._log.load_heads(keys)
        for key in keys:
            head = heads.get(key, START)
            for tail in tuple(self._tails.get(key, ())):
                if tail.end is None or tail.end == head:
                    continue
                if head == START:
                    tail.close()
                elif tail.end.epoch != head.epoch or tail.end.seq < head.seq:
                    tail.look()

    def close(self) -> None:
        """Close every tail: whoever still follows ends in order."""
        for tails in tuple(self._tails.values()):
            for tail in tuple(tails):
                tail.close()

    async def delete(self, key: ThreadKey) -> frozenset[str]:
        """Remove a thread with everything it has; see `EventLog.delete`."""
        run_ids = await self._log.delete(key)
        self.ring_house(HouseTopic.DELETIONS)
        for tail in tuple(self._tails.get(key, ())):
            tail.close()
        return run_ids

    async def trim(self, *, older_than: int) -> int:
        """Let go of what is old; see `EventLog.trim`."""
        return await self._log.trim(older_than=older_than, told=self._note_trim)

    async def read(
        self, key: ThreadKey, *, after: EventId, limit: int, max_bytes: int
    ) -> list[Record]:
        """Return what is strictly after `after`; see `EventLog.read`."""
        self.log_reads += 1
        return await self._log.read(key, after=after, limit=limit, max_bytes=max_bytes)

    async def load_bounds(self, key: ThreadKey) -> LogBounds:
        """Return what the log of `key` holds now."""
        self.bounds_reads += 1
        return await self._log.load_bounds(key)

    async def load_bounds_for(self, key: ThreadKey, cursor: EventId | None) -> LogBounds:
        """Return what the log of `key` holds, for somebody who wants to go on from `cursor`.

        Where the thread is followed, its tail knows, or asks once for all who come together.
        """
        tail = next(iter(self._tails.get(key, ())), None)
        return await (self.load_bounds(key) if tail is None else tail.load_bounds(cursor))

    @asynccontextmanager
    async def reading(self, key: ThreadKey) -> AsyncIterator[Tail]:
        """Open a tail for one reader; from here on a deletion of the thread ends it."""
        tail = await self.open_tail(key)
        self.readers += 1
        try:
            yield tail
        finally:
            self.readers -= 1
            tail.close()

    async def follow(self, key: ThreadKey, *, after: EventId) -> AsyncGenerator[Record, None]:
        """Yield every record strictly after `after`, then live, for one reader of its own."""
        async with aclosing(self.follow_batches(key, after=after)) as batches:
            async for batch in batches:
                for record in batch:
                    yield record

    async def follow_batches(
        self, key: ThreadKey, *, after: EventId
    ) -> AsyncGenerator[Sequence[Record], None]:
        """Yield the same records, as many at once as are there already. None is empty."""
        async with self.reading(key) as tail, aclosing(tail.follow(after)) as batches:
            async for batch in batches:
                yield batch
