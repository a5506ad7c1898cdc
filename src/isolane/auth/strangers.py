"""Limit of failed handshakes per address, so that clients without a valid credential cost little.

A handshake with a valid credential is never counted. So an address that floods locks out nobody who
shares it.
"""

from __future__ import annotations

from typing import Final

import structlog

from isolane.auth.guessing import network_of
from isolane.clock import Clock
from isolane.engines.memory.rates import MINUTE_MS, SlidingWindow
from isolane.errors import LimitExceeded

LIMIT: Final = "failedHandshakesPerAddress"
"""Name of the limit in settings and errors."""

_log = structlog.get_logger(__name__)


class Strangers:
    """Counts failed handshakes in memory; a restart forgets them."""

    def __init__(self, *, clock: Clock, per_minute: int) -> None:
        """Begin without counts; `clock` is monotonic."""
        self._most = per_minute
        # Some numbers per address, not a list of times, so that a flood costs no memory.
        self._rates = SlidingWindow(MINUTE_MS, timer=clock, is_fixed=True)

    def count(self, address: str) -> None:
        """Count one failed handshake.

        Raises:
            LimitExceeded: The address has too many; the error says when to come back.
        """
        network = network_of(address)
        wait_ms = self._rates.hit(network, self._most)
        if not wait_ms:
            if self._rates.get_count(network) == self._most:
                # The last failure that is answered in full, and the last line in the log.
                _log.warning("handshakes_limited", network=network, limit=LIMIT)
            return
        error = LimitExceeded(LIMIT, self._most, retry_after_ms=wait_ms)
        error.is_flood = True
        raise error
