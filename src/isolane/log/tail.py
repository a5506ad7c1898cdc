"""What the followers of one thread share on this node: its newest records, and reads of its log.

However many come at once, and from wherever each goes on, the log is asked a few times only. That
is safe because the tail heard the bell before the first of them came: what was committed since a
read began was rung, and a ring that got lost is found after a quiet spell, as it always is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final, Protocol

from isolane.context import EventId, ThreadKey
from isolane.contracts import Bell, LogBounds
from isolane.errors import CursorExpired, Unavailable
from isolane.events.event import Record
from isolane.health.fairness import Turns
from isolane.health.sight import Sight
from isolane.log.waiters import Hand, Waiters
from isolane.log.window import BATCH_BYTES, BATCH_RECORDS, Window, WindowSize

READ_RECORDS: Final = 1_024
"""Records per page of the log. Each page costs a hop to a thread and a transaction, about 160 µs of
CPU; the loop needs 3 ms to send its records."""


class LogReader(Protocol):
    """Reader of the logs of threads. A `Feed` is one, and counts the reads."""

    async def read(
        self, key: ThreadKey, *, after: EventId, limit: int, max_bytes: int
    ) -> list[Record]:
        """Return what is strictly after `after`; see `EventLog.read`."""
        ...

    async def load_bounds(self, key: ThreadKey) -> LogBounds:
        """Return what the log of `key` holds now."""
        ...


class Tail:
    """The newest records of one thread on this node, and a bell that keeps them coming."""

    def __init__(
        self,
        key: ThreadKey,
        log: LogReader,
        *,
        turns: Turns,
        quiet_s: float,
        window_size: WindowSize,
        sight: Sight,
        on_close: Callable[[Tail], None],
    ) -> None:
        """Begin with nothing; `Feed.open_tail` connects it to the bell."""
        self.key = key
        self._log = log
        self._turns = turns
        self._sight = sight
        self._on_close = on_close
        self._quiet_s = quiet_s
        self._window = Window(window_size)
        self._waiters = Waiters()
        self._hang_up: Callable[[], None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_quiet = True
        self._is_ended = False
        self._doubts = 0
        self._checked = -1
        """Value of `_doubts` at the last read that found nothing newer than the window."""
        self._trims = 0
        self._trimmed_seq: int | None = None
        """Where the log begins; None when it may have been trimmed since somebody looked."""
        self._reading = asyncio.Lock()
        self._waiting = 0
        self._page: tuple[EventId, list[Record]] | None = None
        """The page that was read last, for those who wait meanwhile and may want the same."""
        self._failure: Unavailable | None = None
        self._failures = 0

    async def listen(self, bell: Bell) -> None:
        """Hear the bell from now on."""
        self._hang_up = await bell.listen(self.key, self.take)
        self._timer = asyncio.get_running_loop().call_later(self._quiet_s, self._doubt)

    def close(self) -> None:
        """Hear nothing more; followers end with what they have."""
        self._is_ended = True
        self._waiters.wake()
        self._on_close(self)
        if self._hang_up is not None:
            self._hang_up()
            self._hang_up = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _doubt(self) -> None:
        """Send the followers to look into the log once, if it was quiet since the last time."""
        self._timer = asyncio.get_running_loop().call_later(self._quiet_s, self._doubt)
        if self._is_quiet:
            self.look()
        self._is_quiet = True

    def look(self) -> None:
        """Send the followers to look into the log once."""
        self._doubts += 1
        self._waiters.wake()

    @property
    def end(self) -> EventId | None:
        """The newest place that is known here."""
        return self._window.end

    @property
    def window_size(self) -> tuple[int, int]:
        """How many records are kept, and their bytes."""
        return self._window.size

    def take(self, records: Sequence[Record]) -> None:
        """Keep what was rung; a ring of another node has nothing, and the log is asked."""
        if not records:
            self.look()
        if not records or not self._window.take(records):
            return
        self._is_quiet = False
        # A large batch leaves in turns, for the sake of others, and none while this node is blind.
        if _is_large(records) or self._sight.is_blind:
            self._waiters.wake()
        else:
            self._waiters.hand(records)

    def resize(self, most: WindowSize) -> None:
        """Keep no more than `most` from now on."""
        self._window.resize(most)

    def note_trim(self) -> None:
        """Know no longer where the log begins: it may have been trimmed."""
        self._trims += 1
        self._trimmed_seq = None

    async def load_bounds(self, cursor: EventId | None) -> LogBounds:
        """Return what the log holds, for somebody who wants to go on from `cursor`.

        From memory where that is enough to let them. Only the log itself says that they can't.
        """
        known = self._get_bounds(cursor)
        if known is None:
            async with self._alone():
                known = self._get_bounds(cursor) or await self._read_bounds()
        return known

    def _get_bounds(self, cursor: EventId | None) -> LogBounds | None:
        end = self._window.end
        if self._trimmed_seq is None or end is None or self._checked != self._doubts:
            return None
        # Who read the log may have seen what wasn't rung yet.
        if cursor is not None and cursor.seq > (end.seq if cursor.epoch == end.epoch else 0):
            return None
        return LogBounds(self._trimmed_seq, end)

    async def _read_bounds(self) -> LogBounds:
        doubts, trims = self._doubts, self._trims
        bounds = await self._log.load_bounds(self.key)
        if trims == self._trims:
            self._trimmed_seq = bounds.trimmed_seq
        end = self._window.end
        if end is None or end.epoch != bounds.head.epoch:
            self._window.begin_at(bounds.head)
            self._waiters.wake()
        elif end.seq < bounds.head.seq:  # a ring was lost, or comes in a moment
            self._checked = -1
            self._waiters.wake()
            return bounds
        self._checked = doubts
        return LogBounds(bounds.trimmed_seq, self._window.end or bounds.head)

    async def follow(
        self, after: EventId, *, hand: Hand | None = None
    ) -> AsyncGenerator[list[Record], None]:
        """Yield everything strictly after `after` in batches, then live, until the tail is closed.

        While the follower waits for more, records that are rung go to `hand` as soon as they are,
        without a task. What `hand` takes isn't yielded.

        Raises:
            CursorExpired: The next record is no longer kept.
            InvalidCursor: `after` is ahead of the log.
        """
        position = after
        while not self._is_ended:
            rings = self._waiters.rings
            batch = self._get_after(position)
            if batch is None:
                async with self._alone():
                    batch = await self._load_after(position)
            if batch:
                position = batch[-1].id
                if _is_large(batch):
                    await self._turns.take(self.key.user_id)
                if self._sight.is_blind:
                    await self._sight.wait()
                yield batch
            elif rings == self._waiters.rings:  # nothing was rung while the log was read
                position = await self._waiters.wait(position, hand)

    def _get_after(self, position: EventId) -> list[Record] | None:
        """Return what comes next after `position`; None when the log has to be asked."""
        batch = self._window.get_after(position)
        return batch if batch or self._checked == self._doubts else None

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """Read the log one at a time: mostly, who waited finds that another has read it for them.

        When it can't be read, all who wait hear of that, and who comes later tries anew.
        """
        failures = self._failures
        self._waiting += 1
        try:
            async with self._reading:
                self._check_failure(failures)
                yield
        except Unavailable as error:
            if failures == self._failures:
                self._failure, self._failures = error, failures + 1
            raise
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._page = self._failure = None

    def _check_failure(self, failures: int) -> None:
        if self._failure is not None and failures != self._failures:
            raise Unavailable(str(self._failure)) from self._failure

    async def _load_after(self, position: EventId) -> list[Record]:
        """Return what comes next after `position`, by the log where need be."""
        found = self._get_after(position)
        if found is None and self._is_within_reach(position):
            await self._fill()
            found = self._get_after(position)
        return await self._read_page(position) if found is None else found

    def _is_within_reach(self, position: EventId) -> bool:
        """Say whether the window would begin before `position` if it were filled."""
        window = self._window
        if window.end is None or window.is_filled:
            return False
        is_behind = window.reach_seq <= position.seq < window.start_seq
        return is_behind and (not position.seq or position.epoch == window.end.epoch)

    async def _fill(self) -> None:
        """Read back as far as the window has room, for all who come from there."""
        if self._trimmed_seq is None:
            await self._read_bounds()
        window, end = self._window, self._window.end
        if end is None:
            return
        stop = window.start_seq
        floor = max(window.reach_seq, self._trimmed_seq or 0)
        while floor < stop:
            after = EventId(end.epoch, floor)
            try:
                records = await self._log.read(
                    self.key, after=after, limit=stop - floor, max_bytes=window.most_bytes
                )
            except CursorExpired:
                return  # trimmed meanwhile: whether that concerns the one who asks is seen next
            if not records or records[-1].id.seq >= stop:
                window.learn(after, records)
                break
            # They are too large for all to be kept: begin where about as many bytes are left.
            floor = max(floor + 1, stop - len(records) * 3 // 4)
        window.is_filled = window.start_seq <= stop  # no ring began another one meanwhile

    async def _read_page(self, position: EventId) -> list[Record]:
        if self._page is not None and self._page[0] == position:
            return self._page[1]
        doubts = self._doubts
        page = await self._log.read(
            self.key, after=position, limit=READ_RECORDS, max_bytes=BATCH_BYTES
        )
        self._window.learn(position, page)
        if _is_full(page):  # there may be more, and what is here never changes
            self._page = (position, page)
        else:
            self._checked = doubts
        return page


def _is_large(batch: Sequence[Record]) -> bool:
    """Say whether it is of somebody who catches up, and may let others go first."""
    return len(batch) >= BATCH_RECORDS or sum(len(one.payload) for one in batch) >= BATCH_BYTES


def _is_full(page: Sequence[Record]) -> bool:
    return len(page) >= READ_RECORDS or sum(len(one.payload) for one in page) >= BATCH_BYTES
