"""The newest records of one thread, without a hole, within bounds; nothing here waits."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final, TypeAlias

from isolane.context import EventId
from isolane.events.event import Record

WindowSize: TypeAlias = tuple[int, int]
"""The most records, and the most bytes; one record may always stay."""
WINDOW_RECORDS: Final = 512
WINDOW_BYTES: Final = 1 << 20
FULL_WINDOW: Final[WindowSize] = (WINDOW_RECORDS, WINDOW_BYTES)
SMALL_WINDOW: Final[WindowSize] = (64, 1 << 16)
"""While memory is short."""
BATCH_RECORDS: Final = 64
BATCH_BYTES: Final = 1 << 18
"""A batch ends with the record that reaches this: who never takes it holds little more."""


class Window:
    """Records up to `end`, the newest place that is known; none is missing between them."""

    def __init__(self, most: WindowSize = FULL_WINDOW) -> None:
        """Begin with nothing, not even a place."""
        self._most_records, self._most_bytes = most
        self.end: EventId | None = None
        self.is_filled = False
        """Whether the log was read back as far as there is room: to do so again is of no use."""
        self._records: deque[Record] = deque()
        self._bytes = 0

    @property
    def most_bytes(self) -> int:
        """How many bytes there is room for."""
        return self._most_bytes

    @property
    def size(self) -> tuple[int, int]:
        """How many records are kept, and their bytes."""
        return len(self._records), self._bytes

    @property
    def start_seq(self) -> int:
        """The number before the oldest record that is kept."""
        return self.end.seq - len(self._records) if self.end is not None else 0

    @property
    def reach_seq(self) -> int:
        """The number before the oldest record that there could be room for."""
        return max(self.end.seq - self._most_records, 0) if self.end is not None else 0

    def resize(self, most: WindowSize) -> None:
        """Keep no more than `most` from now on; who is further behind reads the log."""
        self._most_records, self._most_bytes = most
        self.is_filled = False  # there may be more room now
        self._trim()

    def begin_at(self, end: EventId) -> None:
        """Forget what is kept, and know that everything is still to be read that ends at `end`."""
        self._records.clear()
        self._bytes = 0
        self.is_filled = False
        self.end = end

    def take(self, records: Sequence[Record]) -> bool:
        """Keep what was rung; False when it is known. What doesn't follow on begins a new window.

        The log has the rest.
        """
        newest, first, last = self.end, records[0].id, records[-1].id
        if newest is not None and newest.epoch == last.epoch and last.seq <= newest.seq:
            return False  # rings may overtake one another
        if newest is None or (newest.epoch, newest.seq + 1) != first:
            self.begin_at(first)
        self._append(records)
        return True

    def learn(self, after: EventId, records: Sequence[Record]) -> None:
        """Keep of what the log has behind `after` what follows on, or goes before.

        The log is right where it says another thing than the bell.
        """
        last = records[-1].id if records else after
        if self.end is None or (
            last.seq and (last.epoch != self.end.epoch or after.seq > self.end.seq)
        ):
            self.begin_at(after)
        newest = self.end.seq if self.end is not None else 0
        if after.seq <= newest < last.seq:
            self._append(records[newest - after.seq :])
        if last.seq >= self.start_seq:
            self._prepend([record for record in records if record.id.seq <= self.start_seq])

    def get_after(self, position: EventId) -> list[Record] | None:
        """Return what comes next after `position`; None when that can't be said from here."""
        if self.end is None or not self.start_seq <= position.seq <= self.end.seq:
            return None
        if position.seq and position.epoch != self.end.epoch:
            return None
        skipped = position.seq - self.start_seq
        # By index: a deque is quick at both ends, and a live follower wants the newest.
        stop = min(skipped + BATCH_RECORDS, len(self._records))
        batch: list[Record] = []
        size = 0
        for place in range(skipped, stop):
            batch.append(self._records[place])
            size += len(batch[-1].payload)
            if size >= BATCH_BYTES:
                break
        return batch

    def _append(self, records: Sequence[Record]) -> None:
        self.end = records[-1].id
        if len(records) > self._most_records:  # these would push all others out
            self._records.clear()
            self._bytes = 0
            records = records[-self._most_records :]
        self._records.extend(records)
        self._bytes += sum(len(record.payload) for record in records)
        self._trim()

    def _trim(self) -> None:
        while len(self._records) > self._most_records or (
            self._bytes > self._most_bytes and len(self._records) > 1
        ):
            self._bytes -= len(self._records.popleft().payload)

    def _prepend(self, records: Sequence[Record]) -> None:
        for record in reversed(records):
            size = len(record.payload)
            if len(self._records) >= self._most_records or self._bytes + size > self._most_bytes:
                return
            self._records.appendleft(record)
            self._bytes += size
