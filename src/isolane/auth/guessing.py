"""Slow password guessing: limits per address, and a delay per account over all addresses.

An account is never locked. Somebody who guesses at it from elsewhere only makes its owner wait a
little. Names without an account are treated alike, so an attacker learns nothing about which exist.
"""

from __future__ import annotations

import asyncio
import ipaddress
from array import array
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from hashlib import sha256
from typing import Final, NamedTuple

from sqlalchemy import Connection, delete, select

from isolane.auth.accounts import normalize
from isolane.clock import Clock
from isolane.engines.memory.rates import HOUR_MS, MINUTE_MS, to_wait
from isolane.errors import LimitExceeded
from isolane.sql.database import Database
from isolane.sql.driver import execute
from isolane.sql.expiry import delete_expired
from isolane.sql.tables import attempts

ATTEMPTS_PER_MINUTE: Final = 10
"""Attempts per minute from one address at one account. A sign-in resets the count."""
ATTEMPTS_PER_HOUR: Final = 60
"""Attempts per hour from one address at one account. A sign-in resets the count."""
ADDRESS_ATTEMPTS_PER_HOUR: Final = 300
"""Attempts per hour from one address at all accounts. A whole office may be behind one address."""
QUIET_ATTEMPTS_PER_HOUR: Final = 100
"""Attempts per hour at one account from all addresses. Above that, each attempt waits `DELAY_S`."""
DELAY_S: Final = 2.0
"""Seconds that an attempt waits at an account that is under attack."""
NETWORK_BITS: Final = 64
"""Bits of an IPv6 address that name a household. Its owner chooses the others freely (RFC 6177)."""


class _Rate(NamedTuple):
    """A rate of at most `most` per `window_ms`. Its name on the wire is `limit`."""

    limit: str
    most: int
    window_ms: int


_OF_ADDRESS: Final = (_Rate("signInsPerAddress", ADDRESS_ATTEMPTS_PER_HOUR, HOUR_MS),)
_OF_PAIR: Final = (
    _Rate("signInsPerAccount", ATTEMPTS_PER_MINUTE, MINUTE_MS),
    _Rate("signInsPerAccount", ATTEMPTS_PER_HOUR, HOUR_MS),
)
_AT_ACCOUNT: Final = (_Rate("quietSignIns", QUIET_ATTEMPTS_PER_HOUR, HOUR_MS),)


class GuessGuard:
    """Counts attempts to sign in. The counts are rows, so a restart forgets none."""

    def __init__(self, database: Database, *, clock: Clock, delay_s: float = DELAY_S) -> None:
        """Count in `database`; `clock` is monotonic."""
        self._database = database
        self._clock = clock
        self._delay_s = delay_s
        self._under_way: set[str] = set()

    @asynccontextmanager
    async def attempt(
        self, account: str, address: str
    ) -> AsyncIterator[Callable[[Connection], None]]:
        """Count one attempt before it is made; under attack the account's attempts wait first.

        The count is committed before the block, so that a hundred attempts at once count as a
        hundred. The block gets a function that resets the count of its address and account. After
        a right password the function runs in the transaction that begins the session. A cancelled
        attempt stays counted.

        Raises:
            LimitExceeded: Too many attempts; the error says when to come back.
            Unavailable: The attempt can't be counted.
        """
        network = network_of(address)
        account = _digest(account)
        pair = f"pair {account} {network}"
        counted = [(f"address {network}", _OF_ADDRESS), (pair, _OF_PAIR)]
        if pair in self._under_way:
            await self._count(*counted)
            raise LimitExceeded("signInsAtOnce", 1)
        self._under_way.add(pair)
        try:
            if await self._count(*counted, (f"account {account}", _AT_ACCOUNT)):
                await asyncio.sleep(self._delay_s)  # the delay is what slows guessing
            yield partial(_forget, pair)
        finally:
            self._under_way.discard(pair)

    async def count(self, address: str) -> None:
        """Count one sign-in that an address began at a provider.

        Raises:
            LimitExceeded: Too many attempts; the error says when to come back.
            Unavailable: The attempt can't be counted.
        """
        await self._count((f"address {network_of(address)}", _OF_ADDRESS))

    async def _count(self, *counted: tuple[str, Sequence[_Rate]]) -> bool:
        """Count one attempt per key, and raise at the first key whose rates are used up.

        An account is never refused. The result says whether the account is under attack.
        """
        refused = await self._database.write(partial(_hit_all, counted, self._clock()))
        if refused is None:
            return False
        rate, wait_ms = refused
        if rate in _AT_ACCOUNT:
            return True
        raise LimitExceeded(rate.limit, rate.most, retry_after_ms=wait_ms)


_KEEP: Final = """
INSERT INTO attempts (key, moments, expires_at) VALUES (?, ?, ?)
ON CONFLICT (key) DO UPDATE SET moments = excluded.moments, expires_at = excluded.expires_at
"""
_Refusal = tuple[_Rate, int]
"""The rate that refused, and the milliseconds until it has room again."""


def _hit_all(
    counted: Sequence[tuple[str, Sequence[_Rate]]], now: int, connection: Connection
) -> _Refusal | None:
    """Count one attempt per key until a key refuses; earlier keys keep their count."""
    delete_expired(attempts, now, connection)
    for key, rates in counted:
        refused = _hit(key, rates, now, connection)
        if refused is not None:
            return refused
    return None


def _hit(key: str, rates: Sequence[_Rate], now: int, connection: Connection) -> _Refusal | None:
    moments = _load(key, now, connection)
    for rate in rates:
        recent = [moment for moment in moments if moment > now - rate.window_ms]
        if len(recent) >= rate.most:
            return rate, to_wait(recent[0] + rate.window_ms - now, rate.window_ms)
    moments.append(now)
    execute(connection, _KEEP, (key, moments.tobytes(), now + HOUR_MS))
    return None


def _load(key: str, now: int, connection: Connection) -> array[int]:
    """Return the times within the last hour at which a key was counted.

    A time in the future was counted before the clock was set back, and is dropped.
    """
    query = select(attempts.c.moments).where(attempts.c.key == key)
    kept = connection.execute(query).scalar_one_or_none() or b""
    return array("q", [moment for moment in array("q", kept) if now - HOUR_MS < moment <= now])


def _forget(key: str, connection: Connection) -> None:
    connection.execute(delete(attempts).where(attempts.c.key == key))


def _digest(name: str) -> str:
    """Return a short key for an account; all spellings of its name have the same key."""
    return sha256(normalize(name).encode(errors="replace")).hexdigest()


def network_of(address: str) -> str:
    """Return the part of an address that identifies one household."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 4:  # noqa: PLR2004 - the version of IP
        return address
    return str(ipaddress.ip_network((parsed, NETWORK_BITS), strict=False))
