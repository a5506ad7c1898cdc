"""Clients that never read: they are let go of, and cost nobody else memory or time."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from time import monotonic
from typing import Final

import pytest
from tests.live.client import Client, Frame, parse_id
from tests.live.crowd import Member, crowd
from tests.live.stage import SCRIPT, Lane, own_server, steps
from tests.live.tcp import held_for, small_socket, wait_until_let_go
from websockets.asyncio.client import connect as open_websocket

pytestmark = pytest.mark.alone

# --- one reader ----------------------------------------------------------------------------------

SEND_TIMEOUT_S: Final = 1.0
GONE_WITHIN_S: Final = 3.0
IMPATIENT: Final = {"ISOLANE_SEND_TIMEOUT_S": str(SEND_TIMEOUT_S), "ISOLANE_HEARTBEAT_S": "60"}
"""No heartbeat comes in between: it is the send timeout that lets go."""
FLOOD: Final = steps(["blobs", 60, 50_000])


@asynccontextmanager
async def lazy_client(lane: Lane) -> AsyncIterator[Client]:
    """Open a socket whose client reads only what `recv()` asks for, one frame ahead."""
    async with open_websocket(
        lane.server.websocket_url(),
        sock=small_socket(lane.server.port),
        additional_headers={"Authorization": f"Bearer {lane.token}"},
        compression=None,
        max_size=None,
        max_queue=1,
        proxy=None,
        ping_interval=None,
        close_timeout=1,
    ) as own:
        client = Client(own)
        await client.send({"type": "hello", "v": 1})
        await client.until_type("welcome")
        yield client


async def test_socket_that_takes_nothing_is_let_go_of_by_the_kernel_too(tmp_path: Path) -> None:
    async with own_server(tmp_path, SCRIPT, env=IMPATIENT) as server:
        lane = Lane(server)
        baseline = await server.gauges()
        async with lazy_client(lane) as client:
            port = client.socket.local_address[1]
            seen = await client.subscribe("t")
            await lane.play("t", "r-1", "read this")
            await client.until_true(lambda: seen.has_ended("r-1"))
            await lane.play("t", "r-2", FLOOD)
            await server.wait_for_gauges(baseline, within_s=SEND_TIMEOUT_S + GONE_WITHIN_S)
            await wait_until_let_go(server, port, within_s=GONE_WITHIN_S)
            # What had come so far is whole frames, in order; then the line is broken.
            assert (await client.closed())[0] in {1006, 4409}
        assert not seen.has_ended("r-2")
        async with lane.connect() as back:
            await back.follow(seen)
            await back.until_true(lambda: seen.has_ended("r-2"))
        assert seen.envelopes == (await lane.load_log("t")).envelopes


async def test_event_stream_that_nobody_reads_is_let_go_of_by_the_kernel_too(
    tmp_path: Path,
) -> None:
    async with own_server(tmp_path, SCRIPT, env=IMPATIENT) as server:
        lane = Lane(server)
        await lane.play("t", "r-1", "word")
        baseline = await server.gauges()
        own = small_socket(server.port)
        reader, writer = await asyncio.open_connection(sock=own, limit=1)
        try:
            port = own.getsockname()[1]
            lines = [
                *("GET /api/threads/t/events HTTP/1.1", f"Host: {server.address}"),
                f"Authorization: Bearer {lane.token}",
            ]
            writer.write("\r\n".join([*lines, "", ""]).encode())
            assert await reader.readexactly(12) == b"HTTP/1.1 200"
            await lane.play("t", "r-2", FLOOD)
            await server.wait_for_gauges(baseline, within_s=SEND_TIMEOUT_S + GONE_WITHIN_S)
            await wait_until_let_go(server, port, within_s=GONE_WITHIN_S)
        finally:
            writer.transport.abort()


# --- a crowd -------------------------------------------------------------------------------------

USERS: Final = 10
HONEST_EACH: Final = 45
DEAF_EACH: Final = 5
DEAF: Final = USERS * DEAF_EACH
WINDOWS: Final = 2
"""The better of so many counts: whatever else the machine does only adds."""
EVENTS: Final = 12
EVERY_S: Final = 0.25
SIZE: Final = 8192
FLOOD_EVENTS: Final = 60
FLOOD_SIZE: Final = 64 * 1024
"""Three times that many go to each deaf one, some 12 MB: twice before they come, and once when they
are there. Nothing of the sort may be kept for any of them."""
KIB_EACH_MAX: Final = 2048
"""For one that never reads: a batch of 256 KiB and one event more, as they were read and as they go
out, what the transport takes before it says stop, the connection itself; and as much again for what
the heap doesn't give back."""
KIB_A_THREAD_MAX: Final = 4096
"""For a thread that is followed: a window of 1 MiB, and one event more, read and as they go out."""
RATIO_MAX: Final = 3.0
NOISE_S: Final = 0.1
CROWD: Final = {
    "ISOLANE_LIMIT_CONNECTIONS_PER_USER": str(HONEST_EACH + DEAF_EACH + 5),
    "ISOLANE_SEND_TIMEOUT_S": "100",  # they are to stay
    "ISOLANE_HEARTBEAT_S": "100",
}


@pytest.mark.usefixtures("room_for_many")
async def test_readers_that_never_read_cost_neither_memory_nor_time(tmp_path: Path) -> None:
    """450 clients are told the time, first alone and then beside 50 that never read.

    All clients live in this process: what it is late itself is in both figures. The promise's own
    bound, 250 ms for p99, is for a machine that does nothing else.
    """
    async with (
        own_server(tmp_path, SCRIPT, "clock=fault_agents:clock", env=CROWD) as server,
        crowd() as honest,
        crowd() as deaf,
    ):
        lanes = [Lane(server) for _ in range(USERS)]
        for _ in range(2):  # once more than it takes, so that the heap has had its worst hour
            await asyncio.gather(*(flood(lane) for lane in lanes))
        for lane in lanes * HONEST_EACH:
            honest.append(await Member.join(lane))
            await honest[-1].subscribe("t")
        alone_s = await best_p99_s(lanes, honest, "alone")
        kib = server.resident_kib()
        deaf += [await join_deaf(lane) for lane in lanes * DEAF_EACH]
        await asyncio.gather(*(flood(lane) for lane in lanes))
        beside_s = await best_p99_s(lanes, honest, "beside")
        grown_kib = server.resident_kib() - kib
        sys.stdout.write(f"\np99 {alone_s:.3f} s, {beside_s:.3f} s; {grown_kib} KiB for {DEAF}\n")
        for member in deaf:
            assert any(row.unsent for row in held_for(server, member.port)), "it is not stuck"
        assert not any(member.is_lost for member in honest + deaf)
    for member in honest:
        assert_every_event_in_order(member)
    assert grown_kib < DEAF * KIB_EACH_MAX + USERS * KIB_A_THREAD_MAX
    assert beside_s < alone_s * RATIO_MAX + NOISE_S


async def flood(lane: Lane) -> None:
    """Write some megabytes into a thread that nobody honest follows."""
    async with lane.connect(agent="script", hello=False) as client:
        run_id = f"flood-{monotonic()}"
        text = steps(["blobs", FLOOD_EVENTS, FLOOD_SIZE])
        await client.send({"type": "hello", "v": 1})
        await client.run("flood", run_id, text)
        await client.until_end(run_id, timeout_s=60)


async def join_deaf(lane: Lane) -> Member:
    """Follow all there is, and read nothing of it."""
    member = await Member.join(lane, is_deaf=True)
    for thread_id in ("flood", "t"):
        member.send({"type": "subscribe", "threadId": thread_id})
    member.go_deaf()
    return member


async def best_p99_s(lanes: Sequence[Lane], members: Sequence[Member], name: str) -> float:
    """Return the p99 delay of the better window, in seconds."""
    return min([await p99_s(lanes, members, f"{name}-{n}") for n in range(WINDOWS)])


async def p99_s(lanes: Sequence[Lane], members: Sequence[Member], run_id: str) -> float:
    """Let each user's agent tell the time, and return the p99 delay over all members, in seconds.

    The users' events are spread evenly over their interval.
    """
    before = [len(member.received) for member in members]
    await asyncio.gather(
        *(tell_time(lane, run_id, after_s=1 + EVERY_S * n / USERS) for n, lane in enumerate(lanes))
    )
    for member in members:
        await member.until(partial(is_over, member, run_id))
    delays_s: list[float] = sorted(
        received.at_s - received.frame["chunk"]["value"]["at_s"]
        for member, start in zip(members, before, strict=True)
        for received in member.received[start:]
        if b'"name":"clock"' in received.text
    )
    assert len(delays_s) == EVENTS * len(members)
    return delays_s[len(delays_s) * 99 // 100]


async def tell_time(lane: Lane, run_id: str, *, after_s: float) -> None:
    async with lane.connect(agent="clock") as client:
        asked = {"events": EVENTS, "every_s": EVERY_S, "size": SIZE, "after_s": after_s}
        await lane.finish(client, "t", run_id, json.dumps(asked))


def is_over(member: Member, run_id: str) -> bool:
    end = f'"runId":"{run_id}"}}'.encode()
    return any(
        b'"RUN_FINISHED"' in received.text and received.text.endswith(end)
        for received in member.received[-5:]
    )


def assert_every_event_in_order(member: Member) -> None:
    """Fail unless all that a member got of its thread are its runs, with no gap."""
    frames: list[Frame] = [received.frame for received in member.received]
    own = [frame for frame in frames if frame.get("threadId") == "t" and "chunk" in frame]
    seqs = [parse_id(frame["id"])[1] for frame in own]
    assert seqs == list(range(1, 2 * WINDOWS * (EVENTS + 2) + 1))
    times = [f["chunk"]["value"]["at_s"] for f in own if f["chunk"]["type"] == "CUSTOM"]
    assert all(earlier < later for earlier, later in pairwise(times))
