"""Gateways without agents, and workers without users: agents are deployed beside open sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final, NamedTuple

import pytest
import pytest_asyncio
from click.testing import CliRunner
from tests.live.server import STOP_TIMEOUT_S, Server, ServerError, free_port
from tests.live.stage import SCRIPT, SECRET_KEY, Lane, own_server, steps
from tests.postgres import PostgresServer

from isolane.cli import main

pytestmark = pytest.mark.asyncio(loop_scope="module")

OTHER: Final = "other=protocol_agents:script"
WORKER: Final = "worker"
"""What the worker is called, whatever its port is."""


class House(NamedTuple):
    """A gateway without agents, a worker, and the database that they share."""

    gateway: Server
    worker: Server
    url: str


@pytest_asyncio.fixture(loop_scope="module")
async def house(postgres: PostgresServer, tmp_path: Path) -> AsyncIterator[House]:
    async with AsyncExitStack() as stack:
        url = stack.enter_context(postgres.database())
        env = {"ISOLANE_DATABASE_URL": url}
        worker = await stack.enter_async_context(
            own_server(
                tmp_path / "worker",
                SCRIPT,
                OTHER,
                env={**env, "ISOLANE_NODE_ID": WORKER},
                command="work",
            )
        )
        gateway = await stack.enter_async_context(
            own_server(tmp_path / "gateway", env=env, options=("--no-agents",))
        )
        yield House(gateway, worker, url)


async def test_a_run_is_answered_by_the_worker_that_has_its_agent(house: House) -> None:
    lane = Lane(house.gateway)
    async with lane.connect() as client:
        await client.run("t", "r", steps(["say", "from afar"]))
        assert (await client.until_type("accepted"))["disposition"] == "started"
        assert (await client.until_end("r"))["chunk"]["type"] == "RUN_FINISHED"
    assert "from afar" in (await lane.load_log("t")).text
    events = await lane.play("t", "other", "x", agent="other")
    assert events[-1]["type"] == "RUN_FINISHED"
    async with house.gateway.http(lane.token) as http:
        models = (await http.get("/v1/models")).json()["data"]
        assert {"script", "other"} <= {model["id"] for model in models}
        refused = await http.post("/agui/nobody", json={})
        assert (refused.status_code, refused.json()["code"]) == (404, "not_found")


async def test_a_run_of_a_worker_is_stopped_at_the_gateway(house: House) -> None:
    lane = Lane(house.gateway)
    async with lane.connect() as client:
        await client.run("t", "r", steps(["say", "a"], ["hold", "never"]))
        await client.until_event("TEXT_MESSAGE_CONTENT")
        await client.abort("r")
        end = await client.until_end("r")
        assert end["chunk"]["outcome"]["type"] == "cancelled"
    async with house.gateway.http(lane.token) as http:
        stop = (await http.get("/api/runs/r")).json()["stop"]
    assert stop["by"] != "fence"
    assert stop["tookMs"] < 2_000


async def test_agents_are_deployed_anew_beside_open_sockets(house: House) -> None:
    lane = Lane(house.gateway)
    async with lane.connect() as client:
        await lane.finish(client, "t", "before", "before")
        await house.worker.stop()
        await client.run("t", "between", "between")
        assert (await client.until_type("accepted"))["disposition"] == "started"
        await client.run("t", "behind", "behind")
        assert (await client.until_type("accepted"))["disposition"] == "queued"
        await house.worker.start()
        await client.until_end("behind")
        log = await lane.load_log("t")
    ends = [event["runId"] for event in log.events if event["type"] == "RUN_FINISHED"]
    assert ends == ["before", "between", "behind"]


async def test_a_waiting_run_is_stopped_while_no_worker_is_there(house: House) -> None:
    lane = Lane(house.gateway)
    await house.worker.stop()
    async with lane.connect() as client:
        await client.run("t", "r", "r")
        await client.until_type("accepted")
        await client.abort("r")
        end = await client.until_end("r")
        assert end["chunk"]["outcome"]["type"] == "cancelled"
    await house.worker.start()
    assert (await lane.play("t", "next", "next"))[-1]["type"] == "RUN_FINISHED"


async def test_a_worker_that_is_killed_and_started_again_loses_its_runs_at_once(
    house: House,
) -> None:
    lane = Lane(house.gateway)
    async with lane.connect() as client:
        await client.run("t", "lost", steps(["say", "a"], ["hold", "never"]))
        await client.until_event("TEXT_MESSAGE_CONTENT")
        await client.run("t", "next", "next")
        await house.worker.kill()
        async with asyncio.timeout(STOP_TIMEOUT_S):
            await house.worker.start()
        end = await client.until_end("lost")
        assert end["chunk"]["code"] == "agent_lost"
        assert (await client.until_end("next"))["chunk"]["type"] == "RUN_FINISHED"


async def test_a_process_that_takes_a_name_ends_the_one_that_had_it(
    house: House, tmp_path: Path
) -> None:
    lane = Lane(house.gateway)
    env = {"ISOLANE_DATABASE_URL": house.url, "ISOLANE_NODE_ID": WORKER}
    async with lane.connect() as client:
        await client.run("t", "lost", steps(["say", "a"], ["hold", "never"]))
        await client.until_event("TEXT_MESSAGE_CONTENT")
        async with own_server(tmp_path / "twin", SCRIPT, OTHER, env=env, command="work"):
            said = await house.worker.wait_for_log(
                lambda e: e.get("event") == "node_name_taken", timeout_s=15
            )
            assert "give each its own ISOLANE_NODE_ID" in said["reason"]
            assert await house.worker.wait() == 1
            assert (await client.until_end("lost"))["chunk"]["code"] == "agent_lost"
            assert (await lane.play("t", "next", "next"))[-1]["type"] == "RUN_FINISHED"
    await house.worker.start()


async def test_operators_see_who_serves(house: House) -> None:
    lane = Lane(house.gateway)
    async with lane.connect() as client:
        await client.run("t", "r", steps(["say", "a"], ["hold", "seen"]))
        await client.until_event("TEXT_MESSAGE_CONTENT")
        env = {"ISOLANE_DATABASE_URL": house.url, "ISOLANE_SECRET_KEY": SECRET_KEY}
        run = CliRunner(env=env).invoke
        told = await asyncio.to_thread(run, main, ["nodes", "--json"])
        lines = (await asyncio.to_thread(run, main, ["nodes"])).output.splitlines()
        await lane.open_gate("seen")
        await client.until_end("r")
    found = {node["role"]: node for node in json.loads(told.output)["nodes"]}
    worker, gateway = found["worker"], found["gateway"]
    assert (worker["name"], worker["state"], worker["runs"]) == (WORKER, "live", 1)
    assert worker["agents"] == ["script", "other", "check"]
    assert gateway["name"].endswith(f":{house.gateway.port}")
    assert (gateway["agents"], gateway["runs"]) == ([], 0)
    assert lines[0].split()[:2] == ["node", "role"]
    assert len(lines) == 3
    async with house.worker.http() as http:
        assert (await http.get("/healthz")).status_code == 200
        assert (await http.get("/")).status_code == 404
        assert (await http.get("/api/threads")).status_code == 404


async def test_a_process_with_another_key_is_refused_and_harms_nobody(
    house: House, tmp_path: Path
) -> None:
    env = {"ISOLANE_DATABASE_URL": house.url, "ISOLANE_SECRET_KEY": "x" * 32}
    stranger = Server(tmp_path / "stranger", (SCRIPT,), env, command="work")
    with pytest.raises(ServerError, match="serves the database with another ISOLANE_SECRET_KEY"):
        await stranger.start()
    assert (await Lane(house.gateway).play("t", "r", "r"))[-1]["type"] == "RUN_FINISHED"


@pytest.mark.parametrize(
    "words, message",
    [
        (["work"], "name the agents to run"),
        (["work", "--agent", "x=protocol_agents:script"], "set ISOLANE_DATABASE_URL"),
        (["serve", "--no-agents"], "set ISOLANE_DATABASE_URL"),
        (["serve", "--no-agents", "--agent", "x=y:z"], "can't stand together"),
    ],
)
async def test_what_makes_no_sense_is_refused_in_one_sentence(
    words: list[str], message: str
) -> None:
    result = CliRunner().invoke(main, [*words, "--port", str(free_port())])
    assert result.exit_code == 2
    assert message in result.output


async def test_a_user_s_devices_at_any_gateway_hear_of_threads(
    house: House, tmp_path: Path
) -> None:
    """The run's own process has no sockets at all."""
    env = {"ISOLANE_DATABASE_URL": house.url}
    async with own_server(tmp_path / "second", env=env, options=("--no-agents",)) as second:
        one = Lane(house.gateway)
        other = Lane(second, one.user)
        async with one.connect() as here, other.connect() as there:
            await here.run("t", "r", steps(["say", "a"], ["hold", "told"]))
            for client in (here, there):
                await client.until(
                    lambda f: (f.get("type"), f.get("activeRunId")) == ("thread", "r")
                )
            await one.open_gate("told")
            for client in (here, there):
                await client.until(
                    lambda f: (f.get("type"), f.get("activeRunId")) == ("thread", None)
                )
            async with second.http(other.token) as http:
                assert (await http.delete("/api/threads/t")).status_code == 204
            for client in (here, there):
                (*_, told) = await client.until(
                    lambda f: f.get("type") == "thread" and bool(f.get("deleted"))
                )
                assert told["threadId"] == "t"
