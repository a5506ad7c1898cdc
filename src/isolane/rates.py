"""Rates, by the `limits` library: when somebody who has had theirs may come back."""

from __future__ import annotations

from typing import Final

from limits import RateLimitItem
from limits.strategies import RateLimiter

WAIT_MIN_MS: Final = 100
"""Nobody is sent away for less: the window may end while they are told."""


def get_wait_ms(rates: RateLimiter, item: RateLimitItem, *names: str, now_ms: int) -> int:
    """Return the milliseconds until the window of `names` begins anew: a window's length at most.

    The library has clocked it by itself: what it rounds, and what lies between two looks at the
    clock, is not for the one who waits.
    """
    reset_s = rates.get_window_stats(item, *names).reset_time
    window_ms = item.get_expiry() * 1000
    return min(max(round(reset_s * 1000) - now_ms, WAIT_MIN_MS), window_ms)
