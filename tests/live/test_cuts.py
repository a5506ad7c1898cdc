"""A line that is cut after every event of a run: what is applied is what an uncut line brings."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from tests.live.agents import numbered
from tests.live.client import Client, Follower, connect
from tests.live.proxy import Proxy, proxy_to
from tests.live.server import Server
from tests.live.stage import Lane, shared_server
from websockets.exceptions import ConnectionClosed

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]

server = shared_server("slow=agents:slow")

EVENTS = 30
WORDS = EVENTS - 4
QUESTION = f"count {WORDS} every 5ms"
UNCUT = ["RUN_STARTED", "TEXT_MESSAGE_START", *["TEXT_MESSAGE_CONTENT"] * WORDS]
UNCUT += ["TEXT_MESSAGE_END", "RUN_FINISHED"]
AFTER_EVENT = b',"threadId":"t","runId":"r-1"}'
"""How an envelope ends, and nothing else."""
IN_EVENT = b',"chunk":{"type":"'
"""What stands in each envelope once, and leaves half a frame behind."""


@pytest_asyncio.fixture(loop_scope="module")
async def proxy(server: Server) -> AsyncIterator[Proxy]:
    async with proxy_to(server.port) as proxy:
        yield proxy


async def follow_to_the_cut(lane: Lane, proxy: Proxy) -> Follower:
    """Subscribe, run, and return what was applied when the line broke."""
    url = lane.server.websocket_url(address=proxy.address)
    follower: Follower | None = None
    try:
        async with connect(url, lane.token) as client:
            follower = await client.subscribe("t")
            await client.run("t", "r-1", QUESTION)
            while True:
                await client.recv()
    except ConnectionClosed:
        assert follower is not None
    assert proxy.cuts == 1
    return follower


def assert_as_uncut(follower: Follower) -> None:
    assert follower.types == UNCUT
    assert follower.text == numbered(WORDS)


@pytest.mark.parametrize("place", range(1, EVENTS + 1))
async def test_cut_after_any_event_loses_nothing(server: Server, proxy: Proxy, place: int) -> None:
    lane = Lane(server)
    proxy.cut_after(AFTER_EVENT, place)
    applied = await follow_to_the_cut(lane, proxy)
    assert len(applied.envelopes) == place
    by_address = Follower("t", applied.after, list(applied.envelopes))
    # The run goes on meanwhile; both ways to resume come back while events are appended.
    async with lane.connect() as client, lane.replay("r-1", applied.cursor) as replay:
        await client.follow(applied)
        await to_the_end(client, applied)
        replay.followers["t"] = by_address
        assert await replay.closed() == (1000, "")
    assert_as_uncut(applied)
    assert_as_uncut(by_address)


@pytest.mark.parametrize("place", range(1, EVENTS + 1, 4))
async def test_cut_within_any_event_loses_nothing(server: Server, proxy: Proxy, place: int) -> None:
    lane = Lane(server)
    proxy.cut_after(IN_EVENT, place)
    applied = await follow_to_the_cut(lane, proxy)
    assert len(applied.envelopes) == place - 1
    async with lane.connect() as client:
        await client.follow(applied)
        await to_the_end(client, applied)
    assert_as_uncut(applied)


async def test_cut_again_and_again_loses_nothing(server: Server, proxy: Proxy) -> None:
    lane = Lane(server)
    proxy.cut_after(AFTER_EVENT, *[3] * 9)
    applied = await follow_to_the_cut(lane, proxy)
    url = server.websocket_url(address=proxy.address)
    while not applied.has_ended("r-1"):
        try:
            async with connect(url, lane.token) as client:
                await client.follow(applied)
                await to_the_end(client, applied)
        except ConnectionClosed:
            assert len(applied.envelopes) == 3 * proxy.cuts
    assert_as_uncut(applied)
    assert proxy.cuts == 9


async def test_same_run_frame_is_a_way_back_too(server: Server, proxy: Proxy) -> None:
    lane = Lane(server)
    proxy.cut_after(AFTER_EVENT, 10)
    await follow_to_the_cut(lane, proxy)
    again = Follower("t", "any-0")
    async with lane.connect(hello=False) as client:
        client.followers["t"] = again
        await client.run("t", "r-1", QUESTION)
        await client.until_end("r-1")
    assert_as_uncut(again)


async def to_the_end(client: Client, follower: Follower) -> None:
    while not follower.has_ended("r-1"):
        await client.recv()
