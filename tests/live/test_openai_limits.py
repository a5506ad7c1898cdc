"""OpenAI's package at the limits, at restarts, and with a credential that is over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import openai
import pytest
import pytest_asyncio
from openai import AsyncOpenAI
from tests.live.openai_lane import held, open_gate, openai_of, user
from tests.live.server import Server
from tests.live.stage import SCRIPT, Lane, kept_events, own_server, shared_server, steps

pytestmark = pytest.mark.asyncio(loop_scope="module")

FRAME_BYTES: Final = 20_000
server = shared_server(
    SCRIPT,
    env={
        "ISOLANE_LIMIT_RUNS_PER_USER": "1",
        "ISOLANE_LIMIT_CONNECTIONS_PER_USER": "2",
        "ISOLANE_LIMIT_FRAME_BYTES": str(FRAME_BYTES),
        "ISOLANE_REQUEST_THREADS_KEPT_S": "0",
    },
)


@pytest.fixture
def lane(server: Server) -> Lane:
    return Lane(server)


@pytest_asyncio.fixture(loop_scope="module")
async def client(lane: Lane) -> AsyncIterator[AsyncOpenAI]:
    async with openai_of(lane) as made:
        yield made


async def test_what_is_exceeded_is_worth_another_try(lane: Lane, client: AsyncOpenAI) -> None:
    begun = await client.responses.create(model="script", input=steps(*held(lane)), background=True)
    with pytest.raises(openai.RateLimitError) as refused:
        await client.chat.completions.create(model="script", messages=[user("x")])
    assert (refused.value.code, refused.value.type) == ("limit_exceeded", "rate_limit_error")
    headers = refused.value.response.headers
    assert headers["x-should-retry"] == "true"
    assert int(headers["retry-after"]) >= 1
    await client.responses.cancel(begun.id)
    made = await client.chat.completions.create(model="script", messages=[user("x")])
    assert made.choices[0].message.content == "x "


async def test_open_answers_count_as_connections(lane: Lane, client: AsyncOpenAI) -> None:
    begun = await client.responses.create(model="script", input=steps(*held(lane)), background=True)
    readers = [await client.responses.retrieve(begun.id, stream=True) for _ in range(2)]
    with pytest.raises(openai.RateLimitError) as refused:
        await client.responses.retrieve(begun.id, stream=True)
    assert "connectionsPerUser" in refused.value.message
    await open_gate(lane)
    for reader in readers:
        assert [each async for each in reader][-1].type == "response.completed"


async def test_a_body_or_a_history_that_is_too_large_is_refused(client: AsyncOpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as refused:
        await client.chat.completions.create(
            model="script", messages=[user("x" * (FRAME_BYTES + 1))]
        )
    assert (refused.value.status_code, refused.value.code) == (413, "too_large")
    assert refused.value.response.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_an_answer_ends_with_its_credential(
    lane: Lane, client: AsyncOpenAI, *, is_streamed: bool
) -> None:
    create: Any = client.chat.completions.create

    async def read() -> None:
        named = {"X-Isolane-Thread": "t"}
        messages = [user(steps(*held(lane)))]
        made = await create(
            model="script", messages=messages, stream=is_streamed, extra_headers=named
        )
        if is_streamed:
            async for _ in made:
                pass

    async with lane.connect() as watcher:
        reading = asyncio.ensure_future(read())
        await watcher.until_type("thread")
    async with lane.server.http(lane.token) as http:
        assert (await http.delete("/api/sessions")).status_code == 204
    with pytest.raises(openai.APIError) as over:
        await reading
    assert over.value.code == "unauthenticated"


async def test_a_response_is_the_same_after_a_restart(tmp_path: Path) -> None:
    async with own_server(tmp_path / "data", SCRIPT) as own:
        lane = Lane(own)
        async with openai_of(lane) as client:
            ended = await client.responses.create(model="script", input="one two")
            whole = [one async for one in await client.responses.retrieve(ended.id, stream=True)]
            lost = await client.responses.create(
                model="script", input=steps(*held(lane)), background=True
            )
            stream = await client.responses.retrieve(lost.id, stream=True)
            async for each in stream:
                if each.type == "response.output_text.delta":
                    break
            await own.kill()
            await own.start()
            assert (await client.responses.retrieve(ended.id)).output == ended.output
            again = await client.responses.retrieve(ended.id, stream=True)
            assert [one async for one in again] == whole
            rest = await client.responses.retrieve(
                lost.id, stream=True, starting_after=each.sequence_number
            )
            events = [one async for one in rest]
        assert events[0].sequence_number == each.sequence_number + 1
        assert events[-1].type == "response.failed"
        assert events[-1].response.error is not None
        assert "agent_lost" in events[-1].response.error.message


async def test_a_response_whose_events_were_let_go_says_so(tmp_path: Path) -> None:
    async with (
        own_server(tmp_path / "data", SCRIPT, env=kept_events(10)) as own,
        openai_of(Lane(own)) as client,
    ):
        ask = partial(client.responses.create, model="script")
        first = await ask(input="one", conversation="c")
        for number in range(3):
            await ask(input=f"word {number}", conversation="c")
        for is_streamed in (False, True):
            with pytest.raises(openai.APIStatusError) as gone:
                await client.responses.retrieve(first.id, stream=is_streamed)
            assert (gone.value.status_code, gone.value.code) == (410, "resume_expired")
        branch = await ask(input=steps(["recall"]), previous_response_id=first.id)
    assert branch.output_text.startswith("one[")
