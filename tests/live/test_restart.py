"""What another life of the server finds: after a kill, and after an orderly end."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.live.client import Client
from tests.live.server import Server
from tests.live.stage import (
    SCRIPT,
    Lane,
    own_server,
    read_to_close,
    settled,
    steps,
    text_of,
    types_of,
)

pytestmark = pytest.mark.timeout(60)

LONG = steps(
    ["event", {"type": "STEP_STARTED", "stepName": "s"}],
    ["event", {"type": "TOOL_CALL_START", "toolCallId": "c", "toolCallName": "pick"}],
    ["say", "half"],
    ["hold", "never"],
)


async def test_killed_run_is_lost_and_the_queued_one_goes_on(tmp_path: Path) -> None:
    async with own_server(tmp_path, SCRIPT) as server:
        lane = Lane(server)
        async with lane.connect() as client:
            seen = await client.subscribe("t")
            await lane.finish(client, "t", "r-0", "before")
            await client.run("t", "r-1", LONG)
            await client.run("t", "r-2", steps(["input"]))
            await client.until(lambda frame: frame.get("disposition") == "queued")
            await client.until_true(lambda: seen.text.endswith("half"))
            await server.kill()
            assert (await client.closed())[0] == 1006  # a broken line, no close
        before = list(seen.envelopes)
        await server.start()
        async with lane.connect() as client:
            # What was seen is there still, and goes on without a gap.
            await client.follow(seen)
            await client.until_true(lambda: seen.has_ended("r-2"))
        log = await lane.load_log("t")
        assert log.envelopes[: len(before)] == before
        assert log.envelopes == seen.envelopes
        assert types_of(seen.of_run("r-1"))[-4:] == [
            *("TEXT_MESSAGE_END", "TOOL_CALL_END", "STEP_FINISHED", "RUN_ERROR"),
        ]
        lost = seen.of_run("r-1")[-1]
        assert lost["code"] == "agent_lost"
        found = [e for e in server.logs if e.get("error_id") == lost["metadata"]["errorId"]]
        assert [(e["user_id"], e["run_id"]) for e in found] == [(lane.user, "r-1")]
        # The queued run came after it, and knew what the lost one had said.
        assert [e["runId"] for e in seen.envelopes][-5:] == ["r-2"] * 5
        assert "half" in text_of(seen.of_run("r-2"))
        await nothing_says_that_it_runs(lane, server)


async def nothing_says_that_it_runs(lane: Lane, server: Server) -> None:
    async with lane.connect() as client:
        assert client.welcome is not None
        assert client.welcome["activeRuns"] == []
        assert (await server.metrics())["isolane_runs_active"] == 0
        # The lost run is ended for everybody: it attaches, it is stopped without an effect.
        await client.run("t", "r-1", LONG)
        assert (await client.until_type("accepted"))["disposition"] == "attached"
        assert (await client.until_end("r-1"))["chunk"]["code"] == "agent_lost"
        await client.abort("r-1")
        assert await settled(client) == [{"type": "stopping", "runId": "r-1"}]
    async with lane.replay("r-1") as socket:
        assert (await read_to_close(socket))[1] == (1000, "")


async def test_killed_before_its_first_event_a_run_has_its_two_events(tmp_path: Path) -> None:
    async with own_server(tmp_path, SCRIPT) as server:
        lane = Lane(server)
        async with lane.connect() as client:
            # Killed at once after the answer: RUN_STARTED may or may not be written already.
            await client.run("t", "r-1", steps(["hold", "never"]))
            await client.until_type("accepted")
            await server.kill()
        await server.start()
        log = await lane.load_log("t")
        assert types_of(log.events) == ["RUN_STARTED", "RUN_ERROR"]
        assert log.events[0]["input"]["messages"][0]["id"] == "r-1-question"
        assert log.events[1]["code"] == "agent_lost"


async def test_sigterm_lets_the_run_under_way_end(tmp_path: Path) -> None:
    env = {"ISOLANE_DRAIN_TIMEOUT_S": "10"}
    async with own_server(tmp_path, "slow=agents:slow", env=env) as server:
        lane = Lane(server)
        async with lane.connect() as client, lane.connect() as idle, lane.connect() as late:
            follower = await client.subscribe("t")
            await client.run("t", "r-1", "count 30 every 50ms")
            await client.run("t", "r-2", "count 1")
            await client.until(lambda frame: frame.get("disposition") == "queued")
            stopping = asyncio.create_task(server.stop())
            assert (await idle.until_type("draining"))["deadlineMs"] > 0
            await nothing_new_is_taken(lane, late)
            assert (await client.until_end("r-1"))["chunk"]["outcome"] == {"type": "success"}
            assert await client.closed() == (1001, "going_away")
            assert await idle.closed() == (1001, "going_away")
            stopped = await stopping
        assert (stopped.code, stopped.duration_s < 5) == (0, True)
        await server.start()
        async with lane.connect() as client:
            # The run that waited was kept, and its turn comes in the next life.
            await client.follow(follower)
            await client.until_end("r-2")
    assert [follower.has_ended(run_id) for run_id in ("r-1", "r-2")] == [True, True]


async def nothing_new_is_taken(lane: Lane, late: Client) -> None:
    await late.run("u", "r-3", "count 1")
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
            follower = await client.subscribe("t")
            await client.run("t", "r-1", steps(["say", "1 "], ["hold", "never"]))
            await client.run("u", "r-2", steps(["say", "1 "], ["deaf"]))
            await client.until_true(lambda: bool(follower.text))
            stopped = await server.stop()
            assert await client.closed() == (1001, "going_away")
        # The deadline, the time that an agent has which ignores the stop, and a goodbye.
        assert (stopped.code, stopped.duration_s < 0.5 + 5 + 3) == (0, True)
        assert follower.types[-2:] == ["TEXT_MESSAGE_END", "RUN_ERROR"]
        assert follower.events[-1]["code"] == "going_away"
        await server.start()
        assert (await lane.load_log("u")).events[-1]["code"] == "going_away"
        assert (await lane.load_log("t")).envelopes == follower.envelopes
