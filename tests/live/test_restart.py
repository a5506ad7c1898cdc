"""What another life of the server finds after an orderly end; `test_kills.py` has the others."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from time import monotonic
from typing import Final

import pytest
from tests.live.client import Client
from tests.live.hungry_agents import FOLDER
from tests.live.stage import (
    SCRIPT,
    Lane,
    own_server,
    steps,
)

COUNTER: Final = "counter=hungry_agents:counter"
SIGN: Final = "go"
"""What lets its runs end, whichever life they are in."""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
async def test_signal_to_stop_lets_the_run_under_way_end(
    tmp_path: Path, number: signal.Signals
) -> None:
    env = {"ISOLANE_DRAIN_TIMEOUT_S": "30", FOLDER: str(tmp_path)}
    async with own_server(tmp_path / "data", COUNTER, env=env) as server:
        lane = Lane(server)
        async with lane.connect() as client, lane.connect() as idle, lane.connect() as late:
            follower = await client.subscribe("t")
            await client.run("t", "r-1", SIGN)
            await client.run("t", "r-2", SIGN)
            await client.until(lambda frame: frame.get("disposition") == "queued")
            stopping = asyncio.create_task(server._end(number))
            assert (await idle.until_type("draining"))["deadlineMs"] > 0
            if number is signal.SIGHUP:  # as a terminal that closes may send it
                server.send_signal(signal.SIGHUP)
            await nothing_new_is_taken(lane, late)
            (tmp_path / SIGN).touch()
            let_go_at = monotonic()
            assert (await client.until_end("r-1"))["chunk"]["outcome"] == {"type": "success"}
            assert await client.closed() == (1001, "going_away")
            assert await idle.closed() == (1001, "going_away")
            stopped = await stopping
        assert (stopped.code, monotonic() - let_go_at < 5) == (0, True)
        await server.start()
        async with lane.connect() as client:
            # The run that waited was kept, and its turn comes in the next life.
            await client.follow(follower)
            await client.until_end("r-2")
    assert [follower.has_ended(run_id) for run_id in ("r-1", "r-2")] == [True, True]


async def test_server_under_nohup_outlives_its_terminal(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # which the server inherits
    try:
        async with own_server(tmp_path, SCRIPT) as server:
            server.send_signal(signal.SIGHUP)
            async with Lane(server).connect() as client:
                await client.run("t", "r-1", steps(["say", "1 "]))
                await client.until_end("r-1")
            async with server.http() as http:
                assert (await http.get("/readyz")).json()["status"] == "ready"
    finally:
        signal.signal(signal.SIGHUP, before)


async def nothing_new_is_taken(lane: Lane, late: Client) -> None:
    await late.run("u", "r-3", SIGN)
    error = await late.until_type("error")
    assert (error["code"], error["retryable"], error["runId"]) == ("unavailable", True, "r-3")
    async with lane.connect(hello=False) as refused:
        frame = await refused.recv()
        assert (frame["type"], frame["code"]) == ("error", "unavailable")
        assert (await refused.closed())[0] == 1013
    async with lane.server.http(lane.token) as http:
        answer = await http.post("/api/tickets")
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
        ready = await http.get("/readyz")
        assert (ready.status_code, ready.json()["status"]) == (503, "draining")


async def test_drain_that_takes_too_long_ends_its_runs(tmp_path: Path) -> None:
    env = {"ISOLANE_DRAIN_TIMEOUT_S": "0.5"}
    async with own_server(tmp_path, SCRIPT, env=env) as server:
        lane = Lane(server)
        async with lane.connect() as client:
            follower, other = await client.subscribe("t"), await client.subscribe("u")
            await client.run("t", "r-1", steps(["say", "1 "], ["hold", "never"]))
            await client.run("u", "r-2", steps(["say", "1 "], ["deaf"]))
            await client.until_true(lambda: bool(follower.text and other.text))
            stopped = await server.stop()
            assert await client.closed() == (1001, "going_away")
        # The deadline, the time that an agent has which ignores the stop, and a goodbye.
        assert (stopped.code, stopped.duration_s < 0.5 + 5 + 3) == (0, True)
        assert follower.types[-2:] == ["TEXT_MESSAGE_END", "RUN_ERROR"]
        assert follower.events[-1]["code"] == "going_away"
        await server.start()
        assert (await lane.load_log("u")).events[-1]["code"] == "going_away"
        assert (await lane.load_log("t")).envelopes == follower.envelopes


@pytest.mark.parametrize("is_early", [False, True], ids=["while it waits", "before it came"])
async def test_run_that_was_stopped_while_it_waited_stays_stopped_in_the_next_life(
    tmp_path: Path, *, is_early: bool
) -> None:
    env = {"ISOLANE_DRAIN_TIMEOUT_S": "0"}
    async with own_server(tmp_path, SCRIPT, env=env) as server:
        lane = Lane(server)
        async with lane.connect() as client:
            follower = await client.subscribe("t")
            await client.run("t", "r-1", steps(["say", "1 "], ["hold", "never"]))
            await client.until_true(lambda: bool(follower.text))
            if is_early:
                await client.abort("r-2")
                assert (await client.until_type("error"))["code"] == "not_found"
            await client.run("t", "r-2", steps(["say", "2 "]))
            await client.until(lambda frame: frame.get("disposition") == "queued")
            if not is_early:
                await client.abort("r-2")
                await client.until_type("stopping")
            await client.abort("unknown")  # answered behind what was to be kept
            await client.until_type("error")
        await server.stop()
        await server.start()
        async with lane.connect() as client:
            await client.follow(follower)
            await client.until_true(lambda: follower.has_ended("r-2"))
    assert [event["type"] for event in follower.of_run("r-2")] == ["RUN_STARTED", "RUN_FINISHED"]
    assert follower.of_run("r-2")[-1]["outcome"] == {"type": "cancelled"}
