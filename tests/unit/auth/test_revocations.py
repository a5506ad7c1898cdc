"""Revocations: what is older and may do more is over, and nothing that is newer."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import pytest
from tests.house import ManualClock, count_lines

from isolane.auth import revocations
from isolane.auth.revocations import SESSION_KEPT_MS, Revocations
from isolane.auth.sessions import SessionBook, sign_out
from isolane.contracts import PLAIN, Identity
from isolane.sql.database import Database
from isolane.tasks import TaskOwner

HOUR_MS = 3_600_000
READ = frozenset({"threads:read"})


@pytest.fixture
def known(database: Database, clock: ManualClock) -> Revocations:
    return Revocations(database, clock=clock)


async def revoke(
    database: Database,
    at: int,
    *,
    user_id: str = "ada",
    scopes: Iterable[str] = (),
    session_id: str | None = None,
) -> None:
    work = partial(revocations.add, user_id, at, scopes, session_id=session_id)
    await database.write(work)


def issued(at: int | None, *, user_id: str = "ada", scopes: frozenset[str] = PLAIN) -> Identity:
    return Identity(user_id, scopes=scopes, issued_at=at)


async def test_what_was_issued_until_then_is_over_and_what_comes_later_is_not(
    database: Database, known: Revocations, clock: ManualClock
) -> None:
    await revoke(database, clock.now)
    assert not known.is_revoked(issued(clock.now)), "nothing is known before it is read"
    await known.refresh()
    assert [known.is_revoked(issued(clock.now + late)) for late in (-HOUR_MS, -1, 0, 1)] == [
        *[True] * 3,
        False,
    ]
    assert known.is_revoked(issued(0)), "a token without a date is older than anything"
    assert not known.is_revoked(issued(None)), "who vouches anew each time is asked each time"
    assert not known.is_revoked(issued(clock.now, user_id="bob"))


async def test_less_rights_take_what_may_do_more(
    database: Database, known: Revocations, clock: ManualClock
) -> None:
    await revoke(database, clock.now, scopes=READ)
    await known.refresh()
    assert known.is_revoked(issued(clock.now))
    assert known.is_revoked(issued(clock.now, scopes=frozenset({"admin"})))
    assert not known.is_revoked(issued(clock.now, scopes=READ))
    assert not known.is_revoked(issued(clock.now, scopes=frozenset()))
    assert not known.is_revoked(issued(clock.now + 1))


async def test_more_rights_give_nothing_back(
    database: Database, known: Revocations, clock: ManualClock
) -> None:
    await revoke(database, clock.now)
    clock.now += HOUR_MS
    await revoke(database, clock.now, scopes=PLAIN)
    await known.refresh()
    assert known.is_revoked(issued(clock.now - HOUR_MS))
    assert not known.is_revoked(issued(clock.now))


async def test_older_row_that_a_newer_one_includes_is_let_go(
    database: Database, known: Revocations, clock: ManualClock
) -> None:
    for scopes in (PLAIN, READ, ()):
        clock.now += 1
        await revoke(database, clock.now, scopes=scopes)
    await known.refresh()
    assert [row.scopes for row in known._of_user["ada"]] == [frozenset()]
    assert known.is_revoked(issued(clock.now))


async def test_ended_session_takes_what_it_opened_and_no_other(
    database: Database, known: Revocations, clock: ManualClock
) -> None:
    await revoke(database, clock.now, session_id="s-1")
    await known.refresh()
    assert known.is_revoked(Identity("ada", session_id="s-1", issued_at=clock.now + HOUR_MS))
    assert not known.is_revoked(Identity("ada", session_id="s-2", issued_at=0))
    assert not known.is_revoked(issued(0)), "a token has no session"


async def test_each_row_is_read_once(
    database: Database, known: Revocations, clock: ManualClock
) -> None:
    await revoke(database, clock.now)
    assert [row.user_id for row in await known.refresh()] == ["ada"]
    assert await known.refresh() == []
    await revoke(database, clock.now, user_id="bob")
    assert [row.user_id for row in await known.refresh()] == ["bob"]
    another = Revocations(database, clock=clock)
    assert [row.user_id for row in await another.refresh()] == ["ada", "bob"]


async def test_ended_sessions_are_forgotten_and_users_are_not(
    database: Database, clock: ManualClock
) -> None:
    began, timer = clock.now, ManualClock(0)
    known = Revocations(database, clock=clock, timer=timer)
    await revoke(database, began, session_id="s-1")
    await revoke(database, began)
    await known.refresh()
    for each in (clock, timer):
        each.now += SESSION_KEPT_MS + 1
    await known.refresh()
    assert not known._ended
    await revoke(database, clock.now, user_id="bob", session_id="s-2")
    another = Revocations(database, clock=clock)
    assert [row.session_id for row in await another.refresh()] == [None, "s-2"]
    assert another.is_revoked(issued(began))


async def test_session_that_was_read_while_the_revocation_was_written_is_older(
    database: Database, known: Revocations, clock: ManualClock
) -> None:
    tasks = TaskOwner()
    book = SessionBook(database, clock=clock, tasks=tasks, idle_ms=HOUR_MS, max_ms=HOUR_MS)
    begun = await book.begin("corp|ada")
    asked_at = clock.now
    clock.now += 5  # the write waits for the file: it has its time, and nobody sees it yet
    opened = await book.load(begun.secret)
    await database.write(partial(sign_out, "corp|ada", asked_at))
    clock.now += 5
    again = await book.begin("corp|ada")
    await known.refresh()
    assert known.is_revoked(begun.identity)
    assert known.is_revoked(opened)
    assert not known.is_revoked(again.identity)
    assert not known.is_revoked(await book.load(again.secret))
    await tasks.close()


@pytest.mark.parametrize("is_read_before", [True, False])
async def test_sign_out_while_the_clock_was_ahead_shuts_nobody_out(
    database: Database, clock: ManualClock, *, is_read_before: bool
) -> None:
    timer = ManualClock(0)
    known = Revocations(database, clock=clock, timer=timer)
    clock.now += 2 * HOUR_MS
    ahead = issued(clock.now - 1)
    await revoke(database, clock.now)
    if is_read_before:
        await known.refresh()
        assert known.is_revoked(ahead)
        assert not known.is_revoked(issued(clock.now + 1))
    clock.now -= 2 * HOUR_MS
    await known.refresh()
    for each in (clock, timer):
        each.now += 10
    assert not known.is_revoked(issued(clock.now))
    assert known.is_revoked(ahead), "it was issued before, whatever it says"
    assert known.is_revoked(issued(clock.now - HOUR_MS))
    for each in (clock, timer):
        each.now += HOUR_MS
    assert not known.is_revoked(issued(clock.now))
    assert not known.is_revoked(issued(clock.now - HOUR_MS))


async def test_session_is_ended_after_a_sign_out_while_the_clock_was_ahead(
    database: Database, known: Revocations, clock: ManualClock
) -> None:
    async def sign_in() -> Identity:
        at = await database.read(partial(revocations.load_last, "ada"))
        return Identity("ada", scopes=PLAIN, session_id="s", issued_at=at + 1)

    clock.now += 2 * HOUR_MS
    await revoke(database, clock.now)
    await known.refresh()
    session = await sign_in()
    clock.now -= 2 * HOUR_MS
    assert not known.is_revoked(session)
    await revoke(database, clock.now)
    await known.refresh()
    assert known.is_revoked(session)
    assert not known.is_revoked(await sign_in())


async def test_rows_are_walked_through_once_when_a_clock_was_set_back(
    database: Database, known: Revocations, clock: ManualClock
) -> None:
    for number in range(50):
        await revoke(database, clock.now, user_id=f"user-{number}")
    await known.refresh()
    clock.now -= HOUR_MS
    await known.refresh()
    clock.now += 1
    ada = issued(clock.now, user_id="user-7")
    assert not known.is_revoked(ada)
    first = count_lines(lambda: known.is_revoked(ada))
    assert first == count_lines(lambda: known.is_revoked(ada)) < 20
