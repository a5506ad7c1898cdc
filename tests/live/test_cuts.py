"""A line that is cut after every event of a run: what is applied is what an uncut line brings.

The run goes on all the while. Cuts are of three kinds, there are two ways back, and one or two
devices that come back; the gate takes one combination an event, and the soak takes them all.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import product
from typing import Final, NamedTuple

import pytest
import pytest_asyncio
from tests.live.agents import numbered
from tests.live.client import Client, Follower, connect
from tests.live.proxy import Proxy, proxy_to
from tests.live.server import Server
from tests.live.stage import Lane, shared_server
from websockets.exceptions import ConnectionClosed

pytestmark = pytest.mark.asyncio(loop_scope="module")

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
APART = 4
"""How many events lie between the cursors of two devices."""


class Cut(NamedTuple):
    """How a line is lost, and how one comes back."""

    kind: str
    way: str
    devices: int


KINDS: Final = ("reset", "goodbye", "within")
"""A reset behind an event, an orderly close behind it, and a reset in the middle of its frame."""
WAYS: Final = ("subscribe", "address")
CUTS: Final = [Cut(*each) for each in product(KINDS, WAYS, (1, 2))]


def name(value: Cut | int) -> str:
    """Return how a case is called."""
    return "-".join(map(str, value)) if isinstance(value, Cut) else str(value)


@dataclass(frozen=True)
class Device:
    """One of the user's devices, whose line can be cut."""

    lane: Lane
    proxy: Proxy
    client: Client
    follower: Follower

    def aim(self, kind: str, place: int) -> None:
        """Say where the line is to be cut, unless the device itself will say goodbye."""
        if kind != "goodbye":
            self.proxy.cut_after(AFTER_EVENT if kind == "reset" else IN_EVENT, place)

    async def follow_to_the_cut(self, kind: str, place: int) -> None:
        """Apply what comes until the line is lost at the event `place`."""
        if kind == "goodbye":
            await self.client.until_true(lambda: len(self.follower.envelopes) == place)
            await self.client.socket.close()
        else:
            assert (await self.client.closed())[0] == 1006
            assert self.proxy.cuts == 1
        assert len(self.follower.envelopes) == place - (kind == "within")

    async def come_back(self, way: str) -> None:
        """Resume from what was applied, and go on to the run's end."""
        if way == "subscribe":
            async with self.lane.connect() as client:
                await client.follow(self.follower)
                await to_the_end(client, self.follower)
            return
        async with self.lane.replay("r-1", self.follower.cursor) as client:
            client.followers["t"] = self.follower
            assert await client.closed() == (1000, "")


@asynccontextmanager
async def open_device(lane: Lane) -> AsyncIterator[Device]:
    """Follow the thread over a line of its own."""
    async with proxy_to(lane.server.port) as proxy:
        url = lane.server.websocket_url(address=proxy.address)
        async with connect(url, lane.token) as client:
            yield Device(lane, proxy, client, await client.subscribe("t"))


@pytest.mark.parametrize(
    "place,cut", [(place, CUTS[place % len(CUTS)]) for place in range(1, EVENTS + 1)], ids=name
)
async def test_cut_at_any_event_loses_nothing(server: Server, place: int, cut: Cut) -> None:
    await lose_and_come_back(Lane(server), cut, place)


@pytest.mark.soak
@pytest.mark.parametrize("cut", CUTS, ids=name)
async def test_every_cut_at_every_event_loses_nothing(server: Server, cut: Cut) -> None:
    for place in range(1, EVENTS + 1):
        await lose_and_come_back(Lane(server), cut, place)


async def lose_and_come_back(lane: Lane, cut: Cut, place: int) -> None:
    """Cut the devices' lines at `place` and at another event, and let them come back at once."""
    other = place - APART if place > APART else place + APART
    places = (place, other)[: cut.devices]
    async with lane.connect() as witness, AsyncExitStack() as stack:
        uncut = await witness.subscribe("t")
        devices = [await stack.enter_async_context(open_device(lane)) for _ in places]
        for device, at in zip(devices, places, strict=True):
            device.aim(cut.kind, at)
        await witness.run("t", "r-1", QUESTION)
        cuts = zip(devices, places, strict=True)
        await asyncio.gather(*(device.follow_to_the_cut(cut.kind, at) for device, at in cuts))
        await asyncio.gather(*(d.come_back(way) for d, way in zip(devices, ways(cut), strict=True)))
        await to_the_end(witness, uncut)
    assert_as_uncut(uncut)
    for device in devices:
        assert device.follower.envelopes == uncut.envelopes


def ways(cut: Cut) -> Sequence[str]:
    """Return how each device comes back: the second one the other way."""
    return (cut.way, *(way for way in WAYS if way != cut.way))[: cut.devices]


def assert_as_uncut(follower: Follower) -> None:
    assert follower.types == UNCUT
    assert follower.text == numbered(WORDS)


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
