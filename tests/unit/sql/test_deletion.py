"""Deleted threads are gone at once, and their rows leave the disk in small steps."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import Connection, func, select
from tests.house import (
    ALICE,
    START,
    Ground,
    append_to,
    context_of,
    draft_of,
    key_of,
    open_ground,
    sqlite_url,
    user_message,
)

from isolane.context import EventId, RunKey
from isolane.contracts import RunEnd, StoredRun, Terms
from isolane.errors import CursorExpired, NotFound
from isolane.sql.deletion import load_removal, remove_some
from isolane.sql.steps import BYTES_AT_ONCE, ROWS_AT_ONCE
from isolane.sql.tables import events, messages, metadata, threads

KEY = key_of()
ROWS = ("events", "messages", "runs")
TABLES = (*ROWS, "threads", "heads", "removals")


@pytest.fixture
async def ground(tmp_path: Path) -> AsyncIterator[Ground]:
    """Give a database whose sweeps wait until a test lets them go on."""
    async with open_ground(sqlite_url(tmp_path)) as opened:
        await opened.log._sweeping.acquire()
        yield opened
        if opened.log._sweeping.locked():
            opened.log._sweeping.release()


async def talk(ground: Ground, run_id: str, *texts: str, **more: str) -> EventId:
    """Live a run that asks `texts` and is answered each with one message."""
    context = context_of(run_id, **more)
    await ground.begin_run(context, draft_of(*texts))
    answers = [user_message(f"answer to {text}") for text in texts]
    end = RunEnd(run_id, "success", None, answers, ground.clock())
    records = await append_to(
        ground.log, context.thread_key, run_id, [b"{}", b'{"type":"RUN_FINISHED"}'], end=end
    )
    return records[-1].id


async def count(ground: Ground) -> dict[str, int]:
    """Return how many rows each table has."""

    def look(connection: Connection) -> dict[str, int]:
        return {
            name: connection.execute(
                select(func.count()).select_from(metadata.tables[name])
            ).scalar_one()
            for name in TABLES
        }

    return await ground.database.read(look)


async def sweep(ground: Ground) -> None:
    ground.log._sweeping.release()
    await ground.log.sweep()
    await ground.log._sweeping.acquire()


async def test_nothing_of_a_deleted_thread_is_there_while_its_rows_are(ground: Ground) -> None:
    last = await talk(ground, "r-1", "secret")
    await ground.begin_run(context_of("r-2"), draft_of("under way"))
    await ground.add_run(context_of("r-3"), draft_of("waits"))
    assert await ground.log.delete(KEY) == {"r-2", "r-3"}
    rows = await count(ground)
    assert (rows["events"], rows["messages"], rows["runs"]) == (2, 3, 3)
    store, log = ground.store, ground.log
    assert await store.load_thread(KEY) is None
    assert await store.load_snapshot(KEY) is None
    assert (await store.load_threads(ALICE, before=None, limit=10)).threads == []
    assert await store.load_known_ids(KEY) == frozenset()
    assert not await store.has_message(KEY, "secret")
    assert await store.load_messages_before(KEY, 100) == []
    assert await ground.book.load_open_runs() == []
    assert [await store.load_run(RunKey(ALICE, f"r-{n}")) for n in (1, 2, 3)] == [None] * 3
    assert (await log.load_bounds(KEY)).head.seq == 0
    assert await log.read(KEY, after=START, limit=10) == []
    with pytest.raises(CursorExpired):
        await log.read(KEY, after=last, limit=10)
    for refused in (
        append_to(log, KEY, "r-2", [b"{}"]),
        log.delete(KEY),
        store.set_title(KEY, "x"),
    ):
        with pytest.raises(NotFound):
            await refused


async def test_deletion_names_the_runs_that_somebody_may_be_about(ground: Ground) -> None:
    for number in range(3):
        await talk(ground, f"r-{number}", f"question {number}")
    # The last one's end is on the disk, and its writer may not have heard of that.
    assert await ground.log.delete(KEY) == {"r-2"}


async def test_next_thread_of_the_id_never_meets_the_rows_of_the_last(ground: Ground) -> None:
    epochs = set()
    for life in range(3):
        last = await talk(ground, "r", f"question {life}")
        epochs.add(last.epoch)
        assert last.seq == 2
        await ground.log.delete(KEY)
    rows = await count(ground)
    assert (rows["removals"], rows["events"], rows["messages"]) == (3, 6, 6)
    assert len(epochs) == 3
    last = await talk(ground, "r", "newest")
    await talk(ground, "r-2", "and more")
    for _ in range(2):
        assert await contents(ground) == ["newest", "answer to newest", *MORE]
        snapshot = await ground.store.load_snapshot(KEY)
        assert snapshot is not None
        assert (len(snapshot.messages), snapshot.head) == (4, EventId(last.epoch, 4))
        records = await ground.log.read(KEY, after=START, limit=100)
        assert [record.id for record in records] == [EventId(last.epoch, n) for n in (1, 2, 3, 4)]
        listed = (await ground.store.load_threads(ALICE, before=None, limit=10)).threads
        assert [thread.thread_id for thread in listed] == ["thread"]
        stored = await ground.store.load_run(RunKey(ALICE, "r"))
        assert stored is not None
        assert stored.thread_id == "thread"
        await sweep(ground)
    kept = {"threads": 1, "heads": 1, "events": 4, "messages": 4, "runs": 2, "removals": 0}
    assert await count(ground) == kept
    await ground.log.delete(KEY)
    await sweep(ground)
    assert set((await count(ground)).values()) == {0}
    assert (await talk(ground, "r", "once more")).epoch not in {*epochs, last.epoch}


async def test_number_of_a_deleted_thread_is_never_given_again(ground: Ground) -> None:
    def load_numbers(connection: Connection) -> list[int]:
        return list(connection.execute(select(threads.c.thread_no)).scalars())

    numbers: list[int] = []
    for life in range(3):
        await talk(ground, "r", f"question {life}")
        numbers += await ground.database.read(load_numbers)
        await ground.log.delete(KEY)
        await sweep(ground)
    assert numbers == sorted(set(numbers))
    assert len(numbers) == 3


MORE = ["and more", "answer to and more"]


async def contents(ground: Ground) -> list[object]:
    return [one["content"] for one in await ground.store.load_messages_before(KEY, 100)]


async def test_run_of_a_living_thread_keeps_its_id(ground: Ground) -> None:
    await talk(ground, "r", "a", thread_id="other")
    await talk(ground, "r-2", "b")
    await ground.log.delete(KEY)
    await talk(ground, "r-2", "c", thread_id="other")
    await sweep(ground)
    stored = await ground.store.load_run(RunKey(ALICE, "r-2"))
    assert stored is not None
    assert stored.thread_id == "other"
    known = await ground.book.admit(context_of("r", thread_id="third"), draft_of("d"), Terms())
    assert isinstance(known, StoredRun)
    assert known.thread_id == "other"


@pytest.mark.parametrize("size", [10, 100_000])
async def test_rows_go_in_steps_that_are_bounded(size: int, ground: Ground) -> None:
    for number in range(3):
        context = context_of(f"r-{number}")
        await ground.begin_run(context, draft_of("q" * size + str(number)))
        payloads = [b"x" * size] * (300 if size < 1000 else 20)
        await append_to(ground.log, KEY, f"r-{number}", payloads)
        end = RunEnd(f"r-{number}", "success", None, [], ground.clock())
        await append_to(ground.log, KEY, f"r-{number}", [b"{}"], end=end)
    left, left_bytes = await count(ground), await total_bytes(ground)
    await ground.log.delete(KEY)
    assert await total_bytes(ground) == left_bytes
    while (removal := await ground.database.read(load_removal)) is not None:
        await ground.database.write(partial(remove_some, removal))
        now, now_bytes = await count(ground), await total_bytes(ground)
        assert sum(left[name] - now[name] for name in ROWS) <= ROWS_AT_ONCE
        assert left_bytes - now_bytes <= BYTES_AT_ONCE + 3 * size
        left, left_bytes = now, now_bytes
    assert not any(left.values())


async def total_bytes(ground: Ground) -> int:
    def look(connection: Connection) -> int:
        sizes = [select(func.sum(func.length(table.c.payload))) for table in (events, messages)]
        return sum(connection.execute(size).scalar_one() or 0 for size in sizes)

    return await ground.database.read(look)


async def test_deletion_is_of_one_user(ground: Ground) -> None:
    await talk(ground, "r", "hers")
    await talk(ground, "r", "his", user_id="bob")
    await ground.log.delete(KEY)
    await talk(ground, "r", "hers again")
    await sweep(ground)
    his = key_of(user_id="bob")
    assert len(await ground.log.read(his, after=START, limit=10)) == 2
    assert await ground.store.has_message(his, "his")
    assert await contents(ground) == ["hers again", "answer to hers again"]
