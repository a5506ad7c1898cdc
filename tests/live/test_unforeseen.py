"""An error that nobody foresaw ends what it concerns, and whoever was served is told."""

from __future__ import annotations

import pytest
from tests.live.client import Client
from tests.live.event_stream import open_stream
from tests.live.server import Server
from tests.live.stage import Lane, read_to_close, shared_server

pytestmark = pytest.mark.asyncio(loop_scope="module")

server = shared_server("teller=unforeseen:teller", env={"ISOLANE_HEARTBEAT_S": "5"})

ANSWER = "one two three"


@pytest.fixture
def lane(server: Server) -> Lane:
    return Lane(server)


async def assert_told(client: Client, server: Server) -> None:
    """Say that the socket ends with 1011 and an error whose id names one record of the log."""
    frames, close = await read_to_close(client)
    assert close == (1011, "internal")
    error = frames[-1]
    assert (error["type"], error["code"], error["retryable"]) == ("error", "internal", True)
    entry = await server.wait_for_log(lambda entry: entry.get("error_id") == error["errorId"])
    assert entry["chain"][0].startswith("ConnectionFailed: connection conn_")


@pytest.mark.parametrize("thread_id", ["unforeseen-1", "ahead-1"])
async def test_socket_whose_follower_breaks_is_closed_and_resumes(
    lane: Lane, thread_id: str
) -> None:
    held = await lane.server.gauges()
    async with lane.connect() as client:
        follower = await client.subscribe(thread_id)
        await client.run(thread_id, "r-1", "go")
        await assert_told(client, lane.server)
    assert follower.text != ANSWER
    async with lane.connect() as client:
        await client.follow(follower)
        await client.until_true(lambda: follower.has_ended("r-1"))
    assert follower.text == ANSWER
    await lane.server.wait_for_gauges(held)


async def test_socket_that_follows_its_own_run_only_is_told(lane: Lane) -> None:
    async with lane.connect(hello=False) as client:
        await client.run("unforeseen-2", "r-1", "go")
        await assert_told(client, lane.server)
    async with lane.connect(hello=False) as client:
        await client.run("unforeseen-2", "r-1", "go")
        assert (await client.until_end("r-1"))["chunk"]["type"] == "RUN_FINISHED"


async def test_socket_whose_heartbeat_breaks_is_told(server: Server) -> None:
    lane = Lane(server, user="timeless")
    async with lane.connect() as client:
        await assert_told(client, server)
    async with lane.connect() as client:
        await client.subscribe("t")


async def test_event_stream_that_breaks_ends_with_an_error(lane: Lane) -> None:
    body = {
        "threadId": "unforeseen-4",
        "runId": "r-1",
        "state": {},
        "messages": [{"id": "m-1", "role": "user", "content": "go"}],
        "tools": [],
        "context": [],
        "forwardedProps": {},
    }
    async with lane.server.http(lane.token) as http:
        async with open_stream(http, "/agui", body) as stream:
            entries = await stream.rest()
        error = entries[-1].event
        assert (error["type"], error["code"]) == ("RUN_ERROR", "internal")
        found = error["metadata"]["errorId"]
        await lane.server.wait_for_log(lambda entry: entry.get("error_id") == found)
        async with open_stream(http, "/agui", body) as stream:
            assert (await stream.until_end("r-1")).event["type"] == "RUN_FINISHED"


async def test_replay_that_breaks_is_closed_and_begins_anew(lane: Lane) -> None:
    async with lane.connect() as client:
        await client.run("unforeseen-twice", "r-1", "go")
        await assert_told(client, lane.server)
    async with lane.replay("r-1") as client:
        await assert_told(client, lane.server)
    async with lane.replay("r-1") as client:
        frames, close = await read_to_close(client)
    assert close == (1000, "")
    assert frames[-1]["chunk"]["type"] == "RUN_FINISHED"
