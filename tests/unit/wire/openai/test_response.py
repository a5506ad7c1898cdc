"""The events of the Responses API that a run's events make."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from tests.unit.wire.openai.stories import (
    ASKING,
    CANCELLED,
    FAILED,
    FINISHED,
    USAGE,
    Event,
    call,
    runs,
    said,
    started,
    text,
    thought,
)

from isolane.wire.openai.response import ResponseFold

Told = dict[str, Any]


def folded(*events: Event) -> tuple[list[Told], ResponseFold]:
    fold = ResponseFold("r", model="agent", created_at=5_999)
    return [made for event in events for made in fold.add(event)], fold


def kinds(*events: Event) -> list[str]:
    return [made["type"].removeprefix("response.") for made in folded(*events)[0]]


def items(*events: Event) -> list[Any]:
    return list(folded(*events)[1].to_response()["output"])


TEXT = [
    "output_item.added", "content_part.added", "output_text.delta",
    "output_text.done", "content_part.done", "output_item.done",
]  # fmt: skip
REASONING = [
    "output_item.added", "content_part.added", "reasoning_text.delta",
    "reasoning_text.done", "content_part.done", "output_item.done",
]  # fmt: skip
CALL = [
    "output_item.added", "function_call_arguments.delta",
    "function_call_arguments.done", "output_item.done",
]  # fmt: skip
BEGIN = ["created", "in_progress"]


def test_a_text_is_an_item_with_one_part() -> None:
    events = [started(), text("START"), said("Hi"), text("END"), FINISHED]
    assert kinds(*events) == [*BEGIN, *TEXT, "completed"]
    part = {"type": "output_text", "text": "Hi", "annotations": [], "logprobs": []}
    message = {"type": "message", "role": "assistant", "id": "msg_r_0", "status": "completed"}
    assert items(*events) == [{**message, "content": [part]}]


def test_a_reasoning_is_an_item_of_its_own() -> None:
    end = {"type": "REASONING_MESSAGE_END", "messageId": "t"}
    assert kinds(started(), thought("Hm"), end, FINISHED) == [*BEGIN, *REASONING, "completed"]
    (item,) = items(started(), thought("Hm"), end, FINISHED)
    assert item["type"] == "reasoning"
    assert item["content"] == [{"type": "reasoning_text", "text": "Hm"}]


def test_a_call_cuts_the_text_and_what_follows_is_another_item() -> None:
    events = [started("f"), said("a"), *call("f", "1"), said("b"), text("END"), FINISHED]
    assert kinds(*events) == [*BEGIN, *TEXT, *CALL, *TEXT, "completed"]
    assert [item["id"] for item in items(*events)] == ["msg_r_0", "fc_r_1", "msg_r_2"]


def test_only_calls_of_the_callers_tools_are_told() -> None:
    events = [started("mine"), *call("theirs", "1", "a"), *call("mine", "", "b"), FINISHED]
    (item,) = items(*events)
    assert (item["call_id"], item["name"], item["arguments"]) == ("b", "mine", "{}")
    assert folded(*events)[1].to_response()["tools"] == [
        {"type": "function", "name": "mine", "parameters": {}, "strict": False}
    ]


def test_a_call_that_opens_again_is_told_once() -> None:
    assert len(items(started("f"), *call("f", "1"), *call("f", "1"), FINISHED)) == 1


def test_only_an_assistant_is_told() -> None:
    assert items(started(), text("START", role="user"), said("x"), FINISHED) == []


def test_questions_are_requests_for_approval() -> None:
    label = {"type": "mcp_approval_request", "server_label": "isolane"}
    assert items(started(), ASKING) == [
        {**label, "id": "i1", "name": "approval", "arguments": "May I?"},
        {**label, "id": "i2", "name": "value", "arguments": "value"},
    ]
    assert folded(started(), ASKING)[1].status == "completed"


def test_a_stopped_run_is_a_cancelled_response() -> None:
    made, fold = folded(started(), said("He"), text("END"), CANCELLED)
    assert (made[-1]["type"], fold.status) == ("response.incomplete", "cancelled")
    assert made[-1]["response"] == fold.to_response()


def test_a_failed_run_is_a_failed_response() -> None:
    made, fold = folded(started(), FAILED)
    message = "The agent failed. (agent_error, err_1)"
    assert made[-1]["type"] == "response.failed"
    assert fold.to_response()["error"] == {"code": "server_error", "message": message}


def test_a_run_that_fails_before_it_begins_has_a_beginning_all_the_same() -> None:
    assert kinds(FAILED) == [*BEGIN, "failed"]


def test_a_response_says_where_it_stands() -> None:
    fold = ResponseFold("r", model="agent", created_at=5_999)
    assert (fold.to_response()["status"], fold.to_response()["created_at"]) == ("queued", 5)
    for event in (started("f"), said("a"), *call("f", "1")[:2]):
        fold.add(event)
    response = fold.to_response()
    assert response["status"] == "in_progress"
    assert [item["status"] for item in response["output"]] == ["completed", "in_progress"]
    assert response["output"][1]["arguments"] == "1"


def test_usage_is_the_sum_of_all_entries() -> None:
    assert folded(started(), {**FINISHED, "usage": USAGE})[1].to_response()["usage"] == {
        "input_tokens": 8, "output_tokens": 7, "total_tokens": 15,
        "input_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 4},
    }  # fmt: skip
    assert "usage" not in folded(started(), FINISHED)[1].to_response()


@given(runs())
def test_the_number_of_an_event_is_its_place(run: list[Event]) -> None:
    made, fold = folded(*run)
    assert [one["sequence_number"] for one in made] == list(range(len(made)))
    assert made == folded(*run)[0]
    output = fold.to_response()["output"]
    assert len({item["id"] for item in output}) == len(output)
    assert all(item.get("status", "completed") == "completed" for item in output)
