"""Tickets: each stands for its user once, for thirty seconds, over a restart too."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from sqlalchemy import func, select
from tests.house import ManualClock

from isolane.auth.tickets import LIFETIME_MS, TICKETS_PER_USER, TicketBook
from isolane.contracts import Identity
from isolane.engines.sqlite.database import open_database
from isolane.errors import LimitExceeded, Unauthenticated
from isolane.sql.database import Database
from isolane.sql.tables import tickets

ALICE = Identity("alice", None)
HOME = "https://home.example"


@pytest.fixture
def book(database: Database, clock: ManualClock) -> TicketBook:
    return TicketBook(database, "socket", clock=clock, timer=clock)


async def refusal(book: TicketBook, secret: str, *, origins: Sequence[str] = ()) -> str:
    with pytest.raises(Unauthenticated) as caught:
        await book.redeem(secret, origins=origins)
    assert not secret or secret not in str(caught.value)
    return caught.value.reason


async def count_kept(database: Database) -> int:
    query = select(func.count()).select_from(tickets)
    return await database.read(lambda connection: connection.execute(query).scalar_one())


async def test_a_ticket_works_once(book: TicketBook) -> None:
    ticket = await book.issue(ALICE)
    assert await book.redeem(ticket.secret) == ALICE
    assert await refusal(book, ticket.secret) == "invalid"


async def test_a_hundred_who_race_for_a_ticket_get_one(book: TicketBook) -> None:
    secret = (await book.issue(ALICE)).secret
    asked = (book.redeem(secret) for _ in range(100))
    told = await asyncio.gather(*asked, return_exceptions=True)
    assert [each for each in told if not isinstance(each, Unauthenticated)] == [ALICE]


async def test_a_ticket_lives_thirty_seconds(book: TicketBook, clock: ManualClock) -> None:
    early, late = await book.issue(ALICE), await book.issue(ALICE)
    assert early.expires_at == clock.now + LIFETIME_MS == clock.now + 30_000
    clock.now += LIFETIME_MS - 1
    assert await book.redeem(early.secret) == ALICE
    clock.now += 1
    assert await refusal(book, late.secret) == "expired"
    assert await refusal(book, late.secret) == "invalid"


async def test_a_ticket_is_for_pages_of_the_origin_that_asked_for_it(book: TicketBook) -> None:
    for wrong in ([], ["https://evil.example"], ["null"], [HOME, HOME], [HOME, "null"]):
        secret = (await book.issue(ALICE, origin=HOME)).secret
        assert await refusal(book, secret, origins=wrong) == "invalid"
        assert await refusal(book, secret, origins=[HOME]) == "invalid", "it was seen elsewhere"
    ticket = await book.issue(ALICE, origin=HOME)
    assert await book.redeem(ticket.secret, origins=[HOME]) == ALICE


async def test_a_ticket_of_a_program_is_for_any_origin(book: TicketBook) -> None:
    for origins in ([], [HOME], ["null"]):
        assert await book.redeem((await book.issue(ALICE)).secret, origins=origins) == ALICE


async def test_a_ticket_stands_for_what_it_was_bought_with(book: TicketBook) -> None:
    bought_with = Identity("alice", None, frozenset({"threads:read"}), "s-1", 7, "k-1")
    assert await book.redeem((await book.issue(bought_with)).secret) == bought_with


async def test_a_ticket_of_one_kind_opens_nothing_of_another(
    book: TicketBook, database: Database, clock: ManualClock
) -> None:
    links = TicketBook(database, "sign-in", clock=clock, timer=clock)
    ticket = await book.issue(ALICE)
    assert await refusal(links, ticket.secret) == "invalid"
    assert await book.redeem(ticket.secret) == ALICE, "and nobody has spent it"


async def test_a_ticket_survives_a_restart_and_its_secret_is_not_in_the_file(
    tmp_path: Path, clock: ManualClock
) -> None:
    secrets: list[str] = []
    for _ in range(2):
        database = await open_database(f"sqlite:///{tmp_path / 'isolane.db'}")
        book = TicketBook(database, "socket", clock=clock, timer=clock)
        if secrets:
            assert await book.redeem(secrets[0], origins=[HOME]) == ALICE
            assert await refusal(book, secrets[0], origins=[HOME]) == "invalid"
        secrets.append((await book.issue(ALICE, origin=HOME)).secret)
        await database.close()
    kept = (tmp_path / "isolane.db").read_bytes()  # closed, so that nothing lies beside it
    assert HOME.encode() in kept, "it is looked for in the right place"
    assert not [secret for secret in secrets if secret.encode() in kept]


async def test_printing_a_ticket_prints_no_secret(book: TicketBook) -> None:
    ticket = await book.issue(ALICE)
    assert ticket.secret not in repr(ticket)


async def test_a_ticket_does_not_outlive_the_credential_behind_it(
    book: TicketBook, clock: ManualClock
) -> None:
    ticket = await book.issue(Identity("alice", clock.now + 1000))
    clock.now += 1000
    assert await refusal(book, ticket.secret) == "expired"


@pytest.mark.parametrize("secret", ["", "x", "None", "\0", "\ud800", "x" * 100_000])
async def test_nonsense_is_no_ticket(book: TicketBook, secret: str) -> None:
    assert await refusal(book, secret) == "invalid"


async def test_a_user_holds_a_hundred_and_others_are_not_harmed(
    book: TicketBook, clock: ManualClock
) -> None:
    for _ in range(TICKETS_PER_USER):
        await book.issue(ALICE)
    with pytest.raises(LimitExceeded, match="ticketsPerUser is limited to 100"):
        await book.issue(ALICE)
    await book.issue(Identity("bob", None))
    clock.now += LIFETIME_MS
    await book.issue(ALICE)


async def test_where_the_oldest_is_replaced_one_more_is_never_refused(
    database: Database, clock: ManualClock
) -> None:
    book = TicketBook(database, "sign-in", clock=clock, timer=clock, replaces_oldest=True)
    issued = []
    for _ in range(TICKETS_PER_USER + 1):
        issued.append(await book.issue(ALICE))
        clock.now += 1
    assert await refusal(book, issued[0].secret) == "invalid"
    assert await book.redeem(issued[1].secret) == ALICE


async def test_nothing_is_kept_of_spent_and_dead_tickets(
    book: TicketBook, database: Database, clock: ManualClock
) -> None:
    await book.redeem((await book.issue(ALICE)).secret)
    assert await count_kept(database) == 0
    for number in range(10):
        await book.issue(Identity(f"user-{number}", None))
    clock.now += LIFETIME_MS
    await book.issue(ALICE)
    assert await count_kept(database) == 1


@pytest.mark.parametrize("skew_ms", [-7_200_000, 7_200_000])
async def test_a_clock_that_is_set_changes_no_tickets_life(
    database: Database, clock: ManualClock, skew_ms: int
) -> None:
    timer = ManualClock(0)
    book = TicketBook(database, "socket", clock=clock, timer=timer)
    one, other = await book.issue(ALICE), await book.issue(ALICE)
    clock.now += skew_ms
    timer.now += LIFETIME_MS - 1
    assert await book.redeem(one.secret) == ALICE
    timer.now += 1
    assert await refusal(book, other.secret) == "expired"


async def test_a_clock_that_was_set_back_before_a_restart_lengthens_no_life(
    book: TicketBook, clock: ManualClock
) -> None:
    ticket = await book.issue(ALICE)
    clock.now -= 7_200_000
    assert await refusal(book, ticket.secret) == "expired"
