"""What every book of turns promises."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from tests.contracts.conftest import Engines
from tests.house import context_of, draft_of, key_of, user_message

from isolane.contracts import RunDraft, RunState, StandingTurn, Turn, TurnBook, TurnPage, ensure
from isolane.errors import InvalidCursor
from isolane.events.transcript import Message

KEY = key_of()


def said(text: str) -> Message:
    return {"id": text, "role": "assistant", "content": text}


def result(text: str) -> Message:
    return {"id": text, "role": "tool", "toolCallId": f"call-{text}", "content": text}


def bringing(*messages: Message, rewind_to: str | None = None) -> RunDraft:
    return RunDraft("default", messages, rewind_to, {})


def again(text: str) -> RunDraft:
    return RunDraft("default", [user_message(text)], text, {}, asks_again=True)


async def live(engines: Engines, run_id: str, draft: RunDraft, *left: str) -> None:
    """Live a run that leaves messages of its agent."""
    await engines.begin_run(context_of(run_id), draft)
    await engines.end(context_of(run_id), messages=[said(text) for text in left])


async def talk(engines: Engines, *numbers: int) -> None:
    """Live runs with a question and an answer each."""
    for number in numbers:
        await live(engines, f"r{number}", draft_of(f"q{number}"), f"a{number}")


def told(turn: Turn | None) -> tuple[str, list[str]] | None:
    """Return a turn's id and those of its runs."""
    return None if turn is None else (turn.turn_id, [run.run_id for run in turn.runs])


def words(turns: Sequence[StandingTurn]) -> list[tuple[str, list[list[str]]]]:
    """Return turns with the texts that each of their runs added and left."""
    return [
        (turn.turn_id, [[one["content"] for one in (*run.added, *run.left)] for run in turn.runs])
        for turn in turns
    ]


async def load(engines: Engines, before: str | None = None, **bounds: int) -> TurnPage:
    page = await engines.turns.load_turns(KEY, before=before, **bounds)
    assert page is not None
    return page


def test_it_keeps_its_contract(engines: Engines) -> None:
    ensure(engines.turns, TurnBook)


async def test_what_nobody_used_has_no_turns(engines: Engines) -> None:
    assert await engines.turns.load_turn(KEY, "r") is None
    assert await engines.turns.load_last_turn(KEY) is None
    assert await engines.turns.load_open_turn(KEY) is None
    assert await engines.turns.load_turns(KEY) is None
    await engines.store.add_thread(KEY, title="")
    assert await load(engines) == TurnPage([], has_older=False, seed=[])


async def test_a_turn_goes_on_until_a_user_says_something(engines: Engines) -> None:
    await live(engines, "1", draft_of("q"), "a")
    await live(engines, "2", bringing(result("x")), "b")
    await live(engines, "3", RunDraft("default", [], None, {"resume": []}), "c")
    await live(engines, "4", bringing(result("y"), user_message("q2")), "d")
    await live(engines, "5", bringing(result("z")))
    for run_id in ("1", "2", "3"):
        assert told(await engines.turns.load_turn(KEY, run_id)) == ("1", ["1", "2", "3"])
    for run_id in ("4", "5"):
        assert told(await engines.turns.load_turn(KEY, run_id)) == ("4", ["4", "5"])
    assert told(await engines.turns.load_last_turn(KEY)) == ("4", ["4", "5"])
    assert words((await load(engines)).turns) == [
        ("4", [["y", "q2", "d"], ["z"]]),
        ("1", [["q", "a"], ["x", "b"], ["c"]]),
    ]


async def test_the_first_run_of_a_thread_begins_a_turn_whatever_it_brings(
    engines: Engines,
) -> None:
    await live(engines, "1", bringing())
    await live(engines, "2", bringing(result("x")))
    assert told(await engines.turns.load_turn(KEY, "2")) == ("1", ["1", "2"])


async def test_runs_of_a_turn_are_told_with_their_places_in_the_log(engines: Engines) -> None:
    await live(engines, "1", draft_of("q"))
    await engines.begin_run(context_of("2"), bringing(result("x")))
    turn = await engines.turns.load_turn(KEY, "1")
    assert turn is not None
    first, second = turn.runs
    assert (first.state, first.first_seq, first.last_seq) == (RunState.ENDED, 1, 1)
    assert first.ended_at == engines.clock()
    assert (second.state, second.first_seq, second.last_seq) == (RunState.RUNNING, 2, None)


async def test_the_oldest_unfinished_run_is_the_last_of_its_turn(engines: Engines) -> None:
    await live(engines, "1", draft_of("q"))
    await engines.begin_run(context_of("2"), bringing(result("x")))
    await engines.add_run(context_of("3"), bringing(result("y")))
    engines.clock.now += 1
    await engines.add_run(context_of("4"), draft_of("q2"))
    assert told(await engines.turns.load_open_turn(KEY)) == ("1", ["1", "2"])
    await engines.end(context_of("2"))
    open_turn = await engines.turns.load_open_turn(KEY)
    assert told(open_turn) == ("1", ["1", "2", "3"])
    assert open_turn is not None
    assert (open_turn.runs[-1].state, open_turn.runs[-1].first_seq) == (RunState.QUEUED, None)
    assert told(await engines.turns.load_turn(KEY, "4")) == ("4", ["4"])
    assert told(await engines.turns.load_last_turn(KEY)) == ("1", ["1", "2"])
    for run_id in ("3", "4"):
        await engines.take_turn(context_of(run_id))
        await engines.end(context_of(run_id))
    assert told(await engines.turns.load_last_turn(KEY)) == ("4", ["4"])
    assert told(await engines.turns.load_turn(KEY, "3")) == ("1", ["1", "2", "3"])
    assert await engines.turns.load_open_turn(KEY) is None


async def test_a_run_that_ends_without_having_begun_has_its_turn(engines: Engines) -> None:
    await talk(engines, 1)
    await engines.begin_run(context_of("1b"), bringing())
    await engines.add_run(context_of("2"), bringing(result("x")))
    await engines.end(context_of("1b"))
    await engines.add_run(context_of("3"), draft_of("q3"))
    await engines.end(context_of("2"), outcome="internal")
    await engines.end(context_of("3"), outcome="internal")
    assert told(await engines.turns.load_turn(KEY, "2")) == ("r1", ["r1", "1b", "2"])
    assert told(await engines.turns.load_last_turn(KEY)) == ("3", ["3"])


async def test_a_rewound_turn_is_not_told(engines: Engines) -> None:
    await talk(engines, 1, 2, 3)
    await live(engines, "4", draft_of("q4", rewind_to="q2"), "a4")
    assert words((await load(engines)).turns) == [("4", [["q4", "a4"]]), ("r1", [["q1", "a1"]])]
    assert await engines.turns.load_turn(KEY, "r2") is None
    assert await engines.turns.load_turn(KEY, "r3") is None
    with pytest.raises(InvalidCursor):
        await load(engines, before="r3")


async def test_a_question_that_is_rewound_to_and_asked_anew_begins_a_turn(
    engines: Engines,
) -> None:
    await talk(engines, 1, 2)
    await live(engines, "3", draft_of("q2", rewind_to="q2"), "a3")
    assert words((await load(engines)).turns) == [("3", [["q2", "a3"]]), ("r1", [["q1", "a1"]])]


async def test_a_question_that_is_asked_again_begins_a_turn_and_ends_the_old_one(
    engines: Engines,
) -> None:
    await talk(engines, 1)
    await live(engines, "r2", draft_of("q2"), "a2")
    await live(engines, "2b", bringing(result("x")), "b2")
    for run_id in ("3", "4"):
        await live(engines, run_id, again("q2"), f"a{run_id}")
        turns = (await load(engines)).turns
        assert words(turns) == [
            (run_id, [["q2", f"a{run_id}"]]),
            ("r1", [["q1", "a1"]]),
        ]
        assert all(run.is_whole for turn in turns for run in turn.runs)
    assert await engines.turns.load_turn(KEY, "2b") is None
    await live(engines, "5", draft_of("q5", rewind_to="q2"))
    assert words((await load(engines)).turns) == [("5", [["q5"]]), ("r1", [["q1", "a1"]])]


async def test_a_run_of_which_a_part_was_taken_back_stands_and_says_so(engines: Engines) -> None:
    await live(engines, "1", draft_of("q1", "q2"), "a")
    await live(engines, "2", draft_of("q3", rewind_to="q2"))
    (second, first) = (await load(engines)).turns
    assert words([second, first]) == [("2", [["q3"]]), ("1", [["q1"]])]
    assert not first.runs[0].is_whole
    assert second.runs[0].is_whole


async def test_a_run_without_a_question_goes_on_with_the_turn_that_a_rewind_leaves(
    engines: Engines,
) -> None:
    await talk(engines, 1, 2)
    await live(engines, "3", bringing(result("x"), rewind_to="q2"))
    assert told(await engines.turns.load_last_turn(KEY)) == ("r1", ["r1", "3"])
    await live(engines, "4", bringing(result("y"), rewind_to="q1"))
    assert told(await engines.turns.load_last_turn(KEY)) == ("4", ["4"])


@pytest.mark.parametrize("limit", [1, 2, 3, 7])
async def test_turns_come_in_pages_from_the_newest_back(limit: int, engines: Engines) -> None:
    await talk(engines, *range(5))
    await live(engines, "more", bringing(result("x")))
    found: list[str] = []
    before: str | None = None
    while True:
        page = await load(engines, before=before, limit=limit)
        assert len(page.turns) <= limit
        found += [turn.turn_id for turn in page.turns]
        if not page.has_older:
            break
        before = found[-1]
    assert found == [f"r{number}" for number in reversed(range(5))]


async def test_a_page_goes_on_before_any_message_of_a_turn(engines: Engines) -> None:
    await talk(engines, 1, 2)
    await live(engines, "more", bringing(result("x")), "b")
    for before in ("q2", "a2", "x", "b", "r2", "more"):
        assert [turn.turn_id for turn in (await load(engines, before=before)).turns] == ["r1"]
    assert (await load(engines, before="a1")).turns == []
    for unknown in ("q3", "r9", ""):
        with pytest.raises(InvalidCursor):
            await load(engines, before=unknown)


async def test_a_page_ends_early_for_its_bytes_and_has_one_turn_always(engines: Engines) -> None:
    await live(engines, "1", draft_of("x" * 300))
    await live(engines, "2", draft_of("y" * 300))
    for before, run_id, has_older in ((None, "2", True), ("2", "1", False)):
        page = await load(engines, before=before, max_bytes=100)
        assert [turn.turn_id for turn in page.turns] == [run_id]
        assert page.has_older == has_older


async def test_a_run_under_way_is_told_with_what_it_added(engines: Engines) -> None:
    await talk(engines, 1)
    await engines.begin(context_of("2"), "q2")
    (turn, _) = (await load(engines)).turns
    assert words([turn]) == [("2", [["q2"]])]
    assert turn.runs[0].run.state is RunState.RUNNING


async def test_turns_outlive_their_entries_and_a_restart(engines: Engines) -> None:
    await talk(engines, 1)
    await live(engines, "2", bringing(result("x")), "b")
    engines.clock.now += 1
    await engines.log.trim(older_than=engines.clock())
    if engines.reopen is not None:
        engines = await engines.reopen()
    assert told(await engines.turns.load_turn(KEY, "2")) == ("r1", ["r1", "2"])
    assert words((await load(engines)).turns) == [("r1", [["q1", "a1"], ["x", "b"]])]
    await live(engines, "3", bringing(result("y")))
    assert told(await engines.turns.load_turn(KEY, "3")) == ("r1", ["r1", "2", "3"])


async def test_the_id_of_a_run_that_attached_leads_to_the_turn_of_the_other(
    engines: Engines,
) -> None:
    await engines.begin(context_of("1"), "q")
    await engines.book.attach(context_of("2"), run_id="1", asked=[])
    assert told(await engines.turns.load_turn(KEY, "2")) == ("1", ["1"])


async def test_turns_of_other_users_and_threads_are_not_there(engines: Engines) -> None:
    await talk(engines, 1)
    for key in (key_of(user_id="bob"), key_of("other")):
        assert await engines.turns.load_turn(key, "r1") is None
        assert await engines.turns.load_last_turn(key) is None
        assert await engines.turns.load_turns(key) is None
    await engines.begin_run(context_of("r1", user_id="bob"), draft_of("hi"))
    bob = await engines.turns.load_turns(key_of(user_id="bob"))
    assert bob is not None
    assert words(bob.turns) == [("r1", [["hi"]])]
    with pytest.raises(InvalidCursor):
        await engines.turns.load_turns(key_of(user_id="bob"), before="q1")


async def test_a_thread_that_was_deleted_has_no_turns_and_the_next_one_its_own(
    engines: Engines,
) -> None:
    await talk(engines, 1)
    await engines.log.delete(KEY)
    assert await engines.turns.load_turn(KEY, "r1") is None
    assert await engines.turns.load_turns(KEY) is None
    await live(engines, "2", bringing(result("x")))
    assert words((await load(engines)).turns) == [("2", [["x"]])]
