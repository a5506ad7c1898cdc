"""Time, passed in: what needs the time takes a `Clock`, so that a test can stand in its way."""

from __future__ import annotations

import time
from collections.abc import Callable

Clock = Callable[[], int]
"""Milliseconds since 1970, as the wire counts them."""


def monotonic_ms() -> int:
    """Return the milliseconds of a clock that nobody sets: for what lasts seconds or minutes."""
    return time.monotonic_ns() // 1_000_000


def now_ms() -> int:
    """Return the wall clock in milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def new_steady_clock() -> Clock:
    """Return a clock that shows the wall's time of this moment and then runs on by itself.

    Nobody who sets the wall clock moves it, and what a process wrote down by it the next one can
    read. For rows that die soon, in a file that outlives the process.
    """
    began_ms, ahead_ms = monotonic_ms(), now_ms()
    return lambda: ahead_ms + monotonic_ms() - began_ms
