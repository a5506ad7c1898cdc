"""What a socket is asked for while an earlier frame of it still waits for somebody."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from tests.live.client import RECV_TIMEOUT_S, Client, Frame, is_terminal
from tests.live.server import Looks, Server
from tests.live.stage import Lane, envelopes, mint, shared_server, types_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

server = shared_server("holder=slow_users:holder", env={"ISOLANE_LIMIT_FRAME_BYTES": "2000"})

CANCELLED = {"type": "cancelled"}


@pytest.fixture
def lane(server: Server) -> Lane:
    return Lane(server)


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    return tmp_path / "gate"


async def renew_slowly(client: Client, lane: Lane, gate: Path) -> None:
    """Send a new token, which is judged only once the file `gate` is there."""
    await client.send({"type": "auth", "token": mint(lane.user, gate=str(gate))})


def open_gate(gate: Path) -> None:
    gate.touch()


async def answer(client: Client) -> Frame:
    """Return the next frame that isn't news of a thread."""
    while (frame := await client.recv()).get("type") == "thread":
        pass
    return frame


@contextmanager
def locked(server: Server) -> Iterator[None]:
    """Keep the server from writing to its database."""
    with closing(sqlite3.connect(server.data / "isolane.db", isolation_level=None)) as file:
        file.execute("BEGIN IMMEDIATE")
        yield
        file.execute("ROLLBACK")


async def test_abort_overtakes_a_token_that_is_still_judged(lane: Lane, gate: Path) -> None:
    async with lane.connect() as client:
        await client.run("t", "r-1", "go")
        await client.until_event("TEXT_MESSAGE_CONTENT")
        await renew_slowly(client, lane, gate)
        await client.abort("r-1")
        assert await answer(client) == {"type": "stopping", "runId": "r-1"}
        assert (await client.until_end("r-1"))["chunk"]["outcome"] == CANCELLED
        await client.send({"type": "subscribe", "threadId": "other"})
        open_gate(gate)
        assert (await client.until_type("auth_ok"))["expiresAt"] > 0
        assert (await client.until_type("subscribed"))["threadId"] == "other"


async def test_ping_overtakes_a_token_that_is_still_judged(lane: Lane, gate: Path) -> None:
    async with lane.connect() as client:
        await renew_slowly(client, lane, gate)
        for number in range(3):
            await client.send({"type": "ping", "t": number})
            assert await answer(client) == {"type": "pong", "t": number}
        open_gate(gate)
        assert (await client.until_type("auth_ok"))["expiresAt"] > 0


async def test_abort_right_behind_a_hello_is_answered(lane: Lane) -> None:
    async with lane.connect(hello=False) as client:
        await client.send({"type": "hello", "v": 1})
        await client.abort("r-1")
        assert (await client.recv())["type"] == "welcome"
        assert (await client.recv())["code"] == "not_found"


async def test_abort_of_a_run_that_waits_behind_another_frame_ends_it(
    lane: Lane, gate: Path
) -> None:
    async with lane.connect() as client:
        await renew_slowly(client, lane, gate)
        await client.run("t", "r-1", "go")
        await client.abort("r-1")
        assert await answer(client) == {"type": "stopping", "runId": "r-1"}
        await client.abort("r-2")
        assert (await answer(client))["code"] == "not_found"
        open_gate(gate)
        frames = envelopes(await client.until(is_terminal))
    assert types_of([frame["chunk"] for frame in frames]) == ["RUN_STARTED", "RUN_FINISHED"]
    assert frames[-1]["chunk"]["outcome"] == CANCELLED


async def test_abort_of_a_run_that_waits_for_the_disk_ends_it(lane: Lane) -> None:
    async with lane.connect() as client:
        with locked(lane.server):
            await client.run("t", "r-1", "go")
            await client.abort("r-1")
            assert await answer(client) == {"type": "stopping", "runId": "r-1"}
        frames = envelopes(await client.until(is_terminal))
    assert types_of([frame["chunk"] for frame in frames]) == ["RUN_STARTED", "RUN_FINISHED"]
    assert frames[-1]["chunk"]["outcome"] == CANCELLED


async def test_abort_of_a_run_that_is_refused_then_is_kept_as_one_that_came_early(
    lane: Lane, gate: Path
) -> None:
    async with lane.connect() as client, lane.connect() as other:
        await renew_slowly(client, lane, gate)
        await client.run("t", "r-1", "go", tools="none")
        await client.abort("r-1")
        assert await answer(client) == {"type": "stopping", "runId": "r-1"}
        open_gate(gate)
        assert (await client.until_type("error"))["code"] == "invalid_input"
        await other.run("t", "r-1", "go")
        assert (await other.until_end("r-1"))["chunk"]["outcome"] == CANCELLED


async def test_frames_that_wait_are_carried_out_in_their_order(lane: Lane, gate: Path) -> None:
    async with lane.connect() as client:
        await renew_slowly(client, lane, gate)
        for number in range(100):  # more than may wait: the rest is read later
            await client.send({"type": "subscribe", "threadId": f"t-{number % 3}"})
        await client.abort("unknown-1")
        open_gate(gate)
        await client.until_type("auth_ok")
        asked = [(await client.until_type("subscribed"))["threadId"] for _ in range(100)]
    assert asked == [f"t-{number % 3}" for number in range(100)]


async def test_what_was_asked_before_the_client_left_is_done(lane: Lane, gate: Path) -> None:
    async with lane.connect(hello=True) as client:
        await renew_slowly(client, lane, gate)
        await client.run("t", "r-1", "go")
    open_gate(gate)
    async with lane.server.http(lane.token) as http:
        async for _ in Looks(RECV_TIMEOUT_S):
            if (await http.get("/api/runs/r-1")).is_success:
                break
        assert (await http.post("/api/runs/r-1/abort")).is_success
