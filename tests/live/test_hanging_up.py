"""Clients whose only way to stop is to hang up: what becomes of the runs that they leave."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import httpx
import pytest
import pytest_asyncio
from tests.live.client import Frame, run_frame
from tests.live.event_stream import EventStream, open_stream
from tests.live.server import Server
from tests.live.stage import SCRIPT, Lane, own_server, shared_server, steps, text_of, types_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

server = shared_server(SCRIPT)

STOP: Final = {"onDisconnect": "stop"}
CONTINUE: Final = {"onDisconnect": "continue"}
CANCELLED: Final = {"type": "cancelled"}
SUCCESS: Final = {"type": "success"}
UNREAD_MS: Final = 2000


@pytest.fixture
def lane(server: Server) -> Lane:
    return Lane(server)


@pytest_asyncio.fixture(loop_scope="module")
async def http(lane: Lane) -> AsyncIterator[httpx.AsyncClient]:
    async with lane.server.http(lane.token) as client:
        yield client


def held(lane: Lane) -> str:
    """Return a script that says `a `, waits for the user's gate, and says `b `."""
    return steps(["say", "a "], ["hold", f"{lane.user} go"], ["say", "b "])


async def open_gate(lane: Lane) -> None:
    await lane.open_gate(f"{lane.user} go")


@asynccontextmanager
async def asking(
    http: httpx.AsyncClient, thread_id: str, run_id: str, text: str, **fields: object
) -> AsyncIterator[EventStream]:
    """Ask over HTTP, and hang up with the block; its answer has begun by then."""
    async with open_stream(http, "/agui", run_frame(thread_id, run_id, text, **fields)) as stream:
        await stream.until_type("TEXT_MESSAGE_CONTENT")
        yield stream


async def ask_and_leave(
    http: httpx.AsyncClient, thread_id: str, run_id: str, text: str, **fields: object
) -> None:
    async with asking(http, thread_id, run_id, text, **fields):
        pass


async def ended(lane: Lane, http: httpx.AsyncClient, run_id: str) -> Frame:
    """Return a run once it has ended; nobody counts as its reader meanwhile."""
    async with lane.connect() as client:  # it hears news of threads, and follows none
        while (run := await load_run(http, run_id))["state"] != "ended":
            await client.until_type("thread")
    return run


async def load_run(http: httpx.AsyncClient, run_id: str) -> Frame:
    run: Frame = (await http.get(f"/api/runs/{run_id}")).raise_for_status().json()
    return run


async def pass_the_time(lane: Lane, http: httpx.AsyncClient, run_id: str) -> None:
    """Return when whoever has hung up before this has had all the time to come back."""
    await ask_and_leave(http, run_id, run_id, held(lane), forwardedProps=STOP)
    assert (await ended(lane, http, run_id))["outcome"] == "cancelled"


# --- runs that nobody reads ----------------------------------------------------------------------


async def test_run_is_stopped_two_seconds_after_its_last_reader_left(
    lane: Lane, http: httpx.AsyncClient
) -> None:
    frame = {"forwardedProps": STOP}
    async with asking(http, "t", "r-1", held(lane), **frame):
        await ask_and_leave(http, "t", "r-1", held(lane), **frame)  # another reader of the run
    left_at = time.time() * 1000
    run = await ended(lane, http, "r-1")
    assert (run["outcome"], run["stop"]["by"]) == ("cancelled", "agent")
    assert run["stop"]["requestedAt"] - left_at > UNREAD_MS - 100
    log = await lane.load_log("t")
    assert (log.text, log.events[-1]["outcome"]) == ("a ", CANCELLED)


async def test_whoever_reads_on_any_door_keeps_a_run(lane: Lane, http: httpx.AsyncClient) -> None:
    text, frame = held(lane), {"forwardedProps": STOP}
    async with AsyncExitStack() as readers:
        for kind in ("subscribed", "replay", "thread", "again"):
            await ask_and_leave(http, kind, kind, text, **frame)
        socket = await readers.enter_async_context(lane.connect())
        await socket.subscribe("subscribed")
        replay = await readers.enter_async_context(lane.replay("replay"))
        await replay.until_event("TEXT_MESSAGE_CONTENT")
        events = "/api/threads/thread/events"
        stream = await readers.enter_async_context(open_stream(http, events))
        await stream.until_type("TEXT_MESSAGE_CONTENT")
        await readers.enter_async_context(asking(http, "again", "again", text, **frame))
        await pass_the_time(lane, http, "sentinel")
        await open_gate(lane)
        for run_id in ("subscribed", "replay", "thread", "again"):
            assert (await ended(lane, http, run_id))["outcome"] == "success", run_id


async def test_closed_socket_stops_nothing(lane: Lane, http: httpx.AsyncClient) -> None:
    async with lane.connect(hello=False) as client:
        await client.run("own", "own", held(lane), forwardedProps=STOP)
        await client.until_event("TEXT_MESSAGE_CONTENT")
        async with lane.connect() as follower:
            await ask_and_leave(http, "shared", "shared", held(lane), forwardedProps=STOP)
            await follower.subscribe("shared")
            await pass_the_time(lane, http, "sentinel-1")
    await pass_the_time(lane, http, "sentinel-2")
    await open_gate(lane)
    for run_id in ("own", "shared"):
        assert (await ended(lane, http, run_id))["outcome"] == "success", run_id


async def test_run_that_waits_is_ended_too(lane: Lane, http: httpx.AsyncClient) -> None:
    async with lane.connect() as client:
        await client.run("t", "r-1", held(lane))
        await client.until_event("TEXT_MESSAGE_CONTENT")
        waiting = run_frame("t", "r-2", "waits", forwardedProps=STOP)
        async with open_stream(http, "/agui", waiting):
            pass
        await pass_the_time(lane, http, "sentinel")
        await open_gate(lane)
        assert (await client.until_end("r-1"))["chunk"]["outcome"] == SUCCESS
    run = await ended(lane, http, "r-2")
    assert (run["outcome"], run["stop"]["by"]) == ("cancelled", "gateway")
    assert types_of((await lane.load_log("t")).of_run("r-2")) == ["RUN_STARTED", "RUN_FINISHED"]


async def test_leaving_stops_nothing_unasked(lane: Lane, http: httpx.AsyncClient) -> None:
    for run_id, props in (("plain", {}), ("empty", {"onDisconnect": None}), ("said", CONTINUE)):
        await ask_and_leave(http, run_id, run_id, held(lane), forwardedProps=props)
    await pass_the_time(lane, http, "sentinel")
    await open_gate(lane)
    for run_id in ("plain", "empty", "said"):
        assert (await ended(lane, http, run_id))["outcome"] == "success", run_id


@pytest.mark.parametrize("value", ["Stop", "", True, 2, ["stop"], {"stop": True}])
async def test_other_words_are_refused(http: httpx.AsyncClient, value: object) -> None:
    frame = run_frame("t", "r-1", "hello", forwardedProps={"onDisconnect": value})
    refused = (await http.post("/agui", json=frame)).json()
    assert (refused["code"], refused["field"]) == ("invalid_input", "forwardedProps.onDisconnect")
    assert "continue or stop" in refused["detail"]


async def test_the_servers_word_counts_where_the_frame_has_none(tmp_path: Path) -> None:
    """And a restart is nobody's hanging up: what has waited over it is answered."""
    env = {"ISOLANE_ON_DISCONNECT": "stop", "ISOLANE_POLICY": "queue"}
    async with own_server(tmp_path, SCRIPT, env=env) as server:
        lane = Lane(server)
        async with server.http(lane.token) as http:
            await ask_and_leave(http, "said", "said", held(lane), forwardedProps=CONTINUE)
            async with lane.connect(hello=False) as client:
                await client.run("socket", "socket", held(lane))
                await client.until_event("TEXT_MESSAGE_CONTENT")
            await ask_and_leave(http, "plain", "plain", held(lane))
            assert (await ended(lane, http, "plain"))["outcome"] == "cancelled"
            await open_gate(lane)
            for run_id in ("said", "socket"):
                assert (await ended(lane, http, run_id))["outcome"] == "success", run_id
            await ask_and_leave(http, "t", "r-1", steps(["say", "a "], ["hold", "never"]))
            async with open_stream(http, "/agui", run_frame("t", "r-2", "word")):
                await server.stop()
        await server.start()
        async with server.http(lane.token) as http:
            assert (await ended(lane, http, "r-2"))["outcome"] == "success"


# --- the next question ---------------------------------------------------------------------------


async def answer(http: httpx.AsyncClient, run_id: str, text: str, **fields: object) -> str:
    async with open_stream(http, "/agui", run_frame("t", run_id, text, **fields)) as stream:
        await stream.rest()
    return text_of(stream.events)


async def outcomes(http: httpx.AsyncClient, *run_ids: str) -> list[object]:
    return [(await load_run(http, run_id))["outcome"] for run_id in run_ids]


async def test_next_question_interrupts_the_run_that_its_asker_left(
    lane: Lane, http: httpx.AsyncClient
) -> None:
    await ask_and_leave(http, "t", "r-1", held(lane))
    assert await answer(http, "r-2", "next") == "next "
    assert await outcomes(http, "r-1", "r-2") == ["cancelled", "success"]


async def test_next_question_ends_what_its_asker_left_in_line(
    lane: Lane, http: httpx.AsyncClient
) -> None:
    await ask_and_leave(http, "t", "r-1", held(lane), forwardedProps={"policy": "queue"})
    for run_id in ("r-2", "r-3"):
        frame = run_frame("t", run_id, held(lane), forwardedProps={"policy": "queue"})
        async with open_stream(http, "/agui", frame):
            pass
    assert await answer(http, "r-4", "next") == "next "
    assert await outcomes(http, "r-1", "r-2", "r-3") == ["cancelled"] * 3
    log = await lane.load_log("t")
    assert list(dict.fromkeys(e["runId"] for e in log.envelopes)) == ["r-1", "r-2", "r-3", "r-4"]


@pytest.mark.parametrize("kind", ["a follower", "a stream", "a policy", "a socket's question"])
async def test_next_question_waits_where_somebody_else_has_a_say(
    lane: Lane, http: httpx.AsyncClient, kind: str
) -> None:
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(lane.connect())
        await ask_and_leave(http, "t", "r-1", held(lane))
        if kind == "a follower":
            await client.subscribe("t")
        if kind == "a stream":
            await stack.enter_async_context(open_stream(http, "/api/threads/t/events"))
        props = {"policy": "queue"} if kind == "a policy" else {}
        next_frame = run_frame("t", "r-2", "next", forwardedProps=props)
        if kind == "a socket's question":
            await client.send(next_frame)
            assert (await client.until_type("accepted"))["disposition"] == "queued"
        else:
            await stack.enter_async_context(open_stream(http, "/agui", next_frame))
        await open_gate(lane)
        await ended(lane, http, "r-2")
    assert await outcomes(http, "r-1", "r-2") == ["success", "success"]


async def test_next_question_waits_for_an_asker_who_is_there(
    lane: Lane, http: httpx.AsyncClient
) -> None:
    next_frame = run_frame("t", "r-2", "next")
    async with (
        asking(http, "t", "r-1", held(lane)) as first,
        open_stream(http, "/agui", next_frame) as second,
    ):
        await open_gate(lane)
        await first.rest()
        await second.rest()
    assert text_of(second.events) == "next "
    assert await outcomes(http, "r-1", "r-2") == ["success", "success"]


# --- clients of before AG-UI 1.0 -----------------------------------------------------------------


@pytest.mark.parametrize("version", [None, "", "0.0.59", 1], ids=repr)
async def test_cancelled_is_left_out_for_clients_that_name_no_version(
    lane: Lane, http: httpx.AsyncClient, version: object
) -> None:
    text = held(lane)
    new = run_frame("t", "r-1", text, protocolVersion="1.0")
    old = run_frame("t", "r-1", text, protocolVersion=version)
    if version is None:
        del old["protocolVersion"]
    async with open_stream(http, "/agui", old) as one, open_stream(http, "/agui", new) as other:
        await one.until_type("TEXT_MESSAGE_CONTENT")
        await http.post("/api/runs/r-1/abort")
        ends = [(await each.rest())[-1].event for each in (one, other)]
    known = {name: ends[1][name] for name in ends[1] if name != "outcome"}
    assert (ends[0], ends[1]["outcome"]) == (known, CANCELLED)
    assert (await lane.load_log("t")).events[-1] == ends[1]


async def test_cancelled_is_left_out_whatever_an_agent_says_beside_it(
    http: httpx.AsyncClient,
) -> None:
    outcome = {"type": "cancelled", "reason": "the budget is spent"}
    end = {"type": "RUN_FINISHED", "threadId": "t", "runId": "r-1", "outcome": outcome}
    async with open_stream(http, "/agui", run_frame("t", "r-1", steps(["event", end]))) as old:
        assert "outcome" not in (await old.rest())[-1].event
    again = run_frame("t", "r-1", steps(["event", end]), protocolVersion="1.0")
    async with open_stream(http, "/agui", again) as new:
        assert (await new.rest())[-1].event["outcome"] == outcome


async def test_other_outcomes_are_told_to_every_client(http: httpx.AsyncClient) -> None:
    ask = {"type": "interrupt", "interrupts": [{"id": "i-1", "reason": "approval"}]}
    event = {"type": "RUN_FINISHED", "threadId": "t", "runId": "r-1", "outcome": ask}
    frame = run_frame("t", "r-1", steps(["say", "cancelled"], ["event", event]))
    async with open_stream(http, "/agui", frame) as stream:
        assert (await stream.rest())[-1].event["outcome"] == ask
