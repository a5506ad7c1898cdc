"""Rates, by the `limits` library: when somebody who has had theirs may come back."""

from __future__ import annotations

from typing import Final

from limits import RateLimitItem
from limits.strategies import RateLimiter

WAIT_MIN_MS: Final = 100
"""Nobody is sent away for less: the window may end while they are told."""


def get_wait_ms(rates: RateLimiter, item: RateLimitItem, *names: str, now_ms: int) -> int:
    """Return the milliseconds until the window of `names` begins anew, by the system's clock."""
    reset_s = rates.get_window_stats(item, *names).reset_time
    return max(round(reset_s * 1000) - now_ms, WAIT_MIN_MS)
