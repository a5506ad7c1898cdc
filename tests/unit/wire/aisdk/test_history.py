"""A thread's stored messages as AI SDK shows them."""

from __future__ import annotations

from typing import Any

from isolane.wire.aisdk.history import to_assistant_message, to_user_message


def test_what_a_user_said() -> None:
    content = [
        {"type": "text", "text": "Look"},
        {"type": "image", "source": {"type": "data", "value": "AAAA", "mimeType": "image/png"}},
        {"type": "document", "source": {"type": "url", "value": "https://a/b"},
         "metadata": {"filename": "b"}},
        {"type": "document", "source": {"type": "file", "value": "f-1"}},
    ]  # fmt: skip
    message = to_user_message({"id": "u", "role": "user", "content": content})
    assert message["parts"] == [
        {"type": "text", "text": "Look"},
        {"type": "file", "mediaType": "image/png", "url": "data:image/png;base64,AAAA"},
        {"type": "file", "mediaType": "application/octet-stream", "url": "https://a/b",
         "filename": "b"},
    ]  # fmt: skip
    plain = to_user_message({"id": "u", "role": "user", "content": "Hi"})
    assert plain == {"id": "u", "role": "user", "parts": [{"type": "text", "text": "Hi"}]}


def test_what_an_assistant_said() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "look", "arguments": '{"a":1}'}}
    bad = {"id": "d", "type": "function", "function": {"name": "look", "arguments": "{"}}
    run: list[dict[str, Any]] = [
        {"id": "t", "role": "reasoning", "content": "Hm"},
        {"id": "m", "role": "assistant", "content": "Let me", "toolCalls": [call, bad]},
        {"id": "r", "role": "tool", "toolCallId": "c", "content": '{"b":2}'},
        {"id": "n", "role": "assistant", "content": "Done"},
        {"id": "x", "role": "activity", "activityType": "p", "content": {}},
    ]
    message = to_assistant_message(
        "turn", [run, [{"id": "o", "role": "assistant", "content": "!"}]]
    )
    assert message["id"] == "ai_turn"
    assert message["parts"] == [
        {"type": "step-start"},
        {"type": "reasoning", "id": "t", "text": "Hm", "state": "done"},
        {"type": "text", "text": "Let me", "state": "done"},
        {"type": "tool-look", "toolCallId": "c", "state": "output-available",
         "input": {"a": 1}, "output": {"b": 2}, "providerExecuted": True},
        {"type": "tool-look", "toolCallId": "d", "state": "output-error", "input": "{",
         "errorText": "The arguments are not JSON."},
        {"type": "step-start"},
        {"type": "text", "text": "Done", "state": "done"},
        {"type": "step-start"},
        {"type": "text", "text": "!", "state": "done"},
    ]  # fmt: skip


def test_a_client_tool_that_failed() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "look", "arguments": ""}}
    runs: list[list[dict[str, Any]]] = [
        [{"id": "m", "role": "assistant", "toolCalls": [call]}],
        [{"id": "r", "role": "tool", "toolCallId": "c", "content": "no", "error": "no"}],
    ]
    part = to_assistant_message("turn", runs)["parts"][-1]
    assert part == {
        "type": "tool-look", "toolCallId": "c", "state": "output-error", "input": {},
        "errorText": "no",
    }  # fmt: skip
