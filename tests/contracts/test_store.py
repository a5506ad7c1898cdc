"""What every store promises."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa
from tests.contracts.conftest import Engines
from tests.house import ALICE, context_of, draft_of, key_of, user_message

from isolane.context import EventId, RunKey
from isolane.contracts import (
    Conversation,
    KnownMessage,
    RunDraft,
    RunState,
    RunStop,
    StoppedBy,
    Store,
    ThreadSnapshot,
    ensure,
)
from isolane.errors import CursorExpired, InvalidCursor, InvalidInput, NotFound, RunConflict
from isolane.events.transcript import fingerprint
from isolane.sql.joining import Joining

KEY = key_of()


def said(text: str) -> dict[str, object]:
    return {"id": text, "role": "assistant", "content": text}


async def talk(engines: Engines, run_id: str, question: str, answer: str, **draft: str) -> int:
    """Live a run of one question and one answer; return its last place in the log."""
    context = context_of(run_id)
    await engines.begin_run(context, draft_of(question, **draft))
    (last,) = await engines.end(context, messages=[said(answer)])
    return last.id.seq


async def contents(engines: Engines, before: int = 10**6) -> list[object]:
    return [one["content"] for one in await engines.store.load_messages_before(KEY, before)]


def contents_of(snapshot: ThreadSnapshot) -> list[str]:
    return [json.loads(message)["content"] for message in snapshot.messages]


async def load(engines: Engines, before: str | None = None, **bounds: int) -> ThreadSnapshot:
    snapshot = await engines.store.load_snapshot(KEY, before=before, **bounds)
    assert snapshot is not None
    return snapshot


async def load_older(engines: Engines, page: ThreadSnapshot, **bounds: int) -> list[str]:
    """Return what all pages before `page` hold, the oldest first."""
    found: list[str] = []
    while page.before is not None:
        head, page = page.head, await load(engines, page.before, **bounds)
        assert page.head == head
        found = contents_of(page) + found
    return found


def test_it_keeps_its_contract(engines: Engines) -> None:
    ensure(engines.store, Store)


async def test_what_nobody_used_is_not_there(engines: Engines) -> None:
    store = engines.store
    assert await store.load_run(RunKey(ALICE, "r")) is None
    assert await store.load_thread(KEY) is None
    assert await store.load_snapshot(KEY) is None
    assert await store.load_conversation(KEY) is None
    assert await store.load_known_ids(KEY) == frozenset()
    assert await engines.book.load_open_runs() == []
    assert await store.load_messages_before(KEY, 1) == []
    assert not await store.has_message(KEY, "m")
    assert (await store.load_threads(ALICE, before=None, limit=10)).threads == []


async def test_a_run_begins_where_the_log_ends(engines: Engines) -> None:
    await engines.begin(context_of("first"))
    await engines.append(KEY, 3, run_id="first")
    await engines.end(context_of("first"))
    begun = await engines.begin_run(context_of("second"), draft_of("hi"))
    assert begun.after == (await engines.log.load_bounds(KEY)).head
    assert begun.after.seq == 4
    stored = await engines.store.load_run(RunKey(ALICE, "second"))
    assert stored is not None
    assert (stored.state, stored.first_seq, stored.last_seq) == (RunState.RUNNING, 5, None)
    assert (stored.thread_id, stored.started_at) == ("thread", engines.clock())


async def test_a_queued_run_waits_whole_and_begins_once(engines: Engines) -> None:
    draft = RunDraft("helper", [user_message("hi")], None, {"state": {"a": [None, 1.5]}})
    await engines.begin(context_of("ahead"))
    await engines.add_run(context_of("r"), draft)
    stored = await engines.store.load_run(RunKey(ALICE, "r"))
    assert stored is not None
    assert (stored.state, stored.draft, stored.first_seq) == (RunState.QUEUED, draft, None)
    await engines.end(context_of("ahead"))
    begun = await engines.take_turn(context_of("r"))
    assert list(begun.added) == [user_message("hi")]
    (opened,) = await engines.book.load_open_runs()
    assert opened.state is RunState.RUNNING
    assert opened.created_at == stored.created_at


async def test_only_messages_that_are_new_join_the_thread(engines: Engines) -> None:
    await talk(engines, "1", "a", "b")
    begun = await engines.begin_run(context_of("2"), draft_of("a", "b", "c", "c"))
    assert [one["content"] for one in begun.added] == ["c"]
    assert [one["content"] for one in begun.history] == ["a", "b", "c"]


async def test_a_call_is_answered_once(engines: Engines) -> None:
    def answer(message_id: str) -> dict[str, object]:
        return {"id": message_id, "role": "tool", "toolCallId": "call", "content": message_id}

    draft = RunDraft("default", [answer("x"), answer("y")], None, {})
    first = await engines.begin_run(context_of("1"), draft)
    await engines.end(context_of("1"))
    again = await engines.begin_run(context_of("2"), RunDraft("default", [answer("z")], None, {}))
    assert [one["id"] for one in first.added] == ["x"]
    assert list(again.added) == []


async def test_an_id_that_names_a_newer_call_may_be_answered_again(engines: Engines) -> None:
    def answer(message_id: str) -> dict[str, object]:
        return {"id": message_id, "role": "tool", "toolCallId": "call", "content": message_id}

    async def bring(run_id: str, *messages: dict[str, object]) -> list[object]:
        draft = RunDraft("default", [*messages], None, {})
        begun = await engines.begin_run(context_of(run_id), draft)
        await engines.end(context_of(run_id), messages=[call(f"of {run_id}")])
        return [one["id"] for one in begun.added]

    def call(message_id: str) -> dict[str, object]:
        function = {"name": "f", "arguments": "{}"}
        calls = [{"id": "call", "type": "function", "function": function}]
        return {"id": message_id, "role": "assistant", "toolCalls": calls}

    store = engines.store
    assert await bring("1", user_message("one")) == ["one"]
    assert await store.load_answered_calls(KEY) == frozenset()
    assert await bring("2", answer("x")) == ["x"]
    assert await store.load_answered_calls(KEY) == frozenset()
    # A client with ids of its own for results sends its whole list: the earlier answer isn't new.
    assert await bring("3", answer("x1"), user_message("one"), answer("y")) == ["y"]
    assert await bring("4", answer("x2"), answer("y2"), answer("z")) == ["z"]
    assert await bring("5", answer("x3"), user_message("one"), user_message("two")) == ["two"]
    await engines.begin_run(context_of("6"), RunDraft("default", [answer("last")], None, {}))
    assert await store.load_answered_calls(KEY) == {"call"}


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


async def test_what_stands_before_a_message_is_known_apart(engines: Engines) -> None:
    answer = {"id": "t", "role": "tool", "toolCallId": "call", "content": "42"}
    later = {"id": "u", "role": "tool", "toolCallId": "later", "content": "43"}
    store = engines.store
    await talk(engines, "1", "a", "gone")
    await talk(engines, "2", "a", "b", rewind_to="a")
    await engines.begin_run(context_of("3"), RunDraft("default", [answer], None, {}))
    await engines.end(context_of("3"), messages=[said("c")])
    await talk(engines, "4", "d", "e")
    await engines.begin_run(context_of("5"), RunDraft("default", [later], None, {}))
    assert await store.load_known_ids(KEY) == {"a", "gone", "b", "t", "c", "d", "e", "u"}
    assert await store.load_known_ids(KEY, before="d") == {"a", "b", "t", "c"}
    assert await store.load_known_ids(KEY, before="a") == frozenset()
    assert await store.load_known_ids(KEY, before="gone") == await store.load_known_ids(KEY)
    assert await store.load_answered_calls(KEY) == {"call", "later"}
    assert await store.load_answered_calls(KEY, before="d") == {"call"}
    assert await store.load_answered_calls(KEY, before="b") == frozenset()


async def test_what_was_rewound_may_be_said_again(engines: Engines) -> None:
    await talk(engines, "1", "a", "b")
    await talk(engines, "2", "a", "c", rewind_to="a")
    assert await contents(engines) == ["a", "c"]
    await talk(engines, "3", "a", "d", rewind_to="a")
    assert await contents(engines) == ["a", "d"]


@pytest.mark.parametrize("is_trimmed", [False, True], ids=["kept", "trimmed"])
@pytest.mark.parametrize("waits", [False, True], ids=["at once", "in its turn"])
async def test_what_was_rewound_does_not_come_back_from_an_old_list(
    engines: Engines, *, is_trimmed: bool, waits: bool
) -> None:
    await talk(engines, "1", "a", "b")
    await talk(engines, "2", "c", "d", rewind_to="a")
    if is_trimmed:
        engines.clock.now += 1
        await engines.log.trim(older_than=engines.clock())
    old_list = draft_of("a", "b", "new")
    if waits:
        await engines.begin(context_of("ahead"))
        await engines.add_run(context_of("3"), old_list)
        stored = await engines.store.load_run(context_of("3").run_key)
        assert stored is not None
        assert [one["id"] for one in stored.draft.messages] == ["new"]
        await engines.end(context_of("ahead"))
        begun = await engines.take_turn(context_of("3"))
    else:
        begun = await engines.begin_run(context_of("3"), old_list)
    assert [one["id"] for one in begun.added] == ["new"]
    assert [one["id"] for one in begun.history] == ["c", "d", "new"]
    assert {"a", "b"} <= await engines.store.load_known_ids(KEY)
    assert begun.rewound == {"a", "b"}


async def test_a_rewound_answer_does_not_come_back_by_another_id(engines: Engines) -> None:
    def answer(message_id: str) -> dict[str, str]:
        return {"id": message_id, "role": "tool", "toolCallId": "c", "content": "42"}

    await engines.begin_run(
        context_of("1"), RunDraft("default", [user_message("a"), answer("x")], None, {})
    )
    await engines.end(context_of("1"))
    await engines.begin_run(context_of("2"), draft_of("b", rewind_to="a"))
    await engines.end(context_of("2"))
    begun = await engines.begin_run(context_of("3"), RunDraft("default", [answer("y")], None, {}))
    assert list(begun.added) == []


async def test_a_run_is_never_younger_than_its_start(
    engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = itertools.count(1).__next__
    monkeypatch.setattr(engines.book, "_clock", clock)
    joining = Joining(clock=clock, check_question=lambda _context, _draft: None)
    book: Any = engines.book
    for part in (book, book._admissions):
        monkeypatch.setattr(part, "_joining", joining)
    await engines.begin_run(context_of("1"), draft_of("a"))
    await engines.add_run(context_of("2"), draft_of("b"))
    await engines.end(context_of("1"))
    await engines.take_turn(context_of("2"))
    for run in await engines.book.load_open_runs():
        assert run.started_at is not None
        assert run.created_at <= run.started_at


async def test_a_forgotten_run_stays_forgotten(engines: Engines) -> None:
    store = engines.store
    await engines.begin_run(context_of("1"), draft_of("a"))
    await engines.add_run(context_of("2"), draft_of("b"))
    for run_id in ("1", "2", "unknown"):
        await store.forget_run(RunKey(ALICE, run_id))
    await engines.end(context_of("1"), messages=[])
    await engines.take_turn(context_of("2"))
    await engines.add_run(context_of("3"), draft_of("c"))
    found = [await store.load_run(RunKey(ALICE, run_id)) for run_id in "123"]
    assert [run and run.draft.is_forgotten for run in found] == [True, True, False]


async def test_a_run_that_waits_keeps_the_message_that_it_rewinds_to_and_asks_anew(
    engines: Engines,
) -> None:
    await talk(engines, "1", "a", "b")
    await engines.begin_run(context_of("2"), draft_of("c"))
    anew = [user_message("in other words", message_id="a")]
    await engines.add_run(context_of("3"), RunDraft("default", anew, "a", {}))
    (waiting,) = [run for run in await engines.book.load_open_runs() if run.key.run_id == "3"]
    assert list(waiting.draft.messages) == anew
    await engines.end(context_of("2"), messages=[said("d")])
    begun = await engines.take_turn(context_of("3"))
    assert [one["content"] for one in begun.history] == ["in other words"]


async def test_a_rewind_drops_from_the_first_of_two_messages_of_one_id(engines: Engines) -> None:
    await talk(engines, "1", "a", "same")
    await talk(engines, "2", "b", "same")
    begun = await engines.begin_run(context_of("3"), draft_of("c", rewind_to="same"))
    assert [one["content"] for one in begun.history] == ["a", "c"]


async def test_messages_outlive_the_events_they_came_from(engines: Engines) -> None:
    await talk(engines, "1", "a", "b")
    await talk(engines, "2", "c", "d", rewind_to="a")
    await talk(engines, "3", "e", "f")
    assert await engines.log.trim(older_than=engines.clock() + 1) == 3
    assert await contents(engines) == ["c", "d", "e", "f"]
    # Whoever looked up the place before the trim may still ask for it.
    assert await contents(engines, 2) == []
    assert await contents(engines, 4) == ["c", "d", "e", "f"]


async def test_open_runs_are_told_oldest_first_and_of_all_users(engines: Engines) -> None:
    for number, user_id in enumerate(("bob", ALICE, "eve")):
        engines.clock.now += 1
        await engines.begin(context_of(f"r{number}", user_id=user_id))
    for run_id in ("same", "moment"):
        await engines.admit(context_of(run_id, user_id="zoe"), draft_of())
    runs = await engines.book.load_open_runs()
    assert [run.key.user_id for run in runs] == ["bob", ALICE, "eve", "zoe", "zoe"]
    assert [run.key.run_id for run in runs][-2:] == ["same", "moment"]


async def test_users_of_one_thread_and_run_id_never_meet(engines: Engines) -> None:
    await talk(engines, "r", "mine", "for me")
    bobs = context_of("r", user_id="bob")
    begun = await engines.begin_run(bobs, draft_of("his"))
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
    assert (contents_of(quiet), quiet.head) == (["a", "b"], head)
    await engines.begin(context_of("2"), "c")
    await engines.append(KEY, 2, run_id="2")
    busy = await engines.store.load_snapshot(KEY)
    assert busy is not None
    assert (contents_of(busy), busy.head) == (["a", "b"], head)
    assert busy.thread.active_run_id == "2"
    assert quiet.thread.active_run_id is None


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8, 9])
async def test_messages_come_in_pages_from_the_newest_back(limit: int, engines: Engines) -> None:
    for number in range(4):
        await talk(engines, str(number), f"q{number}", f"a{number}")
        await talk_elsewhere(engines, number)
    page = await load(engines, limit=limit)
    wanted = [f"{kind}{number}" for number in range(4) for kind in "qa"]
    assert contents_of(page) == wanted[-limit:]
    assert await load_older(engines, page, limit=limit) == wanted[:-limit]


async def talk_elsewhere(engines: Engines, number: int) -> None:
    """Write into another thread, and into one of the same name of another user."""
    for context in (
        context_of(f"o{number}", thread_id="other"),
        context_of(f"o{number}", user_id="bob"),
    ):
        await engines.begin_run(context, draft_of(f"other {number}"))
        await engines.end(context, messages=[said(f"of others {number}")])


async def test_page_ends_early_for_its_bytes_and_has_one_message_always(engines: Engines) -> None:
    long = "x" * 1000
    await talk(engines, "1", "a", "b")
    await talk(engines, "2", long, "c")
    page = await load(engines, max_bytes=200)
    assert contents_of(page) == ["c"]
    page = await load(engines, page.before, max_bytes=200)
    assert contents_of(page) == [long]
    page = await load(engines, page.before, max_bytes=200)
    assert (contents_of(page), page.before) == (["a", "b"], None)


async def test_pages_are_of_the_moment_of_the_first_one(engines: Engines) -> None:
    for number in range(3):
        await talk(engines, str(number), f"q{number}", f"a{number}")
    first = await load(engines, limit=1)
    await talk(engines, "edit", "Q1", "A1", rewind_to="q1")
    await talk(engines, "again", "q2", "new", rewind_to="A1")
    await engines.begin(context_of("active"), "later")
    assert contents_of(first) == ["a2"]
    assert await load_older(engines, first, limit=2) == ["q0", "a0", "q1", "a1", "q2"]
    second = await load(engines, limit=1)
    assert contents_of(second) == ["new"]
    assert await load_older(engines, second, limit=1) == ["q0", "a0", "Q1", "q2"]


async def test_page_of_a_moment_that_is_not_kept_is_gone(engines: Engines) -> None:
    await talk(engines, "1", "a", "b")
    page = await load(engines, limit=1)
    await talk(engines, "2", "c", "d", rewind_to="a")
    await engines.log.trim(older_than=engines.clock() + 1)
    with pytest.raises(CursorExpired):
        await load(engines, page.before)
    page = await load(engines, limit=1)
    assert await load_older(engines, page) == ["c"]
    await engines.log.delete(KEY)
    await talk(engines, "1", "a", "b")
    with pytest.raises(CursorExpired):
        await load(engines, page.before)


@pytest.mark.parametrize(
    "before", ["", "x", "~", "e-1", "e-1~1", "e-1~1~-1", "e-1~1~01", "e-1~٣~0", f"e-1~{'9' * 16}~0"]
)
async def test_place_that_no_page_gave_out_is_refused(before: str, engines: Engines) -> None:
    await talk(engines, "1", "a", "b")
    with pytest.raises(InvalidCursor, match="before: must be as a page"):
        await load(engines, before)


@pytest.mark.parametrize("place", ["1~2", "2~1", "9~0", "0~0"])
async def test_place_where_no_message_is_is_refused(place: str, engines: Engines) -> None:
    await talk(engines, "1", "a", "b")
    head = (await load(engines)).head
    for wrong in (f"{head}~{place}", f"{head}0~1~0"):
        with pytest.raises(InvalidCursor, match="before: must be as a page"):
            await load(engines, wrong)


async def test_deletion_takes_everything_of_the_thread_and_nothing_else(engines: Engines) -> None:
    await talk(engines, "1", "a", "b")
    await engines.begin_run(context_of("other", thread_id="other"), draft_of("kept"))
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
    await engines.begin(context_of("ahead"))
    await engines.add_run(context_of("2"), draft_of("c"))
    await engines.end(context_of("ahead"))
    reborn = await engines.reopen()
    assert await contents(reborn) == ["a", "b"]
    (waiting,) = await reborn.book.load_open_runs()
    assert waiting.draft == draft_of("c")
    begun = await reborn.take_turn(context_of("2"))
    assert begun.after == EventId(begun.after.epoch, 2)


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
        await engines.begin_run(context_of("half"), answering("i-1"))
    assert await engines.store.load_run(RunKey(ALICE, "half")) is None
    assert await open_ids(engines) == ["i-1", "i-2"]
    await engines.begin_run(context_of("whole"), answering("i-2", "i-1"))
    assert await open_ids(engines) == []
    await engines.end(context_of("whole"))
    assert await open_ids(engines) == []


async def test_the_first_answer_wins_also_when_it_waits_for_its_turn(engines: Engines) -> None:
    await engines.begin(context_of("asks"))
    await engines.add_run(context_of("ahead"), draft_of())
    await engines.end(context_of("asks"), outcome="interrupt", interrupts=ASKED[:1])
    await engines.add_run(context_of("first"), answering("i-1"))
    assert await open_ids(engines) == []
    await engines.take_turn(context_of("ahead"))
    with pytest.raises(RunConflict, match="i-1 waits for no answer here"):
        await engines.admit(context_of("second"), answering("i-1"))
    await engines.end(context_of("ahead"))
    await engines.take_turn(context_of("first"))
    with pytest.raises(RunConflict, match="i-1 waits for no answer here"):
        await engines.admit(context_of("second"), answering("i-1"))
    assert await engines.store.load_run(RunKey(ALICE, "second")) is None


async def test_who_goes_on_without_an_answer_closes_the_question(engines: Engines) -> None:
    await engines.begin(context_of("asks"))
    await engines.end(context_of("asks"), outcome="interrupt", interrupts=ASKED)
    await talk(engines, "other", "never mind", "fine")
    assert await open_ids(engines) == []
    with pytest.raises(RunConflict):
        await engines.begin_run(context_of("late"), answering("i-1", "i-2"))


async def test_how_a_run_was_stopped_is_kept(engines: Engines) -> None:
    stop = RunStop(requested_at=7, took_ms=3, by=StoppedBy.CANCELLATION)
    await engines.begin(context_of("r"))
    await engines.end(context_of("r"), outcome="cancelled", stop=stop)
    stored = await engines.store.load_run(RunKey(ALICE, "r"))
    assert stored is not None
    assert stored.stop == stop


async def test_an_ended_run_keeps_its_agent_and_a_narrow_row(engines: Engines) -> None:
    """What it asked is in its thread's messages; fingerprints tell a second frame of its id."""
    large = "x" * 100_000
    for run_id, outcome in (("r", "success"), ("failed", "agent_error")):
        context = context_of(run_id)
        messages = [user_message(large, message_id=run_id)]
        draft = RunDraft("agent", messages, None, {"state": {"kept": large}})
        await engines.begin_run(context, draft)
        running = await engines.store.load_run(context.run_key)
        assert running is not None
        assert running.draft == draft
        await engines.end(context, outcome=outcome)
        ended = await engines.store.load_run(context.run_key)
        assert ended is not None
        assert ended.draft == RunDraft("agent", [], None, {})
        assert ended.asked == running.asked == dict([fingerprint(messages[0])])
    sizes = "SELECT max(length(draft) + length(asked)) FROM runs"
    database = engines._ground.database
    widest = await database.read(lambda asked: asked.execute(sa.text(sizes)).scalar_one())
    assert widest < 200


# --- questions that are asked again --------------------------------------------------------------


def again(text: str) -> RunDraft:
    return RunDraft("default", [user_message(text)], text, {}, asks_again=True)


async def test_a_thread_knows_its_messages_by_their_ids(engines: Engines) -> None:
    await talk(engines, "1", "a", "b")
    await talk(engines, "2", "c", "d")
    known = {one: await engines.store.load_known(KEY, one) for one in ("a", "b", "c", "x")}
    assert known == {
        "a": KnownMessage(user_message("a"), stands=True, is_last_question=False),
        "b": KnownMessage(said("b"), stands=True, is_last_question=False),
        "c": KnownMessage(user_message("c"), stands=True, is_last_question=True),
        "x": None,
    }
    for message_id, stands in (("a", True), ("c", False), ("d", False)):
        after = await engines.store.load_known(KEY, message_id, rewind_to="c")
        assert after is not None
        assert after.stands is stands
    assert await engines.store.load_known(key_of(user_id="bob"), "a") is None
    assert await engines.store.load_known(key_of("other"), "a") is None


async def test_of_what_was_taken_back_long_ago_the_id_alone_is_known(engines: Engines) -> None:
    await talk(engines, "1", "a", "b")
    await talk(engines, "2", "c", "d", rewind_to="a")
    taken_back = KnownMessage(user_message("a"), stands=False, is_last_question=False)
    assert await engines.store.load_known(KEY, "a") == taken_back
    engines.clock.now += 1
    await engines.log.trim(older_than=engines.clock())
    assert await engines.store.load_known(KEY, "a") == replace(taken_back, message=None)


@pytest.mark.parametrize("waits", [False, True], ids=["at once", "in its turn"])
async def test_a_question_that_is_asked_again_stands_and_what_followed_does_not(
    engines: Engines, *, waits: bool
) -> None:
    await talk(engines, "1", "a", "b")
    before = await talk(engines, "2", "c", "d")
    if waits:
        await engines.begin(context_of("ahead"))
        kept = await engines.add_run(context_of("3"), again("c"))
        assert kept == again("c")
        _, stored = await engines.book.load_open_runs()
        assert stored.draft == kept
        await engines.end(context_of("ahead"))
        begun = await engines.take_turn(context_of("3"))
    else:
        begun = await engines.begin_run(context_of("3"), again("c"))
    assert list(begun.added) == [user_message("c")]
    assert [one["content"] for one in begun.history] == ["a", "b", "c"]
    (opened,) = await engines.book.load_open_runs()
    assert opened.draft == again("c")
    assert opened.asked == dict([fingerprint(user_message("c"))])
    assert contents_of(await load(engines)) == ["a", "b", "c", "d"]  # as of before its first event
    await engines.end(context_of("3"), messages=[said("e")])
    assert contents_of(await load(engines)) == ["a", "b", "c", "e"]
    assert await contents(engines, before + 1) == ["a", "b", "c", "d"]


@pytest.mark.parametrize("waits", [False, True], ids=["at once", "in its turn"])
async def test_a_question_is_asked_again_only_while_it_is_the_last(
    engines: Engines, *, waits: bool
) -> None:
    await talk(engines, "1", "a", "b")
    await engines.begin(context_of("2"), "c")
    if waits:
        await engines.add_run(context_of("3"), again("a"))
    await engines.end(context_of("2"), messages=[said("d")])
    third = context_of("3")
    refused = engines.take_turn(third) if waits else engines.admit(third, again("a"))
    with pytest.raises(RunConflict):
        await refused
    assert contents_of(await load(engines)) == ["a", "b", "c", "d"]


async def test_the_id_of_a_run_that_attached_leads_to_the_other(engines: Engines) -> None:
    await engines.begin(context_of("1"), "a", "b")
    await engines.book.attach(context_of("2"), run_id="1", asked=[user_message("b")])
    one, two = [await engines.store.load_run(RunKey(ALICE, run_id)) for run_id in ("1", "2")]
    assert one is not None
    assert two == replace(one, asked=dict([fingerprint(user_message("b"))]))
    assert [run.run_id for run in await engines.book.load_open_runs()] == ["1"]
    await engines.end(context_of("1"))
    ended = await engines.store.load_run(RunKey(ALICE, "2"))
    assert ended is not None
    assert (ended.run_id, ended.outcome) == ("1", "success")
    assert await engines.store.load_run(RunKey("bob", "2")) is None
    await engines.log.delete(KEY)
    assert await engines.store.load_run(RunKey(ALICE, "2")) is None
    with pytest.raises(NotFound):
        await engines.book.attach(context_of("3"), run_id="1", asked=[])


# --- the shared state ----------------------------------------------------------------------------


async def live(engines: Engines, run_id: str, state: bytes | None, **draft: str) -> object:
    """Live a run that leaves `state`, and return the one that it was given."""
    begun = await engines.begin_run(context_of(run_id), draft_of(run_id, **draft))
    await engines.end(context_of(run_id), state=state)
    return begun.state


async def test_the_state_of_a_thread_is_what_its_last_run_left(engines: Engines) -> None:
    assert await live(engines, "1", None) is None
    assert await engines.store.load_state(KEY) is None
    assert (await load(engines)).state is None
    assert await live(engines, "2", b'{"n":1}') is None
    assert await live(engines, "3", None) == {"n": 1}
    assert await live(engines, "4", b'{"n":2}') == {"n": 1}
    assert await engines.store.load_state(KEY) == b'{"n":2}' == (await load(engines)).state
    assert await engines.store.load_state(key_of(user_id="bob")) is None
    assert await engines.store.load_state(key_of("other")) is None


async def test_a_run_that_brings_a_state_is_given_that(engines: Engines) -> None:
    await live(engines, "1", b'{"n":1}')
    kept: object = {"n": 1}
    cases: list[tuple[object, object]] = [({"m": 2}, {"m": 2}), ({}, kept), (None, kept), ([], [])]
    for number, (sent, given) in enumerate(cases):
        run_id = f"r{number}"
        draft = RunDraft("default", [], None, {} if sent is None else {"state": sent})
        begun = await engines.begin_run(context_of(run_id), draft)
        assert begun.state == given
        await engines.end(context_of(run_id))


async def test_a_rewind_takes_the_state_back(engines: Engines) -> None:
    for number in (1, 2, 3):
        await live(engines, f"{number}", b'{"n":%d}' % number)
    begun = await engines.begin_run(context_of("4"), draft_of("4", rewind_to="3"))
    assert begun.state == {"n": 2}
    assert (await load(engines)).state == b'{"n":3}'  # as of before its first event
    await engines.end(context_of("4"))
    assert (await load(engines)).state == b'{"n":2}'
    assert await live(engines, "5", b'{"n":5}', rewind_to="2") == {"n": 1}
    assert await live(engines, "6", None, rewind_to="1") is None
    assert (await load(engines)).state is None


async def test_a_question_that_is_asked_again_is_given_the_state_before_it(
    engines: Engines,
) -> None:
    await live(engines, "1", b'{"n":1}')
    await live(engines, "2", b'{"n":2}')
    for run_id in ("3", "4"):
        begun = await engines.begin_run(context_of(run_id), again("2"))
        assert begun.state == {"n": 1}
        await engines.end(context_of(run_id), state=b'{"n":%s}' % run_id.encode())
    assert await engines.store.load_state(KEY) == b'{"n":4}'


async def test_the_state_outlives_a_restart_and_the_log_and_goes_with_its_thread(
    engines: Engines,
) -> None:
    await live(engines, "1", b'{"n":1}')
    engines.clock.now += 1
    await engines.log.trim(older_than=engines.clock())
    if engines.reopen is not None:
        engines = await engines.reopen()
    assert await engines.store.load_state(KEY) == b'{"n":1}'
    await engines.log.delete(KEY)
    assert await engines.store.load_state(KEY) is None
    assert await live(engines, "2", None) is None


# ---- whole runs ----------------------------------------------------------------------------------


async def converse(engines: Engines, before: str | None = None, **bounds: int) -> Conversation:
    found = await engines.store.load_conversation(KEY, before=before, **bounds)
    assert found is not None
    return found


def runs_of(found: Conversation) -> list[list[str]]:
    return [[json.loads(message)["content"] for message in run] for run in found.runs]


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5, 8, 9])
async def test_conversation_comes_in_pages_of_whole_runs(limit: int, engines: Engines) -> None:
    for number in range(4):
        await talk(engines, str(number), f"q{number}", f"a{number}")
        await talk_elsewhere(engines, number)
    wanted = [[f"q{number}", f"a{number}"] for number in range(4)]
    page = await converse(engines, limit=limit)
    assert runs_of(page) == wanted[-((limit + 1) // 2) :]
    found = runs_of(page)
    while page.before is not None:
        page = await converse(engines, page.before, limit=limit)
        found = runs_of(page) + found
    assert found == wanted


async def test_conversation_ends_a_page_at_its_bytes(engines: Engines) -> None:
    for number in range(3):
        await talk(engines, str(number), f"q{number}", "a" * 1000)
    page = await converse(engines, max_bytes=500)
    assert [run[0] for run in runs_of(page)] == ["q2"]


async def test_answers_stay_beside_what_they_answer(engines: Engines) -> None:
    """A run of a person's answer or a tool's adds no question: its page has what came before it."""
    await talk(engines, "0", "older", "answer")
    await talk(engines, "1", "q", "call")
    for number in range(2):
        context = context_of(f"resume-{number}")
        await engines.begin_run(context, replace(draft_of("x"), messages=[]))
        await engines.end(context, messages=[said(f"more {number}")])
    together = [["q", "call"], ["more 0"], ["more 1"]]
    page = await converse(engines, limit=2)
    assert runs_of(page) == together
    assert runs_of(await converse(engines, page.before)) == [["older", "answer"]]
    assert runs_of(await converse(engines, limit=1)) == together[1:]  # or it would be doubled


async def test_conversation_has_the_question_of_the_run_under_way(engines: Engines) -> None:
    await talk(engines, "1", "a", "b")
    await talk(engines, "2", "c", "d")
    await engines.begin(context_of("3"), "e")
    await engines.append(KEY, 2, run_id="3")
    page = await converse(engines, limit=1)
    assert (runs_of(page), page.active_run_id) == ([["c", "d"], ["e"]], "3")
    older = await converse(engines, page.before, limit=1)
    assert (runs_of(older), older.active_run_id) == ([["a", "b"]], None)
    await engines.end(context_of("3"), messages=[said("f")])
    assert runs_of(await converse(engines)) == [["a", "b"], ["c", "d"], ["e", "f"]]
    assert runs_of(await converse(engines, page.before)) == [["a", "b"]]


async def test_conversation_is_without_what_the_run_under_way_takes_back(engines: Engines) -> None:
    await talk(engines, "1", "a", "b")
    await talk(engines, "2", "c", "d")
    again = RunDraft("echo", [user_message("c")], "c", {}, asks_again=True)
    await engines.begin_run(context_of("3"), again)
    found = await converse(engines)
    assert (runs_of(found), found.active_run_id) == ([["a", "b"], ["c"]], "3")
    await engines.end(context_of("3"), messages=[said("e")])
    await engines.begin_run(context_of("4"), draft_of("f", rewind_to="a"))
    assert runs_of(await converse(engines)) == [["f"]]


async def test_conversation_says_which_run_asks(engines: Engines) -> None:
    await engines.begin(context_of("1"), "a")
    asked = [{"id": "i", "reason": "r"}]
    await engines.end(context_of("1"), outcome="interrupt", interrupts=asked)
    found = await converse(engines)
    assert (found.asking_run_id, found.interrupts) == ("1", asked)
    await engines.begin(context_of("2"), "b")
    found = await converse(engines)
    assert (found.asking_run_id, found.interrupts) == (None, ())


@pytest.mark.parametrize("before", ["", "x", "e-1~0", "e-1~0~0~0"])
async def test_conversation_refuses_a_place_of_no_page(before: str, engines: Engines) -> None:
    await talk(engines, "1", "a", "b")
    with pytest.raises(InvalidCursor):
        await converse(engines, before)
