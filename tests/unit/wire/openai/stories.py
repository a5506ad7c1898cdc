"""Runs as logs have them, for the tests of both folds."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from tests.unit.events.test_grammar import events

from isolane.errors import AgentProtocolError
from isolane.events.grammar import RunGrammar

Event = dict[str, Any]

FINISHED: Event = {"type": "RUN_FINISHED", "outcome": {"type": "success"}}
CANCELLED: Event = {"type": "RUN_FINISHED", "outcome": {"type": "cancelled"}}
FAILED: Event = {
    "type": "RUN_ERROR", "runId": "r", "message": "The agent failed.", "code": "agent_error",
    "metadata": {"errorId": "err_1"},
}  # fmt: skip
ASKING: Event = {
    "type": "RUN_FINISHED",
    "outcome": {
        "type": "interrupt",
        "interrupts": [
            {"id": "i1", "reason": "approval", "message": "May I?"},
            {"id": "i2", "reason": "value", "toolCallId": "c"},
        ],
    },
}
USAGE = [
    {"model": "a", "inputTokens": 7, "outputTokens": 2, "cachedInputTokens": 3},
    {"model": "b", "inputTokens": 1, "outputTokens": 5, "reasoningTokens": 4},
]


def started(*tools: str) -> Event:
    listed = [{"name": name, "description": "", "parameters": {}} for name in tools]
    return {"type": "RUN_STARTED", "runId": "r", "input": {"messages": [], "tools": listed}}


def text(act: str, message_id: str = "m", **more: object) -> Event:
    return {"type": f"TEXT_MESSAGE_{act}", "messageId": message_id, **more}


def said(delta: str, message_id: str = "m") -> Event:
    return text("CONTENT", message_id, delta=delta)


def thought(delta: str, message_id: str = "t") -> Event:
    return {"type": "REASONING_MESSAGE_CONTENT", "messageId": message_id, "delta": delta}


def call(name: str, arguments: str, call_id: str = "c") -> list[Event]:
    return [
        {"type": "TOOL_CALL_START", "toolCallId": call_id, "toolCallName": name},
        *({"type": "TOOL_CALL_ARGS", "toolCallId": call_id, "delta": each} for each in arguments),
        {"type": "TOOL_CALL_END", "toolCallId": call_id},
    ]


@st.composite
def runs(draw: st.DrawFn) -> list[Event]:
    """Any order of events that the grammar lets into a log, between a start and an end."""
    grammar, through = RunGrammar(), []
    for one in draw(st.lists(events(chunks=True), max_size=40)):
        if one["type"] == "TEXT_MESSAGE_START" and draw(st.booleans()):
            one["role"] = draw(st.sampled_from(["assistant", "user", "system", "developer"]))
        try:
            for legal in grammar.accept(one):
                through.append(legal)  # noqa: PERF402 - what came before an error counts
        except AgentProtocolError:
            continue
    tools = draw(st.sampled_from([(), ("f",), ("f", "g")]))
    end = draw(st.sampled_from([FINISHED, CANCELLED, FAILED, ASKING, {**FINISHED, "usage": USAGE}]))
    return [started(*tools), *through, *grammar.close(), end]
