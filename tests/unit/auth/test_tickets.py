"""Tickets: each stands for its user once, for thirty seconds."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.house import ManualClock, count_lines

from isolane.auth.tickets import LIFETIME_MS, TICKETS_PER_USER, TicketBook
from isolane.contracts import Identity
from isolane.errors import LimitExceeded, Unauthenticated

ALICE = Identity("alice", None)


HOME = "https://home.example"


def refusal(book: TicketBook, secret: str, *, origins: Sequence[str] = ()) -> str:
    with pytest.raises(Unauthenticated) as caught:
        book.redeem(secret, origins=origins)
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


def test_a_ticket_is_for_pages_of_the_origin_that_asked_for_it() -> None:
    book = TicketBook(ManualClock())
    for wrong in ([], ["https://evil.example"], ["null"], [HOME, HOME], [HOME, "null"]):
        secret = book.issue(ALICE, origin=HOME).secret
        assert refusal(book, secret, origins=wrong) == "invalid"
        assert refusal(book, secret, origins=[HOME]) == "invalid", "it was seen elsewhere"
    assert book.redeem(book.issue(ALICE, origin=HOME).secret, origins=[HOME]) is ALICE


def test_a_ticket_of_a_program_is_for_any_origin() -> None:
    book = TicketBook(ManualClock())
    for origins in ([], [HOME], ["null"]):
        assert book.redeem(book.issue(ALICE).secret, origins=origins) is ALICE


def test_a_ticket_stands_for_what_it_was_bought_with() -> None:
    book = TicketBook(ManualClock())
    bought_with = Identity("alice", None, frozenset({"threads:read"}), "s-1", 7, "k-1")
    assert book.redeem(book.issue(bought_with).secret) == bought_with


def test_printing_a_ticket_prints_no_secret() -> None:
    ticket = TicketBook(ManualClock()).issue(ALICE)
    assert ticket.secret not in repr(ticket)


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


def test_a_ticket_costs_the_same_beside_many_others() -> None:
    def cost(others: int) -> int:
        book = TicketBook(ManualClock())
        for number in range(others):
            book.issue(Identity(f"user-{number // 2}", None))
        return count_lines(lambda: book.redeem(book.issue(ALICE).secret))

    assert cost(10) == cost(2_000)


def test_nothing_is_kept_of_spent_and_dead_tickets() -> None:
    clock = ManualClock()
    book = TicketBook(clock)
    book.redeem(book.issue(ALICE).secret)
    assert (book._open, book._open_of) == ({}, {})
    for number in range(10):
        book.issue(Identity(f"user-{number}", None))
    clock.now += LIFETIME_MS
    book.issue(ALICE)
    assert book._open_of == {"alice": 1}


@pytest.mark.parametrize("skew_ms", [-7_200_000, 7_200_000])
def test_a_clock_that_is_set_changes_no_tickets_life(skew_ms: int) -> None:
    clock, timer = ManualClock(), ManualClock(0)
    book = TicketBook(clock, timer=timer)
    one, other = book.issue(ALICE), book.issue(ALICE)
    clock.now += skew_ms
    timer.now += LIFETIME_MS - 1
    assert book.redeem(one.secret) is ALICE
    timer.now += 1
    assert refusal(book, other.secret) == "expired"
