"""The records of a thread that a connection wants. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from isolane.context import EventId
from isolane.events.event import Record


class Interest:
    """Which of a thread's records a connection wants: all of them, or those of some runs."""

    __slots__ = ("_runs", "has_all")

    def __init__(self) -> None:
        """Begin with no run and not all."""
        self.has_all = False
        self._runs: dict[str, int] = {}

    def __bool__(self) -> bool:
        """Say whether anything is wanted still."""
        return self.has_all or bool(self._runs)

    def want_all(self) -> None:
        """Want every record from here on."""
        self.has_all = True
        self._runs.clear()

    def want_nothing(self) -> None:
        """Want nothing more."""
        self.has_all = False
        self._runs.clear()

    def run_ids(self) -> tuple[str, ...]:
        """Return the runs that are wanted one by one."""
        return tuple(self._runs)

    def want_run(self, run_id: str, *, after: EventId) -> bool:
        """Want a run's records after `after`; False when they come already."""
        if self.has_all or run_id in self._runs:
            return False
        self._runs[run_id] = after.seq
        return True

    def resume_seq(self) -> int | None:
        """Return the place from which a follower must read so that no wanted run misses any."""
        return None if self.has_all else min(self._runs.values(), default=None)

    def select(self, records: Sequence[Record]) -> Sequence[Record]:
        """Return those of `records` that are wanted and did not come before; remember them."""
        if self.has_all:
            return records
        return [record for record in records if self._is_next(record)]

    def _is_next(self, record: Record) -> bool:
        seen = self._runs.get(record.run_id)
        if seen is None or record.id.seq <= seen:
            return False
        self._runs[record.run_id] = record.id.seq
        if record.is_end:
            del self._runs[record.run_id]
        return True
