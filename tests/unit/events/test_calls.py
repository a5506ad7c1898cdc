"""Every call of a history has its answer behind it."""

from __future__ import annotations

from typing import Any

from isolane.events.calls import NO_RESULT, answer_calls
from isolane.events.transcript import Message


def asked(text: str = "q") -> Message:
    return {"id": text, "role": "user", "content": text}


def calling(*ids: str, arguments: str = "{}", message_id: str | None = None) -> Message:
    calls: list[dict[str, Any]] = [
        {"id": one, "type": "function", "function": {"name": "f", "arguments": arguments}}
        for one in ids
    ]
    return {"id": message_id or f"m-{ids[0]}", "role": "assistant", "toolCalls": calls}


def answer(call_id: str, text: str = "done") -> Message:
    return {"id": f"r-{call_id}-{text}", "role": "tool", "toolCallId": call_id, "content": text}


def none_for(call_id: str) -> Message:
    return {
        "id": f"unanswered:{call_id}",
        "role": "tool",
        "toolCallId": call_id,
        "content": NO_RESULT,
        "error": NO_RESULT,
    }


def test_a_history_whose_calls_are_answered_stays_as_it_is() -> None:
    said = {"id": "a", "role": "assistant", "content": "hi"}
    for history in (
        [],
        [asked(), said],
        [asked(), calling("1", "2"), answer("2"), answer("1"), said, asked("more")],
        [answer("of no call"), asked()],
    ):
        assert answer_calls(history) == history


def test_history_in_order_is_not_made_anew() -> None:
    history = [asked(), calling("1", "2"), answer("2"), answer("1"), asked("more")]
    assert answer_calls(history) is history


def test_second_result_of_a_call_stands_behind_the_first() -> None:
    history = [asked(), calling("1"), answer("1"), asked("more"), answer("1", "again")]
    assert answer_calls(history) == [
        asked(), calling("1"), answer("1"), answer("1", "again"), asked("more"),
    ]  # fmt: skip


def test_calls_of_two_messages_are_answered_apart() -> None:
    history = [calling("1"), calling("2"), answer("1"), answer("2")]
    assert answer_calls(history) == [calling("1"), answer("1"), calling("2"), answer("2")]


def test_a_call_without_a_result_gets_one_right_behind_it() -> None:
    history = [asked(), calling("1", "2", "3"), answer("2"), asked("more")]
    assert answer_calls(history) == [
        asked(), calling("1", "2", "3"), answer("2"), none_for("1"), none_for("3"), asked("more"),
    ]  # fmt: skip


def test_a_result_that_came_late_stands_behind_its_call() -> None:
    history = [asked(), calling("1"), asked("more"), answer("1")]
    assert answer_calls(history) == [
        asked(), calling("1"), answer("1"), asked("more"),
    ]  # fmt: skip


def test_models_that_count_their_calls_anew_are_answered_turn_by_turn() -> None:
    history = [
        asked(), calling("1", message_id="a"), answer("1", "first"),
        asked("more"), calling("1", message_id="b"), answer("1", "second"),
        asked("again"), calling("1", message_id="c"),
    ]  # fmt: skip
    assert answer_calls(history) == [*history, none_for("1")]


def test_arguments_that_were_cut_off_are_taken_for_nothing() -> None:
    for arguments in ("", '{"city": "De'):
        (call, _) = answer_calls([calling("1", arguments=arguments)])
        assert call == calling("1")
    kept = calling("1", arguments="no json at all")
    assert answer_calls([kept, answer("1")]) == [kept, answer("1")]


def test_a_run_that_resumes_finds_its_turns_calls_open_and_older_ones_answered() -> None:
    history = [asked(), calling("1"), asked("more"), calling("2", arguments='{"a'), calling("3")]
    answered = [asked(), calling("1"), none_for("1"), *history[2:]]
    assert answer_calls(history, resumes=True) == answered
    added = [asked("and"), asked("also")]
    assert answer_calls([*history, *added], added=added, resumes=True) == [*answered, *added]
