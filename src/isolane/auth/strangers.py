"""Who can't say who they are costs little: handshakes without identity are counted by address.

Whoever comes with a good credential is never counted, so an address that floods shuts nobody out
who shares it.
"""

from __future__ import annotations

from typing import Final

import structlog

from isolane.auth.guessing import network_of
from isolane.clock import Clock
from isolane.engines.memory.rates import MINUTE_MS, SlidingWindow
from isolane.errors import LimitExceeded

LIMIT: Final = "failedHandshakesPerAddress"
"""As settings and errors call it."""

_log = structlog.get_logger(__name__)


class Strangers:
    """Counts handshakes without identity. In memory: a restart forgives."""

    def __init__(self, *, clock: Clock, per_minute: int) -> None:
        """Begin with none; nobody sets `clock`."""
        self._most = per_minute
        # Some numbers an address, whatever comes: not a list of moments.
        self._rates = SlidingWindow(MINUTE_MS, timer=clock, is_fixed=True)

    def count(self, address: str) -> None:
        """Count one failed handshake; raises `LimitExceeded` with when to come back."""
        network = network_of(address)
        wait_ms = self._rates.hit(network, self._most)
        if not wait_ms:
            if self._rates.get_count(network) == self._most:
                # The last one that is answered in full, and the last line in the log.
                _log.warning("handshakes_limited", network=network, limit=LIMIT)
            return
        error = LimitExceeded(LIMIT, self._most, retry_after_ms=wait_ms)
        error.is_flood = True
        raise error
