"""What TanStack AI's client shows of AG-UI's messages. The live tests ask that client itself."""

from __future__ import annotations

import msgspec
import pytest

from isolane.events.transcript import Message
from isolane.wire.tanstack import UiMessage, to_ui_messages


def said(message_id: str, content: str = "", **more: object) -> Message:
    return {"id": message_id, "role": "assistant", "content": content, **more}


def call(call_id: str, arguments: str = "{}", **more: object) -> Message:
    function = {"name": "look", "arguments": arguments}
    return {"id": call_id, "type": "function", "function": function, **more}


def calling(message_id: str, *call_ids: str) -> Message:
    calls = [call(call_id) for call_id in call_ids]
    return {"id": message_id, "role": "assistant", "toolCalls": calls}


def result(call_id: str, content: object, **more: object) -> Message:
    return {
        "id": f"{call_id}-result",
        "role": "tool",
        "toolCallId": call_id,
        "content": content,
        **more,
    }


def thought(message_id: str, content: str, **more: object) -> Message:
    return {"id": message_id, "role": "reasoning", "content": content, **more}


def shown(*runs: list[Message], interrupts: list[Message] | None = None) -> list[UiMessage]:
    """Return what a client reads, which sees JSON."""
    made = to_ui_messages(runs, interrupts or [])
    found: list[UiMessage] = msgspec.json.decode(msgspec.json.encode(made))
    return found


def outline(*runs: list[Message]) -> list[tuple[str, list[str]]]:
    return [(each["id"], [part["type"] for part in each["parts"]]) for each in shown(*runs)]


def test_words_are_a_part() -> None:
    asked = {"id": "q", "role": "user", "content": "Why?", "name": "Ada"}
    assert shown([asked, said("a", "So.")]) == [
        {"id": "q", "role": "user", "name": "Ada", "parts": [{"type": "text", "content": "Why?"}]},
        {"id": "a", "role": "assistant", "parts": [{"type": "text", "content": "So."}]},
    ]


def test_attachments_are_parts_as_they_came() -> None:
    source = {"type": "url", "value": "https://example.com/a.png", "mimeType": None}
    parts = [
        {"type": "text", "text": "look"},
        {"type": "image", "source": source, "metadata": None},
        {"type": "of tomorrow"},
    ]
    (message,) = shown([{"id": "q", "role": "user", "content": parts}])
    assert message["parts"] == [
        {"type": "text", "content": "look"},
        {"type": "image", "source": source},
    ]


def test_call_has_what_it_was_given_and_what_it_found() -> None:
    answer = said("a", "one", toolCalls=[call("c", '{"at": 1}', metadata={"mark": 1})])
    (message,) = shown([answer, result("c", "[1]")])
    assert message["parts"] == [
        {"type": "text", "content": "one"},
        {
            "type": "tool-call",
            "id": "c",
            "name": "look",
            "arguments": '{"at": 1}',
            "state": "complete",
            "input": {"at": 1},
            "metadata": {"mark": 1},
            "output": [1],
        },
        {"type": "tool-result", "toolCallId": "c", "content": "[1]", "state": "complete"},
    ]


@pytest.mark.parametrize("content", ["plain words", [{"type": "text", "text": "a"}], "\ufffd"])
def test_result_that_is_no_json_stays_as_it_is(content: object) -> None:
    (message,) = shown([calling("a", "c"), result("c", content)])
    assert message["parts"][0]["output"] == content
    assert message["parts"][1]["content"] == content


def test_number_of_any_size_and_null_come_as_they_are() -> None:
    for text in ("null", "9" * 30):
        (message,) = to_ui_messages([[calling("a", "c"), result("c", text)]])
        assert message["parts"][0]["output"] == msgspec.Raw(text.encode())


def test_nested_json_beyond_all_depth_is_text() -> None:
    deep = "[" * 100_000
    (message,) = shown([calling("a", "c"), result("c", deep)])
    assert message["parts"][0]["output"] == deep


def test_call_that_nobody_answered_is_complete_in_its_input() -> None:
    (message,) = shown([said("a", toolCalls=[call("c", '{"a"')])])
    assert message["parts"][0]["state"] == "input-complete"
    assert "input" not in message["parts"][0]


def test_failed_tool_says_so() -> None:
    marked = {"metadata": {"tanstack": {"state": "output-error"}}}
    for more, text, error in (
        ({"error": "no way"}, "{}", "no way"),
        (marked, '{"error": "lost"}', "lost"),
        (marked, "lost", "lost"),
        (marked, "7", "Tool execution failed"),
    ):
        (message,) = shown([calling("a", "c"), result("c", text, **more)])
        assert [part["state"] for part in message["parts"]] == ["error", "error"]
        assert message["parts"][1]["error"] == error


def test_answer_to_a_call_that_is_not_here_is_not_shown() -> None:
    assert shown([result("c", "1")]) == []


def test_answer_of_a_later_run_stands_at_its_call() -> None:
    assert outline([calling("a", "c")], [result("c", "1"), said("b", "two")]) == [
        ("a", ["tool-call", "tool-result"]),
        ("b", ["text"]),
    ]


def test_what_comes_before_words_is_part_of_their_message() -> None:
    run = [
        thought("r-1", "hm"),
        calling("x", "c-1"),
        result("c-1", "1"),
        calling("y", "c-2"),
        result("c-2", "2"),
        said("a", "so"),
        said("b", "and so"),
    ]
    parts = ["thinking", "tool-call", "tool-result", "tool-call", "tool-result", "text"]
    assert outline(run) == [("a", parts), ("b", ["text"])]


def test_calls_after_words_are_part_of_their_message() -> None:
    assert outline([said("a", "so"), calling("x", "c"), result("c", "1"), said("b", "two")]) == [
        ("a", ["text", "tool-call", "tool-result"]),
        ("b", ["text"]),
    ]


def test_message_that_was_begun_without_a_word_has_its_calls() -> None:
    begun = {**calling("x", "c"), "content": ""}
    assert outline([begun, result("c", "1"), said("b", "two")]) == [
        ("x", ["tool-call", "tool-result"]),
        ("b", ["text"]),
    ]


def test_each_run_begins_a_message() -> None:
    assert outline([said("a", "one")], [calling("x", "c"), said("b", "two")]) == [
        ("a", ["text"]),
        ("b", ["tool-call", "text"]),
    ]


def test_thoughts_of_one_message_are_one_part() -> None:
    run = [thought("r-1", "a"), said("m", "b"), thought("r-2", "c", encryptedValue="seal")]
    (message,) = shown(run)
    assert message["parts"] == [
        {"type": "thinking", "content": "ac", "stepId": "r-1", "signature": "seal"},
        {"type": "text", "content": "b"},
    ]


def test_empty_thoughts_and_activities_show_nothing() -> None:
    activity = {"id": "x", "role": "activity", "activityType": "plan", "content": {}}
    assert shown([thought("r", ""), activity]) == []


def test_seal_of_a_call_is_in_its_metadata() -> None:
    (message,) = shown([said("a", toolCalls=[call("c", encryptedValue="seal")])])
    assert message["parts"][0]["metadata"] == {"thoughtSignature": "seal"}


def test_time_that_the_client_noted_is_the_message_s_own() -> None:
    noted = {"tanstack": {"createdAt": "2026-01-01T00:00:00.000Z"}}
    asked = {"id": "q", "role": "user", "content": "a", "metadata": noted}
    (message,) = shown([asked])
    assert message["createdAt"] == "2026-01-01T00:00:00.000Z"
    (message,) = shown([{**asked, "metadata": {"tanstack": 7}}])
    assert "createdAt" not in message


def test_call_that_waits_for_approval_says_so() -> None:
    asks: list[Message] = [
        {"id": "i-1", "reason": "approval_required", "toolCallId": "c-1"},
        {"id": "i-2", "reason": "any", "toolCallId": "c-2", "metadata": {"kind": "approval"}},
        {"id": "i-3", "reason": "any", "toolCallId": "c-3", "metadata": {"kind": "client_tool"}},
        {"id": "i-4", "reason": "approval_required"},
    ]
    (message,) = shown([calling("a", "c-1", "c-2", "c-3")], interrupts=asks)
    states = [part["state"] for part in message["parts"]]
    assert states == ["approval-requested", "approval-requested", "input-complete"]
    assert message["parts"][0]["approval"] == {"id": "i-1", "needsApproval": True}


def test_instructions_are_the_system_s() -> None:
    run = [{"id": role, "role": role, "content": "be kind"} for role in ("system", "developer")]
    assert [message["role"] for message in shown(run)] == ["system", "system"]
