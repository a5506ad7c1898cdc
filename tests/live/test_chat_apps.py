"""Open WebUI and LibreChat at OpenAI's API: what they send, in its shortest form.

Recorded from Open WebUI 0.12.4, and from `@librechat/agents` 3.9.2, which LibreChat asks with.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import pytest_asyncio
from tests.live.issuer import running_issuer
from tests.live.openai_lane import calling, user
from tests.live.server import Server
from tests.live.stage import SCRIPT, Lane, own_server, settled, shared_server, steps

pytestmark = pytest.mark.asyncio(loop_scope="module")

PAGE: Final = "https://chat.example"
"""The origin of an Open WebUI whose users have connections of their own."""
COMPLETIONS: Final = "/v1/chat/completions"
DATA: Final = "data: "
PARAMETERS: Final = {"type": "object", "properties": {}}
CLOCK: Final = {"name": "clock", "description": "Tell the time.", "parameters": PARAMETERS}
TOOLS: Final = [{"type": "function", "function": CLOCK}]
TASK: Final = "### Task:\nGenerate a concise title.\n### Chat History:\nUSER: hello\nASSISTANT: \n"
SEEN: Final = user(steps(["input"]))
"""A question that is answered with what the agent was given."""
IMAGE: Final = "data:image/png;base64,iVBORw0KGgo="

server = shared_server(SCRIPT, "crash=agents:crash", env={"ISOLANE_ALLOWED_ORIGINS": PAGE})


@pytest.fixture
def lane(server: Server) -> Lane:
    return Lane(server)


@pytest_asyncio.fixture(loop_scope="module")
async def http(lane: Lane) -> AsyncIterator[httpx.AsyncClient]:
    async with lane.server.http(lane.token) as client:
        yield client


async def read_chunks(
    http: httpx.AsyncClient, *messages: object, **more: object
) -> list[dict[str, Any]]:
    """Ask as both do for an answer, and return the chunks of the whole stream."""
    body = {"model": "script", "stream": True, "messages": messages, **more}
    answer = await http.post(COMPLETIONS, json=body)
    assert answer.headers["content-type"].startswith("text/event-stream"), answer.text
    *told, last = [line for line in answer.text.splitlines() if line.startswith(DATA)]
    assert last == f"{DATA}[DONE]"
    return [json.loads(line.removeprefix(DATA)) for line in told]


async def read_text(http: httpx.AsyncClient, *messages: object, **more: object) -> str:
    """Ask as both do for an answer, and return its text."""
    chunks = await read_chunks(http, *messages, **more)
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    return "".join(delta.get("content", "") for delta in deltas)


async def read_given(http: httpx.AsyncClient, *messages: object) -> list[dict[str, Any]]:
    """Return the messages that an agent is given of a list and of `SEEN` behind it."""
    given = json.loads(await read_text(http, *messages, SEEN))["messages"]
    assert isinstance(given, list)
    return given


# --- a chat and what is asked about it -----------------------------------------------------------


async def test_a_title_is_asked_beside_the_answer_and_neither_is_in_a_list(
    lane: Lane, http: httpx.AsyncClient
) -> None:
    task = {"model": "script", "stream": False, "max_tokens": 1000, "messages": [user(TASK)]}
    async with lane.connect() as watcher:
        titled, given = await asyncio.gather(
            http.post(COMPLETIONS, json=task), read_given(http, user("hello"))
        )
        assert (await http.get("/api/threads")).json()["threads"] == []
        assert await settled(watcher) == []
    assert titled.json()["choices"][0]["message"]["content"].startswith("### Task:")
    assert [one["content"] for one in given] == ["hello", SEEN["content"]]


async def test_a_title_may_be_asked_for_as_json(http: httpx.AsyncClient) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "extract", "schema": PARAMETERS}}
    body = {"model": "script", "stream": False, "user": "6523a1", "response_format": wanted}
    answer = await http.post(COMPLETIONS, json={**body, "messages": [SEEN]})
    given = json.loads(answer.json()["choices"][0]["message"]["content"])
    about = given["forwardedProps"]["openai"]
    assert about == {"response_format": wanted, "user": "6523a1"}


@pytest.mark.parametrize("said", ["half an ans", ""])
async def test_the_next_question_comes_after_an_answer_that_was_stopped(
    http: httpx.AsyncClient, said: str
) -> None:
    given = await read_given(http, user("hello"), {"role": "assistant", "content": said})
    assert [one["role"] for one in given] == ["user", "assistant", "user"]
    assert given[1]["content"] == said


async def test_the_next_question_comes_after_one_that_failed(http: httpx.AsyncClient) -> None:
    body = {"model": "crash", "stream": True, "messages": [user("hello")]}
    failed = await http.post(COMPLETIONS, json=body)
    assert "agent_error" in failed.text
    given = await read_given(http, user("hello"))
    assert [one["content"] for one in given] == ["hello", SEEN["content"]]


async def test_an_answer_cannot_be_continued(http: httpx.AsyncClient) -> None:
    messages = [user("hello"), {"role": "assistant", "content": "half an ans"}]
    body = {"model": "script", "stream": True, "messages": messages}
    refused = await http.post(COMPLETIONS, json=body)
    assert refused.status_code == 400
    error = refused.json()["error"]
    assert error["param"] == "messages"
    assert "must end in a message of a user" in error["message"]


# --- tools and pictures --------------------------------------------------------------------------


@pytest.mark.parametrize("name", [{}, {"name": "clock"}])
async def test_a_tool_of_the_applications_is_called_and_answered(
    http: httpx.AsyncClient, name: dict[str, str]
) -> None:
    asked = user(steps(*calling("c", "clock", "")))
    chunks = await read_chunks(http, asked, tools=TOOLS)
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"
    called = {"id": "c", "type": "function", "function": {"name": "clock", "arguments": "{}"}}
    said = {"role": "assistant", "content": "", "tool_calls": [called]}
    result = {"role": "tool", "tool_call_id": "c", "content": "noon", **name}
    given = json.loads(await read_text(http, SEEN, said, result, tools=TOOLS))["messages"]
    assert [one["role"] for one in given] == ["user", "assistant", "tool"]
    assert given[1]["toolCalls"] == [called]
    assert (given[2]["toolCallId"], given[2]["content"]) == ("c", "noon")


async def test_a_picture_stands_behind_texts(http: httpx.AsyncClient) -> None:
    parts = [
        {"type": "text", "text": "<attached_files></attached_files>"},
        {"type": "text", "text": "see"},
        {"type": "image_url", "image_url": {"url": IMAGE, "detail": "auto"}},
    ]
    given = await read_given(http, {"role": "user", "content": parts})
    assert [part["type"] for part in given[0]["content"]] == ["text", "text", "image"]
    assert given[0]["content"][2]["source"]["mimeType"] == "image/png"


# --- a lane for each person ----------------------------------------------------------------------


async def test_a_connection_of_a_persons_own_is_asked_by_the_page(
    server: Server, http: httpx.AsyncClient
) -> None:
    asked = {"Origin": PAGE, "Access-Control-Request-Headers": "authorization,content-type"}
    for path, method in (("/v1/models", "GET"), (COMPLETIONS, "POST")):
        async with server.http() as anyone:
            preflight = await anyone.options(
                path, headers={**asked, "Access-Control-Request-Method": method}
            )
        assert preflight.headers["access-control-allow-origin"] == PAGE
        assert preflight.headers["access-control-allow-headers"] == "authorization,content-type"
    models = await http.get("/v1/models", headers={"Origin": PAGE})
    assert models.headers["access-control-allow-origin"] == PAGE
    answer = await http.post(
        COMPLETIONS,
        json={"model": "script", "stream": True, "messages": [user("one")]},
        headers={"Origin": PAGE},
    )
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert '"content":"one "' in answer.text


async def test_people_who_signed_in_at_the_provider_have_lanes_of_their_own(
    tmp_path: Path,
) -> None:
    async with running_issuer() as corp:
        known = json.dumps([corp.settings])
        async with own_server(tmp_path, SCRIPT, env={"ISOLANE_PROVIDERS": known}) as server:
            for name in ("ada", "bob"):
                async with server.http(corp.token(name)) as http:
                    told = await read_text(http, user(steps(["who"])))
                assert json.loads(told) == [f"corp|{name}", corp.url, name]
