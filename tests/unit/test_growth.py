"""No cost grows with what is stored: SQLite's own steps are counted, by no clock."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Connection
from tests.house import ALICE, START, Ground, context_of, draft_of, key_of, open_ground

from isolane.context import RunKey, UserExecutionContext
from isolane.contracts import RunLease, Terms
from isolane.errors import LimitExceeded
from isolane.sql.heads import claim
from isolane.sql.turns import DatabaseTurnBook

FEW, MANY = 60, 3_000
RATIO_MAX = 1.2
EVERY = 10
"""SQLite counts its steps in tens here."""

QUIET = (
    """
    INSERT INTO threads (thread_no, user_id, thread_id, epoch, title, created_at, updated_at)
    VALUES (? + 1, 'alice', 't-' || ?, '0', '', 0, ?)
    """,
    "INSERT INTO heads (thread_no, head_seq) VALUES (? + 1, 1)",
    """
    INSERT INTO runs (run_no, user_id, run_id, thread_no, state, draft, first_seq, last_seq,
        created_at, ended_at, is_logged)
    VALUES (? + 1, 'alice', 'r-' || ?, ? + 1, 'ended', x'', 1, 1, 0, 1, 1)
    """,
    "INSERT INTO events VALUES (? + 1, 1, ? + 1, x'7b7d')",
    """
    INSERT INTO messages (thread_no, message_id, run_no, payload, since_seq)
    VALUES (? + 1, 'm', ? + 1, CAST('{"id":"m","role":"user"}' AS BLOB), 1)
    """,
)

RUNNING = """
INSERT INTO runs (run_no, user_id, run_id, thread_no, state, draft, first_seq, created_at)
VALUES (100000, 'alice', 'ahead', 4, 'running',
    CAST('{"agent":"a","messages":[],"rewind_to":null,"request":{}}' AS BLOB), 2, 0)
"""

Work = Callable[[Ground], Awaitable[object]]
LIMITED = Terms(runs_per_user=5, queued_per_thread=5, asked_at=0)


def turns_of(ground: Ground) -> DatabaseTurnBook:
    """Return the book of turns on a database."""
    return DatabaseTurnBook(ground.database)


async def append_to(ground: Ground, thread_id: str, run_id: str, run_no: int) -> None:
    """Append to a run as if it went on."""

    def claim_run(connection: Connection) -> RunLease:
        return claim(connection, key_of(thread_id), run_id, run_no)

    lease = await ground.database.write(claim_run)
    assert await ground.log.append(lease, [b"{}"], batch=1)


WORKS: dict[str, Work] = {
    "thread list": lambda ground: ground.store.load_threads(ALICE, before=None, limit=20),
    "next page of it": lambda ground: ground.store.load_threads(
        ALICE, before=f"{FEW // 2}~t", limit=20
    ),
    "one thread": lambda ground: ground.store.load_thread(key_of("t-1")),
    "its page": lambda ground: ground.store.load_snapshot(key_of("t-1")),
    "its conversation": lambda ground: ground.store.load_conversation(key_of("t-1")),
    "runs under way": lambda ground: ground.book.load_open_runs(),
    "one run": lambda ground: ground.store.load_run(RunKey(ALICE, "r-1")),
    "bounds of a log": lambda ground: ground.log.load_bounds(key_of("t-1")),
    "entries of a log": lambda ground: ground.log.read(key_of("t-1"), after=START, limit=10),
    "append": lambda ground: append_to(ground, "t-1", "r-1", 2),
    "start of a run": lambda ground: ground.begin_run(
        context_of("another", thread_id="t-1"), draft_of("Well?")
    ),
    "run that is let in": lambda ground: ground.book.admit(
        context_of("another", thread_id="t-2"), draft_of("Well?"), LIMITED
    ),
    "run that waits": lambda ground: ground.book.admit(
        context_of("another", thread_id="t-3"), draft_of("Well?"), LIMITED
    ),
    "turns to claim": lambda ground: ground.book.claim("node", room=10),
    "lost runs": lambda ground: ground.book.find_lost(),
    "turns that were lost": lambda ground: ground.book.mend_turns(),
    "runs of a user": lambda ground: ground.book.find_active(ALICE),
    "stop of a run": lambda ground: ground.book.request_stop(RunKey(ALICE, "r-1"), asked_at=1),
    "one turn": lambda ground: turns_of(ground).load_turn(key_of("t-1"), "r-1"),
    "last turn": lambda ground: turns_of(ground).load_last_turn(key_of("t-1")),
    "open turn": lambda ground: turns_of(ground).load_open_turn(key_of("t-1")),
    "page of turns": lambda ground: turns_of(ground).load_turns(key_of("t-1")),
    "requests to remove": lambda ground: ground.store.load_ended_requests(
        older_than=2**50, limit=10
    ),
}


@pytest.fixture
async def ground() -> AsyncIterator[Ground]:
    async with open_ground() as opened:
        yield opened


async def add_threads(ground: Ground, first: int, last: int) -> None:
    """Add quiet threads, each with a run that has ended, one entry and one message."""

    def add(connection: Connection) -> None:
        for statement in QUIET:
            count = statement.count("?")
            connection.exec_driver_sql(statement, [(n,) * count for n in range(first, last)])

    await ground.database.write(add)


@contextmanager
def counting(ground: Ground) -> Iterator[list[int]]:
    """Give a list with an entry for each ten steps that SQLite takes meanwhile."""
    steps: list[int] = []
    database: Any = ground.database
    raw: Any = database._writing.connection.driver_connection
    raw.set_progress_handler(lambda: steps.append(1), EVERY)
    try:
        yield steps
    finally:
        raw.set_progress_handler(None, 0)


async def count_steps(ground: Ground, work: Work) -> int:
    with counting(ground) as steps:
        await work(ground)
    return len(steps)


def let_one_run(connection: Connection) -> None:
    """Let a run be under way on a thread, for another one to wait behind it."""
    connection.exec_driver_sql(RUNNING)


@pytest.mark.parametrize("name", WORKS)
async def test_work_takes_as_many_steps_beside_many_threads_as_beside_few(
    ground: Ground, name: str
) -> None:
    async def count_once() -> int:
        steps = await count_steps(ground, WORKS[name])
        if name in {"start of a run", "run that is let in", "run that waits"}:
            # The next one takes on a run that isn't there yet.
            await ground.database.write(
                lambda connection: connection.exec_driver_sql(
                    "DELETE FROM runs WHERE run_id = 'another'"
                )
            )
        return steps

    await add_threads(ground, 0, FEW)
    await ground.database.write(let_one_run)
    await count_once()  # the first time is of caches
    few = await count_once()
    await add_threads(ground, FEW, MANY)
    many = await count_once()
    assert few > 0
    assert many <= RATIO_MAX * few + 2, (few, many)


OF_ONE_THREAD = (
    """
    INSERT INTO runs (run_no, user_id, run_id, thread_no, state, draft, first_seq, last_seq,
        created_at, ended_at, is_logged)
    VALUES (? + 10000, 'alice', 'run-' || ?, 1, 'ended', x'', ?, ?, 0, 1, 1)
    """,
    "INSERT INTO events VALUES (1, ?, ? + 10000, x'7b7d')",
    """
    INSERT INTO messages (thread_no, message_id, run_no, payload, since_seq)
    VALUES (1, 'm-' || ?, ? + 10000, CAST('{"id":"m","role":"user"}' AS BLOB), ?)
    """,
    "UPDATE heads SET head_seq = ? WHERE thread_no = 1",
)


async def refuse(ground: Ground, context: UserExecutionContext) -> None:
    """Have a run refused by what the rows of its user and thread say."""
    with pytest.raises(LimitExceeded):
        await ground.book.admit(context, draft_of("Well?"), Terms(runs_per_user=0))


WORKS_IN_IT: dict[str, Work] = {
    "thread": lambda ground: ground.store.load_thread(key_of("t-0")),
    "page": lambda ground: ground.store.load_snapshot(key_of("t-0"), limit=20),
    "page of runs": lambda ground: ground.store.load_conversation(key_of("t-0"), limit=20),
    "state": lambda ground: ground.store.load_state(key_of("t-0")),
    "one message": lambda ground: ground.store.has_message(key_of("t-0"), "m-9"),
    "question that is known": lambda ground: ground.store.load_known(
        key_of("t-0"), "m-9", rewind_to=None
    ),
    "question that is new": lambda ground: ground.store.load_known(
        key_of("t-0"), "new", rewind_to=None
    ),
    "run": lambda ground: ground.store.load_run(RunKey(ALICE, "run-9")),
    "bounds of its log": lambda ground: ground.log.load_bounds(key_of("t-0")),
    "append": lambda ground: append_to(ground, "t-0", "run-9", 10_009),
    "refused run": lambda ground: refuse(ground, context_of("another", thread_id="t-0")),
    "turn": lambda ground: turns_of(ground).load_turn(key_of("t-0"), "run-9"),
    "last turn": lambda ground: turns_of(ground).load_last_turn(key_of("t-0")),
    "open turn": lambda ground: turns_of(ground).load_open_turn(key_of("t-0")),
    "page of turns": lambda ground: turns_of(ground).load_turns(key_of("t-0"), limit=5),
    "older turns": lambda ground: turns_of(ground).load_turns(
        key_of("t-0"), before="run-30", limit=5
    ),
    "older turns than a message": lambda ground: turns_of(ground).load_turns(
        key_of("t-0"), before="m-30", limit=5
    ),
}


async def add_runs(ground: Ground, first: int, last: int) -> None:
    """Add runs that have ended to one thread, each with an entry and a message."""

    def add(connection: Connection) -> None:
        for statement in OF_ONE_THREAD:
            count = statement.count("?")
            connection.exec_driver_sql(statement, [(n,) * count for n in range(first, last)])

    await ground.database.write(add)


@pytest.mark.parametrize("name", WORKS_IN_IT)
async def test_work_in_a_thread_takes_as_many_steps_after_many_runs_as_after_few(
    ground: Ground, name: str
) -> None:
    await add_threads(ground, 0, 1)
    await add_runs(ground, 2, FEW)
    await count_steps(ground, WORKS_IN_IT[name])  # the first time is of caches
    few = await count_steps(ground, WORKS_IN_IT[name])
    await add_runs(ground, FEW + 9, MANY)  # what is appended here has the next numbers
    many = await count_steps(ground, WORKS_IN_IT[name])
    assert few > 0
    assert many <= RATIO_MAX * few + 2, (few, many)


async def add_rewound(ground: Ground, first: int, last: int) -> None:
    """Add runs that have ended to one thread, each taken back by the next one."""
    await add_runs(ground, first, last)

    def take_back(connection: Connection) -> None:
        for statement in (
            "UPDATE runs SET is_rewound = 1 WHERE run_id LIKE 'run-%' AND first_seq >= ?",
            "UPDATE messages SET until_seq = since_seq + 1 WHERE since_seq >= ?",
        ):
            connection.exec_driver_sql(statement, (first,))

    await ground.database.write(take_back)


@pytest.mark.parametrize("name", ["last turn", "open turn", "page of turns"])
async def test_turns_are_found_as_fast_behind_many_that_were_taken_back(
    ground: Ground, name: str
) -> None:
    await add_threads(ground, 0, 1)
    await add_runs(ground, 2, 20)
    await add_rewound(ground, 20, FEW)
    await count_steps(ground, WORKS_IN_IT[name])  # the first time is of caches
    few = await count_steps(ground, WORKS_IN_IT[name])
    await add_rewound(ground, FEW, MANY)
    many = await count_steps(ground, WORKS_IN_IT[name])
    assert few > 0
    assert many <= RATIO_MAX * few + 2, (few, many)


@pytest.mark.parametrize("name", ["thread list", "next page of it"])
async def test_list_of_threads_takes_as_many_steps_beside_many_requests(
    ground: Ground, name: str
) -> None:
    await add_threads(ground, 0, FEW)
    await count_steps(ground, WORKS[name])  # the first time is of caches
    few = await count_steps(ground, WORKS[name])
    await add_threads(ground, FEW, MANY)
    await ground.database.write(
        lambda connection: connection.exec_driver_sql(
            "UPDATE threads SET kind = 'request' WHERE updated_at >= ?", (FEW,)
        )
    )
    many = await count_steps(ground, WORKS[name])
    assert few > 0
    assert many <= RATIO_MAX * few + 2, (few, many)


async def test_requests_to_remove_are_found_as_fast_beside_many_chats(ground: Ground) -> None:
    await add_threads(ground, 0, FEW)
    await ground.database.write(
        lambda connection: connection.exec_driver_sql(
            "UPDATE threads SET kind = 'request' WHERE updated_at < 10"
        )
    )
    await count_steps(ground, WORKS["requests to remove"])  # the first time is of caches
    few = await count_steps(ground, WORKS["requests to remove"])
    await add_threads(ground, FEW, MANY)
    many = await count_steps(ground, WORKS["requests to remove"])
    assert few > 0
    assert many <= RATIO_MAX * few + 2, (few, many)
