"""Time as a parameter: code that needs the time takes a `Clock`, so that a test can replace it."""

from __future__ import annotations

import time
from collections.abc import Callable

Clock = Callable[[], int]
"""Returns milliseconds since 1970, as the wire has them."""


def monotonic_ms() -> int:
    """Return a monotonic time in milliseconds, for durations of seconds or minutes."""
    return time.monotonic_ns() // 1_000_000


def now_ms() -> int:
    """Return the wall clock in milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def new_steady_clock() -> Clock:
    """Return a clock that begins at the wall clock's time and is monotonic afterwards.

    Setting the wall clock doesn't move it. The next process can still read its times. It dates rows
    that expire soon, in a file that outlives the process.
    """
    began_ms, ahead_ms = monotonic_ms(), now_ms()
    return lambda: ahead_ms + monotonic_ms() - began_ms
