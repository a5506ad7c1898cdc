"""Two users: nothing of one reaches the other, and the foreign is answered as the unknown."""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import AsyncExitStack
from typing import Any, Final

import pytest
from tests.live.client import Frame, is_terminal, run_frame
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
)

pytestmark = pytest.mark.asyncio(loop_scope="module")

server = shared_server(SCRIPT, "raw=protocol_agents:raw")
BARE_UUID: Final = re.compile(r"(?<![_\w])[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
"""An id that agents are given; the gateway's own have a word before it."""


@pytest.fixture
def ann(server: Server) -> Lane:
    return Lane(server)


@pytest.fixture
def bob(server: Server) -> Lane:
    return Lane(server)


def marker(lane: Lane) -> str:
    """Return what only this user says."""
    return f"marker-of-{lane.user}-and-nobody-else"


async def test_equal_thread_and_run_ids_never_meet(ann: Lane, bob: Lane) -> None:
    heard: dict[str, list[Frame]] = {}

    async def talk(lane: Lane) -> None:
        gate = f"{lane.user} go"
        async with lane.connect() as client, lane.connect() as device:
            await device.subscribe("t")
            for run_id in ("r-1", "r-2"):
                script = steps(["say", marker(lane)], ["hold", gate], ["whoami"], ["input"])
                await client.run("t", run_id, script)
                await client.until_event("TEXT_MESSAGE_CONTENT")
                await lane.open_gate(gate)
                await client.until_end(run_id)
            heard[lane.user] = envelopes(
                await device.until(lambda f: f.get("runId") == "r-2" and is_terminal(f))
            )
            assert await settled(device) == []
        heard[lane.user] += (await lane.load_log("t")).envelopes

    await asyncio.gather(talk(ann), talk(bob))
    for lane, other in ((ann, bob), (bob, ann)):
        frames = heard[lane.user]
        assert marker(lane) in json.dumps(frames)
        assert other.user not in json.dumps(frames)
        deltas = [frame["chunk"].get("delta") for frame in frames]
        for run_id in ("r-1", "r-2"):
            assert json.dumps([lane.user, "t", run_id]) in deltas
    logs = [await lane.load_log("t") for lane in (ann, bob)]
    assert len(logs[0].envelopes) == len(logs[1].envelopes)
    assert logs[0].cursor.split("-")[0] != logs[1].cursor.split("-")[0]


async def test_joined_names_are_told_apart(server: Server) -> None:
    one, other = Lane(server, "a:b"), Lane(server, "a")
    await one.play("c", "r-1", "of the one")
    await other.play("b:c", "r-1", "of the other")
    assert (await one.load_log("c")).text == "of the one "
    assert (await other.load_log("b:c")).text == "of the other "
    for lane, thread_id in ((one, "b:c"), (other, "c")):
        assert (await lane.load_log(thread_id)).envelopes == []


async def test_every_socket_of_a_user_is_told_of_their_own_runs_only(ann: Lane, bob: Lane) -> None:
    async with AsyncExitStack() as stack:
        anns = [await stack.enter_async_context(ann.connect()) for _ in range(3)]
        bobs = [await stack.enter_async_context(bob.connect()) for _ in range(3)]
        for client in (*anns, *bobs):
            await client.subscribe("t")
        for number in range(5):
            await asyncio.gather(
                anns[0].run("t", f"r-{number}", f"{marker(ann)} {number}"),
                bobs[0].run("t", f"r-{number}", f"{marker(bob)} {number}"),
            )
            for client in (*anns, *bobs):
                await client.until_end(f"r-{number}")
        for clients, own, other in ((anns, ann, bob), (bobs, bob, ann)):
            for client in clients:
                text = client.followers["t"].text
                assert text.split() == [w for n in range(5) for w in (marker(own), str(n))]
                assert marker(other) not in json.dumps(client.followers["t"].envelopes)


async def test_foreign_run_by_address_is_an_unknown_one(ann: Lane, bob: Lane) -> None:
    events = await ann.play("t", "r-1", marker(ann))
    assert events
    log = await ann.load_log("t")
    for offset in ("-1", log.envelopes[0]["id"], log.cursor, "bad cursor"):
        answers = []
        for run_id in ("r-1", "none"):
            async with bob.replay(run_id, offset) as socket:
                answers.append(await read_to_close(socket))
        assert answers[0] == answers[1] == ([], (1008, "unknown run"))


async def test_stopping_stops_ones_own_run(ann: Lane, bob: Lane) -> None:
    gates = {lane.user: f"{lane.user} go" for lane in (ann, bob)}
    async with ann.connect() as anns, bob.connect() as bobs:
        for lane, client in ((ann, anns), (bob, bobs)):
            await client.run("t", "r-1", steps(["say", "x"], ["hold", gates[lane.user]]))
            await client.until_event("TEXT_MESSAGE_CONTENT")
        await bobs.abort("r-1")
        end = await bobs.until_end("r-1")
        assert end["chunk"]["outcome"] == {"type": "cancelled"}
        await ann.open_gate(gates[ann.user])
        assert (await anns.until_end("r-1"))["chunk"]["outcome"] == {"type": "success"}


async def test_nothing_of_a_user_is_in_metrics_or_logs(ann: Lane, server: Server) -> None:
    await ann.play("t", "r-1", steps(["say", marker(ann)], ["raise", "ValueError", "an error"]))
    async with ann.connect() as client:
        await client.run("t", "r-2", marker(ann), forwardedProps={"policy": marker(ann)})
        await client.until_type("error")
    names = "".join(await server.metrics())
    assert ann.user not in names
    assert marker(ann) not in "\n".join(server.lines)
    assert "an error" in "\n".join(server.lines)


# --- into the agent ------------------------------------------------------------------------------


async def post(lane: Lane, thread_id: str, run_id: str, text: str, path: str = "/agui") -> str:
    """Run over HTTP and return the event stream."""
    async with lane.server.http(lane.token) as http:
        answer = await http.post(path, json=run_frame(thread_id, run_id, text))
    return answer.raise_for_status().text


async def ids_of(
    lane: Lane, thread_id: str, run_id: str, *, agent: str | None = None, **fields: object
) -> dict[str, str]:
    """Return by which ids an agent is told of a run."""
    events = await lane.play(thread_id, run_id, steps(["ids"]), agent=agent, **fields)
    told: dict[str, str] = json.loads(text_of(events))
    return told


async def test_agent_remembers_equal_threads_of_two_users_apart(ann: Lane, bob: Lane) -> None:
    for lane in (ann, bob):
        await lane.play("t", "r-1", steps(["remember", marker(lane)]))
    for lane in (ann, bob):
        assert text_of(await lane.play("t", "r-2", steps(["memory"]))) == marker(lane)
    for lane, other in ((ann, bob), (bob, ann)):
        for path in ("/agui", "/agui/script"):
            stream = await post(lane, "t", f"r-{len(path)}", steps(["memory"]), path)
            assert marker(lane) in stream
            assert marker(other) not in stream


async def test_agent_remembers_nothing_of_a_thread_that_was_deleted(ann: Lane) -> None:
    await ann.play("t", "r-1", steps(["remember", marker(ann)]))
    async with ann.server.http(ann.token) as http:
        (await http.delete("/api/threads/t")).raise_for_status()
    assert text_of(await ann.play("t", "r-1", steps(["memory"]))) == ""


async def test_agent_is_given_ids_that_no_user_chose(ann: Lane, bob: Lane) -> None:
    given = [await ids_of(lane, "t", "r-1") for lane in (ann, bob)]
    own = [told[name] for told in given for name in ("thread", "run")]
    assert len({*own, "t", "r-1"}) == 6
    assert all(BARE_UUID.fullmatch(one) for one in own)
    for told in given:
        assert (told["contextThread"], told["contextRun"]) == (told["thread"], told["run"])
    again = await ids_of(ann, "t", "r-2", parentRunId="r-1")
    assert (again["thread"], again["parent"]) == (given[0]["thread"], given[0]["run"])
    foreign = await ids_of(bob, "t", "r-2", parentRunId="only-of-ann")
    assert foreign["parent"] not in {"only-of-ann", *own}
    # Who chooses for a thread's id what the agent was given for another's gets none of that.
    chosen = await ids_of(bob, given[0]["thread"], given[0]["run"])
    assert {chosen["thread"], chosen["run"]}.isdisjoint(own)


async def test_ids_that_the_agent_was_given_stay_behind_the_gateway(ann: Lane) -> None:
    ids = {"threadId": "$thread", "runId": "$run"}
    events: list[dict[str, Any]] = [
        {"type": "RUN_STARTED", **ids, "parentRunId": "$parent"},
        {"type": "RAW", "event": {"config": {**ids, "checkpoint": "$thread:$run:1"}}},
        {"type": "STEP_STARTED", "stepName": "s", "rawEvent": {**ids, "parent": "$parent"}},
        {"type": "RUN_FINISHED", **ids, "rawEvent": ids},
    ]
    script = steps(*(["named", event] for event in events))
    told = await ann.play("t", "r-1", script, parentRunId="p")
    assert [event["type"] for event in told] == [
        "RUN_STARTED", "RAW", "STEP_STARTED", "STEP_FINISHED", "RUN_FINISHED",
    ]  # fmt: skip
    wire = {"threadId": "t", "runId": "r-1"}
    assert told[1]["event"]["config"] == {**wire, "checkpoint": "t:r-1:1"}
    assert told[2]["rawEvent"] == {**wire, "parent": "p"}
    assert {name: told[-1][name] for name in wire} == wire
    everything = [json.dumps(told), await post(ann, "t", "r-2", script)]
    async with ann.server.http(ann.token) as http:
        paths = ("/api/threads", "/api/threads/t", "/api/runs/r-1", "/api/me")
        everything += [(await http.get(path)).text for path in paths]
    assert BARE_UUID.findall("".join(everything)) == []


async def test_agent_that_asks_for_the_clients_ids_gets_them(ann: Lane, bob: Lane) -> None:
    thread_id = f"of-{ann.user}-and-{bob.user}"
    told = await ids_of(ann, thread_id, "r-1", agent="raw", parentRunId="p")
    assert (told["thread"], told["run"], told["parent"]) == (thread_id, "r-1", "p")
    assert BARE_UUID.fullmatch(told["contextThread"])
    assert BARE_UUID.fullmatch(told["contextRun"])
    await ann.play(thread_id, "r-2", steps(["remember", marker(ann)]), agent="raw")
    # It has to tell its users apart by itself, and this one doesn't.
    heard = await bob.play(thread_id, "r-2", steps(["memory"]), agent="raw")
    assert text_of(heard) == marker(ann)
