"""What each user holds, counted in one process."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Final

from isolane.clock import Clock
from isolane.engines.memory.rates import MINUTE_MS, SlidingWindow
from isolane.errors import LimitExceeded

WEIGHT_BYTES: Final = 4 << 20
WEIGHT_S: Final = 8
"""Seconds in which a user's first `WEIGHT_BYTES` of frames are read at once. Above that, a user's
frames are read at 0.5 MiB/s, because parsing them blocks the event loop."""


class LocalLimits:
    """Counters and rates per user, against the published limits."""

    def __init__(self, published: Mapping[str, int], *, clock: Clock) -> None:
        """Enforce `published`, the very values that clients are told; nobody sets `clock`."""
        self._most = published
        self._held: Counter[tuple[str, str]] = Counter()
        self._events = SlidingWindow(MINUTE_MS, timer=clock)
        self._bytes = SlidingWindow(WEIGHT_S * 1000, timer=clock)

    @asynccontextmanager
    async def take(self, user_id: str, limit: str) -> AsyncGenerator[None, None]:
        """Hold one of the user's places for the block's time; see `Limits`."""
        most = self._most[limit]
        if self._held[user_id, limit] >= most:
            raise LimitExceeded(limit, most)
        self._held[user_id, limit] += 1
        try:
            yield
        finally:
            self._held[user_id, limit] -= 1
            if not self._held[user_id, limit]:
                del self._held[user_id, limit]

    def hit(self, user_id: str, limit: str) -> None:
        """Count one event of the minute.

        Raises:
            LimitExceeded: The minute's events are used up. The error has the time to wait.
        """
        wait_ms = self._events.hit((limit, user_id), self._most[limit])
        if wait_ms:
            raise LimitExceeded(limit, self._most[limit], retry_after_ms=wait_ms)

    def weigh(self, user_id: str, size: int) -> float:
        """Count a frame's bytes, or return the seconds after which to ask again."""
        most = max(WEIGHT_BYTES, size)  # the largest frame may be larger by the settings
        return self._bytes.hit(user_id, most, cost=size) / 1000
