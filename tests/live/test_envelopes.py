"""Every frame that the server sends fits into `frameBytes`: clients can take no more."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import pytest
from tests.live.client import Client, begin, run_frame
from tests.live.server import Server
from tests.live.stage import SCRIPT, Lane, kept_events, settled, shared_server, steps
from tests.live.test_examples import run_client
from websockets.asyncio.client import connect as open_websocket

pytestmark = pytest.mark.asyncio(loop_scope="module")

FRAME_BYTES: Final = 1 << 20
EVENT_BYTES: Final = FRAME_BYTES - 512
EVENT: Final = len('{"type":"CUSTOM","name":"blob","value":""}')
LONG: Final = "x" * 127
SMALL_BYTES: Final = 4096

server = shared_server(SCRIPT)
small = shared_server(
    SCRIPT, env={"ISOLANE_LIMIT_FRAME_BYTES": str(SMALL_BYTES), **kept_events(12)}
)
large = shared_server(
    SCRIPT,
    env={"ISOLANE_LIMIT_FRAME_BYTES": str(4 << 20), "ISOLANE_LIMIT_EVENT_BYTES": str(3 << 20)},
)


@asynccontextmanager
async def plain_client(lane: Lane) -> AsyncIterator[Client]:
    """Open a socket with the client of `websockets` as it is: a frame may have a megabyte."""
    async with open_websocket(
        lane.server.websocket_url(), additional_headers={"Authorization": f"Bearer {lane.token}"}
    ) as socket:
        yield await begin(socket, hello=True)


async def test_largest_event_reaches_a_client_whose_frames_have_the_limit(server: Server) -> None:
    lane = Lane(server)
    async with plain_client(lane) as client:
        assert client.welcome is not None
        limits = client.welcome["limits"]
        assert (limits["frameBytes"], limits["eventBytes"]) == (FRAME_BYTES, EVENT_BYTES)
        thread_id, run_id = f"{LONG}t", f"{LONG}r"
        await client.subscribe(thread_id)
        await client.run(thread_id, run_id, steps(["blobs", 1, EVENT_BYTES - EVENT]))
        blob = await client.until_event("CUSTOM")
        assert len(blob["chunk"]["value"]) == EVENT_BYTES - EVENT
        end = await client.until_end(run_id)
        assert end["chunk"]["type"] == "RUN_FINISHED"
        await client.run("t", "r", steps(["blobs", 1, EVENT_BYTES - EVENT + 1]))
        end = await client.until_end("r")
    assert end["chunk"].get("code") == "agent_protocol"
    assert f"at most {EVENT_BYTES} are allowed" in end["chunk"]["message"]


async def test_example_takes_the_frames_of_a_server_whose_limit_is_higher(large: Server) -> None:
    question = steps(["blobs", 2, 2_000_000], ["say", "done"])
    token = Lane(large).token
    told, _, code = await run_client(large.websocket_url(), token=token, question=question)
    assert (told, code) == ("done\n", 0)


def question_of(size: int) -> str:
    """Return a run frame of so many bytes."""
    frame = run_frame("t", "r", "")
    missing = size - len(json.dumps(frame))
    return json.dumps(run_frame("t", "r", "x" * missing))


async def test_question_that_no_frame_can_show_is_refused(server: Server) -> None:
    lane, text = Lane(server), question_of(FRAME_BYTES)
    assert len(text) == FRAME_BYTES
    async with plain_client(lane) as client, server.http(lane.token) as http:
        await client.send(text)
        error = await client.until_type("error")
        assert (error["code"], error["runId"], error["retryable"]) == ("too_large", "r", False)
        assert str(FRAME_BYTES) in error["message"]
        answer = await http.post(
            "/agui", content=text, headers={"content-type": "application/json"}
        )
        assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
        assert (await http.get("/api/threads/t")).status_code == 404
        await client.subscribe("t")
        await client.send(question_of(FRAME_BYTES - 1024))
        started = await client.until_event("RUN_STARTED")
        assert len(started["chunk"]["input"]["messages"][0]["content"]) > FRAME_BYTES - 2048
        assert (await client.until_end("r"))["chunk"]["type"] == "RUN_FINISHED"


async def test_ping_whose_pong_is_larger_than_a_frame_is_refused(small: Server) -> None:
    async with Lane(small).connect() as client:
        await client.send(f'{{"type":"ping","t":[{",".join(["1E15"] * 700)}]}}')
        assert (await client.until_type("error"))["code"] == "too_large"
        await client.send({"type": "ping", "t": [1, 2]})
        assert (await client.until_type("pong"))["t"] == [1, 2]


async def test_gap_of_more_messages_than_a_frame_holds_is_told_without_them(small: Server) -> None:
    lane = Lane(small)
    for number in range(6):
        await lane.play("t", f"r-{number}", "x" * 700)
    async with lane.connect() as client, lane.connect() as other, small.http(lane.token) as http:
        await client.send({"type": "subscribe", "threadId": "t", "after": "another-5"})
        told = await client.until_type("subscribed")
        assert told.keys() == {"type", "threadId", "head", "recovered"}
        assert told["recovered"] is False
        await lane.finish(other, "t", "meanwhile", "hello")
        assert await settled(client) == [], "it isn't followed"
        thread = (await http.get("/api/threads/t")).json()
        assert thread["messages"]
        seen = await client.subscribe("t", thread["head"])
        await lane.finish(other, "t", "later", "hello")
        await client.until_true(lambda: seen.has_ended("later"))
        assert [envelope["runId"] for envelope in seen.envelopes] == ["later"] * len(seen.envelopes)


async def test_gap_whose_messages_fit_is_told_with_them(small: Server) -> None:
    lane = Lane(small)
    for number in range(3):
        await lane.play("t", f"r-{number}", "x" * 300)
    async with lane.connect() as client:
        await client.send({"type": "subscribe", "threadId": "t", "after": "another-5"})
        told = await client.until_type("subscribed")
        assert (told["recovered"], told["messages"][0]["id"]) == (False, "r-0-question")
        await client.until_end("r-2")
