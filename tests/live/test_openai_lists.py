"""OpenAI's package where its list of all that was said is longer than a frame may be."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from functools import partial
from typing import Any, Final

import httpx
import openai
import pytest
import pytest_asyncio
from openai import AsyncOpenAI
from tests.live.hostile.wire import request, wire_to
from tests.live.openai_lane import openai_of, user
from tests.live.server import Server
from tests.live.stage import SCRIPT, Lane, shared_server, steps

from isolane.settings import Settings
from isolane.wire.frames import VALUES_MAX

pytestmark = pytest.mark.asyncio(loop_scope="module")

FRAME_BYTES: Final = Settings().limit_frame_bytes
REQUEST_BYTES: Final = Settings().limit_request_bytes
LONG: Final = "x" * (3 * FRAME_BYTES // 4)
"""One word; its answer is as long."""
TURNS: Final = 3
LOOK: Final = steps(["input"])
"""Makes the agent say what it was given."""
Said = list[dict[str, Any]]

server = shared_server(SCRIPT)


@pytest.fixture
def lane(server: Server) -> Lane:
    return Lane(server)


@pytest_asyncio.fixture(loop_scope="module")
async def client(lane: Lane) -> AsyncIterator[AsyncOpenAI]:
    async with openai_of(lane, timeout=60) as made:
        yield made


def roles_given(answer: str | None) -> list[str]:
    """Return whose messages the agent was given, by its own words."""
    return [one["role"] for one in json.loads(answer or "")["messages"]]


@pytest.mark.parametrize("thread", [None, "t"])
async def test_a_completion_goes_on_behind_a_list_longer_than_a_frame(
    client: AsyncOpenAI, thread: str | None
) -> None:
    create: Any = client.chat.completions.create
    headers = {} if thread is None else {"X-Isolane-Thread": thread}
    ask = partial(create, model="script", extra_headers=headers)
    said: Said = []
    for number in range(TURNS):
        said.append({**user(f"{LONG}{number}")})
        made = await ask(messages=said)
        said.append({"role": "assistant", "content": made.choices[0].message.content})
        assert said[-1]["content"].strip() == f"{LONG}{number}"
    assert len(json.dumps(said)) > 4 * FRAME_BYTES
    said.append({**user(LOOK)})
    whole = await ask(messages=said)
    assert roles_given(whole.choices[0].message.content) == ["user", "assistant"] * TURNS + ["user"]
    said += [{"role": "assistant", "content": "seen"}, {**user("word")}]
    chunks = [chunk async for chunk in await ask(messages=said, stream=True)]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == "word "


@pytest.mark.parametrize("more", [{}, {"conversation": "c"}, {"store": False}])
async def test_a_response_goes_on_behind_a_list_longer_than_a_frame(
    client: AsyncOpenAI, more: dict[str, Any]
) -> None:
    create: Any = client.responses.create
    said: Said = []
    for number in range(TURNS):
        said.append({**user(f"{LONG}{number}")})
        made = await create(model="script", input=said, **more)
        said += [one.to_dict() for one in made.output]
    assert len(json.dumps(said)) > 4 * FRAME_BYTES
    made = await create(model="script", input=[*said, user(LOOK)], **more)
    assert roles_given(made.output_text) == ["user", "assistant"] * TURNS + ["user"]


async def test_a_response_goes_on_behind_one_whose_history_is_longer_than_a_frame(
    client: AsyncOpenAI,
) -> None:
    create: Any = client.responses.create
    previous: str | None = None
    for number in range(TURNS):
        made = await create(model="script", input=f"{LONG}{number}", previous_response_id=previous)
        previous = made.id
    made = await create(model="script", input=LOOK, previous_response_id=previous)
    assert roles_given(made.output_text) == ["user", "assistant"] * TURNS + ["user"]


async def test_a_repeated_request_of_a_long_list_reads_the_same_answer(
    client: AsyncOpenAI,
) -> None:
    create: Any = client.chat.completions.create
    said = [user(LONG), {"role": "assistant", "content": LONG}, user("word")]
    ask = partial(create, model="script", extra_headers={"Idempotency-Key": "k"})
    first, again = await ask(messages=said), await ask(messages=said)
    assert (first.id, first.choices) == (again.id, again.choices)
    with pytest.raises(openai.ConflictError):
        await ask(messages=[user(f"{LONG}!"), *said[1:]])


async def refused(server: Server, path: str, body: object) -> openai.APIStatusError:
    """Return what a new user is told, who hasn't to wait for a pace."""
    async with openai_of(Lane(server)) as client:
        with pytest.raises(openai.APIStatusError) as caught:
            await client.post(path, body=body, cast_to=httpx.Response)
    assert caught.value.response.headers["x-should-retry"] == "false"
    return caught.value


@pytest.mark.parametrize("path, name", [("/chat/completions", "messages"), ("/responses", "input")])
async def test_what_is_too_much_is_refused_in_the_words_of_the_api(
    server: Server, path: str, name: str
) -> None:
    old: Said = [{**user(LONG)}, {"role": "assistant", "content": LONG}]
    bodies: dict[str, dict[str, Any]] = {
        "new": {name: [*old, user(LONG), user(LONG)]},
        "beside": {name: [*old, user("word")], "metadata": {"a": LONG + LONG}},
        "values": {name: [*old, user("word")], "stop": [0] * VALUES_MAX},
        "values before": {name: [{**user("a"), "x": [0] * VALUES_MAX}, *old, user("word")]},
        "no list": {name: {"a": LONG + LONG}},
        "text": {name: LONG + LONG},
    }
    for what, body in bodies.items():
        error = await refused(server, path, {"model": "script", **body})
        assert (error.status_code, error.code) == (413, "too_large"), what
        assert error.type == "invalid_request_error"
    wrong = {"model": "script", name: [*old, {"role": "nobody", "content": LONG}, user("word")]}
    error = await refused(server, path, wrong)
    assert (error.status_code, error.code, error.param) == (400, "invalid_input", f"{name}.2.role")


async def test_a_body_above_request_bytes_is_refused_unread(lane: Lane) -> None:
    token, length = f"Authorization: Bearer {lane.token}", f"Content-Length: {REQUEST_BYTES + 1}"
    for path in ("/v1/chat/completions", "/v1/responses"):
        async with wire_to(lane.server.port) as wire:
            await wire.push(request(f"POST {path}", token, length))
            assert await wire.status() == "413"
