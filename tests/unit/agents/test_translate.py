"""Whatever an agent yields, in AG-UI's words."""

from __future__ import annotations

from types import MappingProxyType

import ag_ui.core as agui
import pytest

from isolane.agents.naming import Naming
from isolane.agents.translate import to_event
from isolane.context import RunIds
from isolane.errors import AgentProtocolError
from isolane.events.event import Event, encode_event

NAMING = Naming(RunIds("t", "r", "p"), RunIds("agent-t", "agent-r", "agent-p"))


def translated(value: object) -> Event:
    return to_event(value, naming=NAMING)


MODELS: list[tuple[agui.BaseEvent, Event]] = [
    (
        agui.TextMessageStartEvent(message_id="m", role="assistant"),
        {"type": "TEXT_MESSAGE_START", "messageId": "m", "role": "assistant"},
    ),
    (
        agui.TextMessageContentEvent(message_id="m", delta="x"),
        {"type": "TEXT_MESSAGE_CONTENT", "messageId": "m", "delta": "x"},
    ),
    (
        agui.TextMessageContentEvent(message_id="m", delta="x", metadata={"a": None}),
        {"type": "TEXT_MESSAGE_CONTENT", "messageId": "m", "delta": "x", "metadata": {"a": None}},
    ),
    (
        agui.TextMessageContentEvent(message_id="m", delta="x", subagent_run_id="s"),
        {"type": "TEXT_MESSAGE_CONTENT", "messageId": "m", "delta": "x", "subagentRunId": "s"},
    ),
    (
        agui.ToolCallArgsEvent(tool_call_id="c", delta="{}"),
        {"type": "TOOL_CALL_ARGS", "toolCallId": "c", "delta": "{}"},
    ),
    (
        agui.ReasoningMessageContentEvent(message_id="m", delta="x"),
        {"type": "REASONING_MESSAGE_CONTENT", "messageId": "m", "delta": "x"},
    ),
    (
        agui.StateSnapshotEvent(snapshot={"a": None, "b": [None]}),
        {"type": "STATE_SNAPSHOT", "snapshot": {"a": None, "b": [None]}},
    ),
    (
        agui.CustomEvent(name="n", value=None),
        {"type": "CUSTOM", "name": "n", "value": None},
    ),
    (
        agui.RunFinishedEvent(thread_id="t", run_id="r", result={"a": None}),
        {"type": "RUN_FINISHED", "threadId": "t", "runId": "r", "result": {"a": None}},
    ),
]


@pytest.mark.parametrize("model, event", MODELS, ids=[str(i) for i in range(len(MODELS))])
def test_a_model_and_its_wire_form_are_the_same_event(model: agui.BaseEvent, event: Event) -> None:
    assert translated(model) == event
    assert translated(event) == event
    assert translated(MappingProxyType(event)) == event
    assert list(translated(event))[0] == "type"  # noqa: RUF015 - the log looks for it at the start


def test_the_types_of_pythons_enums_become_text() -> None:
    event = translated({"type": agui.EventType.STEP_STARTED, "stepName": "s"})
    assert type(event["type"]) is str


def test_the_time_an_agent_gives_an_event_stays() -> None:
    given = {"type": "TEXT_MESSAGE_CONTENT", "messageId": "m", "delta": "x", "timestamp": 5}
    assert translated(given)["timestamp"] == 5


@pytest.mark.parametrize(
    "value",
    [None, 5, b"text", ["text"], object(), {}, {"type": None}, {"type": "NO_SUCH"}, {"type": []},
     {"type": "TEXT_MESSAGE_START"}, {"type": "TEXT_MESSAGE_CONTENT", "messageId": "m"},
     {"type": "TEXT_MESSAGE_CONTENT", "messageId": 5, "delta": "x"},
     {"type": "TEXT_MESSAGE_CONTENT", "messageId": "m", "delta": None},
     {"type": "RUN_FINISHED", "threadId": "t", "runId": "r", "outcome": {"type": "odd"}},
     {1: 2}, {"type": "CUSTOM", "name": "n", "value": object()}],
    ids=[str(i) for i in range(16)],
)  # fmt: skip
def test_anything_else_is_the_agents_fault(value: object) -> None:
    with pytest.raises(AgentProtocolError):
        encode_event(translated(value), max_bytes=1 << 20)


@pytest.mark.parametrize("name", ["threadId", "runId"])
def test_an_event_of_another_run_is_the_agents_fault(name: str) -> None:
    event = {"type": "RUN_STARTED", "threadId": "t", "runId": "r", name: "other"}
    with pytest.raises(AgentProtocolError, match=f"another {name}"):
        translated(event)


@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=repr)
@pytest.mark.parametrize("place", ["snapshot", "delta"])
def test_what_json_cannot_say_is_not_changed_behind_the_agents_back(
    value: object, place: str
) -> None:
    event: Event = (
        {"type": "STATE_SNAPSHOT", "snapshot": {"x": value}}
        if place == "snapshot"
        else {"type": "TEXT_MESSAGE_CONTENT", "messageId": "m", "delta": "x", "extra": value}
    )
    with pytest.raises(AgentProtocolError):
        encode_event(translated(event), max_bytes=1 << 20)
