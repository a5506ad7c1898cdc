"""What agents say in yesterday's words, and in tomorrow's."""

from __future__ import annotations

from typing import Any

import pytest
from ag_ui.core import BaseEvent, StepStartedEvent

from isolane.agents.foreign import UNKNOWN, Foreign
from isolane.agents.naming import Naming
from isolane.agents.translate import to_event
from isolane.context import RunIds
from isolane.errors import AgentProtocolError
from isolane.events.event import Event
from isolane.events.left_out import LeftOut

IDS = RunIds("t", "r", None)
NAMING = Naming(IDS, IDS)


def adapted(*values: object) -> tuple[list[Any], dict[str, dict[str, int]]]:
    """Return what comes of each value, and what was left out."""
    left_out = LeftOut()
    foreign = Foreign(left_out)
    made = []
    for value in values:
        known = foreign.adapt(value)
        if known is not UNKNOWN:
            made.append(to_event(known, naming=NAMING))
    return made, left_out.to_report()


class TomorrowsEvent(BaseEvent):
    """An event that a newer framework may yield as a model."""

    type: Any = "TOMORROW"


def test_an_event_of_an_unknown_type_is_left_out_and_named() -> None:
    step = {"type": "STEP_STARTED", "stepName": "s"}
    made, left_out = adapted(
        {"type": "NO_SUCH", "x": 1}, step, {"type": "NO_SUCH"}, {"type": "no such \ud83d"},
        TomorrowsEvent(), StepStartedEvent(step_name="s"),
    )  # fmt: skip
    assert made == [step, step]
    assert left_out == {"event": {"NO_SUCH": 2, "no such �": 1, "TOMORROW": 1}}


@pytest.mark.parametrize("value", [None, 5, b"x", [], {}, {"type": None}, {"type": 5}, object()])
def test_what_is_no_event_stays_to_be_refused(value: object) -> None:
    with pytest.raises(AgentProtocolError):
        adapted(value)


# --- yesterday -----------------------------------------------------------------------------------


def test_thinking_becomes_reasoning() -> None:
    made, left_out = adapted(
        {"type": "THINKING_START", "title": "Hm"},
        {"type": "THINKING_TEXT_MESSAGE_START"},
        {"type": "THINKING_TEXT_MESSAGE_CONTENT", "delta": "let me "},
        {"type": "THINKING_TEXT_MESSAGE_CONTENT", "delta": "see", "timestamp": 5},
        {"type": "THINKING_TEXT_MESSAGE_END"},
        {"type": "THINKING_END"},
        {"type": "THINKING_TEXT_MESSAGE_START"},
    )
    kinds = [event["type"] for event in made]
    assert kinds == [
        "REASONING_START", "REASONING_MESSAGE_START", "REASONING_MESSAGE_CONTENT",
        "REASONING_MESSAGE_CONTENT", "REASONING_MESSAGE_END", "REASONING_END",
        "REASONING_MESSAGE_START",
    ]  # fmt: skip
    ids = [event["messageId"] for event in made]
    assert ids[0] == ids[5]
    assert ids[1] == ids[2] == ids[3] == ids[4]
    assert len(set(ids)) == 3
    assert made[0]["metadata"] == {"title": "Hm"}
    assert made[1]["role"] == "reasoning"
    assert made[3]["timestamp"] == 5
    assert left_out == {}


def test_binary_parts_of_a_snapshot_and_a_result_are_put_into_todays_words() -> None:
    old = {"type": "binary", "mimeType": "image/png", "data": "AA=="}
    new = {"type": "image", "source": {"type": "data", "value": "AA==", "mimeType": "image/png"}}
    made, _ = adapted(
        {"type": "MESSAGES_SNAPSHOT", "messages": [{"id": "m", "role": "user", "content": [old]}]},
        {"type": "TOOL_CALL_RESULT", "messageId": "m", "toolCallId": "c", "content": [old]},
    )
    assert made[0]["messages"][0]["content"] == [new]
    assert made[1]["content"] == [new]


# --- tomorrow ------------------------------------------------------------------------------------

FINISHED = {"type": "RUN_FINISHED", "threadId": "t", "runId": "r"}
TEXT = {"type": "text", "text": "x"}
RESULT = {"type": "TOOL_CALL_RESULT", "messageId": "m", "toolCallId": "c"}
USER = {"id": "m", "role": "user", "content": "x"}
ASKED = {"threadId": "t", "runId": "r", "state": {}, "tools": [], "context": [],
         "forwardedProps": {}}  # fmt: skip
STRIPPED: dict[str, tuple[Event, Event, dict[str, dict[str, int]]]] = {
    "part of a result": (
        {**RESULT, "content": [{"type": "hologram"}, TEXT]},
        {**RESULT, "content": [TEXT]},
        {"part": {"hologram": 1}},
    ),
    "every part of a result": (
        {**RESULT, "content": [{"type": "hologram"}]},
        {**RESULT, "content": []},
        {"part": {"hologram": 1}},
    ),
    "outcome": (
        {**FINISHED, "outcome": {"type": "postponed", "until": 5}, "result": 1},
        {**FINISHED, "result": 1},
        {"outcome": {"postponed": 1}},
    ),
    "outcome of a subagent": (
        {"type": "SUBAGENT_FINISHED", "subagentRunId": "s", "outcome": {"type": "cancelled"}},
        {"type": "SUBAGENT_FINISHED", "subagentRunId": "s"},
        {"outcome": {"cancelled": 1}},
    ),
    "message of a snapshot": (
        {"type": "MESSAGES_SNAPSHOT", "messages": [{"id": "n", "role": "narrator"}, USER]},
        {"type": "MESSAGES_SNAPSHOT", "messages": [USER]},
        {"message": {"narrator": 1}},
    ),
    "message that a run was asked": (
        {"type": "RUN_STARTED", "threadId": "t", "runId": "r",
         "input": {**ASKED, "messages": [{"id": "n", "role": "narrator"}, USER]}},
        {"type": "RUN_STARTED", "threadId": "t", "runId": "r",
         "input": {**ASKED, "messages": [USER]}},
        {"message": {"narrator": 1}},
    ),
    "step of a patch": (
        {"type": "STATE_DELTA", "delta": [{"op": "swap", "path": "/a"},
                                          {"op": "remove", "path": "/a"}]},
        {"type": "STATE_DELTA", "delta": [{"op": "remove", "path": "/a"}]},
        {"operation": {"swap": 1}},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", STRIPPED)
def test_what_is_unknown_inside_an_event_is_left_out(name: str) -> None:
    given, wanted, told = STRIPPED[name]
    assert adapted(given) == ([wanted], told)


@pytest.mark.parametrize("kind, name", [("STATE_DELTA", "delta"), ("ACTIVITY_DELTA", "patch")])
@pytest.mark.parametrize(
    "said, meant", [("/\ud83d", "/\ufffd"), ("/\ud83d\ude00", "/\U0001f600"), ("/a", "/a")]
)
def test_a_patch_leads_to_the_key_that_the_state_has(
    kind: str, name: str, said: str, meant: str
) -> None:
    about = {"messageId": "a", "activityType": "t"} if kind == "ACTIVITY_DELTA" else {}
    steps = [{"op": "copy", "path": "/b", "from": said}, {"op": "remove", "path": said}]
    made, left_out = adapted({"type": kind, **about, name: steps})
    assert made[0][name] == [
        {"op": "copy", "path": "/b", "from": meant}, {"op": "remove", "path": meant},
    ]  # fmt: skip
    assert left_out == {}


MALFORMED: list[Event] = [
    {"type": "STATE_DELTA", "delta": [{"op": "remove", "path": 5}]},
    {"type": "STATE_DELTA", "delta": [5]},
    {**RESULT, "content": [{"type": "text"}]},
    {**RESULT, "content": [5]},
    {**RESULT, "content": [{"type": "binary"}]},
    {**RESULT, "content": 5},
    {**FINISHED, "outcome": {"type": "interrupt"}},
    {**FINISHED, "outcome": "success"},
    {**FINISHED, "outcome": {}},
    {"type": "MESSAGES_SNAPSHOT", "messages": [{"role": "user"}]},
    {"type": "MESSAGES_SNAPSHOT", "messages": [{"id": "m"}]},
    {"type": "MESSAGES_SNAPSHOT", "messages": {}},
    {"type": "STATE_DELTA", "delta": [{"op": "remove"}]},
    {"type": "STATE_DELTA", "delta": "x"},
    {"type": "TEXT_MESSAGE_START", "messageId": 5},
    {"type": "THINKING_TEXT_MESSAGE_CONTENT"},
    {"type": "THINKING_TEXT_MESSAGE_CONTENT", "delta": 5},
]


@pytest.mark.parametrize("event", MALFORMED, ids=[str(i) for i in range(len(MALFORMED))])
def test_a_malformed_value_of_a_known_type_is_the_agents_fault(event: Event) -> None:
    with pytest.raises(AgentProtocolError):
        adapted(event)
