"""Agents that say they are restartable: another process begins their runs anew, with one end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx
import pytest
import pytest_asyncio
from tests.live.client import Client, Follower
from tests.live.server import Server
from tests.live.stage import SCRIPT, Lane, own_server, steps
from tests.postgres import PostgresServer

pytestmark = pytest.mark.asyncio(loop_scope="module")

LASTING: Final = "lasting=protocol_agents:lasting"
RESTARTED: Final = "isolane.restarted"


class House(NamedTuple):
    """A gateway without agents, and two workers that serve the same ones."""

    gateway: Server
    first: Server
    second: Server


@pytest_asyncio.fixture(loop_scope="module")
async def house(postgres: PostgresServer, tmp_path: Path) -> AsyncIterator[House]:
    async with AsyncExitStack() as stack:
        env = {"ISOLANE_DATABASE_URL": stack.enter_context(postgres.database())}
        first, second = [
            await stack.enter_async_context(
                own_server(tmp_path / name, SCRIPT, LASTING, env=env, command="work")
            )
            for name in ("first", "second")
        ]
        gateway = await stack.enter_async_context(
            own_server(tmp_path / "gateway", env=env, options=("--no-agents",))
        )
        yield House(gateway, first, second)


async def runs_at(server: Server) -> float:
    return (await server.gauges())["isolane_runs_active"]


async def begin(client: Client, *words: list[Any]) -> Follower:
    """Begin a run that has said "half" and holds at the gate "end"; follow its thread."""
    await client.run("t", "r", steps(["say", "half"], ["hold", "end"], *words))
    await client.until_event("TEXT_MESSAGE_CONTENT")
    return await client.subscribe("t")


async def check_one_answer(http: httpx.AsyncClient, follower: Follower, *, attempts: int) -> None:
    """Check that the run has one start, one end and one answer, and says how often it was begun."""
    types = follower.types
    assert (types.count("RUN_STARTED"), types.count("RUN_FINISHED")) == (1, 1)
    events = follower.of_run("r")
    told = [one["value"]["attempt"] for one in events if one.get("name") == RESTARTED]
    assert told == [attempts]
    place = next(n for n, one in enumerate(events) if one.get("name") == RESTARTED)
    before, after = events[:place], events[place + 1 :]
    # What was open is closed, and clients get the messages as of the beginning.
    assert [one["type"] for one in before if "TEXT" in one["type"]][-1] == "TEXT_MESSAGE_END"
    assert after[0]["type"] == "MESSAGES_SNAPSHOT"
    assert [message["role"] for message in after[0]["messages"]] == ["user"]
    assert attempts_of(follower) == [1, attempts]
    shown = (await http.get("/api/threads/t")).json()["messages"]
    assert [(one["role"], one["content"]) for one in shown][1:] == [("assistant", "halfrest")]


async def test_a_worker_that_ends_hands_its_runs_over_at_once(house: House) -> None:
    lane = Lane(house.gateway)
    async with lane.connect(agent="lasting") as client, house.gateway.http(lane.token) as http:
        follower = await begin(client, ["say", "rest"])
        owner = house.first if await runs_at(house.first) else house.second
        stopped = await owner.stop()
        assert stopped.code == 0
        await client.until_true(
            lambda: "half" in text_after(follower) and not follower.has_ended("r")
        )
        await lane.open_gate("end")
        await client.until_true(lambda: follower.has_ended("r"))
        await check_one_answer(http, follower, attempts=1)
        await owner.start()


async def test_a_worker_that_is_killed_loses_no_restartable_run(house: House) -> None:
    lane = Lane(house.gateway)
    async with lane.connect(agent="lasting") as client, house.gateway.http(lane.token) as http:
        follower = await begin(client, ["say", "rest"])
        owner = house.first if await runs_at(house.first) else house.second
        await owner.kill()
        await client.until_true(lambda: "half" in text_after(follower))
        await lane.open_gate("end")
        await client.until_true(lambda: follower.has_ended("r"))
        await check_one_answer(http, follower, attempts=2)
        await owner.start()


async def test_a_run_that_was_handed_over_is_stopped_as_any_other(house: House) -> None:
    lane = Lane(house.gateway)
    async with lane.connect(agent="lasting") as client:
        follower = await begin(client)
        owner = house.first if await runs_at(house.first) else house.second
        await owner.stop()
        await client.until_true(lambda: "half" in text_after(follower))
        await client.abort("r")
        await client.until_true(lambda: follower.has_ended("r"))
        assert follower.of_run("r")[-1]["outcome"]["type"] == "cancelled"
        await owner.start()


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_a_gateway_alone_goes_on_with_its_runs_when_it_starts_again(
    tmp_path: Path, how: str
) -> None:
    env = {"ISOLANE_DRAIN_TIMEOUT_S": "0"}
    async with own_server(tmp_path, SCRIPT, LASTING, env=env) as server:
        lane = Lane(server)
        async with lane.connect(agent="lasting") as client:
            await begin(client, ["say", "rest"])
        await (server.stop() if how == "stop" else server.kill())
        await server.start()
        async with lane.connect(agent="lasting") as client, server.http(lane.token) as http:
            await lane.open_gate("end")
            follower = await client.subscribe("t")
            await client.until_true(lambda: follower.has_ended("r"))
            await check_one_answer(http, follower, attempts=1 if how == "stop" else 2)


async def test_a_run_that_kills_its_process_is_begun_three_times_at_most(tmp_path: Path) -> None:
    async with own_server(tmp_path, SCRIPT, LASTING) as server:
        lane = Lane(server)
        async with lane.connect(agent="lasting") as client:
            await begin(client)
        for attempt in (2, 3):
            await server.kill()
            await server.start()
            async with lane.connect(agent="lasting") as client:
                follower = await client.subscribe("t")
                await client.until_true(lambda: attempt in attempts_of(follower))  # noqa: B023
        await server.kill()
        await server.start()
        async with server.http(lane.token) as http:
            run = (await http.get("/api/runs/r")).json()
        assert (run["state"], run["outcome"]) == ("ended", "agent_lost")
        log = await lane.load_log("t")
    assert attempts_of(log) == [1, 2, 3]
    assert log.types.count("RUN_ERROR") == 1


def attempts_of(follower: Follower) -> list[int]:
    """Return which attempts the agent has said that it is."""
    return [one["value"] for one in follower.events if one.get("name") == "attempt"]


def text_after(follower: Follower) -> str:
    """Return what was said since the run was begun anew."""
    events = follower.events
    places = [n for n, one in enumerate(events) if one.get("name") == RESTARTED]
    return "".join(one.get("delta", "") for one in events[places[-1] :]) if places else ""
