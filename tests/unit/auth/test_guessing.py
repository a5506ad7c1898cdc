"""Guessing: what is counted, for whom, and what is forgiven."""

from __future__ import annotations

import asyncio
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import NoReturn

import pytest
from sqlalchemy import select
from tests.house import ManualClock

from isolane.auth.guessing import (
    ADDRESS_ATTEMPTS_PER_HOUR,
    ATTEMPTS_PER_HOUR,
    ATTEMPTS_PER_MINUTE,
    DELAY_S,
    QUIET_ATTEMPTS_PER_HOUR,
    GuessGuard,
    network_of,
)
from isolane.clock import now_ms
from isolane.engines.memory.rates import HOUR_MS
from isolane.errors import LimitExceeded, Unauthenticated
from isolane.sql.database import Database
from isolane.sql.tables import attempts

HERE = "192.0.2.1"


@pytest.fixture
def guard(database: Database) -> GuessGuard:
    return GuessGuard(database, clock=now_ms, delay_s=0.05)


async def guess(guard: GuessGuard, account: str = "ada", *, address: str = HERE) -> str | None:
    """Guess wrongly; return the limit that was met, None when the guess was tried."""
    try:
        async with guard.attempt(account, address):
            _fail()
    except LimitExceeded as error:
        return str(error)
    except Unauthenticated:
        return None


def _fail() -> NoReturn:
    raise Unauthenticated("invalid", "name or password is wrong")


async def succeed(guard: GuessGuard, account: str = "ada", *, address: str = HERE) -> None:
    async with guard.attempt(account, address):
        pass


def test_as_many_attempts_as_the_documentation_says() -> None:
    page = (Path(__file__).parents[3] / "docs" / "identity.md").read_text()
    assert f"{ATTEMPTS_PER_MINUTE} attempts a minute" in page
    assert f"{ATTEMPTS_PER_HOUR} an hour from one address at one account" in page
    assert f"{ADDRESS_ATTEMPTS_PER_HOUR} an hour from one address at all" in page
    assert f"{DELAY_S:.0f} s an attempt" in page


async def test_an_address_has_some_attempts_a_minute_at_an_account(guard: GuessGuard) -> None:
    told = [await guess(guard) for _ in range(ATTEMPTS_PER_MINUTE + 3)]
    assert told[:ATTEMPTS_PER_MINUTE] == [None] * ATTEMPTS_PER_MINUTE
    limit = f"signInsPerAccount is limited to {ATTEMPTS_PER_MINUTE}"
    assert [limit in str(each) for each in told[ATTEMPTS_PER_MINUTE:]] == [True] * 3
    assert await guess(guard, "bob") is None
    assert await guess(guard, address="192.0.2.2") is None


async def test_it_is_told_when_to_come_back(guard: GuessGuard) -> None:
    for _ in range(ATTEMPTS_PER_MINUTE):
        await guess(guard)
    with pytest.raises(LimitExceeded) as caught:
        await succeed(guard)
    assert caught.value.retry_after_ms is not None
    assert 30_000 < caught.value.retry_after_ms <= 60_000


async def test_an_address_has_some_attempts_an_hour_at_an_account(
    database: Database, clock: ManualClock
) -> None:
    told = []
    start = clock.now
    guard = GuessGuard(database, clock=clock, delay_s=0)
    for number in range(ATTEMPTS_PER_HOUR + 5):
        clock.now = start + number * 50_000  # so the minute never fills, and the hour does
        told.append(await guess(guard))
    assert told[:ATTEMPTS_PER_HOUR] == [None] * ATTEMPTS_PER_HOUR
    limit = f"signInsPerAccount is limited to {ATTEMPTS_PER_HOUR}"
    assert [limit in str(each) for each in told[ATTEMPTS_PER_HOUR:]] == [True] * 5
    clock.now = start + (3600 + 61) * 1000
    assert await guess(guard) is None


async def test_an_address_has_some_hundreds_at_all_accounts_together(guard: GuessGuard) -> None:
    told = [await guess(guard, f"user-{n}") for n in range(ADDRESS_ATTEMPTS_PER_HOUR + 1)]
    assert told[:-1] == [None] * ADDRESS_ATTEMPTS_PER_HOUR
    limit = f"signInsPerAddress is limited to {ADDRESS_ATTEMPTS_PER_HOUR}"
    assert limit in str(told[-1])
    assert await guess(guard, address="192.0.2.2") is None


async def test_a_hundred_at_once_are_a_hundred(guard: GuessGuard) -> None:
    told = await asyncio.gather(*(guess(guard) for _ in range(100)))
    assert sum(each is None for each in told) <= ATTEMPTS_PER_MINUTE
    assert await guess(guard) is not None, "no place is left by those that weren't tried"


async def test_one_attempt_is_tried_at_a_time(guard: GuessGuard) -> None:
    async with guard.attempt("ada", HERE):
        assert "signInsAtOnce is limited to 1" in str(await guess(guard))
        assert await guess(guard, address="192.0.2.2") is None
    assert await guess(guard) is None


async def test_signing_in_forgives_its_address_and_no_other(
    guard: GuessGuard, database: Database
) -> None:
    for _ in range(ATTEMPTS_PER_MINUTE - 1):
        await guess(guard)
        await guess(guard, address="192.0.2.2")
    async with guard.attempt("ada", HERE) as forget:
        await database.write(forget)
    for _ in range(ATTEMPTS_PER_MINUTE):
        assert await guess(guard) is None
    assert await guess(guard, address="192.0.2.2") is None
    assert await guess(guard, address="192.0.2.2") is not None


async def test_attempt_that_is_cut_off_counts_and_lets_the_next_one_in(guard: GuessGuard) -> None:
    for _ in range(ATTEMPTS_PER_MINUTE):
        begun = asyncio.Event()
        attempt = asyncio.ensure_future(stay_in(guard, begun))
        await begun.wait()
        attempt.cancel()
        await asyncio.wait({attempt})
    assert "signInsPerAccount" in str(await guess(guard))


async def stay_in(guard: GuessGuard, begun: asyncio.Event) -> None:
    async with guard.attempt("ada", HERE):
        begun.set()
        await asyncio.Event().wait()


async def attack(guard: GuessGuard) -> None:
    for number in range(QUIET_ATTEMPTS_PER_HOUR):
        assert await guess(guard, address=f"198.51.100.{number}") is None


async def test_account_under_attack_is_slowed_and_never_locked(guard: GuessGuard) -> None:
    await attack(guard)
    began = monotonic()
    await succeed(guard, address="203.0.113.7")
    assert monotonic() - began >= 0.05


async def test_nobody_else_waits_beside_an_account_under_attack(database: Database) -> None:
    slow = GuessGuard(database, clock=now_ms, delay_s=3600)
    await attack(slow)
    slowed = asyncio.ensure_future(succeed(slow, address="203.0.113.7"))
    await succeed(slow, "bob", address="203.0.113.8")
    assert not slowed.done()
    slowed.cancel()


async def test_every_spelling_of_a_name_is_one_account(guard: GuessGuard) -> None:
    spellings = [unicodedata.normalize(form, "zoë") for form in ("NFC", "NFD")]
    told = [await guess(guard, spellings[number % 2]) for number in range(ATTEMPTS_PER_MINUTE + 1)]
    assert told[-1] is not None


async def test_names_that_hold_separators_meet_nobody_elses_count(guard: GuessGuard) -> None:
    for _ in range(ATTEMPTS_PER_MINUTE):
        await guess(guard, "ada/x", address="10.0.0.1")
    assert await guess(guard, "ada", address="x/10.0.0.1") is None


async def test_long_names_are_not_kept(guard: GuessGuard, database: Database) -> None:
    for _ in range(ATTEMPTS_PER_MINUTE + 1):
        await guess(guard, "x" * (1 << 20))
    assert all(len(key) < 1000 for key in await load_keys(database))


async def test_a_restart_forgives_nobody(database: Database, clock: ManualClock) -> None:
    for _ in range(ATTEMPTS_PER_MINUTE):
        assert await guess(GuessGuard(database, clock=clock)) is None
    assert "signInsPerAccount" in str(await guess(GuessGuard(database, clock=clock)))


async def test_who_had_theirs_is_not_shut_out_by_a_clock_that_is_set_back(
    database: Database, clock: ManualClock
) -> None:
    for _ in range(ATTEMPTS_PER_MINUTE):
        await guess(GuessGuard(database, clock=clock))
    clock.now -= 7_200_000
    assert await guess(GuessGuard(database, clock=clock)) is None


async def test_nothing_is_kept_of_attempts_that_are_long_ago(
    database: Database, clock: ManualClock
) -> None:
    guard = GuessGuard(database, clock=clock)
    for number in range(20):
        await guess(guard, f"user-{number}", address=f"192.0.2.{number}")
    clock.now += HOUR_MS
    await guess(guard)
    assert len(await load_keys(database)) == 3


async def load_keys(database: Database) -> Sequence[str]:
    query = select(attempts.c.key)
    return await database.read(lambda connection: connection.execute(query).scalars().all())


@pytest.mark.parametrize(
    "one, other, is_same",
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("", "", True),
        ("testclient", "testclient", True),
    ],
)
def test_household_of_an_address_is_what_nobody_chooses(
    one: str, other: str, *, is_same: bool
) -> None:
    assert (network_of(one) == network_of(other)) is is_same
