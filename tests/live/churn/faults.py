"""What befalls the server of the churn: the faults, and the guests who mean no good."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sqlite3
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack, closing, suppress
from itertools import count
from typing import Final

from tests.live.churn.world import World
from tests.live.client import connect, is_terminal, run_frame
from tests.live.crowd import Member
from tests.live.server import LOOPBACK
from tests.live.stage import Lane, mint, read_to_close
from tests.live.tcp import drop, wait_until_let_go
from tests.live.test_frames import INVALID_FRAMES
from websockets.exceptions import ConnectionClosed

Fault = Callable[[World], Awaitable[None]]

RUSH: Final = 24
HANDSHAKES: Final = 20
BAD_FRAMES: Final = 12
"""A few less than end a connection when they come within 10 s."""
LET_GO_WITHIN_S: Final = 20.0
"""Two heartbeats or a send timeout, and what a busy machine adds."""
_guests: Final = count(1)


def guest(world: World) -> Lane:
    """Return a user whom nobody knows yet."""
    return Lane(world.server, f"guest-{next(_guests)}")


async def befall(world: World, faults: Sequence[Fault], *, every_s: tuple[float, float]) -> None:
    """Let one fault after the other happen, each as often as the others."""
    deck: list[Fault] = []
    while not world.is_over:
        await asyncio.sleep(world.chance.uniform(*every_s))  # the pace of the faults
        if not deck:
            deck = world.chance.sample(list(faults), len(faults))
        fault = deck.pop()
        await fault(world)
        world.tally[f"faults: {fault.__name__.replace('_', ' ')}"] += 1


# --- the server ----------------------------------------------------------------------------------


async def freeze(world: World) -> None:
    """Stop the process for a while, as a machine does that has other things to do."""
    os.kill(world.server.pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(world.chance.uniform(1, 3))  # the fault itself
    finally:
        os.kill(world.server.pid, signal.SIGCONT)


async def lock_database(world: World) -> None:
    """Keep the server from writing for a while, as another process' backup would."""
    await asyncio.to_thread(_hold_lock, world, world.chance.uniform(1, 4))


def _hold_lock(world: World, for_s: float) -> None:
    path = world.server.data / "isolane.db"
    with closing(sqlite3.connect(path, timeout=10, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        time.sleep(for_s)  # the fault itself
        connection.execute("ROLLBACK")


async def kill(world: World) -> None:
    """End the process at once, and begin its next life."""
    await world.server.kill()
    await world.server.start()


async def restart(world: World) -> None:
    """Stop it in order, under load, and begin its next life."""
    stopped = await world.server.restart()
    assert stopped.code == 0


# --- many guests ---------------------------------------------------------------------------------


async def rush(world: World) -> None:
    """Many come at once and go at once, with and without a goodbye."""
    await asyncio.gather(*(look_in(guest(world), number) for number in range(RUSH)))


async def look_in(lane: Lane, number: int) -> None:
    """Follow a thread that nobody uses, and go."""
    async with lane.connect() as client:
        assert client.welcome is not None
        assert client.welcome["activeRuns"] == []
        assert (await client.subscribe("t-0")).envelopes == []
        if number % 3:
            drop(client.socket.transport, is_reset=number % 3 == 1)


async def handshakes_without_end(world: World) -> None:
    """Many begin to ask for the upgrade and say no more."""
    with ExitStack() as stack:
        for _ in range(HANDSHAKES):
            line = stack.enter_context(socket.create_connection((LOOPBACK, world.server.port)))
            line.sendall(b"GET /ws HTTP/1.1\r\nHost: " + world.server.address.encode())
        await asyncio.sleep(world.chance.uniform(1, 3))  # the fault itself


# --- guests who do not listen --------------------------------------------------------------------


async def never_read(world: World) -> None:
    """One follows a flood and reads nothing of it: the server lets go."""
    lane = Lane(world.server, "flooded")
    member = await Member.join(lane, is_deaf=True)
    try:
        member.send({"type": "subscribe", "threadId": "flood"})
        member.go_deaf()
        run_id = f"flood-{next(_guests)}"
        asked = json.dumps({"words": 1, "every_s": 0, "manner": "flood"})
        async with lane.connect(hello=False) as client:
            await client.send(run_frame("flood", run_id, asked))
            await client.until(is_terminal, timeout_s=LET_GO_WITHIN_S)
        await wait_until_let_go(world.server, member.port, within_s=LET_GO_WITHIN_S)
    finally:
        member.leave()
    async with world.server.http(lane.token) as http:
        (await http.delete("/api/threads/flood", timeout=LET_GO_WITHIN_S)).raise_for_status()


async def half_open(world: World) -> None:
    """One is gone without a word, and its line seems to be there: the server lets go."""
    async with guest(world).connect() as client:
        port = client.socket.local_address[1]
        client.socket.transport.pause_reading()  # nothing is answered, no ping either
        await wait_until_let_go(world.server, port, within_s=LET_GO_WITHIN_S)
        drop(client.socket.transport, is_reset=True)


# --- guests who mean no good ---------------------------------------------------------------------


async def bad_frames(world: World) -> None:
    """One says what is no frame, and names others' runs: each is refused, the line lives."""
    frames = world.chance.sample(sorted(INVALID_FRAMES.values()), BAD_FRAMES)
    async with guest(world).connect() as client:
        for frame in frames:
            await client.send(frame)
            answer = await client.until_type("error")
            assert answer["code"] in {"invalid_frame", "invalid_input", "invalid_cursor"}, answer
            world.tally["bad frames refused"] += 1
        for number in range(5):
            await client.abort(f"r-{number}")
            assert (await client.until_type("error"))["code"] == "not_found"
        await client.send({"type": "ping", "t": 7})
        assert await client.recv() == {"type": "pong", "t": 7}
        await client.send(b"\x00")
        assert (await client.closed())[0] == 1003


async def bad_credentials(world: World) -> None:
    """One has no token, or a bad one: neither door lets them in."""
    lane = guest(world)
    tokens = (
        None,
        "nonsense",
        mint(lane.user, key="a key that this server does not sign its tokens with"),
        mint(lane.user, expires_s=-10),
        mint(lane.user, key="", algorithm="none"),
    )
    for token in tokens:
        async with connect(world.server.websocket_url(), token, hello=False) as client:
            frames, close = await read_to_close(client)
        assert [frame["code"] for frame in frames] == ["unauthenticated"], frames
        assert close[0] == 4401
        async with world.server.http(token) as http:
            assert (await http.get("/api/threads", timeout=LET_GO_WITHIN_S)).status_code == 401
        world.tally["bad credentials refused"] += 1


async def tickets(world: World) -> None:
    """One ticket is raced by three: it lets one of them in."""
    lane = guest(world)
    (ticket,) = await world.server.tickets(lane.token)
    url = f"{world.server.websocket_url()}?ticket={ticket}"

    async def try_it() -> bool:
        async with connect(url, None, hello=False) as client:
            with suppress(ConnectionClosed):  # refused before it could be said
                await client.send({"type": "hello", "v": 1})
            first = await client.recv()
        if first["type"] == "error":
            assert first["code"] == "unauthenticated", first
            return False
        assert first["userId"] == lane.user, first
        return True

    assert sorted(await asyncio.gather(*(try_it() for _ in range(3)))) == [False, False, True]
    world.tally["tickets spent"] += 1


LONG_LIFE: Final[Sequence[Fault]] = (
    freeze,
    lock_database,
    rush,
    handshakes_without_end,
    never_read,
    half_open,
    bad_frames,
    bad_credentials,
    tickets,
)
HARD_LIFE: Final[Sequence[Fault]] = (kill, kill, restart, freeze, lock_database, rush)
