"""What every store promises."""

from __future__ import annotations

import pytest
from tests.contracts.conftest import Engines
from tests.house import ALICE, context_of, draft_of, key_of, user_message

from isolane.context import EventId, RunKey
from isolane.contracts import RunDraft, RunState, RunStop, StoppedBy, Store, ensure
from isolane.errors import InvalidCursor, InvalidInput, NotFound, RunConflict

KEY = key_of()


def said(text: str) -> dict[str, object]:
    return {"id": text, "role": "assistant", "content": text}


async def talk(engines: Engines, run_id: str, question: str, answer: str, **draft: str) -> int:
    """Live a run of one question and one answer; return its last place in the log."""
    context = context_of(run_id)
    await engines.store.begin_run(context, draft_of(question, **draft))
    (last,) = await engines.end(context, messages=[said(answer)])
    return last.id.seq


async def contents(engines: Engines, before: int = 10**6) -> list[object]:
    return [one["content"] for one in await engines.store.load_messages_before(KEY, before)]


def test_it_keeps_its_contract(engines: Engines) -> None:
    ensure(engines.store, Store)


async def test_what_nobody_used_is_not_there(engines: Engines) -> None:
    store = engines.store
    assert await store.load_run(RunKey(ALICE, "r")) is None
    assert await store.load_thread(KEY) is None
    assert await store.load_snapshot(KEY) is None
    assert await store.load_known_ids(KEY) == frozenset()
    assert await store.load_open_runs() == []
    assert await store.load_messages_before(KEY, 1) == []
    assert not await store.has_message(KEY, "m")
    assert (await store.load_threads(ALICE, before=None, limit=10)).threads == []


async def test_a_run_begins_where_the_log_ends(engines: Engines) -> None:
    await engines.begin(context_of("first"))
    await engines.append(KEY, 3, run_id="first")
    await engines.end(context_of("first"))
    begun = await engines.store.begin_run(context_of("second"), draft_of("hi"))
    assert begun.after == (await engines.log.load_bounds(KEY)).head
    assert begun.after.seq == 4
    stored = await engines.store.load_run(RunKey(ALICE, "second"))
    assert stored is not None
    assert (stored.state, stored.first_seq, stored.last_seq) == (RunState.RUNNING, 5, None)
    assert (stored.thread_id, stored.started_at) == ("thread", engines.clock())


async def test_a_queued_run_waits_whole_and_begins_once(engines: Engines) -> None:
    draft = RunDraft("helper", [user_message("hi")], None, {"state": {"a": [None, 1.5]}})
    await engines.store.add_run(context_of("r"), draft)
    stored = await engines.store.load_run(RunKey(ALICE, "r"))
    assert stored is not None
    assert (stored.state, stored.draft, stored.first_seq) == (RunState.QUEUED, draft, None)
    begun = await engines.store.begin_run(context_of("r"), stored.draft)
    assert list(begun.added) == [user_message("hi")]
    (opened,) = await engines.store.load_open_runs()
    assert opened.state is RunState.RUNNING
    assert opened.created_at == stored.created_at


async def test_only_messages_that_are_new_join_the_thread(engines: Engines) -> None:
    await talk(engines, "1", "a", "b")
    begun = await engines.store.begin_run(context_of("2"), draft_of("a", "b", "c", "c"))
    assert [one["content"] for one in begun.added] == ["c"]
    assert [one["content"] for one in begun.history] == ["a", "b", "c"]


async def test_a_call_is_answered_once(engines: Engines) -> None:
    def answer(message_id: str) -> dict[str, object]:
        return {"id": message_id, "role": "tool", "toolCallId": "call", "content": message_id}

    draft = RunDraft("default", [answer("x"), answer("y")], None, {})
    first = await engines.store.begin_run(context_of("1"), draft)
    await engines.end(context_of("1"))
    again = await engines.store.begin_run(
        context_of("2"), RunDraft("default", [answer("z")], None, {})
    )
    assert [one["id"] for one in first.added] == ["x"]
    assert list(again.added) == []


async def test_messages_are_told_as_they_stood_at_any_place(engines: Engines) -> None:
    first_end = await talk(engines, "1", "a", "b")
    second_end = await talk(engines, "2", "c", "d")
    rewound_end = await talk(engines, "3", "e", "f", rewind_to="c")
    assert await contents(engines, 1) == []
    assert await contents(engines, first_end + 1) == ["a", "b"]
    assert await contents(engines, second_end + 1) == ["a", "b", "c", "d"]
    assert await contents(engines, rewound_end + 1) == ["a", "b", "e", "f"]
    assert not await engines.store.has_message(KEY, "c")
    assert await engines.store.has_message(KEY, "a")
    assert await engines.store.load_known_ids(KEY) == {"a", "b", "c", "d", "e", "f"}


async def test_what_was_rewound_may_be_said_again(engines: Engines) -> None:
    await talk(engines, "1", "a", "b")
    await talk(engines, "2", "a", "c", rewind_to="a")
    assert await contents(engines) == ["a", "c"]
    await talk(engines, "3", "a", "d", rewind_to="a")
    assert await contents(engines) == ["a", "d"]


async def test_a_rewind_drops_from_the_first_of_two_messages_of_one_id(engines: Engines) -> None:
    await talk(engines, "1", "a", "same")
    await talk(engines, "2", "b", "same")
    begun = await engines.store.begin_run(context_of("3"), draft_of("c", rewind_to="same"))
    assert [one["content"] for one in begun.history] == ["a", "c"]


async def test_messages_outlive_the_events_they_came_from(engines: Engines) -> None:
    await talk(engines, "1", "a", "b")
    await talk(engines, "2", "c", "d", rewind_to="a")
    await talk(engines, "3", "e", "f")
    assert await engines.log.trim(older_than=engines.clock() + 1) == 3
    assert await contents(engines) == ["c", "d", "e", "f"]
    assert await contents(engines, 4) == ["c", "d", "e", "f"]


async def test_open_runs_are_told_oldest_first_and_of_all_users(engines: Engines) -> None:
    for number, user_id in enumerate(("bob", ALICE, "eve")):
        engines.clock.now += 1
        await engines.store.add_run(context_of(f"r{number}", user_id=user_id), draft_of())
    for run_id in ("same", "moment"):
        await engines.store.add_run(context_of(run_id, user_id="zoe"), draft_of())
    runs = await engines.store.load_open_runs()
    assert [run.key.user_id for run in runs] == ["bob", ALICE, "eve", "zoe", "zoe"]
    assert [run.key.run_id for run in runs][-2:] == ["same", "moment"]


async def test_users_of_one_thread_and_run_id_never_meet(engines: Engines) -> None:
    await talk(engines, "r", "mine", "for me")
    bobs = context_of("r", user_id="bob")
    begun = await engines.store.begin_run(bobs, draft_of("his"))
    assert [one["content"] for one in begun.history] == ["his"]
    assert await contents(engines) == ["mine", "for me"]
    own, his = [await engines.store.load_run(RunKey(user_id, "r")) for user_id in (ALICE, "bob")]
    assert own is not None
    assert his is not None
    assert (own.key.user_id, own.state) == (ALICE, RunState.ENDED)
    assert (his.key.user_id, his.state) == ("bob", RunState.RUNNING)
    assert await engines.store.load_run(RunKey("eve", "r")) is None
    assert not await engines.store.has_message(bobs.thread_key, "mine")
    assert await engines.store.load_known_ids(bobs.thread_key) == {"his"}


async def test_a_thread_is_named_after_its_first_question(engines: Engines) -> None:
    await talk(engines, "1", "what  is\nthis? " + "x" * 200, "b")
    await talk(engines, "2", "and that?", "d")
    thread = await engines.store.load_thread(KEY)
    assert thread is not None
    assert thread.title.startswith("what is this? xxx")
    assert len(thread.title) == 80
    renamed = await engines.store.set_title(KEY, "mine")
    assert renamed.title == "mine"
    await talk(engines, "3", "more", "e")
    again = await engines.store.add_thread(KEY, title="other")
    assert again.title == "mine"
    with pytest.raises(NotFound):
        await engines.store.set_title(key_of("nobody"), "x")


async def test_threads_come_in_pages_newest_first_each_once(engines: Engines) -> None:
    for number in range(7):
        engines.clock.now += number % 2  # some changed at the same moment
        await engines.store.add_thread(key_of(f"t{number}"), title="")
    await engines.store.add_thread(key_of("bobs", user_id="bob"), title="")
    found: list[str] = []
    cursor: str | None = None
    while True:
        page = await engines.store.load_threads(ALICE, before=cursor, limit=3)
        found += [thread.thread_id for thread in page.threads]
        cursor = page.cursor
        if cursor is None:
            break
    assert found == [f"t{number}" for number in reversed(range(7))]


@pytest.mark.parametrize("cursor", ["", "x", "~", "1", "-1~t", "1e5~t", "٣~t", f"{'9' * 16}~t"])
async def test_a_cursor_that_no_page_gave_out_is_refused(cursor: str, engines: Engines) -> None:
    with pytest.raises(InvalidCursor):
        await engines.store.load_threads(ALICE, before=cursor, limit=3)


async def test_a_snapshot_is_of_one_moment(engines: Engines) -> None:
    await talk(engines, "1", "a", "b")
    quiet = await engines.store.load_snapshot(KEY)
    assert quiet is not None
    head = (await engines.log.load_bounds(KEY)).head
    assert ([one["content"] for one in quiet.messages], quiet.head) == (["a", "b"], head)
    await engines.begin(context_of("2"), "c")
    await engines.append(KEY, 2, run_id="2")
    busy = await engines.store.load_snapshot(KEY)
    assert busy is not None
    assert ([one["content"] for one in busy.messages], busy.head) == (["a", "b"], head)
    assert busy.thread.active_run_id == "2"
    assert quiet.thread.active_run_id is None


async def test_deletion_takes_everything_of_the_thread_and_nothing_else(engines: Engines) -> None:
    await talk(engines, "1", "a", "b")
    await engines.store.begin_run(context_of("other", thread_id="other"), draft_of("kept"))
    await engines.log.delete(KEY)
    assert await engines.store.load_thread(KEY) is None
    assert await engines.store.load_run(RunKey(ALICE, "1")) is None
    assert await contents(engines) == []
    assert await engines.store.load_known_ids(KEY) == frozenset()
    assert await engines.store.has_message(key_of("other"), "kept")


async def test_everything_outlives_a_restart(engines: Engines) -> None:
    if engines.reopen is None:
        return  # nothing outlives this engine's life
    await talk(engines, "1", "a", "b")
    await engines.store.add_run(context_of("2"), draft_of("c"))
    reborn = await engines.reopen()
    assert await contents(reborn) == ["a", "b"]
    (waiting,) = await reborn.store.load_open_runs()
    assert waiting.draft == draft_of("c")
    begun = await reborn.store.begin_run(context_of("2"), waiting.draft)
    assert begun.after == EventId(begun.after.epoch, 1)


def answering(*ids: str) -> RunDraft:
    resume = [{"interruptId": one, "status": "resolved"} for one in ids]
    return RunDraft("default", [], None, {"resume": resume})


async def open_ids(engines: Engines) -> list[str]:
    snapshot = await engines.store.load_snapshot(KEY)
    assert snapshot is not None
    return [interrupt["id"] for interrupt in snapshot.interrupts]


ASKED = [{"id": "i-1", "reason": "approval"}, {"id": "i-2", "reason": "approval"}]


async def test_what_a_run_asks_is_open_until_one_run_answers_all_of_it(engines: Engines) -> None:
    await engines.begin(context_of("asks"))
    assert await open_ids(engines) == []
    await engines.end(context_of("asks"), outcome="interrupt", interrupts=ASKED)
    assert await open_ids(engines) == ["i-1", "i-2"]
    with pytest.raises(InvalidInput, match="resume: must answer every interrupt; i-2 is left"):
        await engines.store.begin_run(context_of("half"), answering("i-1"))
    assert await engines.store.load_run(RunKey(ALICE, "half")) is None
    assert await open_ids(engines) == ["i-1", "i-2"]
    await engines.store.begin_run(context_of("whole"), answering("i-2", "i-1"))
    assert await open_ids(engines) == []
    await engines.end(context_of("whole"))
    assert await open_ids(engines) == []


async def test_the_first_answer_wins_also_when_it_waits_for_its_turn(engines: Engines) -> None:
    await engines.begin(context_of("asks"))
    await engines.end(context_of("asks"), outcome="interrupt", interrupts=ASKED[:1])
    await engines.store.add_run(context_of("first"), answering("i-1"))
    assert await open_ids(engines) == []
    for keep in (engines.store.add_run, engines.store.begin_run):
        with pytest.raises(RunConflict, match="i-1 waits for no answer here"):
            await keep(context_of("second"), answering("i-1"))
    assert await engines.store.load_run(RunKey(ALICE, "second")) is None
    await engines.store.begin_queued_run(context_of("first"), answering("i-1"))


async def test_who_goes_on_without_an_answer_closes_the_question(engines: Engines) -> None:
    await engines.begin(context_of("asks"))
    await engines.end(context_of("asks"), outcome="interrupt", interrupts=ASKED)
    await talk(engines, "other", "never mind", "fine")
    assert await open_ids(engines) == []
    with pytest.raises(RunConflict):
        await engines.store.begin_run(context_of("late"), answering("i-1", "i-2"))


async def test_how_a_run_was_stopped_is_kept(engines: Engines) -> None:
    stop = RunStop(requested_at=7, took_ms=3, by=StoppedBy.CANCELLATION)
    await engines.begin(context_of("r"))
    await engines.end(context_of("r"), outcome="cancelled", stop=stop)
    stored = await engines.store.load_run(RunKey(ALICE, "r"))
    assert stored is not None
    assert stored.stop == stop
