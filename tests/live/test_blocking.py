"""Agents that block their thread: named at once; on loops of their own they harm no socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
import pytest_asyncio
from tests.live.client import Client, is_terminal
from tests.live.protocol_agents import FOLDER
from tests.live.server import LOOPBACK, Server
from tests.live.stage import SCRIPT, Lane, own_server, steps, text_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

SIGN = "let go"
BLOCK = steps(["say", "before "], ["block until", SIGN], ["say", "after"])
LEAST_MS = 600
"""For so long at least was blocked who is named for it."""
NEIGHBOUR_MS = 250
"""What an honest client beside it must not wait longer for, at p99."""
BABBLER = "babbler=protocol_agents:babbler"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def threaded(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    folder = tmp_path_factory.mktemp("threaded")
    env = {"ISOLANE_AGENT_THREADS": "2", FOLDER: str(folder)}
    async with own_server(folder / "data", SCRIPT, BABBLER, env=env) as server:
        yield server


@pytest.fixture
def lane(threaded: Server) -> Lane:
    return Lane(threaded)


def blocked(loop: str) -> Callable[[dict[str, Any]], bool]:
    return lambda entry: entry["event"] == "event_loop_blocked" and entry["loop"] == loop


async def readiness(server: Server) -> tuple[int, str]:
    async with server.http() as http:
        answer = await http.get("/readyz")
    return answer.status_code, answer.json()["dependencies"]["event loops"]


@contextmanager
def holding(server: Server) -> Iterator[None]:
    """Let agents that block until there is a sign do so for the block's time, and no longer."""
    sign = server.data.parent / SIGN
    sign.unlink(missing_ok=True)
    try:
        yield
    finally:
        sign.touch()


async def ask_readiness(server: Server) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Have asked, for sure, when this returns; the answer comes when it may."""
    reader, writer = await asyncio.open_connection(LOOPBACK, server.port)
    writer.write(f"GET /readyz HTTP/1.1\r\nHost: {server.address}\r\n\r\n".encode())
    await writer.drain()
    return reader, writer


async def until_ready(server: Server) -> None:
    async with asyncio.timeout(20):
        while await readiness(server) != (200, "ok"):  # noqa: ASYNC110 - in another process
            await asyncio.sleep(0.05)  # between two looks


async def test_who_blocks_the_gateways_own_loop_is_named_while_it_lasts(tmp_path: Path) -> None:
    async with own_server(tmp_path / "data", SCRIPT, env={FOLDER: str(tmp_path)}) as server:
        async with Lane(server).connect() as client:
            assert await readiness(server) == (200, "ok")
            began = monotonic()
            with holding(server):
                await client.run("t", "r-1", BLOCK)
                # Written by another thread: the server itself answers nobody now.
                entry = await server.wait_for_log(blocked("gateway"))
                reader, writer = await ask_readiness(server)
            assert b" 503 " in await reader.readline()  # as soon as the loop turns again
            writer.close()
            assert entry["task"] == "agent of r-1"
            assert entry["stack"].splitlines()[-1].split("/")[-1].endswith(" _block_until")
            assert "protocol_agents.py" in entry["stack"].splitlines()[-1]
            await client.until_end("r-1")
            whole_ms = (monotonic() - began) * 1000
        await until_ready(server)
        assert (await server.metrics())["isolane_loop_blocks_total"] == 1
        (free,) = [entry for entry in server.logs if entry["event"] == "event_loop_freed"]
        assert LEAST_MS <= free["blocked_ms"] < whole_ms + 1000


async def test_on_a_loop_of_its_own_it_holds_up_no_socket(lane: Lane) -> None:
    neighbour = Lane(lane.server)
    async with lane.connect() as client, neighbour.connect() as other:
        with holding(lane.server):
            await client.run("t", "r-1", BLOCK)
            await client.until_event("TEXT_MESSAGE_CONTENT")
            waits_ms = [await round_trip_ms(other) for _ in range(100)]
            assert sorted(waits_ms)[98] < NEIGHBOUR_MS
            assert await neighbour.finish(other, "t", "r-1", "another loop")
            entry = await lane.server.wait_for_log(
                lambda e: e["event"] == "event_loop_blocked" and e["task"] == "agent of r-1"
            )
            assert entry["loop"].startswith("agents ")
            assert entry["stack"].splitlines()[-1].endswith(" _block_until")
            status, loops = await readiness(lane.server)
            assert (status, loops != "ok") == (503, True)
        assert (await client.until_end("r-1"))["chunk"]["outcome"] == {"type": "success"}
    await until_ready(lane.server)


async def round_trip_ms(client: Client) -> float:
    began = monotonic()
    await client.send({"type": "ping"})
    await client.until_type("pong")
    return (monotonic() - began) * 1000


async def test_what_an_agent_says_there_comes_whole_and_in_order(lane: Lane) -> None:
    async with lane.connect(hello=False) as client:
        await client.run("t", "r-1", steps(["count", 2000], ["whoami"]))
        frames = await client.until(is_terminal, timeout_s=30)
    said = text_of([frame["chunk"] for frame in frames])
    assert said.startswith("".join(f"{number} " for number in range(1, 2001)))
    assert lane.user in said


@pytest.mark.parametrize(
    "text, by",
    [
        (steps(["say", "1 "], ["hold", "never"]), "agent"),
        (steps(["say", "1 "], ["wait"]), "cancellation"),
        (steps(["say", "1 "], ["block until", SIGN], ["wait"]), "abandonment"),
    ],
)
async def test_a_stop_reaches_it_there(lane: Lane, text: str, by: str) -> None:
    async with lane.connect() as client:
        with holding(lane.server):
            await client.run("t", "r-1", text)
            await client.until_event("TEXT_MESSAGE_CONTENT")
            await client.abort("r-1")
            end = await client.until_end("r-1")
    assert end["chunk"]["outcome"] == {"type": "cancelled"}
    async with lane.server.http(lane.token) as http:
        assert (await http.get("/api/runs/r-1")).json()["stop"]["by"] == by
    await until_ready(lane.server)


async def test_one_that_talks_on_there_is_not_heard(lane: Lane) -> None:
    async with lane.connect(agent="babbler") as client:
        await client.run("t", "r-1", "go")
        await client.until_event("TEXT_MESSAGE_CONTENT")
        await client.abort("r-1")
        end = await client.until_end("r-1")
    assert end["chunk"]["outcome"] == {"type": "cancelled"}


@pytest.mark.parametrize("kind", ["ValueError", "SystemExit", "GeneratorExit", "CancelledError"])
async def test_what_it_raises_there_ends_its_run_alone(lane: Lane, kind: str) -> None:
    events = await lane.play("t", "r-1", steps(["say", "almost"], ["raise", kind, "text"]))
    assert (events[-1]["type"], events[-1]["code"]) == ("RUN_ERROR", "agent_error")
    assert text_of(await lane.play("t", "r-2", "still here")) == "still here "


async def test_a_blocked_thread_keeps_no_server_from_its_end(tmp_path: Path) -> None:
    env = {"ISOLANE_AGENT_THREADS": "1", "ISOLANE_DRAIN_TIMEOUT_S": "0"}
    async with own_server(tmp_path / "data", SCRIPT, env=env) as server:
        async with Lane(server).connect() as client:
            await client.run("t", "r-1", steps(["say", "1"], ["block", 60]))
            await client.until_event("TEXT_MESSAGE_CONTENT")
            stopped = await server.stop()
            assert (await client.until_end("r-1"))["chunk"]["code"] == "going_away"
        assert stopped.code == 0
        assert stopped.duration_s < 20
        await server.start()
