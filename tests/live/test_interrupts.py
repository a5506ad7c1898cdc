"""What a run asks of a person: shown to whoever comes, answered whole, and by one alone."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from tests.live.client import Client, Frame
from tests.live.judge import Recording, judge
from tests.live.server import Server
from tests.live.stage import SCRIPT, Lane, own_server, shared_server, steps, text_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

server = shared_server(SCRIPT)

ONE = [{"id": "i-1", "reason": "approval", "message": "May I?"}]
TWO = [*ONE, {"id": "i-2", "reason": "approval", "message": "And this?"}]


@pytest.fixture
def lane(server: Server) -> Lane:
    return Lane(server)


async def ask(lane: Lane, run_id: str, interrupts: list[dict[str, Any]]) -> None:
    """Let a run end with a question to the user."""
    end = {
        "type": "RUN_FINISHED",
        "threadId": "t",
        "runId": run_id,
        "outcome": {"type": "interrupt", "interrupts": interrupts},
    }
    events = await lane.play("t", run_id, steps(["event", end]))
    assert events[-1]["outcome"]["interrupts"] == interrupts


async def shown(lane: Lane) -> list[dict[str, Any]]:
    """Return what a device is shown that opens the thread now."""
    async with lane.server.http(lane.token) as http:
        answer = await http.get("/api/threads/t")
    shown: list[dict[str, Any]] = answer.raise_for_status().json()["interrupts"]
    return shown


def answers(*ids: str) -> list[dict[str, Any]]:
    return [{"interruptId": one, "status": "resolved", "payload": True} for one in ids]


async def answer(client: Client, run_id: str, *ids: str, act: str = "input") -> Frame:
    """Answer, and return what the server says to it; the agent does one `act` then."""
    await client.run("t", run_id, steps([act]), resume=answers(*ids))
    frames = await client.until(lambda frame: frame.get("type") in {"accepted", "error"})
    return frames[-1]


async def test_a_question_is_shown_to_whoever_opens_the_thread_until_it_is_answered(
    lane: Lane,
) -> None:
    await ask(lane, "r-1", ONE)
    assert await shown(lane) == ONE
    events = await lane.play("t", "r-2", steps(["input"]), resume=answers("i-1"))
    assert json.loads(text_of(events))["resume"] == answers("i-1")
    assert await shown(lane) == []


async def test_start_shows_answers_and_names_of_tools_as_the_published_client_takes_them(
    lane: Lane,
) -> None:
    await ask(lane, "r-1", TWO)
    given = [
        {"interruptId": "i-1", "status": "resolved", "payload": {"approved": None}},
        {"interruptId": "i-2", "status": "cancelled", "payload": None, "metadata": None},
    ]
    tools = [{"name": "lookup", "description": "Looks up", "parameters": {"type": "object"}}]
    events = await lane.play("t", "r-2", steps(["input"]), resume=given, tools=tools)
    shown = events[0]["input"]
    assert shown["resume"] == [given[0], {"interruptId": "i-2", "status": "cancelled"}]
    assert shown["tools"] == [{"name": "lookup", "description": "", "parameters": {}}]
    assert json.loads(text_of(events))["tools"][0]["parameters"] == {"type": "object"}
    (verdict,) = await asyncio.to_thread(judge, [Recording.of(events)])
    assert (verdict.failure, verdict.malformed) == (None, [])


async def test_a_question_waits_over_a_restart(tmp_path: Path) -> None:
    async with own_server(tmp_path / "data", SCRIPT) as server:
        lane = Lane(server)
        await ask(lane, "r-1", TWO)
        await server.kill()
        await server.start()
        assert await shown(lane) == TWO
        async with lane.connect() as client:
            assert (await answer(client, "r-2", "i-1", "i-2"))["disposition"] == "started"
            await client.until_end("r-2")


@pytest.mark.parametrize(
    "ids, says",
    [
        (("i-1",), "resume: must answer every interrupt; i-2 is left"),
        (("i-1", "i-2", "i-1"), "resume: must answer each once; i-1 comes twice"),
    ],
)
async def test_an_answer_leaves_no_question_out(
    lane: Lane, ids: tuple[str, ...], says: str
) -> None:
    await ask(lane, "r-1", TWO)
    async with lane.connect() as client:
        error = await answer(client, "r-2", *ids)
        assert (error["code"], error["message"]) == ("invalid_input", says)
        assert await shown(lane) == TWO
        assert (await answer(client, "r-2", "i-2", "i-1"))["disposition"] == "started"
        await client.until_end("r-2")


async def test_of_two_devices_that_answer_at_once_the_first_wins(lane: Lane) -> None:
    async with lane.connect() as phone, lane.connect() as laptop:
        for number in range(20):
            await ask(lane, f"ask-{number}", ONE)
            # Not "input", which says all that was said before once more.
            said = await asyncio.gather(
                answer(phone, f"phone-{number}", "i-1", act="whoami"),
                answer(laptop, f"laptop-{number}", "i-1", act="whoami"),
            )
            (won,) = [frame for frame in said if frame["type"] == "accepted"]
            (lost,) = [frame for frame in said if frame["type"] == "error"]
            assert (lost["code"], lost["retryable"]) == ("run_conflict", False)
            await (phone if won["runId"].startswith("phone") else laptop).until_end(won["runId"])
            async with lane.server.http(lane.token) as http:
                assert (await http.get(f"/api/runs/{lost['runId']}")).status_code == 404
            assert await shown(lane) == []


async def test_an_answer_that_comes_too_late_is_told_so(lane: Lane) -> None:
    await ask(lane, "r-1", ONE)
    async with lane.connect() as client:
        await lane.finish(client, "t", "r-2", "something else first")
        assert await shown(lane) == []
        error = await answer(client, "r-3", "i-1")
        assert error["code"] == "run_conflict"
        assert "i-1" in error["message"]


async def test_an_answer_sent_again_attaches_to_its_run(lane: Lane) -> None:
    await ask(lane, "r-1", ONE)
    async with lane.connect() as client:
        assert (await answer(client, "r-2", "i-1"))["disposition"] == "started"
        await client.until_end("r-2")
    async with lane.connect() as client:
        assert (await answer(client, "r-2", "i-1"))["disposition"] == "attached"
