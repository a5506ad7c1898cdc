"""A disk that is not there for a while: locked by another process, or full.

Nothing that was acknowledged is lost, what can't be written is refused as `unavailable`, and the
same process goes on by itself once the disk is back.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from itertools import pairwise
from pathlib import Path
from time import monotonic
from typing import Final

import httpx
import pytest
from tests.live.agents import numbered
from tests.live.client import TERMINAL, Client, Follower, Frame, run_frame
from tests.live.disk import filled
from tests.live.hungry_agents import FOLDER
from tests.live.server import Server
from tests.live.stage import SCRIPT, Lane, caught_up, own_server, read_to_close, steps, text_of

SLOW: Final = "slow=agents:slow"
FLOODER: Final = "flooder=hungry_agents:flooder"
HEARTBEAT_S: Final = 2.0
WRITERS_WAIT_S: Final = 30.0
"""How long a write waits for another process before it is given up."""
PROMPT_S: Final = 4.0
"""What an answer may take that needs no writing, on a machine with other things to do."""
PACED_WORDS: Final = 200
PACED: Final = f"count {PACED_WORDS} every 10ms"
"""More than a run may be ahead of its commits."""


def is_answer(frame: Frame, run_id: str) -> bool:
    """Say whether a frame tells what became of a run frame."""
    return frame.get("runId") == run_id and frame.get("type") in {"accepted", "error"}


def assert_refused(error: Frame) -> None:
    assert (error["code"], error["retryable"]) == ("unavailable", True)
    assert error["retryAfterMs"] > 0


def assert_one_end(seen: Follower, run_id: str, *codes: str | None) -> None:
    """Fail unless the run has one end, with one of these codes; None is a success."""
    events = seen.of_run(run_id)
    assert [event["type"] in TERMINAL for event in events] == [False] * (len(events) - 1) + [True]
    assert events[-1].get("code") in codes


async def begin(lane: Lane, client: Client, question: str, *, agent: str | None = None) -> Follower:
    """Follow a thread with an ended run, and return once a long one has spoken."""
    seen = await client.subscribe("t")
    await lane.finish(client, "t", "r-0", "count 3")
    async with lane.connect(agent=agent, hello=False) as asking:
        await asking.run("t", "r-1", question)
        await client.until_true(lambda: len(seen.of_run("r-1")) > 5)
    return seen


# --- locked by another process -------------------------------------------------------------------


@asynccontextmanager
async def locked(server: Server) -> AsyncIterator[None]:
    """Keep the server from writing to its database, as another process' backup would."""
    path = server.data / "isolane.db"
    with closing(
        sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
    ) as connection:
        # Waits for whoever writes; all sockets here are read meanwhile.
        await asyncio.to_thread(connection.execute, "BEGIN EXCLUSIVE")
        yield
        connection.execute("ROLLBACK")


async def longest_silence_s(client: Client, *, for_s: float) -> float:
    """Return the longest time without a heartbeat, for a client that asks for nothing."""
    began = monotonic()
    came = [began]
    with suppress(TimeoutError):
        async with asyncio.timeout(for_s):
            while True:
                if json.loads(await client.socket.recv()) == {"type": "ping"}:
                    came.append(monotonic())
    came.append(began + for_s)
    return max(later - earlier for earlier, later in pairwise(came))


async def longest_answer_s(lane: Lane, *, for_s: float) -> float:
    """Ask on and on for what needs no writing, and return the longest time that it took."""
    longest_s, deadline = 0.0, monotonic() + for_s
    async with lane.server.http(lane.token) as http:
        while monotonic() < deadline:
            for path in ("/healthz", "/api/threads/t", "/api/runs/r-0"):
                began = monotonic()
                (await http.get(path)).raise_for_status()
                longest_s = max(longest_s, monotonic() - began)
            await asyncio.sleep(0.1)  # the pace of the questions
    return longest_s


async def ask_for_run(client: Client, *, timeout_s: float) -> tuple[Frame, float]:
    """Send a run frame and return the answer, and how long it took."""
    began = monotonic()
    await client.run("u", "r-2", "count 3")
    frames = await client.until(lambda frame: is_answer(frame, "r-2"), timeout_s=timeout_s)
    return frames[-1], monotonic() - began


async def live_through_a_lock(lane: Lane, *, for_s: float, codes: set[str | None]) -> None:
    """Lock the database under a run, and let another begin meanwhile.

    Both end with one of `codes`, None for success; one that wasn't begun was refused.
    """
    patience_s = for_s + 10
    async with lane.connect() as client, lane.connect() as quiet, lane.connect() as late:
        seen = await begin(lane, client, PACED)
        # Everybody reads all the while: who doesn't answers no ping either.
        ending = asyncio.create_task(client.until_end("r-1", timeout_s=patience_s))
        async with locked(lane.server):
            answering = asyncio.create_task(ask_for_run(late, timeout_s=patience_s))
            silence_s, answer_s = await asyncio.gather(
                longest_silence_s(quiet, for_s=for_s), longest_answer_s(lane, for_s=for_s)
            )
        answer, wait_s = await answering
        await ending
    assert wait_s < WRITERS_WAIT_S + PROMPT_S
    assert silence_s < HEARTBEAT_S + PROMPT_S
    assert answer_s < PROMPT_S
    assert_one_end(seen, "r-1", *codes)
    assert numbered(PACED_WORDS).startswith(text_of(seen.of_run("r-1")))
    assert (await lane.load_log("t")).envelopes == seen.envelopes
    if answer["type"] == "error":
        assert_refused(answer)
        assert "unavailable" in codes
    # Begun or refused: the same frame again brings the whole run, once.
    again = await lane.play("u", "r-2", "count 3")
    assert again[-1]["type"] == "RUN_FINISHED"
    assert len(again) == 1 + 1 + 3 + 1 + 1


async def test_locked_database_makes_writers_wait_and_nobody_else(tmp_path: Path) -> None:
    # What 8 s show is what 20 s would: both are less than writers wait, and more than is prompt.
    async with own_server(tmp_path, SLOW, env={"ISOLANE_HEARTBEAT_S": str(HEARTBEAT_S)}) as server:
        lane = Lane(server)
        await live_through_a_lock(lane, for_s=8, codes={None})
        assert (await lane.load_log("t")).text == numbered(3) + numbered(PACED_WORDS)


@pytest.mark.soak
async def test_database_that_stays_locked_refuses_and_comes_back(tmp_path: Path) -> None:
    async with own_server(tmp_path, SLOW, env={"ISOLANE_HEARTBEAT_S": str(HEARTBEAT_S)}) as server:
        await live_through_a_lock(Lane(server), for_s=65, codes={"unavailable"})


# --- full ----------------------------------------------------------------------------------------


async def test_full_disk_refuses_keeps_and_recovers_by_itself(
    tmp_path: Path, small_disk: Path
) -> None:
    sign = tmp_path / "flood"
    async with own_server(small_disk, SLOW, FLOODER, env={FOLDER: str(tmp_path)}) as server:
        lane, pid = Lane(server), server.pid
        async with lane.connect() as client, lane.connect() as other:
            seen = await begin(lane, client, sign.name, agent="flooder")
            await client.run("t", "r-2", "count 5")
            await client.until(lambda frame: is_answer(frame, "r-2"))
            with filled(small_disk):
                # Nobody has written on the way here; now somebody does, until it is refused.
                sign.touch()
                await server.wait_for_log(cannot_end)
                await new_runs_are_refused(other)
                await what_was_acknowledged_is_readable(lane, seen)
            await client.until_true(lambda: seen.has_ended("r-2"))
            # What was refused has taken nothing: neither its id, nor a slot.
            assert (await lane.finish(other, "u", "r-3", "count 3"))["chunk"]["type"] in TERMINAL
        assert_one_end(seen, "r-1", "unavailable")
        assert_one_end(seen, "r-2", None)
        counted = text_of(seen.of_run("r-1"))
        assert counted == numbered(len(counted.split()))
        assert text_of(seen.of_run("r-2")) == numbered(5)
        assert (await lane.load_log("t")).envelopes == seen.envelopes
        assert (await server.metrics())["isolane_runs_active"] == 0
        assert server.pid == pid


def cannot_end(entry: Frame) -> bool:
    """Say whether a run gets no end for now, or a start can't take over the lost ones."""
    return entry["event"] in {"run_end_write_failed", "registration_failed"}


async def new_runs_are_refused(client: Client) -> None:
    """Ask for more runs than a user may have, so that a slot which is lost is missed."""
    for _ in range(7):
        await client.run("u", "r-3", "count 3")
        answer = (await client.until(lambda frame: is_answer(frame, "r-3")))[-1]
        assert answer["type"] == "error"
        assert_refused(answer)


async def what_was_acknowledged_is_readable(lane: Lane, seen: Follower) -> None:
    acknowledged = list(seen.envelopes)
    first = [envelope for envelope in acknowledged if envelope["runId"] == "r-0"]
    async with lane.connect() as device:
        again = await caught_up(device, "t")
        assert again.envelopes[: len(acknowledged)] == acknowledged
        await caught_up(device, "t", acknowledged[-1]["id"])
    async with lane.replay("r-0") as socket:
        assert await read_to_close(socket) == (first, (1000, ""))
    async with lane.server.http(lane.token) as http:
        assert (await http.get("/healthz")).status_code == httpx.codes.OK
        thread = (await http.get("/api/threads/t")).json()
        assert thread["messages"][1]["content"] == numbered(3)
        for path, body in (("/agui", run_frame("u", "r-4", "count 1")), ("/api/threads", {})):
            answer = await http.post(path, json=body)
            assert answer.status_code == httpx.codes.SERVICE_UNAVAILABLE
            assert_refused(answer.json())


async def test_killed_on_a_full_disk_it_starts_when_there_is_room(small_disk: Path) -> None:
    async with own_server(small_disk, SCRIPT) as server:
        lane = Lane(server)
        async with lane.connect() as client:
            seen = await client.subscribe("t")
            await client.run("t", "r-1", steps(["say", "half"], ["hold", "never"]))
            await client.until_true(lambda: bool(seen.text))
            with filled(small_disk):
                await server.kill()
                starting = asyncio.create_task(server.start())
                # The lost run's end finds no room.
                await server.wait_for_log(cannot_end)
            await starting
        async with lane.connect() as client:
            await client.follow(seen)
            await client.until_true(lambda: seen.has_ended("r-1"))
        assert_one_end(seen, "r-1", "agent_lost")
        assert seen.types[-2:] == ["TEXT_MESSAGE_END", "RUN_ERROR"]
        assert (await lane.play("t", "r-2", "more"))[-1]["type"] == "RUN_FINISHED"
