"""What each user holds, counted in one process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from isolane.clock import Clock
from isolane.errors import LimitExceeded


class LocalLimits:
    """Counters and rates per user, against the published limits."""

    def __init__(self, published: Mapping[str, int], *, clock: Clock) -> None:
        """Enforce `published`, the very values that clients are told."""
        self._most = published
        self._clock = clock
        self._held: Counter[tuple[str, str]] = Counter()
        self._rates = SlidingWindowCounterRateLimiter(MemoryStorage())

    def take(self, user_id: str, limit: str) -> None:
        """Count one more; raises `LimitExceeded` when the user holds all there is."""
        most = self._most[limit]
        if self._held[user_id, limit] >= most:
            raise LimitExceeded(limit, most)
        self._held[user_id, limit] += 1

    def give_back(self, user_id: str, limit: str) -> None:
        """Count one less."""
        self._held[user_id, limit] -= 1
        if self._held[user_id, limit] <= 0:
            del self._held[user_id, limit]

    def hit(self, user_id: str, limit: str) -> None:
        """Count one event of the minute; raises `LimitExceeded` with when to come back."""
        item = RateLimitItemPerMinute(self._most[limit])
        if self._rates.hit(item, limit, user_id):
            return
        reset_s = self._rates.get_window_stats(item, limit, user_id).reset_time
        wait_ms = round(reset_s * 1000) - self._clock()
        raise LimitExceeded(limit, self._most[limit], retry_after_ms=max(wait_ms, 100))
