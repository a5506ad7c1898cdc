"""Guessing passwords is slow: for each address, and for each account over all addresses.

An account isn't locked: who guesses at it from elsewhere makes its owner wait a little, and no
more. Names that are no accounts are treated alike, so nothing tells which are.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import Final

from limits import RateLimitItem, RateLimitItemPerHour, RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from isolane.auth.accounts import normalize
from isolane.clock import Clock
from isolane.errors import LimitExceeded
from isolane.rates import get_wait_ms

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

_PAIR: Final = "of an address at an account"
_ADDRESS: Final = "of an address"
_ACCOUNT: Final = "at an account"


class GuessGuard:
    """Counts attempts to sign in. In memory: a restart forgives."""

    def __init__(self, *, clock: Clock, delay_s: float = DELAY_S) -> None:
        """Begin with none; `clock` is the system's, as the counters' own is."""
        self._clock = clock
        self._delay_s = delay_s
        self._rates = MovingWindowRateLimiter(MemoryStorage())
        self._pair_items: tuple[RateLimitItem, ...] = (
            RateLimitItemPerMinute(ATTEMPTS_PER_MINUTE),
            RateLimitItemPerHour(ATTEMPTS_PER_HOUR),
        )
        self._address_item = RateLimitItemPerHour(ADDRESS_ATTEMPTS_PER_HOUR)
        self._account_item = RateLimitItemPerHour(QUIET_ATTEMPTS_PER_HOUR)
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
        for item in self._pair_items:
            self._hit(item, "signInsPerAccount", _PAIR, *pair)
        if self._under_way[pair]:
            raise LimitExceeded("signInsAtOnce", 1)
        self._under_way[pair] += 1
        try:
            if not self._rates.hit(self._account_item, _ACCOUNT, account):
                await asyncio.sleep(self._delay_s)  # the slowness is the point
            yield
        finally:
            del self._under_way[pair]
        for item in self._pair_items:
            self._rates.clear(item, _PAIR, *pair)

    def count(self, address: str) -> None:
        """Count one sign-in that an address began, at whatever account; raises `LimitExceeded`."""
        self._hit(self._address_item, "signInsPerAddress", _ADDRESS, network_of(address))

    def _hit(self, item: RateLimitItem, limit: str, *names: str) -> None:
        if self._rates.hit(item, *names):
            return
        wait_ms = get_wait_ms(self._rates, item, *names, now_ms=self._clock())
        raise LimitExceeded(limit, item.amount, retry_after_ms=wait_ms)


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
