"""Retention: what it costs is counted in SQLite's own steps, rows and transactions, not in time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
import sqlalchemy as sa
from tests.house import (
    START,
    Ground,
    append_to,
    context_of,
    draft_of,
    key_of,
    open_ground,
    open_older,
    sqlite_url,
    until,
)

from isolane.context import RunKey, ThreadKey
from isolane.contracts import RunEnd
from isolane.errors import CursorExpired
from isolane.sql.steps import ROWS_AT_ONCE

QUIET: Final = 100_000
STEPS: Final = 100
"""SQLite's steps between two calls of the counter."""
THREADS: Final = """
WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < :count)
INSERT INTO threads (user_id, thread_id, epoch, title, created_at, updated_at)
SELECT 'quiet', 't' || n, 'e', '', 0, 0 FROM numbers
"""
HEADS: Final = """
INSERT INTO heads (thread_no, head_seq) SELECT thread_no, 1 FROM threads WHERE user_id = 'quiet'
"""
RUNS: Final = """
INSERT INTO runs (user_id, run_id, thread_no, state, draft, first_seq, last_seq, created_at,
    ended_at, is_logged)
SELECT user_id, 'r-' || thread_id, thread_no, 'ended', '{}', 1, 1, 0, :ended_at, 1
FROM threads WHERE user_id = 'quiet'
"""
EVENTS: Final = """
INSERT INTO events (thread_no, seq, run_no, payload)
SELECT thread_no, 1, run_no, '{}' FROM runs WHERE user_id = 'quiet'
"""


@pytest.fixture
async def ground() -> AsyncIterator[Ground]:
    async with open_ground() as opened:
        yield opened


async def fill(ground: Ground, count: int) -> None:
    """Add so many quiet threads, each with a run that has just ended."""

    def insert(connection: sa.Connection) -> None:
        connection.execute(sa.text(THREADS), {"count": count})
        connection.execute(sa.text(HEADS))
        connection.execute(sa.text(RUNS), {"ended_at": ground.clock()})
        connection.execute(sa.text(EVENTS))

    await ground.database.write(insert)


@contextmanager
def counted(ground: Ground) -> Iterator[list[int]]:
    """Count SQLite's steps, in hundreds."""
    database: Any = ground.database
    raw: Any = database._writing.connection.driver_connection
    counts = [0]

    def count() -> None:
        counts[0] += 1

    raw.set_progress_handler(count, STEPS)
    yield counts
    raw.set_progress_handler(None, 0)


async def live(ground: Ground, run_id: str, *, events: int, payload: bytes = b"{}") -> None:
    """Live a whole run of so many events."""
    context = context_of(run_id)
    await ground.begin_run(context, draft_of())
    end = RunEnd(run_id, "success", None, [], ground.clock())
    await append_to(ground.log, key_of(), run_id, [payload] * events, end=end)


async def rows_of(ground: Ground, where: str) -> int:
    query = sa.text(f"SELECT count(*) FROM {where}")  # noqa: S608 - the test's own words
    return int(await ground.database.read(lambda asked: asked.execute(query).scalar_one()))


async def test_quiet_threads_cost_retention_nothing(ground: Ground) -> None:
    await live(ground, "r", events=3)
    with counted(ground) as few:
        assert await ground.log.trim(older_than=ground.clock()) == 0
    await fill(ground, QUIET)
    with counted(ground) as many:
        assert await ground.log.trim(older_than=ground.clock()) == 0
    assert many[0] <= few[0] + 2
    assert many[0] < 10


async def test_only_what_is_due_is_touched(ground: Ground) -> None:
    await live(ground, "r", events=3)
    ground.clock.now += 1
    await fill(ground, QUIET)
    told: list[ThreadKey] = []
    with counted(ground) as counts:
        assert await ground.log.trim(older_than=ground.clock(), told=told.append) == 3
    assert told == [key_of()]
    assert counts[0] < 30


async def test_no_transaction_deletes_much_and_appends_come_between(ground: Ground) -> None:
    await live(ground, "r-1", events=1000)
    await live(ground, "r-2", events=30, payload=b"x" * 100_000)
    database: Any = ground.database
    raw: Any = database._writing.connection.driver_connection
    changes, most, appended = raw.total_changes, 0, 0

    def measure(statement: str) -> None:
        nonlocal changes, most
        if statement != "COMMIT":
            return
        most = max(most, raw.total_changes - changes)
        changes = raw.total_changes

    async def append_beside() -> None:
        nonlocal appended
        await ground.begin_run(context_of("live", thread_id="live"), draft_of())
        while True:
            await append_to(ground.log, key_of("live"), "live", [b"{}"])
            appended += 1

    raw.set_trace_callback(measure)
    beside = asyncio.create_task(append_beside())
    assert await ground.log.trim(older_than=ground.clock() + 1) == 1030
    beside.cancel()
    await asyncio.wait({beside})
    assert most <= ROWS_AT_ONCE + 10
    assert appended > 10
    own = "events JOIN threads USING (thread_no) WHERE thread_id = 'thread'"
    assert await rows_of(ground, own) == 0


async def test_what_exceeds_the_maximum_is_gone_at_once_and_deleted_beside() -> None:
    async with open_ground(max_events=500) as ground:
        await live(ground, "r-1", events=400)
        await live(ground, "r-2", events=400)
        with pytest.raises(CursorExpired):
            await ground.log.read(key_of(), after=START, limit=1)
        await until(lambda: not len(ground.tasks))
        assert await rows_of(ground, "events") == 400


async def test_a_data_folder_of_an_earlier_version_is_trimmed_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = sqlite_url(tmp_path)
    database = await open_older(url, "0003", monkeypatch)
    await database.write(fill_as_before)
    await database.close()
    async with open_ground(url) as ground:
        assert await ground.log.trim(older_than=10) == 2
        assert await rows_of(ground, "events") == 1
        assert await rows_of(ground, "heads WHERE swept_seq < trimmed_seq") == 0
        assert await rows_of(ground, "runs WHERE CAST(draft AS TEXT) LIKE '%hello%'") == 1
        for run_id, agent in (("r1", "a"), ("r3", "a"), ("r5", "a"), ("waits", "a")):
            stored = await ground.store.load_run(RunKey("u", run_id))
            assert stored is not None
            assert (stored.draft.agent, len(stored.asked)) == (agent, 1)
        assert await ground.store.load_run(RunKey("u", "broken")) is not None


def fill_as_before(connection: sa.Connection) -> None:
    """Have a thread with runs that were trimmed, are due, aren't yet, wait, and can't be read."""
    thread = "INSERT INTO threads VALUES ('u', 't', 'e', 2, '', 0, 0)"
    connection.execute(sa.text(thread))
    run = sa.text(
        "INSERT INTO runs (user_id, run_id, thread_id, state, draft, first_seq, last_seq, "
        "created_at, ended_at) VALUES ('u', :id, 't', :state, :draft, :first, :last, 0, :ended_at)"
    )
    draft = msgspec.json.encode(draft_of("hello", agent="a"))
    for run_id, state, kept, *places in (
        ("r1", "ended", draft, 1, 2, 1),
        ("r3", "ended", draft, 3, 4, 2),
        ("r5", "ended", draft, 5, 5, 20),
        ("waits", "queued", draft, None, None, None),
        ("broken", "queued", b"{", None, None, None),
    ):
        first, last, ended_at = places
        values = {"first": first, "last": last, "ended_at": ended_at}
        connection.execute(run, {"id": run_id, "state": state, "draft": kept, **values})
    for seq in (3, 4, 5):
        event = "INSERT INTO events VALUES ('u', 't', :seq, 'r', '{}')"
        connection.execute(sa.text(event), {"seq": seq})
