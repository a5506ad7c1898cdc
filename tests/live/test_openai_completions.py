"""Chat Completions with OpenAI's own Python package."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionMessage
from tests.live.client import RECV_TIMEOUT_S
from tests.live.openai_lane import CHAT_TOOLS, calling, finishing, held, open_gate, openai_of, user
from tests.live.proxy import proxy_to
from tests.live.server import POLL_S, Server
from tests.live.stage import SCRIPT, Lane, mint, settled, shared_server, steps

pytestmark = pytest.mark.asyncio(loop_scope="module")

server = shared_server(SCRIPT, "crash=agents:crash", "rambler=protocol_agents:rambler")


@pytest.fixture
def lane(server: Server) -> Lane:
    return Lane(server)


@pytest_asyncio.fixture(loop_scope="module")
async def http(lane: Lane) -> AsyncIterator[httpx.AsyncClient]:
    async with lane.server.http(lane.token) as client:
        yield client


@pytest_asyncio.fixture(loop_scope="module")
async def client(lane: Lane) -> AsyncIterator[AsyncOpenAI]:
    async with openai_of(lane) as made:
        yield made


def calls_of(message: ChatCompletionMessage) -> list[tuple[str, str, str]]:
    return [
        (each.id, each.function.name, each.function.arguments)
        for each in message.tool_calls or ()
        if each.type == "function"
    ]


# --- models --------------------------------------------------------------------------------------


async def test_agents_are_models(client: AsyncOpenAI) -> None:
    listed = [model async for model in client.models.list()]
    assert [model.id for model in listed] == ["script", "crash", "rambler"]
    assert (await client.models.retrieve("crash")).owned_by == "isolane"
    with pytest.raises(openai.NotFoundError) as refused:
        await client.models.retrieve("nobody")
    assert refused.value.code == "model_not_found"


# --- answers -------------------------------------------------------------------------------------


async def test_a_completion_comes_whole(client: AsyncOpenAI) -> None:
    made = await client.chat.completions.create(model="script", messages=[user("one two")])
    assert made.choices[0].message.content == "one two "
    assert made.choices[0].finish_reason == "stop"
    assert made.model == "script"


async def test_a_completion_comes_in_chunks(client: AsyncOpenAI) -> None:
    stream = client.chat.completions.stream(model="script", messages=[user("one two")])
    async with stream as chunks:
        deltas = [each.delta async for each in chunks if each.type == "content.delta"]
        final = await chunks.get_final_completion()
    assert deltas == ["", "one ", "two "]
    assert final.choices[0].message.content == "one two "


async def test_only_the_callers_tools_are_told(client: AsyncOpenAI) -> None:
    told = steps(*calling("a", "theirs", "{}"), *calling("b", "mine", '{"x": 1}'))
    made = await client.chat.completions.create(
        model="script", messages=[user(told)], tools=CHAT_TOOLS
    )
    assert calls_of(made.choices[0].message) == [("b", "mine", '{"x": 1}')]
    assert made.choices[0].finish_reason == "tool_calls"
    async with client.chat.completions.stream(
        model="script", messages=[user(told)], tools=CHAT_TOOLS
    ) as chunks:
        final = await chunks.get_final_completion()
    assert calls_of(final.choices[0].message) == [("b", "mine", '{"x": 1}')]


async def test_usage_is_told_when_it_is_wanted(client: AsyncOpenAI) -> None:
    end = finishing(usage=[{"inputTokens": 3}])
    stream = await client.chat.completions.create(
        model="script",
        messages=[user(steps(["say", "x"], end))],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    assert [chunk.usage is None for chunk in chunks] == [True] * (len(chunks) - 1) + [False]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 3


async def test_the_agent_is_given_tools_and_parameters(client: AsyncOpenAI) -> None:
    made = await client.chat.completions.create(
        model="script", messages=[user(steps(["input"]))], tools=CHAT_TOOLS, temperature=0.5
    )
    given = json.loads(made.choices[0].message.content or "")
    assert given["tools"][0] == {
        "name": "mine", "description": "", "parameters": {"type": "object"},
    }  # fmt: skip
    assert given["forwardedProps"]["openai"] == {"temperature": 0.5}


# --- threads -------------------------------------------------------------------------------------


async def test_a_named_thread_keeps_the_history(lane: Lane, client: AsyncOpenAI) -> None:
    named = {"X-Isolane-Thread": "t-1"}
    for text in ("one", "two"):
        await client.chat.completions.create(
            model="script", messages=[user(text)], extra_headers=named
        )
    raw = await client.chat.completions.with_raw_response.create(
        model="script",
        messages=[user("not this"), {"role": "assistant", "content": "x"}, user(steps(["recall"]))],
        metadata={"isolane_thread": "t-1"},
    )
    recalled = raw.parse().choices[0].message.content or ""
    assert recalled.startswith("onetwo[")
    assert raw.headers["x-isolane-thread"] == "t-1"
    assert f"chatcmpl-{raw.headers['x-isolane-run']}" == raw.parse().id
    assert raw.headers["x-request-id"].startswith("req_")
    assert (await lane.load_log("t-1")).text.startswith("one two onetwo[")


async def test_without_a_thread_the_list_is_the_conversation(
    lane: Lane, http: httpx.AsyncClient, client: AsyncOpenAI
) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "mine", "arguments": "{}"}}
    messages: list[Any] = [
        {"role": "system", "content": "Be brief."},
        user("one"),
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "42"},
        user(steps(["input"], ["claimed"])),
    ]
    made = await client.chat.completions.create(model="script", messages=messages)
    told, claimed = (made.choices[0].message.content or "").split("claimed: ")
    given = json.loads(told)["messages"]
    assert [one["role"] for one in given] == ["system", "user", "assistant", "tool", "user"]
    assert given[2]["toolCalls"][0]["id"] == given[3]["toolCallId"] == "c"
    assert claimed == "True"
    assert (await http.get("/api/threads")).json()["threads"] == []
    async with lane.connect() as watcher:
        alone = await client.chat.completions.create(
            model="script", messages=[user(steps(["claimed"]))]
        )
        assert await settled(watcher) == []
    assert alone.choices[0].message.content == "claimed: False"


async def test_a_call_id_that_comes_again_in_a_list_has_an_answer_of_its_own(
    client: AsyncOpenAI,
) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "mine", "arguments": "{}"}}
    messages: list[Any] = [user(steps(["input"]))]
    for said in ("42", "43"):
        messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
        messages.append({"role": "tool", "tool_call_id": "c", "content": said})
    made = await client.chat.completions.create(model="script", messages=messages)
    given = json.loads(made.choices[0].message.content or "")["messages"]
    assert [one["content"] for one in given if one["role"] == "tool"] == ["42", "43"]


async def test_a_stored_completion_has_a_thread_in_the_list(
    http: httpx.AsyncClient, client: AsyncOpenAI
) -> None:
    raw = await client.chat.completions.with_raw_response.create(
        model="script", messages=[user("one")], store=True
    )
    (thread,) = (await http.get("/api/threads")).json()["threads"]
    assert thread["threadId"] == raw.headers["x-isolane-thread"]


async def test_leaving_stops_a_run_without_a_thread(
    http: httpx.AsyncClient, client: AsyncOpenAI, lane: Lane
) -> None:
    stream = await client.chat.completions.create(
        model="script", messages=[user(steps(*held(lane)))], stream=True
    )
    address = f"/api/runs/{stream.response.headers['x-isolane-run']}"
    await stream.close()
    async with asyncio.timeout(RECV_TIMEOUT_S):
        while (  # noqa: ASYNC110 - of such a thread nobody is told
            run := (await http.get(address)).json()
        )["state"] != "ended":
            await asyncio.sleep(POLL_S)
    assert (run["outcome"], run["stop"]["by"]) == ("cancelled", "agent")


# --- errors --------------------------------------------------------------------------------------


async def test_a_failed_run_is_an_error(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.InternalServerError) as failed:
        await client.chat.completions.create(model="crash", messages=[user("x")])
    assert failed.value.code == "agent_error"
    assert failed.value.response.headers["x-should-retry"] == "false"
    stream = await client.chat.completions.create(model="crash", messages=[user("x")], stream=True)
    with pytest.raises(openai.APIError) as told:
        async for _ in stream:
            pass
    assert told.value.code == "agent_error"
    assert "err_" in told.value.message


async def test_a_failed_run_is_not_asked_again_by_the_package(lane: Lane) -> None:
    async with openai_of(lane, max_retries=2) as client:
        with pytest.raises(openai.InternalServerError):
            await client.chat.completions.create(
                model="crash", messages=[user("x")], extra_headers={"X-Isolane-Thread": "t"}
            )
    log = await lane.load_log("t")
    assert [one["type"] for one in log.events].count("RUN_STARTED") == 1


async def test_what_is_refused_says_so_in_the_words_of_the_api(
    lane: Lane, client: AsyncOpenAI
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await client.chat.completions.create(model="script", messages=[user("x")], n=2)
    assert (refused.value.code, refused.value.param) == ("invalid_input", "n")
    assert refused.value.type == "invalid_request_error"
    with pytest.raises(openai.NotFoundError) as unknown:
        await client.chat.completions.create(model="nobody", messages=[user("x")])
    assert unknown.value.code == "model_not_found"
    strange, old = mint(lane.user, key="x" * 32), mint(lane.user, expires_s=-100)
    for token, reason in ((strange, "invalid"), (old, "expired")):
        async with openai_of(lane, api_key=token) as stranger:
            with pytest.raises(openai.AuthenticationError) as untrusted:
                await stranger.chat.completions.create(model="script", messages=[user("x")])
            assert untrusted.value.type == "authentication_error"
            assert f"(unauthenticated, {reason}, err_" in untrusted.value.message
            assert untrusted.value.response.headers["www-authenticate"] == "Bearer"


async def test_a_body_that_is_no_json_is_refused(http: httpx.AsyncClient) -> None:
    for body in (b"", b"[]", b"{", b'{"a":1,"a":2}', b"[" * 100_000):
        answer = await http.post("/v1/chat/completions", content=body)
        assert answer.status_code == 400, body[:20]
        assert answer.json()["error"]["code"] == "invalid_frame"
        assert answer.headers["x-should-retry"] == "false"


async def test_a_compressed_body_is_refused_at_every_door(http: httpx.AsyncClient) -> None:
    for path in ("/v1/chat/completions", "/v1/responses", "/ai/chat", "/agui"):
        answer = await http.post(path, content=b"x", headers={"content-encoding": "gzip"})
        assert answer.status_code == 400
        assert "may not be compressed" in answer.text, path
        plain = await http.post(path, content=b"x", headers={"content-encoding": "identity"})
        assert "not JSON" in plain.text, path


async def test_an_empty_key_is_refused(client: AsyncOpenAI) -> None:
    """It would make one request of all that have it."""
    with pytest.raises(openai.BadRequestError) as refused:
        await client.chat.completions.create(
            model="script", messages=[user("x")], extra_headers={"Idempotency-Key": ""}
        )
    assert refused.value.param == "idempotency-key"


# --- leaving -------------------------------------------------------------------------------------


async def ended(lane: Lane, http: httpx.AsyncClient, run_id: str) -> Any:  # noqa: ANN401 - JSON
    """Return a run once it has ended, without counting as its reader."""
    async with lane.connect() as watcher:
        while (run := (await http.get(f"/api/runs/{run_id}")).json())["state"] != "ended":
            await watcher.until_type("thread")
    return run


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_leaving_stops_the_run(
    lane: Lane, http: httpx.AsyncClient, client: AsyncOpenAI, *, is_streamed: bool
) -> None:
    named = {"X-Isolane-Thread": "t"}
    body: dict[str, Any] = {"messages": [user(steps(*held(lane)))], "stream": is_streamed}
    async with lane.connect() as watcher:
        asking = asyncio.ensure_future(
            client.chat.completions.create(model="script", extra_headers=named, **body)
        )
        run_id = (await watcher.until_type("thread"))["activeRunId"]
    if is_streamed:
        await (await asking).close()
    else:
        asking.cancel()
        await asyncio.wait({asking})
    run = await ended(lane, http, run_id)
    assert (run["outcome"], run["stop"]["by"]) == ("cancelled", "agent")


async def test_a_run_on_a_thread_may_go_on_without_its_reader(
    lane: Lane, http: httpx.AsyncClient, client: AsyncOpenAI
) -> None:
    stream = await client.chat.completions.create(
        model="script",
        messages=[user(steps(*held(lane)))],
        stream=True,
        extra_headers={"X-Isolane-Thread": "t", "X-Isolane-On-Disconnect": "continue"},
    )
    run_id = stream.response.headers["x-isolane-run"]
    await stream.close()
    await open_gate(lane)
    assert (await ended(lane, http, run_id))["outcome"] == "success"


@pytest.mark.parametrize("leaving", ["continue", "perhaps"])
async def test_a_run_that_nobody_finds_again_cannot_go_on(
    client: AsyncOpenAI, leaving: str
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await client.chat.completions.create(
            model="script",
            messages=[user("x")],
            extra_headers={"X-Isolane-On-Disconnect": leaving},
        )
    assert refused.value.param == "x-isolane-on-disconnect"


# --- the same request again ----------------------------------------------------------------------


async def test_a_repeated_request_reads_the_same_answer(lane: Lane, client: AsyncOpenAI) -> None:
    key = {"Idempotency-Key": f"{lane.user} once"}
    asked: dict[str, Any] = {"model": "script", "extra_headers": key}
    before: list[Any] = [user("zero"), {"role": "assistant", "content": "x"}]
    first = await client.chat.completions.create(messages=[*before, user("one")], **asked)
    again = await client.chat.completions.create(messages=[*before, user("one")], **asked)
    assert again == first
    with pytest.raises(openai.ConflictError) as other:
        await client.chat.completions.create(messages=[user("two")], **asked)
    assert other.value.response.headers["x-should-retry"] == "false"
    async with openai_of(Lane(lane.server)) as stranger:
        theirs = await stranger.chat.completions.create(messages=[user("two")], **asked)
    assert theirs.choices[0].message.content == "two "


async def test_a_broken_line_does_not_run_an_agent_twice(lane: Lane) -> None:
    headers = {"Idempotency-Key": lane.user, "X-Isolane-Thread": "t"}
    async with (
        proxy_to(lane.server.port) as proxy,
        lane.connect() as watcher,
        openai_of(lane, max_retries=2, base_url=f"http://{proxy.address}/v1") as client,
    ):
        asking = asyncio.ensure_future(
            client.chat.completions.create(
                model="script", messages=[user(steps(*held(lane)))], extra_headers=headers
            )
        )
        run_id = (await watcher.until_type("thread"))["activeRunId"]
        proxy.cut()
        await open_gate(lane)
        made = await asking
    assert made.id == f"chatcmpl-{run_id}"
    assert made.choices[0].message.content == "a b "
