"""`kill -9` of the server at any point of a run: what was seen is there, and nothing says running.

One server is killed and started again by test after test; each test has a user of its own.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any, Final

import pytest
import pytest_asyncio
from tests.live.client import TERMINAL, Follower, Frame
from tests.live.server import Server
from tests.live.stage import (
    SCRIPT,
    Lane,
    envelopes,
    read_to_close,
    settled,
    shared_server,
    steps,
    text_of,
    types_of,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

server = shared_server(SCRIPT, "slow=agents:slow")

PLOT: Final[list[list[Any]]] = [
    ["event", {"type": "STEP_STARTED", "stepName": "s"}],
    ["say", "some "],
    ["say", "text "],
    ["event", {"type": "TOOL_CALL_START", "toolCallId": "c", "toolCallName": "pick"}],
    ["event", {"type": "TOOL_CALL_ARGS", "toolCallId": "c", "delta": "{}"}],
    ["event", {"type": "TOOL_CALL_END", "toolCallId": "c"}],
    ["event", {"type": "STEP_FINISHED", "stepName": "s"}],
    ["say", "end "],
]
ENDS: Final = {
    "TOOL_CALL_END": range(4, 6),
    "TEXT_MESSAGE_END": range(2, len(PLOT) + 1),
    "STEP_FINISHED": range(1, 7),
}
"""How each thing ends that a run opens, and after how many steps of the plot it is open.

What was opened last is closed first.
"""
HOLD: Final = ["hold", "never"]
SLOW_EVENTS: Final = 30
SLOW_QUESTION: Final = f"count {SLOW_EVENTS - 4} every 5ms"


@dataclass(frozen=True)
class Point:
    """A point of the plot at which a run stands still when the server is killed."""

    steps_done: int
    is_followed: bool = False
    """Whether another run waits behind it."""

    @property
    def question(self) -> str:
        """What makes a run come this far and no further."""
        return steps(*PLOT[: self.steps_done], HOLD)

    @property
    def events(self) -> int:
        """How many events the run has there: RUN_STARTED, and each text's own start."""
        return 1 + self.steps_done + (self.steps_done > 1)

    @property
    def closing(self) -> list[str]:
        """What must be closed before the run's end is told."""
        return [end for end, open_after in ENDS.items() if self.steps_done in open_after]


POINTS: Final = {
    "after RUN_STARTED": Point(0),
    "in mid-text": Point(3),
    "in a tool call": Point(5),
    "just before its end": Point(len(PLOT)),
    "with a run behind it": Point(4, is_followed=True),
}


@pytest_asyncio.fixture(loop_scope="module")
async def lane(server: Server) -> Lane:
    if not server.is_running:  # a test has failed between a kill and a start
        await server.start()
    return Lane(server)


async def test_killed_before_its_first_event_is_seen_a_run_has_its_two(lane: Lane) -> None:
    async with lane.connect() as client:
        # Killed at once after the answer: RUN_STARTED may or may not be written already.
        await client.run("t", "r-1", steps(HOLD))
        await client.until_type("accepted")
        await lane.server.kill()
    await lane.server.start()
    log = await lane.load_log("t")
    assert types_of(log.events) == ["RUN_STARTED", "RUN_ERROR"]
    assert log.events[0]["input"]["messages"][0]["id"] == "r-1-question"
    await assert_ended(lane, log, steps(HOLD), "agent_lost")


@pytest.mark.parametrize("name", POINTS)
async def test_killed_run_is_lost_and_nothing_that_was_seen(lane: Lane, name: str) -> None:
    await kill_at(lane, POINTS[name])


async def test_killed_just_after_its_end_a_run_has_that_end(lane: Lane) -> None:
    question = steps(*PLOT)
    async with lane.connect() as client:
        seen = await client.subscribe("t")
        await lane.finish(client, "t", "r-1", question)
        await lane.server.kill()
    await lane.server.start()
    async with lane.connect() as client:
        await client.follow(seen)
        assert envelopes(await settled(client)) == []
    log = await lane.load_log("t")
    assert log.envelopes == seen.envelopes
    await assert_ended(lane, log, question, "success")


@pytest.mark.soak
@pytest.mark.parametrize("steps_done", range(len(PLOT) + 1))
async def test_killed_after_any_step_a_run_is_lost(lane: Lane, steps_done: int) -> None:
    await kill_at(lane, Point(steps_done))


@pytest.mark.soak
@pytest.mark.parametrize("steps_done", range(len(PLOT) + 1))
async def test_killed_after_any_step_the_run_behind_goes_on(lane: Lane, steps_done: int) -> None:
    await kill_at(lane, Point(steps_done, is_followed=True))


@pytest.mark.soak
@pytest.mark.parametrize("seen_events", range(SLOW_EVENTS + 1))
async def test_killed_at_any_event_while_it_goes_on_a_run_ends_once(
    lane: Lane, seen_events: int
) -> None:
    async with lane.connect(agent="slow") as client:
        seen = await client.subscribe("t")
        await client.run("t", "r-1", SLOW_QUESTION)
        await client.run("t", "r-2", SLOW_QUESTION)
        await client.until(lambda frame: frame.get("disposition") == "queued")
        await client.until_true(lambda: len(seen.of_run("r-1")) >= seen_events)
        await lane.server.kill()
    log = await restart_and_resume(lane, seen, last="r-2")
    for run_id in ("r-1", "r-2"):
        events = log.of_run(run_id)
        assert_closed(events)
        assert events[-1].get("code") in {None, "agent_lost"}
    await assert_nothing_runs(lane)


# --- what a kill leaves --------------------------------------------------------------------------


async def kill_at(lane: Lane, point: Point) -> None:
    """Kill the server while a run stands at `point`, and look at what the next life makes of it."""
    async with lane.connect() as client:
        seen = await client.subscribe("t")
        await lane.finish(client, "t", "r-0", "before")
        await client.run("t", "r-1", point.question)
        if point.is_followed:
            await client.run("t", "r-2", steps(["input"]))
            await client.until(lambda frame: frame.get("disposition") == "queued")
        await client.until_true(lambda: len(seen.of_run("r-1")) == point.events)
        await lane.server.kill()
        assert (await client.closed())[0] == 1006  # a broken line, no close
    log = await restart_and_resume(lane, seen, last="r-2" if point.is_followed else "r-1")
    lost = log.of_run("r-1")
    assert types_of(lost[point.events :]) == [*point.closing, "RUN_ERROR"]
    assert_closed(lost)
    if point.is_followed:
        # It came after the lost one, and knew what that had said.
        assert [e["runId"] for e in log.envelopes][-5:] == ["r-2"] * 5
        assert text_of(lost) in text_of(log.of_run("r-2"))
    await assert_ended(lane, log, point.question, "agent_lost")


async def restart_and_resume(lane: Lane, seen: Follower, *, last: str) -> Follower:
    """Start the next life, go on from what was seen to the end of `last`, return the whole log."""
    before = list(seen.envelopes)
    await lane.server.start()
    async with lane.connect() as client:
        await client.follow(seen)
        await client.until_true(lambda: seen.has_ended(last))
    log = await lane.load_log("t")
    assert log.envelopes[: len(before)] == before
    assert log.envelopes == seen.envelopes
    return log


def assert_closed(events: list[Frame]) -> None:
    """Fail unless all that was opened is closed, and the run's one end is its last event."""
    counts = Counter(types_of(events))
    for end in ENDS:
        start = end.replace("_END", "_START").replace("_FINISHED", "_STARTED")
        assert counts[start] == counts[end], events
    assert [event["type"] in TERMINAL for event in events] == [False] * (len(events) - 1) + [True]


async def assert_ended(lane: Lane, log: Follower, question: str, outcome: str) -> None:
    """Fail unless `r-1` has this end for everybody, and none says that anything runs."""
    await assert_nothing_runs(lane)
    async with lane.server.http(lane.token) as http:
        run = (await http.get("/api/runs/r-1")).json()
    assert (run["state"], run["outcome"], run["endedAt"] > 0) == ("ended", outcome, True)
    end = log.of_run("r-1")[-1]
    assert end.get("code", "success") == outcome
    if outcome != "success":
        (found,) = [e for e in lane.server.logs if e.get("error_id") == run["errorId"]]
        assert (found["user_id"], found["run_id"]) == (lane.user, "r-1")
        assert end["metadata"]["errorId"] == run["errorId"]
    await assert_not_run_again(lane, log, question)
    await assert_calls_answered(lane)


async def assert_calls_answered(lane: Lane) -> None:
    """Fail unless the next agent finds a result behind every call."""
    said = json.loads(text_of(await lane.play("t", "next", steps(["input"]))))["messages"]
    for place, message in enumerate(said):
        for number, call in enumerate(message.get("toolCalls", ())):
            assert said[place + 1 + number].get("toolCallId") == call["id"], said
            json.loads(call["function"]["arguments"])


async def assert_nothing_runs(lane: Lane) -> None:
    async with lane.connect() as client:
        assert client.welcome is not None
        assert client.welcome["activeRuns"] == []
    async with lane.server.http(lane.token) as http:
        assert (await http.get("/api/threads/t")).json()["activeRunId"] is None
        listed = (await http.get("/api/threads")).json()["threads"]
    assert {thread["activeRunId"] for thread in listed} == {None}
    assert (await lane.server.metrics())["isolane_runs_active"] == 0


async def assert_not_run_again(lane: Lane, log: Follower, question: str) -> None:
    """Fail unless the same run frame brings what the log has, and adds nothing to it."""
    own = [envelope for envelope in log.envelopes if envelope["runId"] == "r-1"]
    async with lane.connect() as client:
        await client.run("t", "r-1", question)
        assert (await client.until_type("accepted"))["disposition"] == "attached"
        again = await client.until(lambda frame: frame.get("id") == own[-1]["id"])
        assert envelopes(again) == own
        await client.abort("r-1")  # no effect
        assert await settled(client) == [{"type": "stopping", "runId": "r-1"}]
    async with lane.replay("r-1") as socket:
        assert await read_to_close(socket) == (own, (1000, ""))
    assert (await lane.load_log("t")).envelopes == log.envelopes
