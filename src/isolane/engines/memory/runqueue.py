"""Whose turn it is, in one process. What waits is in the store; this only keeps the order."""

from __future__ import annotations

from collections import deque

from isolane.context import ThreadKey
from isolane.errors import LimitExceeded


class LocalRunQueue:
    """The head of each thread's line runs; the others wait in order."""

    def __init__(self) -> None:
        """Begin with every thread free."""
        self._lines: dict[ThreadKey, deque[str]] = {}

    def enter(self, key: ThreadKey, run_id: str, *, most: int, is_next: bool = False) -> int:
        """Take a place and return it: 0 goes now, 1 is next. Raises `LimitExceeded` over `most`.

        With `is_next` the place is before all who wait.
        """
        line = self._lines.setdefault(key, deque())
        if len(line) > most:
            raise LimitExceeded("queuedRunsPerThread", most)
        place = min(1, len(line)) if is_next else len(line)
        line.insert(place, run_id)
        return place

    def leave(self, key: ThreadKey, run_id: str) -> str | None:
        """Give the place up; return the run whose turn it is now, if that changed."""
        line = self._lines.get(key)
        if line is None or run_id not in line:
            return None
        had_turn = line[0] == run_id
        line.remove(run_id)
        if not line:
            del self._lines[key]
            return None
        return line[0] if had_turn else None

    def get_active(self, key: ThreadKey) -> str | None:
        """Return the run whose turn it is."""
        line = self._lines.get(key)
        return line[0] if line else None

    def get_position(self, key: ThreadKey, run_id: str) -> int | None:
        """Return the run's place, 0 for the one whose turn it is, None when it is not in line."""
        line = self._lines.get(key, deque())
        return line.index(run_id) if run_id in line else None
