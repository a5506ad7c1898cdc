"""What clients of before AG-UI 1.0 are told."""

from __future__ import annotations

from typing import Any

import pytest

from isolane.events.event import decode_event, encode_event, run_started
from isolane.events.older import to_older

TEXT = {"type": "text", "text": "a"}
MORE = {"type": "text", "text": "b"}
PICTURE = {"type": "image", "source": {"type": "url", "value": "https://x.example/y.png"}}
FILE = {"type": "document", "source": {"type": "file", "value": "f"}}
ENDED = {"type": "RUN_FINISHED", "threadId": "t", "runId": "r"}
RESULT = {"type": "TOOL_CALL_RESULT", "messageId": "m", "toolCallId": "c"}
ANSWERED = {"id": "m", "role": "tool", "toolCallId": "c"}
ASKED = {"id": "q", "role": "user"}
SAID = {"id": "a", "role": "assistant", "content": "x"}


def encoded(event: dict[str, Any]) -> bytes:
    return encode_event(event, max_bytes=1 << 20)


def older(event: dict[str, Any]) -> dict[str, Any]:
    return decode_event(to_older(encoded(event)))


def snapshot(*messages: dict[str, Any]) -> dict[str, Any]:
    return {"type": "MESSAGES_SNAPSHOT", "messages": list(messages)}


def started(*messages: dict[str, Any]) -> dict[str, Any]:
    return run_started(thread_id="t", run_id="r", messages=messages, rewind_to="q")


@pytest.mark.parametrize(
    "event, told",
    [
        ({**ENDED, "outcome": {"type": "cancelled"}, "result": 1}, {**ENDED, "result": 1}),
        ({**ENDED, "outcome": {"type": "cancelled", "reason": "spent"}}, ENDED),
        ({**RESULT, "content": [TEXT, PICTURE, MORE]}, {**RESULT, "content": "a\nb"}),
        ({**RESULT, "content": []}, {**RESULT, "content": ""}),
        (
            snapshot(SAID, {**ANSWERED, "content": [TEXT]}, {**ASKED, "content": [TEXT, FILE]}),
            snapshot(SAID, {**ANSWERED, "content": "a"}, {**ASKED, "content": [TEXT]}),
        ),
        (started({**ASKED, "content": [FILE, PICTURE]}), started({**ASKED, "content": [PICTURE]})),
    ],
)
def test_what_they_refuse_is_told_in_their_words(
    event: dict[str, Any], told: dict[str, Any]
) -> None:
    assert older(event) == told


@pytest.mark.parametrize(
    "event",
    [
        {**ENDED, "outcome": {"type": "success"}},
        {**ENDED, "outcome": {"type": "interrupt", "interrupts": []}},
        ENDED,
        {**RESULT, "content": "text"},
        snapshot(SAID, {**ANSWERED, "content": "x"}, {**ASKED, "content": [TEXT, PICTURE]}),
        started({**ASKED, "content": "x"}),
        {"type": "CUSTOM", "name": "n", "value": {"content": [FILE], "outcome": "cancelled"}},
    ],
)
def test_all_else_stays_byte_for_byte(event: dict[str, Any]) -> None:
    assert to_older(encoded(event)) == encoded(event)
