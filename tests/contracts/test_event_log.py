"""What every event log promises."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.contracts.conftest import Engines
from tests.house import START, context_of, draft_of, key_of, losing_answers

from isolane.context import EventId
from isolane.contracts import EventLog, RunEnd, ensure
from isolane.errors import (
    CursorExpired,
    DatabaseFailed,
    Fenced,
    InvalidCursor,
    NoActiveRun,
    NotFound,
    Unavailable,
)
from isolane.events.event import Record
from isolane.sql.heads import new_fence

KEY = key_of()


@pytest.fixture(autouse=True)
async def _thread(engines: Engines) -> None:
    await engines.begin(context_of("r"))


def seqs(records: list[Any]) -> list[int]:
    return [record.id.seq for record in records]


async def read(engines: Engines, after: EventId = START, *, limit: int = 10_000) -> list[int]:
    return seqs(await engines.log.read(KEY, after=after, limit=limit))


def test_it_keeps_its_contract(engines: Engines) -> None:
    ensure(engines.log, EventLog)


async def test_ids_have_no_gap_however_many_append_at_once(engines: Engines) -> None:
    keys = [key_of(str(number)) for number in range(5)]
    for number, key in enumerate(keys):
        await engines.begin(context_of(f"r{number}", thread_id=key.thread_id))
    appended = await asyncio.gather(
        *(engines.append(key, count % 3 + 1) for count in range(60) for key in keys)
    )
    for key in keys:
        own = [record for records in appended for record in records if record.key == key]
        stored = await engines.log.read(key, after=START, limit=10_000)
        assert seqs(stored) == list(range(1, len(own) + 1))
        assert seqs(own) == seqs(stored)  # calls commit in the order in which they were made
        assert [(one.id, one.payload, one.run_id) for one in own] == [
            (one.id, one.payload, one.run_id) for one in stored
        ]


async def test_many_appends_share_few_commits(engines: Engines) -> None:
    await engines.append(KEY)
    before = engines.transactions[0]
    await asyncio.gather(*(engines.append(KEY) for _ in range(500)))
    assert engines.transactions[0] - before <= 5


async def test_a_lone_append_waits_for_nobody(engines: Engines) -> None:
    before = engines.transactions[0]
    await engines.append(KEY)
    assert engines.transactions[0] - before == 1


async def test_read_returns_what_came_after(engines: Engines) -> None:
    ids = [record.id for record in await engines.append(KEY, 5)]
    assert await read(engines) == [1, 2, 3, 4, 5]
    assert await read(engines, ids[1]) == [3, 4, 5]
    assert await read(engines, ids[1], limit=2) == [3, 4]
    assert await read(engines, ids[4]) == []


async def test_number_0_is_the_start_whatever_the_epoch(engines: Engines) -> None:
    await engines.append(KEY, 2)
    assert await read(engines, EventId("whatever", 0)) == [1, 2]


async def test_a_cursor_ahead_of_the_log_is_no_cursor(engines: Engines) -> None:
    (record,) = await engines.append(KEY)
    with pytest.raises(InvalidCursor):
        await read(engines, EventId(record.id.epoch, 2))


async def test_a_cursor_of_another_numbering_is_expired(engines: Engines) -> None:
    await engines.append(KEY, 2)
    with pytest.raises(CursorExpired):
        await read(engines, EventId("other", 1))


async def test_an_unused_log_is_empty_and_one_goes_on_from_its_end(engines: Engines) -> None:
    unused = key_of("unused")
    before = await engines.log.load_bounds(unused)
    assert (before.head, before.trimmed_seq) == (START, 0)
    assert await engines.log.read(unused, after=before.head, limit=10) == []
    with pytest.raises(InvalidCursor):
        await engines.log.read(unused, after=EventId(before.head.epoch, 1), limit=10)
    with pytest.raises(CursorExpired):
        await engines.log.read(unused, after=EventId("other", 1), limit=10)
    await engines.begin(context_of("other", thread_id="unused"))
    (record,) = await engines.append(unused, run_id="other")
    assert record.id.seq == 1
    read_on = await engines.log.read(unused, after=before.head, limit=10)
    assert [one.id for one in read_on] == [record.id]
    assert (await engines.log.load_bounds(unused)).head == record.id


async def test_logs_of_two_users_never_meet(engines: Engines) -> None:
    one, two = key_of("c", user_id="a:b"), key_of("b:c", user_id="a")
    for key in (one, two):
        await engines.begin(context_of("r", thread_id=key.thread_id, user_id=key.user_id))
    (first,) = await engines.append(one)
    assert await engines.log.read(two, after=START, limit=10) == []
    assert (await engines.log.load_bounds(two)).head.seq == 0
    with pytest.raises(CursorExpired):
        await engines.log.read(two, after=first.id, limit=10)


async def test_any_bytes_come_back_as_they_went(engines: Engines) -> None:
    payloads = [b'{"a":"\xc3\xa4\xf0\x9f\x98\x80"}', b"{}", b'{"x":"%s"}' % (b"y" * 1_000_000)]
    await engines.write(KEY, "r", payloads)
    stored = await engines.log.read(KEY, after=START, limit=10)
    assert [record.payload for record in stored] == payloads


async def test_a_thread_that_nobody_made_is_not_found(engines: Engines) -> None:
    with pytest.raises(NotFound):
        await engines.append(key_of("nobody"))


async def test_one_append_that_fails_harms_no_other_of_its_batch(engines: Engines) -> None:
    outcomes = await asyncio.gather(
        engines.append(KEY),
        engines.append(key_of("nobody")),
        engines.append(KEY, 2),
        engines.append(key_of("nobody either")),
        engines.append(KEY),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [list, NotFound, list, NotFound, list]
    assert await read(engines) == [1, 2, 3, 4]


async def test_who_is_cancelled_leaves_no_gap(engines: Engines) -> None:
    appending = [asyncio.create_task(engines.append(KEY)) for _ in range(20)]
    await asyncio.sleep(0)
    for task in appending[::2]:
        task.cancel()
    await asyncio.wait(appending)
    await engines.append(KEY)
    found = await read(engines)
    assert found == list(range(1, len(found) + 1))
    assert len(found) >= 11


async def test_a_commit_that_fails_leaves_no_gap(engines: Engines) -> None:
    await engines.append(KEY, 3)

    # A promise that is looked at only by COMMIT, and broken by every event.
    await engines.change(
        sqlite=[
            "CREATE TABLE parent (id INTEGER PRIMARY KEY)",
            "CREATE TABLE child (id REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED)",
            "CREATE TRIGGER spoil AFTER INSERT ON events BEGIN INSERT INTO child VALUES (7); END",
        ],
        postgresql=[
            (
                "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
                "$$ BEGIN RAISE EXCEPTION 'refused'; END $$"
            ),
            (
                "CREATE CONSTRAINT TRIGGER spoil AFTER INSERT ON events "
                "DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()"
            ),
        ],
    )
    keys = [KEY, key_of("1"), key_of("2")]
    for key in keys[1:]:
        await engines.begin(context_of(f"r{key.thread_id}", thread_id=key.thread_id))
    outcomes = await asyncio.gather(
        *(engines.append(key, 2) for key in keys),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [DatabaseFailed] * 3
    await engines.change(sqlite=["DROP TRIGGER spoil"], postgresql=["DROP TRIGGER spoil ON events"])
    assert seqs(await engines.append(KEY, 2)) == [4, 5]
    assert await read(engines) == [1, 2, 3, 4, 5]


# --- a run's end ---------------------------------------------------------------------------------


async def test_an_end_is_written_with_its_event_or_not_at_all(engines: Engines) -> None:
    context = context_of("r")
    message = {"id": "m", "role": "assistant", "content": "x"}
    (last,) = await engines.end(context, outcome="cancelled", error_id="err_1", messages=[message])
    stored = await engines.store.load_run(context.run_key)
    assert stored is not None
    assert (stored.state, stored.outcome, stored.error_id) == ("ended", "cancelled", "err_1")
    assert (stored.last_seq, stored.ended_at) == (last.id.seq, engines.clock())
    assert await engines.store.load_messages_before(KEY, last.id.seq + 1) == [message]
    assert await read(engines, last.id) == []


# --- leases --------------------------------------------------------------------------------------


async def test_an_entry_from_beside_the_writer_lies_between_its_batches(engines: Engines) -> None:
    with pytest.raises(NoActiveRun):
        await engines.log.append_beside(KEY, b"nobody")
    lease = await engines.begin(context_of("1"))
    with pytest.raises(NoActiveRun):
        await engines.log.append_beside(KEY, b"before the first entry")
    first = await engines.log.append(lease, [b"1", b"2"], batch=1)
    beside = await engines.log.append_beside(KEY, b"beside")
    assert (beside.run_id, beside.id.seq) == ("1", first[-1].id.seq + 1)
    # A batch that is sent again keeps its own numbers.
    assert seqs(await engines.log.append(lease, [b"1", b"2"], batch=1)) == seqs(first)
    (last,) = await engines.log.append(lease, [b"3"], batch=2)
    assert last.id.seq == beside.id.seq + 1
    assert seqs(await engines.log.append(lease, [b"3"], batch=2)) == [last.id.seq]
    with pytest.raises(NoActiveRun):
        await engines.log.append_beside(key_of(user_id="bob"), b"another's")
    read = await engines.log.read(KEY, after=START, limit=9)
    assert [record.payload for record in read] == [b"1", b"2", b"beside", b"3"]


async def test_an_entry_from_beside_comes_not_after_the_end(engines: Engines) -> None:
    lease = await engines.begin(context_of("1"))
    await engines.log.append(lease, [b"1"], batch=1)
    end = RunEnd("1", "success", None, (), engines.clock())
    racing = [engines.log.append_beside(KEY, b"beside") for _ in range(5)]
    ended, *besides = await asyncio.gather(
        engines.log.append(lease, [b"end"], batch=2, end=end), *racing, return_exceptions=True
    )
    assert not isinstance(ended, BaseException)
    for one in besides:
        assert isinstance(one, NoActiveRun | Record)
    with pytest.raises(NoActiveRun):
        await engines.log.append_beside(KEY, b"late")
    read = await engines.log.read(KEY, after=START, limit=9)
    assert read[-1].payload == b"end"
    assert len(read) == 2 + sum(isinstance(one, Record) for one in besides)


async def test_the_same_batch_sent_twice_counts_once(engines: Engines) -> None:
    lease = await engines.begin(context_of("one"))
    first = await engines.log.append(lease, [b"1", b"2"], batch=1)
    again = await engines.log.append(lease, [b"1", b"2"], batch=1)
    assert [(one.id, one.payload) for one in again] == [(one.id, one.payload) for one in first]
    assert seqs(await engines.log.append(lease, [b"3"], batch=2)) == [3]
    assert await read(engines) == [1, 2, 3]


async def test_a_batch_that_comes_after_a_later_one_is_refused(engines: Engines) -> None:
    lease = await engines.begin(context_of("one"))
    for batch in (1, 2):
        await engines.log.append(lease, [b"{}"], batch=batch)
    for batch in (1, 4):  # a copy that was late, and one with a hole before it
        with pytest.raises(Fenced):
            await engines.log.append(lease, [b"{}"], batch=batch)
    assert await read(engines) == [1, 2]


async def test_an_answer_that_got_lost_is_had_again(engines: Engines) -> None:
    lease = await engines.begin(context_of("one"))
    with losing_answers(engines._ground.database), pytest.raises(Unavailable):
        await engines.log.append(lease, [b"1"], batch=1)
    assert seqs(await engines.log.append(lease, [b"1"], batch=1)) == [1]
    with losing_answers(engines._ground.database):
        outcomes = await asyncio.gather(
            engines.log.append(lease, [b"2", b"3"], batch=2),
            engines.append(KEY),  # of a lease that was taken over
            return_exceptions=True,
        )
    assert [type(each) for each in outcomes] == [Unavailable, Unavailable]
    # The first copy comes after the retry.
    retried, late = await asyncio.gather(
        engines.log.append(lease, [b"2", b"3"], batch=2),
        engines.log.append(lease, [b"2", b"3"], batch=2),
    )
    assert seqs(retried) == seqs(late) == [2, 3]
    assert await read(engines) == [1, 2, 3]


async def test_an_end_whose_answer_got_lost_is_written_once(engines: Engines) -> None:
    context = context_of("one")
    lease = await engines.begin(context)
    message = {"id": "m", "role": "assistant", "content": "x"}
    end = RunEnd("one", "success", None, [message], engines.clock())
    with losing_answers(engines._ground.database), pytest.raises(Unavailable):
        await engines.log.append(lease, [b"1", b"2"], batch=1, end=end)
    assert seqs(await engines.log.append(lease, [b"1", b"2"], batch=1, end=end)) == [1, 2]
    assert await engines.store.load_messages_before(KEY, 100) == [message]
    assert await read(engines) == [1, 2]


async def test_nothing_is_written_after_the_end(engines: Engines) -> None:
    lease = await engines.begin(context_of("one"))
    end = RunEnd("one", "success", None, [], engines.clock())
    await engines.log.append(lease, [b"{}"], batch=1, end=end)
    with pytest.raises(Fenced):
        await engines.log.append(lease, [b"{}"], batch=2)
    with pytest.raises(NotFound):
        await engines.log.take_over(KEY, "one")
    assert await read(engines) == [1]


async def test_who_takes_a_run_over_writes_on_and_the_other_no_more(engines: Engines) -> None:
    old = await engines.begin(context_of("one"))
    await engines.log.append(old, [b"{}"], batch=1)
    new = await engines.log.take_over(KEY, "one")
    assert (new.run_no, new.thread_no, new.epoch) == (old.run_no, old.thread_no, old.epoch)
    assert new.fence != old.fence
    for batch in (1, 2):  # also the batch that was written: whose it was isn't known any more
        with pytest.raises(Fenced):
            await engines.log.append(old, [b"{}"], batch=batch)
    end = RunEnd("one", "success", None, [], engines.clock())
    assert seqs(await engines.log.append(new, [b"{}"], batch=1, end=end)) == [2]


async def test_the_next_run_of_a_thread_ends_the_lease_of_the_last(engines: Engines) -> None:
    old = await engines.begin(context_of("one"))
    new = await engines.begin(context_of("two"))
    with pytest.raises(Fenced):
        await engines.log.append(old, [b"{}"], batch=1)
    assert seqs(await engines.log.append(new, [b"{}"], batch=1)) == [1]


async def test_a_run_is_taken_over_on_its_own_thread_only(engines: Engines) -> None:
    await engines.begin(context_of("mine", thread_id="mine"))
    await engines.begin(context_of("theirs", user_id="bob"))
    for key, run_id in (
        (KEY, "mine"),
        (key_of("nobody"), "mine"),
        (KEY, "theirs"),
        (key_of("mine", user_id="bob"), "mine"),
    ):
        with pytest.raises(NotFound):
            await engines.log.take_over(key, run_id)


def test_fences_of_leases_are_random_and_fit_into_63_bits() -> None:
    fences = {new_fence() for _ in range(1000)}
    assert len(fences) == 1000
    assert max(fences) < 2**63
    assert sum(fence >> 62 for fence in fences) in range(300, 700)


# --- retention -----------------------------------------------------------------------------------


async def test_trim_takes_whole_finished_runs_from_the_old_end(engines: Engines) -> None:
    await engines.append(KEY, 2)
    await engines.end(context_of("r"))
    engines.clock.now += 1000
    await engines.run(context_of("second"), events=2)
    assert await engines.log.trim(older_than=engines.clock() - 1000) == 0
    assert await engines.log.trim(older_than=engines.clock()) == 3
    assert await engines.log.trim(older_than=engines.clock()) == 0
    bounds = await engines.log.load_bounds(KEY)
    assert (bounds.trimmed_seq, bounds.head.seq) == (3, 5)
    epoch = bounds.head.epoch
    assert await read(engines, EventId(epoch, 3)) == [4, 5]
    for gone in (START, EventId(epoch, 1), EventId(epoch, 2)):
        with pytest.raises(CursorExpired):
            await read(engines, gone)


async def test_trim_keeps_an_active_run_and_all_after_it(engines: Engines) -> None:
    await engines.append(KEY, 3)
    engines.clock.now += 10**9
    assert await engines.log.trim(older_than=engines.clock()) == 0
    assert await read(engines) == [1, 2, 3]
    await engines.end(context_of("r"))
    await engines.begin(context_of("active"))
    await engines.append(KEY, 2, run_id="active")
    assert await engines.log.trim(older_than=engines.clock() + 1) == 4
    bounds = await engines.log.load_bounds(KEY)
    assert await read(engines, EventId(bounds.head.epoch, 4)) == [5, 6]


async def test_numbering_goes_on_when_nothing_is_left(engines: Engines) -> None:
    (last,) = await engines.end(context_of("r"))
    assert await engines.log.trim(older_than=engines.clock() + 1) == 1
    bounds = await engines.log.load_bounds(KEY)
    assert bounds.head == last.id
    assert await read(engines, last.id) == []
    await engines.begin(context_of("next"))
    assert seqs(await engines.append(KEY)) == [2]


async def test_a_log_over_its_maximum_lets_whole_old_runs_go(small_engines: Engines) -> None:
    for number in range(4):
        await small_engines.run(context_of(f"r{number}"), events=3)
    bounds = await small_engines.log.load_bounds(KEY)
    assert (bounds.trimmed_seq, bounds.head.seq) == (9, 12)


async def test_a_run_that_is_larger_than_the_maximum_is_kept_while_it_lives(
    small_engines: Engines,
) -> None:
    context = context_of("long")
    await small_engines.begin(context)
    await small_engines.append(KEY, 20, run_id="long")
    await small_engines.log.trim(older_than=10**15)
    assert await read(small_engines) == list(range(1, 21))


# --- deletion and restart ------------------------------------------------------------------------


async def test_a_deleted_thread_takes_no_append_and_has_another_epoch(engines: Engines) -> None:
    (record,) = await engines.append(KEY)
    await engines.log.delete(KEY)
    with pytest.raises(NotFound):
        await engines.append(KEY)
    with pytest.raises(NotFound):
        await engines.log.delete(KEY)
    assert (await engines.log.load_bounds(KEY)).head.seq == 0
    await engines.begin(context_of("r"))
    (fresh,) = await engines.append(KEY)
    assert fresh.id.seq == 1
    assert fresh.id.epoch != record.id.epoch
    with pytest.raises(CursorExpired):
        await read(engines, record.id)


async def test_a_run_of_an_earlier_life_writes_nothing_into_the_next(engines: Engines) -> None:
    old = await engines.begin(context_of("old"))
    await engines.log.append(old, [b"{}"], batch=1)
    await engines.log.delete(KEY)
    await engines.begin(context_of("old"))
    for batch in (1, 2):
        with pytest.raises(NotFound):
            await engines.log.append(old, [b"{}"], batch=batch)
    assert await read(engines) == []
    assert seqs(await engines.append(KEY, run_id="old")) == [1]


async def test_each_life_of_a_thread_numbers_apart(engines: Engines) -> None:
    epochs: set[str] = set()
    for _ in range(4):
        (record,) = await engines.append(KEY)
        epochs.add(record.id.epoch)
        await engines.log.delete(KEY)
        await engines.begin(context_of("r"))
    assert len(epochs) == 4


async def test_deleting_and_appending_at_once_leaves_one_or_the_other(engines: Engines) -> None:
    outcomes = await asyncio.gather(
        *(engines.append(KEY) for _ in range(5)),
        engines.log.delete(KEY),
        *(engines.append(KEY) for _ in range(5)),
        return_exceptions=True,
    )
    assert outcomes[5] == {"r"}
    assert all(isinstance(outcome, list | NotFound | frozenset) for outcome in outcomes)
    assert await read(engines) == []


async def test_ids_and_epoch_outlive_a_restart(engines: Engines) -> None:
    if engines.reopen is None:
        return  # nothing outlives this engine's life
    written = await engines.append(KEY, 3)
    reborn = await engines.reopen()
    stored = await reborn.log.read(KEY, after=START, limit=10)
    assert [(one.id, one.payload) for one in stored] == [(one.id, one.payload) for one in written]
    (record,) = await reborn.append(KEY)
    assert record.id == EventId(written[0].id.epoch, 4)


async def test_two_places_number_apart(engines: Engines, small_engines: Engines) -> None:
    await small_engines.begin_run(context_of("r"), draft_of())
    one, two = await engines.append(KEY), await small_engines.append(KEY)
    assert one[0].id.epoch != two[0].id.epoch


async def test_a_read_ends_with_the_record_that_reaches_its_bytes(engines: Engines) -> None:
    key = key_of()
    await engines.write(key, "r", [b"x" * 10] * 6)

    async def sizes(max_bytes: int) -> list[int]:
        records = await engines.log.read(key, after=START, limit=5, max_bytes=max_bytes)
        assert [record.id.seq for record in records] == list(range(1, len(records) + 1))
        return [len(record.payload) for record in records]

    assert await sizes(1) == [10]
    assert await sizes(10) == [10]
    assert await sizes(11) == [10, 10]
    assert await sizes(10_000) == [10] * 5
