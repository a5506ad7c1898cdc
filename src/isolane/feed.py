"""The one road from an event to everybody who follows its thread.

The log is the truth, the bell is only a hint. A `Tail` keeps the newest records of one thread and
feeds any number of followers from them; who is further behind reads the log. Subscribe first, then
read, then repeat on a ring or after a quiet spell: resume, gap repair, slow readers and lost rings
are this one loop.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import Final, TypeAlias

from isolane.context import EventId, ThreadKey
from isolane.contracts import Bell, EventLog, LogBounds, RunEnd
from isolane.events import Record

WINDOW_RECORDS: Final = 512
WINDOW_BYTES: Final = 1 << 20
WindowSize: TypeAlias = tuple[int, int]
"""The most records, and the most bytes; one record may always stay."""
FULL_WINDOW: Final[WindowSize] = (WINDOW_RECORDS, WINDOW_BYTES)
SMALL_WINDOW: Final[WindowSize] = (64, 1 << 16)
"""While memory is short."""
READ_RECORDS: Final = 256
BATCH_RECORDS: Final = 64
BATCH_BYTES: Final = 1 << 18
"""A batch ends with the record that reaches this: who never takes it holds little more."""
QUIET_S: Final = 15.0
"""After how much silence followers look into the log themselves: a ring may get lost."""


class Tail:
    """The newest records of one thread on this node, and a bell that keeps them coming."""

    def __init__(
        self,
        key: ThreadKey,
        read: Callable[[EventId], Awaitable[list[Record]]],
        *,
        quiet_s: float,
        on_close: Callable[[Tail], None],
    ) -> None:
        """Begin with nothing; `Feed.open_tail` connects it to the bell and to the log."""
        self.key = key
        self._on_close = on_close
        self._read = read
        self._quiet_s = quiet_s
        self._window: deque[Record] = deque()
        self._window_bytes = 0
        self._most = FULL_WINDOW
        self._rung = asyncio.Event()
        self._hang_up: Callable[[], None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_quiet = True
        self._doubts = 0
        self._is_ended = False

    async def listen(self, bell: Bell) -> None:
        """Hear the bell from now on."""
        self._hang_up = await bell.listen(self.key, self.take)
        self._timer = asyncio.get_running_loop().call_later(self._quiet_s, self._doubt)

    def close(self) -> None:
        """Hear nothing more; followers end with what they have."""
        self._is_ended = True
        self._wake()
        self._on_close(self)
        if self._hang_up is not None:
            self._hang_up()
            self._hang_up = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _doubt(self) -> None:
        """Send every follower to look into the log once, if it was quiet since the last time."""
        self._timer = asyncio.get_running_loop().call_later(self._quiet_s, self._doubt)
        if self._is_quiet:
            self._doubts += 1
            self._wake()
        self._is_quiet = True

    def _wake(self) -> None:
        self._rung.set()
        self._rung = asyncio.Event()

    @property
    def window_size(self) -> tuple[int, int]:
        """How many records are kept, and their bytes."""
        return len(self._window), self._window_bytes

    def take(self, records: Sequence[Record]) -> None:
        """Keep what was rung; what doesn't follow on begins a new window, the log has the rest."""
        if not records:
            return
        newest = self._window[-1].id if self._window else None
        if newest is not None and _is_known(newest, records[-1].id):
            return  # rings may overtake one another
        if newest is not None and not _follows(newest, records[0].id):
            self._window.clear()
            self._window_bytes = 0
        for record in records:
            self._window.append(record)
            self._window_bytes += len(record.payload)
        self._trim()
        self._is_quiet = False
        self._wake()

    def resize(self, most: WindowSize) -> None:
        """Keep no more than `most` from now on; who is further behind reads the log."""
        self._most = most
        self._trim()

    def _trim(self) -> None:
        """Let go of what is too much, but of the newest: by it rings that come late are known."""
        most_records, most_bytes = self._most
        while len(self._window) > most_records or (
            self._window_bytes > most_bytes and len(self._window) > 1
        ):
            self._window_bytes -= len(self._window.popleft().payload)

    async def follow(self, after: EventId) -> AsyncGenerator[list[Record], None]:
        """Yield everything strictly after `after` in batches, then live, until the tail is closed.

        Raises `CursorExpired` when what comes next is no longer kept, `InvalidCursor` when
        `after` is ahead of the log.
        """
        position = after
        checked = -1
        while not self._is_ended:
            rung, doubts = self._rung, self._doubts
            batch = self._from_window(position)
            if batch is None or not (batch or checked == doubts):
                batch = await self._read(position)
                if not _is_full(batch):  # else there may be more: look on
                    checked = doubts
            if batch:
                position = batch[-1].id
                yield batch
            else:
                await rung.wait()

    def _from_window(self, position: EventId) -> list[Record] | None:
        """Return what the window has after `position`; None when it doesn't reach back so far."""
        if not self._window:
            return None
        first, last = self._window[0].id, self._window[-1].id
        if position.seq < first.seq - 1 or (position.seq and position.epoch != last.epoch):
            return None
        skipped = position.seq - first.seq + 1
        # By index: a deque is quick at both ends, and a live follower wants the newest.
        stop = min(skipped + BATCH_RECORDS, len(self._window))
        batch: list[Record] = []
        size = 0
        for place in range(skipped, stop):
            batch.append(self._window[place])
            size += len(batch[-1].payload)
            if size >= BATCH_BYTES:
                break
        return batch


def _is_full(batch: Sequence[Record]) -> bool:
    return len(batch) >= READ_RECORDS or sum(len(one.payload) for one in batch) >= BATCH_BYTES


def _is_known(newest: EventId, last: EventId) -> bool:
    return newest.epoch == last.epoch and last.seq <= newest.seq


def _follows(newest: EventId, first: EventId) -> bool:
    return newest.epoch == first.epoch and first.seq == newest.seq + 1


class Feed:
    """Appends to logs, rings the bell, and opens tails."""

    def __init__(self, log: EventLog, bell: Bell, *, quiet_s: float = QUIET_S) -> None:
        """Join the log and the bell of this node."""
        self._log = log
        self._bell = bell
        self._quiet_s = quiet_s
        self._window_size = FULL_WINDOW
        self._tails: defaultdict[ThreadKey, set[Tail]] = defaultdict(set)
        self.readers = 0
        """Readers outside any manager: event streams."""
        self.appended = 0
        """Events committed so far."""
        self.log_reads = 0
        """Reads of a log by followers so far: one at the start of each, then on gaps only."""

    async def append(
        self,
        key: ThreadKey,
        run_id: str,
        payloads: Sequence[bytes],
        *,
        epoch: str | None = None,
        end: RunEnd | None = None,
    ) -> list[Record]:
        """Commit, then ring: nobody hears of what could still be lost. See `EventLog.append`."""
        records = await self._log.append(key, run_id, payloads, epoch=epoch, end=end)
        self.appended += len(records)
        self._bell.ring(key, records)
        return records

    async def open_tail(self, key: ThreadKey) -> Tail:
        """Return a tail that hears the bell already; its owner closes it."""
        tail = Tail(key, partial(self._read, key), quiet_s=self._quiet_s, on_close=self._forget)
        await tail.listen(self._bell)
        self._tails[key].add(tail)
        tail.resize(self._window_size)
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

    async def _read(self, key: ThreadKey, position: EventId) -> list[Record]:
        self.log_reads += 1
        return await self._log.read(key, after=position, limit=READ_RECORDS, max_bytes=BATCH_BYTES)

    def close(self) -> None:
        """Close every tail: whoever still follows ends in order."""
        for tails in tuple(self._tails.values()):
            for tail in tuple(tails):
                tail.close()

    async def delete(self, key: ThreadKey) -> frozenset[str]:
        """Remove a thread with everything it has; see `EventLog.delete`."""
        run_ids = await self._log.delete(key)
        for tail in tuple(self._tails.get(key, ())):
            tail.close()
        return run_ids

    async def load_bounds(self, key: ThreadKey) -> LogBounds:
        """Return what the log of `key` holds now."""
        return await self._log.load_bounds(key)

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
        async with self.reading(key) as tail, aclosing(tail.follow(after)) as batches:
            async for batch in batches:
                for record in batch:
                    yield record
