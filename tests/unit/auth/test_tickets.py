"""Tickets: each stands for its user once, for thirty seconds."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.house import ManualClock

from isolane.auth.tickets import LIFETIME_MS, TICKETS_PER_USER, TicketBook
from isolane.contracts import Identity
from isolane.errors import LimitExceeded, Unauthenticated

ALICE = Identity("alice", None)


def refusal(book: TicketBook, secret: str) -> str:
    with pytest.raises(Unauthenticated) as caught:
        book.redeem(secret)
    assert not secret or secret not in str(caught.value)
    return caught.value.reason


def test_a_ticket_works_once() -> None:
    book = TicketBook(ManualClock())
    ticket = book.issue(ALICE)
    assert book.redeem(ticket.secret) is ALICE
    assert refusal(book, ticket.secret) == "invalid"


def test_a_hundred_who_race_for_a_ticket_get_one() -> None:
    book = TicketBook(ManualClock())
    secret = book.issue(ALICE).secret

    def race(_: int) -> bool:
        try:
            return book.redeem(secret) is ALICE
        except Unauthenticated:
            return False

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(race, range(100))) == 1


def test_a_ticket_lives_thirty_seconds() -> None:
    clock = ManualClock()
    book = TicketBook(clock)
    early, late = book.issue(ALICE), book.issue(ALICE)
    assert early.expires_at == clock.now + LIFETIME_MS == clock.now + 30_000
    clock.now += LIFETIME_MS - 1
    assert book.redeem(early.secret) is ALICE
    clock.now += 1
    assert refusal(book, late.secret) == "expired"
    assert refusal(book, late.secret) == "invalid"


def test_a_ticket_does_not_outlive_the_credential_behind_it() -> None:
    clock = ManualClock()
    book = TicketBook(clock)
    ticket = book.issue(Identity("alice", clock.now + 1000))
    clock.now += 1000
    assert refusal(book, ticket.secret) == "expired"


@pytest.mark.parametrize("secret", ["", "x", "None", "\0", "x" * 100_000])
def test_nonsense_is_no_ticket(secret: str) -> None:
    assert refusal(TicketBook(ManualClock()), secret) == "invalid"


def test_a_user_holds_a_hundred_and_others_are_not_harmed() -> None:
    clock = ManualClock()
    book = TicketBook(clock)
    for _ in range(TICKETS_PER_USER):
        book.issue(ALICE)
    with pytest.raises(LimitExceeded, match="ticketsPerUser is limited to 100"):
        book.issue(ALICE)
    book.issue(Identity("bob", None))
    clock.now += LIFETIME_MS
    book.issue(ALICE)
    assert len(book._open) == 1  # the dead are let go
