"""Guessing passwords is slow: for each address, and for each account over all addresses.

An account isn't locked: who guesses at it from elsewhere makes its owner wait a little, and no
more. Names that are no accounts are treated alike, so nothing tells which are.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections import Counter
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import Final

from isolane.auth.accounts import normalize
from isolane.clock import Clock
from isolane.errors import LimitExceeded
from isolane.rates import HOUR_MS, MINUTE_MS, MovingWindow

ATTEMPTS_PER_MINUTE: Final = 10
"""Of one address at one account; signing in begins the count anew."""
ATTEMPTS_PER_HOUR: Final = 60
"""As above."""
ADDRESS_ATTEMPTS_PER_HOUR: Final = 300
"""Of one address at all accounts; a whole office may be behind one."""
QUIET_ATTEMPTS_PER_HOUR: Final = 100
"""At one account, of all addresses; beyond it each attempt waits."""
DELAY_S: Final = 2.0
NETWORK_BITS: Final = 64
"""Of an IPv6 address: the rest is anybody's own to choose (RFC 6177)."""


class GuessGuard:
    """Counts attempts to sign in. In memory: a restart forgives."""

    def __init__(self, *, clock: Clock, delay_s: float = DELAY_S) -> None:
        """Begin with none; nobody sets `clock`."""
        self._delay_s = delay_s
        self._of_pairs = (
            MovingWindow(ATTEMPTS_PER_MINUTE, MINUTE_MS, timer=clock),
            MovingWindow(ATTEMPTS_PER_HOUR, HOUR_MS, timer=clock),
        )
        self._of_addresses = MovingWindow(ADDRESS_ATTEMPTS_PER_HOUR, HOUR_MS, timer=clock)
        self._at_accounts = MovingWindow(QUIET_ATTEMPTS_PER_HOUR, HOUR_MS, timer=clock)
        self._under_way: Counter[tuple[str, str]] = Counter()

    @asynccontextmanager
    async def attempt(self, account: str, address: str) -> AsyncIterator[None]:
        """Let one attempt pass, later when the account is under attack; raises `LimitExceeded`.

        It counts before it is tried, so that a hundred at once are a hundred. A block that raises
        nothing was right, and is forgiven to its address.
        """
        network = network_of(address)
        account = _digest(account)
        pair = (account, network)
        self.count(address)
        for window in self._of_pairs:
            _hit(window, "signInsPerAccount", pair)
        if self._under_way[pair]:
            raise LimitExceeded("signInsAtOnce", 1)
        self._under_way[pair] += 1
        try:
            if self._at_accounts.hit(account):
                await asyncio.sleep(self._delay_s)  # the slowness is the point
            yield
        finally:
            del self._under_way[pair]
        for window in self._of_pairs:
            window.clear(pair)

    def count(self, address: str) -> None:
        """Count one sign-in that an address began, at whatever account; raises `LimitExceeded`."""
        _hit(self._of_addresses, "signInsPerAddress", network_of(address))


def _hit(window: MovingWindow, limit: str, key: Hashable) -> None:
    wait_ms = window.hit(key)
    if wait_ms:
        raise LimitExceeded(limit, window.most, retry_after_ms=wait_ms)


def _digest(name: str) -> str:
    """Return a short key for an account, the same for every way to write its name."""
    return sha256(normalize(name).encode(errors="replace")).hexdigest()


def network_of(address: str) -> str:
    """Return what of an address tells one household from another."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 4:  # noqa: PLR2004 - of IP
        return address
    return str(ipaddress.ip_network((parsed, NETWORK_BITS), strict=False))
