"""Stopping a run: from wherever, before, during and after it, whatever its agent thinks of it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.live.client import Client, Frame, is_terminal
from tests.live.server import Server
from tests.live.stage import (
    SCRIPT,
    Lane,
    envelopes,
    own_server,
    settled,
    shared_server,
    steps,
    text_of,
    types_of,
)
from tests.live.stopwatch import stopwatch

pytestmark = pytest.mark.asyncio(loop_scope="module")

server = shared_server(SCRIPT, "babbler=protocol_agents:babbler")

CANCELLED = {"type": "cancelled"}
HOLD = steps(["say", "1 "], ["hold", "never"], ["say", "too late"])
DEAF = steps(["say", "1 "], ["deaf"])


@pytest.fixture
def lane(server: Server) -> Lane:
    return Lane(server)


@pytest.mark.parametrize("text,within_s", [(HOLD, 2.0), (DEAF, 5.0)], ids=["heeds", "is deaf"])
async def test_abort_is_answered_at_once_and_ends_the_run_in_time(
    lane: Lane, text: str, within_s: float
) -> None:
    async with lane.connect() as client:
        await client.run("t", "r-1", text)
        await client.until_event("TEXT_MESSAGE_CONTENT")
        with stopwatch(lane.server.pid) as watch:
            await client.abort("r-1")
            answer = await client.until(lambda frame: frame.get("type") == "stopping")
            assert watch.took_s < 0.5
            frames = envelopes(await client.until(is_terminal))
            assert watch.took_s < within_s
        assert without_news(answer) == [{"type": "stopping", "runId": "r-1"}]
        assert [f["chunk"]["type"] for f in frames] == ["TEXT_MESSAGE_END", "RUN_FINISHED"]
        assert frames[-1]["chunk"]["outcome"] == CANCELLED
        await client.run("t", "r-2", "next turn")
        assert_success(await client.until_end("r-2"))


def without_news(frames: list[Frame]) -> list[Frame]:
    """Return the frames but news of threads, which come unasked."""
    return [frame for frame in frames if frame.get("type") != "thread"]


async def test_nothing_follows_the_end_of_an_agent_that_talks_on(lane: Lane) -> None:
    async with lane.connect(agent="babbler") as client, lane.connect() as other:
        follower = await other.subscribe("t")
        await client.run("t", "r-1", "go")
        await client.until_event("TEXT_MESSAGE_CONTENT")
        with stopwatch(lane.server.pid) as watch:
            await client.abort("r-1")
            assert (await client.until_end("r-1"))["chunk"]["outcome"] == CANCELLED
            assert watch.took_s < 5
        await lane.finish(other, "t", "r-2", "next turn")
        assert types_of(follower.of_run("r-1"))[-2:] == ["TEXT_MESSAGE_END", "RUN_FINISHED"]
        assert {entry["runId"] for entry in follower.envelopes[-6:]} == {"r-2"}


async def test_abort_before_hello_is_answered_by_the_end_alone(lane: Lane) -> None:
    async with lane.connect(hello=False) as client:
        await client.abort("unknown")
        await client.run("t", "r-1", HOLD)
        await client.until_event("TEXT_MESSAGE_CONTENT")
        await client.abort("r-1")
        frames = await client.until(is_terminal)
    assert [f["chunk"]["type"] for f in frames] == ["TEXT_MESSAGE_END", "RUN_FINISHED"]


async def test_any_device_stops_a_run(lane: Lane) -> None:
    async with lane.connect() as phone, lane.connect() as laptop:
        await phone.run("t", "r-1", HOLD)
        await phone.until_event("TEXT_MESSAGE_CONTENT")
        await laptop.abort("r-1")
        assert await laptop.until_type("stopping") == {"type": "stopping", "runId": "r-1"}
        assert (await phone.until_end("r-1"))["chunk"]["outcome"] == CANCELLED


async def test_a_stop_during_a_replay_is_its_end_too(lane: Lane) -> None:
    async with lane.connect() as client:
        await client.run("t", "r-1", steps(["count", 50], ["hold", "never"]))
        await client.until(lambda frame: "50 " in str(frame.get("chunk", {}).get("delta")))
        async with lane.replay("r-1") as replay, lane.connect() as late:
            follower = await late.subscribe("t")
            await replay.recv()
            await client.abort("r-1")
            end = await client.until_end("r-1")
            assert end["chunk"]["outcome"] == CANCELLED
            assert await late.until_end("r-1") == end
            assert await replay.until_end("r-1") == end
            assert (await replay.closed())[0] == 1000
    assert follower.types[-2:] == ["TEXT_MESSAGE_END", "RUN_FINISHED"]


async def test_second_abort_is_answered_and_changes_nothing(lane: Lane) -> None:
    async with lane.connect() as client:
        await client.subscribe("t")
        await client.run("t", "r-1", HOLD)
        await client.until_event("TEXT_MESSAGE_CONTENT")
        await client.abort("r-1")
        await client.abort("r-1")
        frames = await client.until(is_terminal) + await settled(client)
    assert [f for f in frames if f.get("type") == "stopping"] == [
        {"type": "stopping", "runId": "r-1"}
    ] * 2
    assert len([frame for frame in frames if is_terminal(frame)]) == 1


async def test_abort_of_an_ended_run_is_answered_and_nothing_more(lane: Lane) -> None:
    async with lane.connect() as client:
        end = await lane.finish(client, "t", "r-1", "word")
        await client.abort("r-1")
        frames = await client.until(lambda frame: frame.get("type") == "stopping")
        frames += await settled(client)
        assert envelopes(frames) == []
    assert (await lane.load_log("t")).envelopes[-1] == end


async def test_stop_in_the_agents_own_end_is_one_end(lane: Lane) -> None:
    async with lane.connect() as client, lane.connect() as other:
        for number in range(20):
            run_id = f"r-{number}"
            await client.run("t", run_id, "a few words")
            await other.abort(run_id)
            end = await client.until_end(run_id)
            assert end["chunk"]["outcome"]["type"] in {"success", "cancelled"}
    log = await lane.load_log("t")
    ends = [entry["runId"] for entry in log.envelopes if is_terminal(entry)]
    assert ends == [f"r-{number}" for number in range(20)]


@pytest.mark.parametrize(
    "text, by, within_ms",
    [
        (HOLD, "agent", 1000),
        (steps(["say", "1 "], ["wait"]), "cancellation", 2000),
        (DEAF, "abandonment", 5000),
    ],
    ids=["agent", "cancellation", "abandonment"],
)
async def test_a_run_says_when_it_was_stopped_what_it_took_and_how_long(
    lane: Lane, text: str, by: str, within_ms: int
) -> None:
    async with lane.connect() as client:
        await client.run("t", "r-1", text)
        await client.until_event("TEXT_MESSAGE_CONTENT")
        with stopwatch(lane.server.pid) as watch:
            await client.abort("r-1")
            await client.until_end("r-1")
    run = await load_run(lane, "r-1")
    assert run["startedAt"] <= run["stop"]["requestedAt"] <= run["endedAt"]
    assert run["stop"]["by"] == by
    assert 0 <= run["stop"]["tookMs"] < within_ms + watch.late_s() * 1000


async def test_a_run_that_nobody_stopped_says_nothing_of_a_stop(lane: Lane) -> None:
    await lane.play("t", "r-1", "word")
    async with lane.connect() as client:
        await client.abort("r-1")
        await client.until_type("stopping")
    assert (await load_run(lane, "r-1"))["stop"] is None


async def load_run(lane: Lane, run_id: str) -> Frame:
    async with lane.server.http(lane.token) as http:
        run: Frame = (await http.get(f"/api/runs/{run_id}")).raise_for_status().json()
    return run


# --- before it begins ----------------------------------------------------------------------------


async def test_abort_that_overtakes_its_run_is_remembered(lane: Lane, server: Server) -> None:
    stranger = Lane(server)
    async with lane.connect() as client:
        await client.abort("r-1")
        error = await client.recv()
        assert (error["type"], error["code"], error["runId"]) == ("error", "not_found", "r-1")
        # It is the user's own: the same id of another user is another run.
        assert types_of(await stranger.play("t", "r-1", "word"))[-1] == "RUN_FINISHED"
        await client.run("t", "r-1", HOLD)
        frames = envelopes(await client.until(is_terminal))
    assert [f["chunk"]["type"] for f in frames] == ["RUN_STARTED", "RUN_FINISHED"]
    assert frames[-1]["chunk"]["outcome"] == CANCELLED
    assert frames[0]["chunk"]["input"]["messages"][0]["content"] == HOLD


async def test_abort_over_http_that_overtakes_its_run_is_remembered(lane: Lane) -> None:
    async with lane.server.http(lane.token) as http, lane.connect() as client:
        early = await http.post("/api/runs/r-1/abort")
        assert (early.status_code, early.json()["code"]) == (404, "not_found")
        await client.run("t", "r-1", HOLD)
        end = await client.until_end("r-1")
    assert end["chunk"]["outcome"] == CANCELLED


async def test_aborts_of_unknown_runs_are_remembered_a_hundred_a_user(lane: Lane) -> None:
    async with lane.connect() as client:
        for number in range(101):
            await client.abort(f"r-{number}")
        for _ in range(101):
            await client.until_type("error")
        outcomes = []
        for number in (0, 1, 100):
            await client.run("t", f"r-{number}", "word")
            end = await client.until_end(f"r-{number}")
            outcomes.append(end["chunk"]["outcome"]["type"])
    assert outcomes == ["success", "cancelled", "cancelled"]


async def test_abort_races_its_run_from_another_socket(lane: Lane) -> None:
    async with lane.connect() as client, lane.connect() as other:
        for number in range(25):
            run_id = f"r-{number}"
            await asyncio.gather(client.run("t", run_id, HOLD), other.abort(run_id))
            end = await client.until_end(run_id)
            assert end["chunk"]["outcome"] == CANCELLED


async def test_queued_run_is_stopped_at_once_and_ends_in_its_turn(lane: Lane) -> None:
    gate = f"{lane.user} go"
    async with lane.connect() as client, lane.connect() as other:
        await client.run("t", "r-1", steps(["say", "1"], ["hold", gate]))
        await client.run("t", "r-2", "waits")
        await client.until(lambda frame: frame.get("disposition") == "queued")
        await other.abort("r-2")
        assert await other.until_type("stopping") == {"type": "stopping", "runId": "r-2"}
        assert envelopes(await settled(other)) == []
        await lane.open_gate(gate)
        await client.until_end("r-2")
    log = await lane.load_log("t")
    assert types_of(log.of_run("r-2")) == ["RUN_STARTED", "RUN_FINISHED"]
    assert log.of_run("r-2")[-1]["outcome"] == CANCELLED
    assert log.of_run("r-1")[-1]["outcome"] == {"type": "success"}
    assert [e["runId"] for e in log.envelopes][-2:] == ["r-2"] * 2
    assert (await load_run(lane, "r-2"))["stop"]["by"] == "gateway"


# --- a real agent --------------------------------------------------------------------------------


async def test_stop_reaches_a_pydantic_ai_agent_in_its_tool(tmp_path: Path) -> None:
    async with own_server(tmp_path, "protocol_assistant:agent") as server:
        lane = Lane(server)
        events = await lane.play("t", "r-1", "forecast, please")
        assert types_of(events)[0] == "RUN_STARTED"
        assert [k for k in types_of(events) if k.startswith("TOOL_CALL_")] == [
            *("TOOL_CALL_START", "TOOL_CALL_ARGS", "TOOL_CALL_END", "TOOL_CALL_RESULT"),
        ]
        assert text_of(events) == "The tool said: rain "
        assert_success({"chunk": events[-1]})
        async with lane.connect() as client:
            await stop_in_tool(server, client)
            # The history with its unanswered call is no burden to the next turn.
            await client.run("t", "r-3", "forecast, please")
            assert_success(await client.until_end("r-3"))


async def stop_in_tool(server: Server, client: Client) -> None:
    await client.run("t", "r-2", "wait for ever")
    await client.until_event("TOOL_CALL_END", "r-2")
    with stopwatch(server.pid) as watch:
        await client.abort("r-2")
        end = await client.until_end("r-2")
        assert watch.took_s < 2
    assert end["chunk"]["outcome"] == CANCELLED


def assert_success(end: Frame) -> None:
    assert end["chunk"]["outcome"] == {"type": "success"}
