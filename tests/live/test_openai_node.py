"""Completions and responses with OpenAI's own JavaScript package."""

from __future__ import annotations

import asyncio
import json
from shutil import which
from typing import Any

import pytest
from tests.live.agui import NODE_FOLDER
from tests.live.openai_lane import (
    CHAT_TOOLS,
    TOOLS,
    calling,
    event,
    finishing,
    user,
)
from tests.live.server import Server
from tests.live.stage import SCRIPT, Lane, shared_server, steps

pytestmark = pytest.mark.asyncio(loop_scope="module")

server = shared_server(SCRIPT, "crash=agents:crash")

THOUGHT = {"messageId": "th"}
MUCH = steps(
    event("REASONING_MESSAGE_START", role="reasoning", **THOUGHT),
    event("REASONING_MESSAGE_CONTENT", delta="Hm", **THOUGHT),
    ["say", "Look. "],
    *calling("a", "theirs", "{}"),
    *calling("b", "mine", '{"x": 1}'),
    ["say", "Done."],
    finishing(usage=[{"inputTokens": 3, "outputTokens": 4}]),
)


@pytest.fixture
def lane(server: Server) -> Lane:
    return Lane(server)


async def order(lane: Lane, what: str, **fields: object) -> Any:  # noqa: ANN401 - JSON
    """Return what the package makes of an answer."""
    node = which("node")
    assert node is not None
    process = await asyncio.create_subprocess_exec(
        node,
        str(NODE_FOLDER / "openai.mjs"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    asked = {"do": what, "baseURL": f"{lane.server.url}/v1", "apiKey": lane.token, **fields}
    told, _ = await process.communicate(json.dumps(asked).encode())
    return json.loads(told)


async def test_a_completion_is_the_same_whole_and_streamed(lane: Lane) -> None:
    body = {"model": "script", "messages": [user(MUCH)], "tools": CHAT_TOOLS}
    whole = (await order(lane, "completion", body=body))["final"]
    streamed = (await order(lane, "completionStream", body=body))["final"]
    for final in (whole, streamed):
        message = final["choices"][0]["message"]
        assert message["content"] == "Look. Done."
        (call,) = message["tool_calls"]
        assert (call["id"], call["function"]["name"]) == ("b", "mine")
        assert call["function"]["arguments"] == '{"x": 1}'
        assert final["choices"][0]["finish_reason"] == "tool_calls"


async def test_a_response_is_summed_up_and_goes_on_after_any_event(lane: Lane) -> None:
    body = {"model": "script", "input": MUCH, "tools": TOOLS}
    heard = await order(lane, "responseStream", body=body)
    final, events = heard["final"], heard["events"]
    assert [item["type"] for item in final["output"]] == [
        "reasoning", "message", "function_call", "message",
    ]  # fmt: skip
    assert final["output_text"] == "Look. Done."
    numbers = [each["sequence_number"] for each in events]
    assert numbers == list(range(len(events)))
    for what in ("responseAfter", "responseEvents"):
        again = await order(lane, what, id=final["id"], after=5)
        assert [each["sequence_number"] for each in again["events"]] == numbers[6:]
    assert (await order(lane, "responseAfter", id=final["id"], after=5))["final"] == final


async def test_what_a_response_was_asked_is_listed(lane: Lane) -> None:
    texts = ["one", "two"]
    body = {"model": "script", "input": [{"role": "user", "content": text} for text in texts]}
    heard = await order(lane, "responseStream", body=body)
    items = (await order(lane, "inputItems", id=heard["final"]["id"]))["items"]
    assert [item["content"][0]["text"] for item in items] == texts[::-1]


async def test_errors_are_the_packages_own(lane: Lane) -> None:
    body = {"model": "nobody", "messages": [user("x")]}
    refused = (await order(lane, "completion", body=body))["error"]
    assert (refused["status"], refused["code"]) == (404, "model_not_found")
    failing = {"model": "crash", "messages": [user("x")]}
    failed = (await order(lane, "completionStream", body=failing))["error"]
    assert failed["code"] == "agent_error"
    unknown = (await order(lane, "responseAfter", id="resp_nobody", after=0))["error"]
    assert (unknown["status"], unknown["code"]) == (404, "not_found")
