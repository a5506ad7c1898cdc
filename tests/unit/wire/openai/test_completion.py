"""The chunks of Chat Completions that a run's events make."""

from __future__ import annotations

from typing import Any

from tests.unit.wire.openai.stories import (
    ASKING,
    CANCELLED,
    FAILED,
    FINISHED,
    USAGE,
    Event,
    call,
    said,
    started,
    text,
    thought,
)

from isolane.wire.openai.completion import CompletionFold

Chunk = dict[str, Any]


def folded(*events: Event, tells_usage: bool = False) -> tuple[list[Chunk], CompletionFold]:
    fold = CompletionFold("r", model="agent", created_at=5_999, tells_usage=tells_usage)
    return [chunk for event in events for chunk in fold.add(event)], fold


def deltas(*events: Event) -> list[Any]:
    return [chunk["choices"][0]["delta"] for chunk in folded(*events)[0]]


def told(*events: Event) -> str:
    return "".join(delta.get("content") or "" for delta in deltas(*events))


def test_a_run_begins_with_a_role_and_ends_with_a_reason() -> None:
    chunks, fold = folded(started(), said("He"), said("llo"), FINISHED)
    about = {"object": "chat.completion.chunk", "id": "chatcmpl-r", "created": 5, "model": "agent"}
    assert [{name: chunk[name] for name in about} for chunk in chunks] == [about] * 4
    choices = [chunk["choices"][0] for chunk in chunks]
    assert [choice["delta"] for choice in choices] == [
        {"role": "assistant", "content": ""}, {"content": "He"}, {"content": "llo"}, {},
    ]  # fmt: skip
    assert [choice["finish_reason"] for choice in choices] == [None, None, None, "stop"]
    assert fold.to_answer() == {
        "object": "chat.completion", "id": "chatcmpl-r", "created": 5, "model": "agent",
        "choices": [{
            "index": 0, "finish_reason": "stop", "logprobs": None,
            "message": {"role": "assistant", "content": "Hello", "refusal": None},
        }],
    }  # fmt: skip


def test_only_calls_of_the_callers_tools_are_told() -> None:
    events = [started("mine"), *call("theirs", "{}", "a"), *call("mine", '{"x"', "b"), FINISHED]
    calls = [one for delta in deltas(*events) for one in delta.get("tool_calls", ())]
    function = {"name": "mine", "arguments": ""}
    assert calls[0] == {"index": 0, "id": "b", "type": "function", "function": function}
    assert "".join(one["function"]["arguments"] for one in calls) == '{"x"'
    answer = folded(*events)[1].to_answer()["choices"][0]
    assert answer["finish_reason"] == "tool_calls"
    assert answer["message"]["content"] is None
    assert answer["message"]["tool_calls"] == [
        {"id": "b", "type": "function", "function": {"name": "mine", "arguments": '{"x"'}}
    ]


def test_without_tools_of_the_caller_nothing_of_the_agents_is_told() -> None:
    result = {"type": "TOOL_CALL_RESULT", "messageId": "x", "toolCallId": "a", "content": "secret"}
    events = [started(), *call("theirs", "{}", "a"), result, thought("secret"), FINISHED]
    assert deltas(*events) == [{"role": "assistant", "content": ""}, {}]


def test_a_call_without_arguments_has_an_empty_object() -> None:
    answer = folded(started("f"), *call("f", ""), FINISHED)[1].to_answer()
    assert answer["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"] == "{}"


def test_a_call_that_opens_again_is_told_once() -> None:
    answer = folded(started("f"), *call("f", "{}"), *call("f", "{}"), FINISHED)[1].to_answer()
    calls = answer["choices"][0]["message"]["tool_calls"]
    assert [one["function"]["arguments"] for one in calls] == ["{}"]


def test_messages_stand_apart() -> None:
    assert told(started(), said("a", "1"), said("b", "1"), said("c", "2"), FINISHED) == "ab\n\nc"


def test_only_an_assistant_is_told() -> None:
    events = [text("START", "u", role="user"), said("not this", "u"), said("this", "m")]
    assert told(started(), *events, FINISHED) == "this"


def test_questions_are_told_as_text() -> None:
    assert told(started(), said("Well."), ASKING) == "Well.\n\nMay I?\n\nvalue"
    assert folded(started(), ASKING)[0][-1]["choices"][0]["finish_reason"] == "stop"


def test_a_stopped_run_ends_as_one_that_is_done() -> None:
    assert folded(started(), said("He"), CANCELLED)[0][-1]["choices"][0]["finish_reason"] == "stop"


def test_a_failed_run_ends_in_an_error_object() -> None:
    chunks, fold = folded(started(), said("He"), FAILED)
    assert chunks[-1] == {
        "error": {
            "message": "The agent failed. (agent_error, err_1)",
            "type": "server_error",
            "param": None,
            "code": "agent_error",
        }
    }
    assert fold.failure == FAILED


def test_usage_is_the_sum_of_all_entries() -> None:
    usage = {
        "prompt_tokens": 8, "completion_tokens": 7, "total_tokens": 15,
        "prompt_tokens_details": {"cached_tokens": 3},
        "completion_tokens_details": {"reasoning_tokens": 4},
    }  # fmt: skip
    end = {**FINISHED, "usage": USAGE}
    chunks, fold = folded(started(), end, tells_usage=True)
    assert [chunk["usage"] for chunk in chunks] == [None, None, usage]
    assert chunks[-1]["choices"] == []
    assert fold.to_answer()["usage"] == usage
    assert "usage" not in folded(started(), end)[0][-1]


def test_usage_that_is_not_known_is_left_out() -> None:
    chunks, fold = folded(started(), {**FINISHED, "usage": [{"model": "a"}]}, tells_usage=True)
    assert [chunk["choices"] == [] for chunk in chunks] == [False, False]
    assert "usage" not in fold.to_answer()
