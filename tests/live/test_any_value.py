"""Any JSON value in any place of a body: clients are told what is wrong, and nothing breaks."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, Final

import pytest
from tests.live.server import Server
from tests.live.stage import SCRIPT, Lane, shared_server

pytestmark = pytest.mark.asyncio(loop_scope="module")
server = shared_server(
    SCRIPT,
    env={
        "ISOLANE_LIMIT_FRAMES_PER_MINUTE": "100000",
        "ISOLANE_LIMIT_RUNS_PER_USER": "1000",
        "ISOLANE_LIMIT_QUEUED_RUNS_PER_THREAD": "1000",
    },
)

VALUES: Final[tuple[object, ...]] = ([], {}, [[]], [{}], 1, -1.5, None, True, "", "x")
TEXT: Final = {"type": "text", "text": "hello"}
BODIES: Final[dict[str, dict[str, Any]]] = {
    "/agui": {
        "threadId": "t",
        "runId": "r",
        "state": {},
        "messages": [
            {"id": "m", "role": "user", "content": [TEXT]},
            {
                "id": "a",
                "role": "assistant",
                "toolCalls": [
                    {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
                ],
            },
            {"id": "n", "role": "tool", "toolCallId": "c", "content": "done"},
        ],
        "tools": [{"name": "f", "description": "", "parameters": {}}],
        "context": [{"description": "d", "value": "v"}],
        "forwardedProps": {"policy": "queue"},
        "resume": [{"interruptId": "i", "status": "resolved", "payload": {}}],
    },
    "/ai/chat": {
        "id": "t",
        "trigger": "submit-message",
        "messageId": "m",
        "messages": [
            {"id": "u", "role": "user", "parts": [TEXT]},
            {
                "id": "a",
                "role": "assistant",
                "parts": [
                    {
                        "type": "tool-f",
                        "toolCallId": "c",
                        "state": "output-available",
                        "input": {},
                        "output": "done",
                        "approval": {"id": "p", "approved": True},
                    }
                ],
            },
            {"id": "m", "role": "user", "parts": [TEXT], "metadata": {}},
        ],
    },
    "/v1/chat/completions": {
        "model": "script",
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": [TEXT], "name": "n"},
            {
                "role": "assistant",
                "tool_calls": [
                    {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
                ],
            },
            {"role": "tool", "tool_call_id": "c", "content": "done"},
        ],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
        "tool_choice": "auto",
        "stream": False,
        "stream_options": {"include_usage": True},
        "metadata": {"k": "v"},
    },
    "/v1/responses": {
        "model": "script",
        "instructions": "be brief",
        "input": [
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "done"},
        ],
        "tools": [{"type": "function", "name": "f", "parameters": {}}],
        "tool_choice": "auto",
        "metadata": {"k": "v"},
        "conversation": "t",
        "store": False,
    },
}


def places_of(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:  # noqa: ANN401
    """Yield the path of every value inside."""
    inside = value.items() if isinstance(value, dict) else enumerate(value)
    for name, one in inside:
        yield (*at, name)
        if isinstance(one, dict | list):
            yield from places_of(one, (*at, name))


def replaced(body: dict[str, Any], place: tuple[Any, ...], value: object) -> dict[str, Any]:
    changed: Any = copy.deepcopy(body)
    parent = changed
    for name in place[:-1]:
        parent = parent[name]
    parent[place[-1]] = value
    return changed  # type: ignore[no-any-return]


@pytest.fixture
def lane(server: Server) -> Lane:
    return Lane(server)


@pytest.mark.parametrize("path", BODIES)
async def test_any_value_in_any_place_is_no_failure_of_the_server(lane: Lane, path: str) -> None:
    body = BODIES[path]
    async with lane.server.http(lane.token) as http:
        for place in places_of(body):
            for value in VALUES:
                async with http.stream("POST", path, json=replaced(body, place, value)) as answer:
                    assert answer.status_code < 500, (place, value)
