"""Memory or disk that runs short: what gives way, in which order, and what never does.

Whoever it concerns is told, runs that were taken on are carried out, and it ends by itself.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from itertools import count
from pathlib import Path
from typing import Final, TypeAlias

import httpx
from tests.live.agents import numbered
from tests.live.client import Client, Follower, Frame, run_frame
from tests.live.disk import filled
from tests.live.hungry_agents import FOLDER
from tests.live.server import Server
from tests.live.stage import Lane, caught_up, own_server, read_to_close, text_of

from isolane.sockets.connection import NEWCOMER_S

State: TypeAlias = tuple[int, dict[str, str], float]

COUNTER: Final = "counter=hungry_agents:counter"
HOARDER: Final = "hoarder=hungry_agents:hoarder"
MIB: Final = 1 << 20
RESERVE_BYTES: Final = 6 * MIB
THERE: Final = "/"
"""A sign that is there already: a run that ends at once."""
ALL_OK: Final = {"database": "ok", "event loops": "ok", "memory": "ok", "disk": "ok"}
CALM: Final[State] = (200, ALL_OK, 0)
SHORT_S: Final = 30.0
"""How long three looks may take, a second apart, on a machine with other things to do."""


def is_answer(frame: Frame, run_id: str) -> bool:
    """Say whether a frame tells what became of a run frame."""
    return frame.get("runId") == run_id and frame.get("type") in {"accepted", "error"}


def assert_refused(error: Frame) -> None:
    assert (error["code"], error["retryable"]) == ("unavailable", True), error
    assert error["retryAfterMs"] > 0


async def answer_to(client: Client, thread_id: str, run_id: str, text: str) -> Frame:
    """Send a run frame and return the answer."""
    await client.run(thread_id, run_id, text)
    return (await client.until(lambda frame: is_answer(frame, run_id)))[-1]


async def begin(client: Client, sign: Path) -> Follower:
    """Follow a thread with a run that counts until there is a sign, and one that waits behind."""
    seen = await client.subscribe("t")
    await client.run("t", "r-1", sign.name)
    await client.until_true(lambda: len(seen.of_run("r-1")) > 5)
    assert (await answer_to(client, "t", "r-2", sign.name))["disposition"] == "queued"
    return seen


async def assert_new_runs_are_refused(lane: Lane, client: Client, sign: Path) -> None:
    """Ask on every way, also for one that would only wait; then for one that there is already."""
    for thread_id in ("t", "u"):
        for _ in range(7):  # more than a user may have: a slot that is lost is missed
            assert_refused(await answer_to(client, thread_id, "r-3", "count"))
    async with lane.server.http(lane.token) as http:
        answer = await http.post("/agui", json=run_frame("u", "r-3", "count"))
    assert answer.status_code == httpx.codes.SERVICE_UNAVAILABLE
    assert int(answer.headers["retry-after"]) * 1000 >= answer.json()["retryAfterMs"]
    assert_refused(answer.json())
    attached = await answer_to(client, "t", "r-1", sign.name)
    assert attached["disposition"] == "attached"


async def assert_both_are_carried_out(lane: Lane, seen: Follower) -> None:
    """See that the log has both runs whole, and that who followed has seen it all."""
    log = await lane.load_log("t")
    assert log.envelopes == seen.envelopes
    counted = text_of(seen.of_run("r-1")).removesuffix("over")
    assert counted == numbered(len(counted.split()))
    assert text_of(seen.of_run("r-2")) == "over"
    for run_id in ("r-1", "r-2"):
        assert [event["type"] for event in seen.of_run(run_id)][-1] == "RUN_FINISHED"


async def state(server: Server) -> State:
    """Return what readiness and the metric of shedding say."""
    async with server.http() as http:
        ready = await http.get("/readyz")
    shedding = (await server.metrics())["isolane_shedding"]
    return ready.status_code, ready.json()["dependencies"], shedding


# --- memory --------------------------------------------------------------------------------------


async def tighten(server: Server) -> str:
    """Allow the server twice what it holds at rest; return the order that makes that too little."""
    allowed = 2 * server.resident_kib() * 1024
    server.env = {**server.env, "ISOLANE_MEMORY_BYTES": str(allowed)}
    await server.restart()
    return f"take {round(0.55 * allowed)} bytes"


async def until_refused(client: Client) -> Frame:
    """Run one thing after the other until a run is refused, and return the error."""
    for number in count():
        answer = await answer_to(client, "p", f"p-{number}", THERE)
        if answer["type"] == "error":
            return answer
        await client.until_end(f"p-{number}")
        await asyncio.sleep(0.2)  # the pace of the questions
    raise AssertionError


def assert_shed(frames: list[Frame], close: tuple[int | None, str]) -> None:
    """See that a socket was told why it closed, and nothing else."""
    (error,) = frames
    assert (error["type"], bool(error["errorId"])) == ("error", True)
    assert_refused(error)
    assert close == (1013, "unavailable")


async def take_memory_and_see_what_gives_way(
    server: Server, greedy: Client, take: str, *, idle: list[Client], prober: Client
) -> None:
    """Let a run take that much, and see idle sockets go before the first run is refused."""
    await prober.subscribe("p")  # or it would be idle between its questions
    closing = [asyncio.create_task(read_to_close(client)) for client in idle]
    await greedy.run("h", "h-1", take)
    async with asyncio.timeout(SHORT_S):
        assert_refused(await until_refused(prober))
    # By the server's own record: closing takes a round trip, whose time is not the server's.
    last = await server.wait_for_log(lambda entry: entry.get("sheds") == "new runs")
    before = [entry["event"] for entry in server.logs[: server.logs.index(last)]]
    have_gone = before.count("socket_shed") == len(idle)
    assert have_gone, "a run was refused before the idle sockets had gone"
    for task in closing:
        assert_shed(*await task)


async def test_short_memory_takes_its_steps_in_order_and_no_run_under_way(tmp_path: Path) -> None:
    sign = tmp_path / "over"
    async with (
        own_server(tmp_path / "data", COUNTER, HOARDER, env={FOLDER: str(tmp_path)}) as server,
        AsyncExitStack() as stack,
    ):
        take = await tighten(server)
        baseline, pid = await server.gauges(), server.pid
        lane = Lane(server)
        idle = [
            await stack.enter_async_context(Lane(server).connect(hello=is_greeted))
            for is_greeted in (True, False)
        ]
        prober = await stack.enter_async_context(Lane(server).connect())
        greedy = await stack.enter_async_context(Lane(server).connect(agent="hoarder"))
        client, device = [await stack.enter_async_context(lane.connect()) for _ in range(2)]
        seen = await begin(client, sign)
        beside = await caught_up(device, "t")
        await asyncio.sleep(NEWCOMER_S)  # for so long newcomers are spared
        assert await state(server) == CALM
        await take_memory_and_see_what_gives_way(server, greedy, take, idle=idle, prober=prober)
        await assert_new_runs_are_refused(lane, client, sign)
        assert await state(server) == (503, {**ALL_OK, "memory": "short"}, 3)
        sign.touch()
        await client.until_true(lambda: seen.has_ended("r-2"))
        await device.until_true(lambda: beside.has_ended("r-2"))
        assert (await server.metrics())["isolane_shedding"] == 3
        await assert_both_are_carried_out(lane, seen)
        assert beside.envelopes == seen.envelopes
        await greedy.abort("h-1")
        await greedy.until_end("h-1")
        await server.wait_for_log(lambda entry: entry["event"] == "memory_recovered")
        assert await state(server) == CALM
        assert (await lane.finish(client, "u", "r-3", THERE))["chunk"]["type"] == "RUN_FINISHED"
        assert (await server.metrics())["isolane_sockets_shed_total"] == len(idle)
        steps = [(entry["step"], entry["sheds"]) for entry in server.logs if "sheds" in entry]
        assert steps == [(1, "idle sockets"), (2, "windows"), (3, "new runs")]
        assert server.pid == pid
        await stack.aclose()
        await server.wait_for_gauges(baseline)


# --- disk ----------------------------------------------------------------------------------------


async def test_short_disk_refuses_new_runs_alone_and_recovers_by_itself(
    tmp_path: Path, small_disk: Path
) -> None:
    sign = tmp_path / "over"
    env = {"ISOLANE_DISK_RESERVE_BYTES": str(RESERVE_BYTES), FOLDER: str(tmp_path)}
    async with own_server(small_disk, COUNTER, env=env) as server:
        lane, pid = Lane(server), server.pid
        async with lane.connect() as client, Lane(server).connect() as idle:
            seen = await begin(client, sign)
            with filled(small_disk, but_bytes=RESERVE_BYTES - MIB):
                await server.wait_for_log(lambda entry: entry["event"] == "disk_short")
                await assert_new_runs_are_refused(lane, client, sign)
                assert await state(server) == (503, {**ALL_OK, "disk": "short"}, 3)
                sign.touch()
                await client.until_true(lambda: seen.has_ended("r-2"))
                await assert_both_are_carried_out(lane, seen)
                assert (await server.metrics())["isolane_shedding"] == 3
            # At once, before the next look.
            assert (await lane.finish(client, "u", "r-3", THERE))["chunk"]["type"] == "RUN_FINISHED"
            assert await state(server) == CALM
            await idle.send({"type": "ping", "t": 7})
            assert await idle.recv() == {"type": "pong", "t": 7}
        assert (await server.metrics())["isolane_sockets_shed_total"] == 0
        events = [entry["event"] for entry in server.logs]
        assert [events.count(event) for event in ("disk_short", "disk_recovered")] == [1, 1]
        assert server.pid == pid
