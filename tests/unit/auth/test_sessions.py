"""Sessions: how long they live, what is kept of them, and who may see and end them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial

import pytest
from sqlalchemy import Connection, insert, text
from structlog.testing import capture_logs
from tests.house import ManualClock, until

from isolane.auth.accounts import Accounts
from isolane.auth.sessions import (
    DEVICE_MAX_CHARACTERS,
    ENDED_AT_ONCE,
    SESSIONS_MAX,
    TOUCH_MS,
    SessionBook,
    session_id_of,
)
from isolane.contracts import PLAIN
from isolane.errors import NotFound, Unauthenticated
from isolane.sql.database import Database
from isolane.sql.tables import accounts, sessions
from isolane.tasks import TaskOwner

IDLE_MS = 8 * 3_600_000
MAX_MS = 7 * 86_400_000
ADA = "corp|ada"


@pytest.fixture
async def tasks() -> AsyncIterator[TaskOwner]:
    tasks = TaskOwner()
    yield tasks
    await tasks.close()


@pytest.fixture
def book(database: Database, clock: ManualClock, tasks: TaskOwner) -> SessionBook:
    return SessionBook(database, clock=clock, tasks=tasks, idle_ms=IDLE_MS, max_ms=MAX_MS)


async def refusal(book: SessionBook, secret: str) -> str:
    with pytest.raises(Unauthenticated) as caught:
        await book.load(secret)
    assert not secret or secret not in str(caught.value)
    return caught.value.reason


async def touched(book: SessionBook, user_id: str, at: int) -> None:
    """Return once a use was noted."""
    seen: list[int] = []
    while at not in seen:
        seen = [each.last_seen_at for each in await book.load_all(user_id)]


async def test_session_stands_for_who_began_it(book: SessionBook, clock: ManualClock) -> None:
    begun = await book.begin(ADA, device="Firefox")
    for identity in (begun.identity, await book.load(begun.secret)):
        assert (identity.user_id, identity.scopes) == (ADA, PLAIN)
        assert identity.expires_at == clock.now + IDLE_MS
        assert identity.session_id == session_id_of(begun.secret)
    assert begun.secret not in repr(begun)
    assert await refusal(book, session_id_of(begun.secret)) == "invalid"


@pytest.mark.parametrize("secret", ["", "x", "\0", "\u20ac", "x" * 100_000])
async def test_nonsense_is_no_session(book: SessionBook, secret: str) -> None:
    await book.begin(ADA)
    assert await refusal(book, secret) == "invalid"


async def test_session_ends_when_it_is_not_used(book: SessionBook, clock: ManualClock) -> None:
    one, other = await book.begin(ADA), await book.begin(ADA)
    clock.now += IDLE_MS - 1
    await book.load(one.secret)
    await touched(book, ADA, clock.now)
    clock.now += 1
    assert await refusal(book, other.secret) == "expired"
    clock.now += IDLE_MS - 2
    assert (await book.load(one.secret)).user_id == ADA
    await touched(book, ADA, clock.now)
    assert [each.session_id for each in await book.load_all(ADA)] == [session_id_of(one.secret)]


async def test_session_ends_however_much_it_is_used(book: SessionBook, clock: ManualClock) -> None:
    begun, began = await book.begin(ADA), clock.now
    while clock.now + IDLE_MS // 2 < began + MAX_MS:
        clock.now += IDLE_MS // 2
        identity = await book.load(begun.secret)
        assert identity.expires_at == min(clock.now + IDLE_MS, began + MAX_MS)
        await touched(book, ADA, clock.now)
    clock.now = began + MAX_MS - 1
    identity = await book.load(begun.secret)
    assert (await book.extend(identity)).expires_at == began + MAX_MS
    clock.now += 1
    assert await refusal(book, begun.secret) == "expired"
    assert await book.load_all(ADA) == []


async def test_use_is_written_down_once_a_minute(book: SessionBook, clock: ManualClock) -> None:
    begun, began = await book.begin(ADA), clock.now
    clock.now += TOUCH_MS - 1
    assert (await book.load(begun.secret)).expires_at == began + IDLE_MS
    clock.now += 1
    assert (await book.load(begun.secret)).expires_at == clock.now + IDLE_MS
    await touched(book, ADA, clock.now)


async def test_frames_extend_a_session_and_none_that_was_ended(
    book: SessionBook, clock: ManualClock
) -> None:
    identity = (await book.begin(ADA)).identity
    clock.now += 10
    extended = await book.extend(identity)
    assert extended.expires_at == clock.now + IDLE_MS
    await book.end(ADA, identity.session_id or "")
    clock.now += 10
    assert await book.extend(extended) == extended
    assert await book.load_all(ADA) == []


async def test_the_last_used_is_listed_first_and_nobody_elses(
    book: SessionBook, clock: ManualClock
) -> None:
    old = await book.begin(ADA, device="phone")
    clock.now += TOUCH_MS
    await book.begin(ADA, device="x" * 1000)
    await book.begin("corp|eve", device="elsewhere")
    listed = await book.load_all(ADA)
    assert [each.device for each in listed] == ["x" * DEVICE_MAX_CHARACTERS, "phone"]
    clock.now += TOUCH_MS
    await book.load(old.secret)
    await touched(book, ADA, clock.now)
    listed = await book.load_all(ADA)
    assert listed[0].device == "phone"
    assert old.secret not in repr(listed)


async def test_nobody_ends_another_users_session(book: SessionBook) -> None:
    begun = await book.begin(ADA)
    for user_id, session_id in (
        ("corp|eve", session_id_of(begun.secret)),
        (ADA, "unknown"),
        (ADA, ""),
    ):
        with pytest.raises(NotFound, match="no such session"):
            await book.end(user_id, session_id)
    assert (await book.load(begun.secret)).user_id == ADA


async def test_ended_session_is_unknown(book: SessionBook) -> None:
    one, other = await book.begin(ADA), await book.begin(ADA)
    await book.end(ADA, session_id_of(one.secret))
    assert await refusal(book, one.secret) == "invalid"
    assert (await book.load(other.secret)).user_id == ADA
    await book.end_all(ADA)
    assert await refusal(book, other.secret) == "invalid"


async def test_what_is_long_over_is_not_kept(
    book: SessionBook, database: Database, clock: ManualClock
) -> None:
    await book.begin(ADA)
    clock.now += MAX_MS
    await book.begin("corp|eve")
    count = await database.read(_count)
    assert count == 1


def _count(connection: Connection) -> int:
    return int(connection.execute(text("SELECT count(*) FROM sessions")).scalar_one())


async def test_session_may_do_what_its_account_may_at_that_moment(
    book: SessionBook, database: Database
) -> None:
    def add(scopes: str, connection: Connection) -> None:
        row = {"user_id": "ada", "created_at": 0, "password_hash": "x"}
        connection.execute(insert(accounts).values(**row, scopes=scopes))

    def allow(scopes: str, connection: Connection) -> None:
        connection.execute(accounts.update().values(scopes=scopes))

    await database.write(partial(add, "threads:read"))
    begun = await book.begin("ada")
    assert begun.identity.scopes == {"threads:read"}
    await database.write(partial(allow, "admin threads:read"))
    assert (await book.load(begun.secret)).scopes == {"admin", "threads:read"}


async def test_no_session_begins_for_an_account_that_was_removed(
    book: SessionBook, database: Database, clock: ManualClock
) -> None:
    people = Accounts(database, clock=clock)
    await people.add("ada", "correct horse battery")
    name = await people.verify("ada", "correct horse battery")
    await people.remove("ada")  # between the right password and the session
    with pytest.raises(Unauthenticated):
        await book.begin(name)
    assert await book.load_all("ada") == []
    people.close()


async def test_a_session_is_good_although_nobody_can_note_that_it_was_seen(
    book: SessionBook, clock: ManualClock, tasks: TaskOwner, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = await book.begin(ADA)
    clock.now += TOUCH_MS

    async def break_down(*_args: object) -> None:
        raise KeyError("nobody foresaw this")

    monkeypatch.setattr(SessionBook, "_touch", break_down)
    with capture_logs() as logs:
        assert (await book.load(begun.secret)).user_id == ADA
        await until(lambda: not len(tasks))
    (told,) = logs
    assert (told["event"], told["task"]) == ("task_failed", "session seen")
    assert told["chain"] == ["KeyError: 'nobody foresaw this'"]


async def test_one_session_too_many_ends_the_one_that_was_used_longest_ago(
    book: SessionBook, clock: ManualClock, database: Database
) -> None:
    begun = []
    for _ in range(SESSIONS_MAX):
        clock.now += 1
        begun.append(await book.begin(ADA))
    other = await book.begin("corp|bob")
    clock.now += TOUCH_MS
    await book.extend(begun[0].identity)  # the oldest, and in use
    clock.now += 1
    await book.begin(ADA)
    assert len(await book.load_all(ADA)) == SESSIONS_MAX
    assert await refusal(book, begun[1].secret) == "invalid"
    for one in (begun[0], begun[2], other):
        await book.load(one.secret)
    ended = await database.read(
        lambda connection: connection.execute(text("SELECT session_id FROM revocations")).scalars()
    )
    assert list(ended) == [session_id_of(begun[1].secret)]  # so that its sockets close


async def test_sessions_of_before_the_bound_end_a_few_at_a_time(
    book: SessionBook, clock: ManualClock, database: Database
) -> None:
    rows = [
        {
            "session_id": f"s-{number}",
            "user_id": ADA,
            "device": "",
            "created_at": clock.now,
            "last_seen_at": clock.now + number,
        }
        for number in range(SESSIONS_MAX + ENDED_AT_ONCE + 9)
    ]
    await database.write(lambda connection: connection.execute(insert(sessions), rows))
    clock.now += 1000
    for left in (SESSIONS_MAX + 10, SESSIONS_MAX):
        await book.begin(ADA)
        assert len(await book.load_all(ADA)) == left
