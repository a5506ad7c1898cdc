"""Two users: nothing of one reaches the other, and the foreign is answered as the unknown."""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import AsyncExitStack

import pytest
from tests.live.client import Client, Frame, run_frame
from tests.live.server import Server
from tests.live.stage import (
    SCRIPT,
    Lane,
    envelopes,
    is_terminal,
    read_to_close,
    settled,
    shared_server,
    steps,
)

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]

server = shared_server(SCRIPT)

ERROR_ID = re.compile(r"err_[0-9a-f-]+")


@pytest.fixture
def ann(server: Server) -> Lane:
    return Lane(server)


@pytest.fixture
def bob(server: Server) -> Lane:
    return Lane(server)


def marker(lane: Lane) -> str:
    """Return what only this user says."""
    return f"marker-of-{lane.user}-and-nobody-else"


async def raw_until(client: Client, count: int) -> list[str]:
    """Return the next frames as they came, without pings, each error's own id left out."""
    found: list[str] = []
    while len(found) < count:
        text = str(await client.socket.recv())
        if text != '{"type":"ping"}':
            found.append(ERROR_ID.sub("err_…", text))
    return found


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


async def test_foreign_is_answered_byte_for_byte_as_unknown(ann: Lane, bob: Lane) -> None:
    gate = f"{ann.user} go"
    async with ann.connect() as owner, bob.connect() as eve, bob.connect(hello=False) as plain:
        await owner.run("secret-thread", "active", steps(["say", marker(ann)], ["hold", gate]))
        seen = await owner.until_event("TEXT_MESSAGE_CONTENT")
        await ann.play("secret-thread-2", "ended", marker(ann))
        cursor = seen["id"]
        # What Bob asks for; the first name is Ann's, the second nobody's, of equal length.
        pairs: list[tuple[Frame, Frame]] = [
            ({"type": "abort", "runId": "active"}, {"type": "abort", "runId": "nobody"}),
            ({"type": "abort", "runId": "ended"}, {"type": "abort", "runId": "other"}),
            (
                {"type": "unsubscribe", "threadId": "secret-thread"},
                {"type": "unsubscribe", "threadId": "nobody-thread"},
            ),
            (
                {"type": "subscribe", "threadId": "secret-thread"},
                {"type": "subscribe", "threadId": "nobody-thread"},
            ),
            (
                {"type": "subscribe", "threadId": "secret-thread", "after": cursor},
                {"type": "subscribe", "threadId": "nobody-thread", "after": cursor},
            ),
            (
                run_frame("x", "new", "", forwardedProps={"rewindTo": "active-question"}),
                run_frame("x", "new", "", forwardedProps={"rewindTo": "nobody-question"}),
            ),
        ]
        for foreign, unknown in pairs:
            answers = []
            for frame in (foreign, unknown):
                await eve.send(frame)
                (answer,) = await raw_until(eve, 1)
                answers.append(renamed(answer, frame))
            assert answers[0] == answers[1]
        for run_id in ("active", "nobody"):  # before hello: no answer at all
            await plain.abort(run_id)
        assert await settled(plain) == []
        assert marker(ann) not in json.dumps(await settled(eve))
        await ann.open_gate(gate)
        assert (await owner.until_end("active"))["chunk"]["outcome"] == {"type": "success"}


def renamed(answer: str, frame: Frame) -> str:
    """Return an answer without the names that the question brought, and an empty log's id."""
    for name in ("runId", "threadId"):
        if name in frame:
            answer = answer.replace(frame[name], "…")
    return re.sub(r'"head":"[0-9a-z]+-0"', '"head":"…-0"', answer)


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


async def test_run_id_of_another_user_is_free(ann: Lane, bob: Lane) -> None:
    await ann.play("t", "r-1", marker(ann))
    async with bob.connect() as client:
        await client.run("other-thread", "r-1", "mine")
        assert (await client.until_type("accepted"))["disposition"] == "started"
        await client.until_end("r-1")
        await client.run("t", "r-2", steps(["input"]))
        (given,) = envelopes(await client.until(lambda f: "delta" in f.get("chunk", {})))[-1:]
    assert len(json.loads(given["chunk"]["delta"])["messages"]) == 1
    assert marker(ann) not in json.dumps(given)


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
