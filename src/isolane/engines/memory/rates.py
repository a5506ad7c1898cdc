"""Rates: how much of something comes in a window of time, and when whoever had theirs may return.

Time is passed in, as milliseconds of a clock that is never set: the libraries for this ask the wall
clock, and when that is set back by hours, whoever had theirs is shut out for as long.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final

from isolane.clock import Clock
from isolane.expiry import ExpiringDict

WAIT_STEP_MS: Final = 100
"""Waits are multiples of it: nobody is sent away for less."""
MINUTE_MS: Final = 60_000
HOUR_MS: Final = 3_600_000


@dataclass(slots=True)
class _Count:
    began: int
    current: float = 0
    previous: float = 0


class SlidingWindow:
    """Counts in two numbers a key, for rates of many: the last window counts by what is left of it.

    With `is_fixed` windows don't slide: what was before counts no more.
    """

    def __init__(self, window_ms: int, *, timer: Clock, is_fixed: bool = False) -> None:
        """Begin with nothing counted."""
        self._window_ms = window_ms
        self._timer = timer
        self._kept_windows = 1 if is_fixed else 2
        self._counts: ExpiringDict[Hashable, _Count] = ExpiringDict(
            self._kept_windows * window_ms, clock=timer
        )

    def __len__(self) -> int:
        """Return how many keys are counted."""
        return len(self._counts)

    def hit(self, key: Hashable, most: int, *, cost: int = 1) -> int:
        """Count `cost` and return 0, or return the milliseconds until there may be room."""
        now = self._timer()
        count = self._counts.get(key)
        if count is None or now - count.began >= self._kept_windows * self._window_ms:
            count = _Count(now)
            self._counts.put(key, count)
        elif now - count.began >= self._window_ms:
            count.began += self._window_ms
            count.current, count.previous = 0, count.current
            self._counts.put(key, count)
        passed = (now - count.began) / self._window_ms
        if math.floor(count.previous * (1 - passed)) + count.current + cost > most:
            left = self._find_room(count, most - count.current - cost) - passed
            return to_wait(left * self._window_ms, self._window_ms)
        count.current += cost
        return 0

    def get_count(self, key: Hashable) -> float:
        """Return what was counted of a key in its window."""
        count = self._counts.get(key)
        return 0 if count is None else count.current

    @staticmethod
    def _find_room(count: _Count, room: float) -> float:
        """Return the part of the window after which the last one leaves `room`."""
        return 1 - room / count.previous if room >= 0 and count.previous else 1


def to_wait(wait_ms: float, window_ms: int) -> int:
    """Return a wait of whole steps: one at least, and the window's length at most."""
    steps = max(math.ceil(wait_ms / WAIT_STEP_MS), 1)
    return min(steps * WAIT_STEP_MS, window_ms)
