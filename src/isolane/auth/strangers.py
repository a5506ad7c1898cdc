"""Who can't say who they are costs little: handshakes without identity are counted by address.

Whoever comes with a good credential is never counted, so an address that floods shuts nobody out
who shares it.
"""

from __future__ import annotations

from typing import Final

import structlog
from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter

from isolane.auth.guessing import network_of
from isolane.clock import Clock
from isolane.errors import LimitExceeded
from isolane.rates import get_wait_ms

LIMIT: Final = "failedHandshakesPerAddress"
"""As settings and errors call it."""

_log = structlog.get_logger(__name__)


class Strangers:
    """Counts handshakes without identity. In memory: a restart forgives."""

    def __init__(self, *, clock: Clock, per_minute: int) -> None:
        """Begin with none; `clock` is the system's, as the counters' own is."""
        self._clock = clock
        self._item = RateLimitItemPerMinute(per_minute)
        # Two numbers an address, whatever comes: not a list of moments.
        self._rates = FixedWindowRateLimiter(MemoryStorage())

    def count(self, address: str) -> None:
        """Count one failed handshake; raises `LimitExceeded` with when to come back."""
        network = network_of(address)
        is_first = self._rates.get_window_stats(self._item, network).remaining == 1
        if self._rates.hit(self._item, network):
            if is_first:  # the last one that is answered in full, and the last line in the log
                _log.warning("strangers refused unheard", network=network, limit=LIMIT)
            return
        wait_ms = get_wait_ms(self._rates, self._item, network, now_ms=self._clock())
        error = LimitExceeded(LIMIT, self._item.amount, retry_after_ms=wait_ms)
        error.is_flood = True
        raise error
