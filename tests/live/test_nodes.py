"""Several gateways on one PostgreSQL database: users, runs and stops belong to none of them."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Final, NamedTuple

import psycopg
import pytest
import pytest_asyncio
from tests.live.client import Client, Follower, connect
from tests.live.server import Looks, Server
from tests.live.stage import SCRIPT, Lane, own_server, read_to_close, steps
from tests.live.task_faults import UNFORESEEN, VARIABLE
from tests.postgres import PostgresServer

pytestmark = pytest.mark.asyncio(loop_scope="module")

LEASE_S: Final = 5.0
STOPPED_WITHIN_MS: Final = 2_000
DEAD_WITHIN_S: Final = LEASE_S + 5
"""A death is declared a lease after the last beat; the next beat of another node ends its runs."""


class Nodes(NamedTuple):
    """Two gateways, and the database that they share."""

    first: Server
    second: Server
    url: str


@pytest_asyncio.fixture(loop_scope="module")
async def nodes(postgres: PostgresServer, tmp_path: Path) -> AsyncIterator[Nodes]:
    async with AsyncExitStack() as stack:
        url = stack.enter_context(postgres.database())
        env = {"ISOLANE_DATABASE_URL": url}
        first, second = [
            await stack.enter_async_context(own_server(tmp_path / name, SCRIPT, env=env))
            for name in ("first", "second")
        ]
        yield Nodes(first, second, url)


class Both(NamedTuple):
    """One user at both nodes."""

    first: Lane
    second: Lane


def both_of(nodes: Nodes) -> Both:
    lane = Lane(nodes.first)
    return Both(lane, Lane(nodes.second, lane.user))


async def until_ended(client: Client, follower: Follower, run_id: str) -> None:
    """Read until a run has ended whose node died, or the one behind it."""
    async with asyncio.timeout(DEAD_WITHIN_S + 10):
        while not follower.has_ended(run_id):
            await client.recv(timeout_s=DEAD_WITHIN_S)


async def test_a_thread_is_one_thread_on_every_node(nodes: Nodes) -> None:
    one, other = both_of(nodes)
    async with one.connect() as here, other.connect() as there:
        follower = await there.subscribe("t")
        for number in range(5):
            await one.finish(here, "t", f"r{number}", steps(["blobs", 40, 10]))
        await there.until_true(lambda: follower.has_ended("r4"))
        await other.finish(there, "t", "back", "and back")
        whole = await one.load_log("t")
    assert follower.events == whole.events
    assert [run for run in ("r0", "r4", "back") if whole.has_ended(run)] == ["r0", "r4", "back"]


async def test_a_node_that_starts_ends_no_run_of_another(nodes: Nodes, tmp_path: Path) -> None:
    one, other = both_of(nodes)
    async with one.connect() as here:
        await here.run("t", "r", steps(["say", "a"], ["hold", "start"], ["say", "b"]))
        await here.until_event("TEXT_MESSAGE_CONTENT")
        env = {"ISOLANE_DATABASE_URL": nodes.url}
        async with own_server(tmp_path / "third", SCRIPT, env=env):
            await one.open_gate("start")
            assert (await here.until_end("r"))["chunk"]["type"] == "RUN_FINISHED"
    assert (await other.load_log("t")).types.count("RUN_FINISHED") == 1


async def test_a_run_under_way_is_told_at_the_other_node(nodes: Nodes) -> None:
    one, other = both_of(nodes)
    async with one.connect() as here:
        await here.run("t", "r", steps(["say", "a"], ["hold", "told"]))
        await here.until_event("TEXT_MESSAGE_CONTENT")
        async with other.connect(hello=False) as there:
            await there.send({"type": "hello", "v": 1})
            welcome = await there.until_type("welcome")
            assert [run["runId"] for run in welcome["activeRuns"]] == ["r"]
        await one.open_gate("told")
        await here.until_end("r")


async def test_a_stop_at_one_node_stops_the_run_at_another(nodes: Nodes) -> None:
    one, other = both_of(nodes)
    async with one.connect() as here, other.connect() as there:
        await here.run("t", "r", steps(["say", "a"], ["hold", "never"]))
        await here.until_event("TEXT_MESSAGE_CONTENT")
        follower = await there.subscribe("t")
        await there.abort("r")
        await there.until_true(lambda: follower.has_ended("r"))
    assert follower.of_run("r")[-1]["outcome"]["type"] == "cancelled"


async def test_a_stop_holds_where_the_node_of_the_run_is_frozen(nodes: Nodes) -> None:
    one, other = both_of(nodes)
    async with one.connect() as here, other.connect() as there:
        await here.run("t", "r", steps(["say", "a"], ["pause", 4], ["say", "late"]))
        await here.until_event("TEXT_MESSAGE_CONTENT")
        follower = await there.subscribe("t")
        nodes.first.send_signal(signal.SIGSTOP)
        try:
            await there.abort("r")
            await there.until_true(lambda: follower.has_ended("r"))
        finally:
            nodes.first.send_signal(signal.SIGCONT)
        async with nodes.second.http(other.token) as http:
            stop = (await http.get("/api/runs/r")).json()["stop"]
        assert stop["by"] == "fence"
        assert stop["tookMs"] < STOPPED_WITHIN_MS
        # What the frozen one goes on to write is refused, and it serves again.
        await one.play("t", "next", "next")
        log = await other.load_log("t")
    assert "late" not in log.text
    assert log.types.count("RUN_FINISHED") == 2


async def test_runs_of_one_thread_at_two_nodes_come_one_after_the_other(nodes: Nodes) -> None:
    one, other = both_of(nodes)
    async with one.connect() as here, other.connect() as there:
        await asyncio.gather(
            *(here.run("t", f"a{number}", steps(["blobs", 5, 10])) for number in range(2)),
            *(there.run("t", f"b{number}", steps(["blobs", 5, 10])) for number in range(2)),
        )
        names = ["a0", "a1", "b0", "b1"]
        follower = await here.subscribe("t")
        await here.until_true(lambda: all(follower.has_ended(name) for name in names))
    order = [event["runId"] for event in follower.events if event["type"] == "RUN_STARTED"]
    ends = [event["runId"] for event in follower.events if event["type"] == "RUN_FINISHED"]
    assert sorted(order) == names
    assert order == ends


async def test_one_run_id_at_two_nodes_at_once_is_one_run(nodes: Nodes) -> None:
    one, other = both_of(nodes)
    async with one.connect() as here, other.connect() as there:
        for number in range(10):
            run_id = f"r{number}"
            await asyncio.gather(*(each.run("t", run_id, "same") for each in (here, there)))
            told = [(await each.until_type("accepted"))["disposition"] for each in (here, there)]
            assert sorted(told) in (["attached", "started"], ["attached", "queued"])
            await here.until_end(run_id)
            await there.until_end(run_id)
    log = await one.load_log("t")
    assert log.types.count("RUN_STARTED") == log.types.count("RUN_FINISHED") == 10


async def test_a_ticket_of_one_node_opens_one_socket_at_another(nodes: Nodes) -> None:
    one, other = both_of(nodes)
    (ticket,) = await nodes.first.tickets(one.token)
    address = f"{nodes.second.websocket_url()}?ticket={ticket}"
    async with connect(address, None, hello=False) as client:
        await client.send({"type": "hello", "v": 1})
        assert (await client.until_type("welcome"))["userId"] == other.user


async def test_a_thread_that_is_deleted_at_another_node_gets_no_event_more(nodes: Nodes) -> None:
    one, other = both_of(nodes)
    async with one.connect() as here, other.connect() as there:
        await here.run("t", "r", steps(["say", "old"], ["hold", "deleted"], ["say", "late"]))
        await here.until_event("TEXT_MESSAGE_CONTENT")
        async with nodes.second.http(other.token) as http:
            assert (await http.delete("/api/threads/t")).status_code == 204
        await other.finish(there, "t", "new", "new")
        await one.open_gate("deleted")
        await other.finish(there, "t", "newer", "newer")
        log = await other.load_log("t")
    assert "old" not in log.text
    assert "late" not in log.text
    assert [event["runId"] for event in log.events if event["type"] == "RUN_STARTED"] == [
        "new",
        "newer",
    ]


async def test_who_signs_out_everywhere_at_one_node_is_out_at_the_other(nodes: Nodes) -> None:
    one, other = both_of(nodes)
    async with one.connect() as here:
        async with nodes.second.http(other.token) as http:
            answer = await http.delete("/api/sessions")
            assert answer.status_code == 204, answer.text
        _, close = await read_to_close(here)
    assert close[0] == 4401


async def test_runs_of_a_node_that_was_killed_end_and_the_next_ones_begin(nodes: Nodes) -> None:
    one, other = both_of(nodes)
    async with other.connect() as there:
        async with one.connect() as here:
            await here.run("t", "lost", steps(["say", "a"], ["hold", "never"]))
            await here.until_event("TEXT_MESSAGE_CONTENT")
            await here.run("t", "next", "next")
            assert (await here.until_type("accepted"))["disposition"] == "queued"
            follower = await there.subscribe("t")
            await nodes.first.kill()
        await until_ended(there, follower, "next")
    end = follower.of_run("lost")[-1]
    assert (end["type"], end["code"]) == ("RUN_ERROR", "agent_lost")
    assert follower.of_run("next")[-1]["type"] == "RUN_FINISHED"
    await nodes.first.start()


async def test_a_node_that_was_frozen_writes_nothing_more_and_serves_again(nodes: Nodes) -> None:
    one, other = both_of(nodes)
    async with other.connect() as there, one.connect() as here:
        await here.run("t", "lost", steps(["say", "a"], ["pause", 8], ["say", "late"]))
        await here.until_event("TEXT_MESSAGE_CONTENT")
        follower = await there.subscribe("t")
        nodes.first.send_signal(signal.SIGSTOP)
        try:
            await until_ended(there, follower, "lost")
        finally:
            nodes.first.send_signal(signal.SIGCONT)
        async for _ in Looks(DEAD_WITHIN_S):
            if any(entry.get("event") == "node_was_declared_dead" for entry in nodes.first.logs):
                break
        again = await one.play("again", "again", "again")
        assert again[-1]["type"] == "RUN_FINISHED"
        log = await other.load_log("t")
    assert log.events == follower.events
    assert log.types.count("RUN_ERROR") == 1


async def test_what_looks_at_other_nodes_is_logged_when_it_breaks_and_comes_again(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    file = tmp_path / "place"
    with postgres.database() as url:
        env = {"ISOLANE_DATABASE_URL": url, VARIABLE: str(file)}
        async with own_server(tmp_path / "data", "talker=task_faults:talker", env=env) as server:
            for number, place in enumerate(2 * ["look into the logs", "stops of others"], 1):
                file.write_text(place, encoding="utf-8")
                async for _ in Looks(10):
                    if (
                        sum(UNFORESEEN in str(entry.get("chain")) for entry in server.logs)
                        == number
                    ):
                        break
                else:
                    raise AssertionError(f"the log doesn't tell of {place}")
            last = (await Lane(server).play("t", "r", "hello"))[-1]
    assert last["type"] == "RUN_FINISHED"


async def test_a_node_that_cannot_see_what_was_revoked_lets_nothing_out(nodes: Nodes) -> None:
    one = Lane(nodes.first)
    words = steps(["say", "a"], ["pause", 3], ["say", "b"], ["pause", 1], ["say", "c"])
    async with one.connect() as here:
        await here.run("t", "r", words)
        await here.until_event("TEXT_MESSAGE_CONTENT")
        follower = await here.subscribe("t")
        await here.until_true(lambda: follower.text == "a")
        async with await psycopg.AsyncConnection.connect(nodes.url) as lock:
            await lock.execute("LOCK TABLE revocations IN ACCESS EXCLUSIVE MODE")
            async with nodes.first.http(one.token) as http:
                async for _ in Looks(10):
                    if (await http.post("/api/tickets")).status_code == 503:
                        break
            async for _ in Looks(20):
                cursor = await lock.execute("SELECT count(*) FROM runs WHERE state = 'ended'")
                if await cursor.fetchone() == (1,):
                    break
            assert follower.text == "a"
            heard = []
            with suppress(TimeoutError):
                while True:
                    heard.append(await here.recv(timeout_s=0.5))
            assert heard == []
        await here.until_end("r")
        assert (await one.load_log("t")).events == follower.events
    assert follower.text == "abc"


async def test_a_user_has_so_many_sockets_on_all_nodes_together(nodes: Nodes) -> None:
    one, other = both_of(nodes)
    async with AsyncExitStack() as stack:
        for number in range(20):
            await stack.enter_async_context((one, other)[number % 2].connect())
        for lane in (one, other):
            async with lane.connect(hello=False) as refused:
                code, reason = await refused.closed()
            assert (code, reason) == (4429, "limit_exceeded")
        async with Lane(nodes.first).connect():
            pass
    async with other.connect() as again:
        await other.finish(again, "t", "r", "r")
