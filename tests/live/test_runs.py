"""The life of a run: what its log holds, however its agent behaves."""

from __future__ import annotations

import json
from pathlib import Path
from time import monotonic
from typing import Any, Final

import pytest
from tests.live.agents import SECRET
from tests.live.client import Frame, is_terminal, parse_id
from tests.live.server import Server
from tests.live.stage import (
    SCRIPT,
    Lane,
    envelopes,
    own_server,
    read_to_close,
    settled,
    shared_server,
    steps,
    text_of,
    types_of,
)
from tests.live.test_slow_readers import lazy_client

pytestmark = pytest.mark.asyncio(loop_scope="module")

server = shared_server(SCRIPT, "crash=agents:crash", "rambler=protocol_agents:rambler")
hasty_server = shared_server(SCRIPT, env={"ISOLANE_RUN_TIMEOUT_S": "0.5"})

RAISED = [
    *("ValueError", "SystemExit", "KeyboardInterrupt", "GeneratorExit", "CancelledError"),
    *("StopAsyncIteration", "unspeakable"),
]
NONSENSE = [
    *("number", "none", "bytes", "list", "empty mapping", "malformed", "too large"),
    *("content without message", "end without start", "field of wrong type", "not a number"),
    *("a set", "half an id", "of another run", "of another thread"),
]


@pytest.fixture
def lane(server: Server) -> Lane:
    return Lane(server)


# --- what a run looks like -----------------------------------------------------------------------


@pytest.mark.parametrize("count, size, at_once", [(300, 20_000, 300), (1_200, 8_000, 20)])
async def test_reader_that_pauses_for_a_whole_run_misses_none_of_its_events(
    lane: Lane, count: int, size: int, at_once: int
) -> None:
    async with lazy_client(lane) as slow, lane.connect() as quick:
        follower = await slow.subscribe(f"t-{size}")
        # More than both ends of a line keep, so that for a while the socket takes nothing. What
        # comes a few at once is handed to the socket, which then takes a part.
        some = [["blobs", at_once, size], ["pause", 0.01]]
        run = steps(*some * (count // at_once), ["count", 500])
        await lane.finish(quick, f"t-{size}", f"r-{size}", run)
        # It sees each id once, in order.
        await slow.until_true(lambda: follower.has_ended(f"r-{size}"))
    assert follower.types.count("CUSTOM") == count
    assert follower.text == "".join(f"{number} " for number in range(1, 501))


async def test_errors_that_wait_for_a_full_socket_go_out_before_its_close(lane: Lane) -> None:
    async with lazy_client(lane) as slow, lane.connect() as quick:
        await slow.subscribe("t")
        await lane.finish(quick, "t", "r", steps(["blobs", 300, 20_000]))
        for _ in range(20):
            await slow.send("no JSON")
        frames, (code, _) = await read_to_close(slow)
    errors = [frame for frame in frames if frame.get("code") == "invalid_frame"]
    assert (code, len(errors)) == (1008, 20)


async def test_run_begins_with_its_question_and_has_one_end(lane: Lane) -> None:
    events = await lane.play("t", "r-1", "two words")
    message_id = events[1]["messageId"]
    question = {"id": "r-1-question", "role": "user", "content": "two words"}
    started = events[0]
    assert started.pop("input")["messages"] == [question]
    assert events == [
        {"type": "RUN_STARTED", "threadId": "t", "runId": "r-1", "protocolVersion": "1.0"},
        {"type": "TEXT_MESSAGE_START", "messageId": message_id, "role": "assistant"},
        {"type": "TEXT_MESSAGE_CONTENT", "messageId": message_id, "delta": "two "},
        {"type": "TEXT_MESSAGE_CONTENT", "messageId": message_id, "delta": "words "},
        {"type": "TEXT_MESSAGE_END", "messageId": message_id},
        {
            "type": "RUN_FINISHED",
            "threadId": "t",
            "runId": "r-1",
            "outcome": {"type": "success"},
        },
    ]


async def test_accepted_stands_before_the_first_envelope(lane: Lane) -> None:
    async with lane.connect() as client:
        await client.run("t", "r-1", "word")
        frames = await client.until(is_terminal)
    spoken = [frame for frame in frames if frame.get("type") != "thread"]
    assert spoken[0].pop("requestId")
    assert spoken[0] == {
        "type": "accepted",
        "threadId": "t",
        "runId": "r-1",
        "disposition": "started",
    }
    assert len(envelopes(spoken)) == len(spoken) - 1 == 5


async def test_envelope_has_an_id_a_chunk_and_two_names(lane: Lane) -> None:
    async with lane.connect(hello=False) as client:
        await client.run("t", "r-1", "word")
        frames = await client.until(is_terminal)
    assert all(frame.keys() == {"id", "chunk", "threadId", "runId"} for frame in frames)
    assert [parse_id(frame["id"])[1] for frame in frames] == [1, 2, 3, 4, 5]


async def test_agent_gets_the_input_and_the_verified_user(lane: Lane) -> None:
    tools = [{"name": "pick", "description": "Pick one", "parameters": {"type": "object"}}]
    fields: dict[str, Any] = {
        "state": {"n": [1.5, None]},
        "tools": tools,
        "context": [{"description": "place", "value": "Delft"}],
        "forwardedProps": {"model": "large", "userId": "somebody-else"},
        "userId": "somebody-else",
        "user_id": "somebody-else",
        "sub": "somebody-else",
    }
    events = await lane.play("t", "r-1", steps(["whoami"]), **fields)
    assert json.loads(text_of(events)) == [lane.user, "t", "r-1"]
    given = json.loads(text_of(await lane.play("t", "r-2", steps(["input"]), **fields)))
    assert {given["threadId"], given["runId"]}.isdisjoint({"t", "r-2"})  # ids of its own
    assert [m["role"] for m in given["messages"]] == ["user", "assistant", "user"]
    assert {name: given[name] for name in ("state", "tools", "context")} == {
        name: fields[name] for name in ("state", "tools", "context")
    }
    assert given["forwardedProps"]["model"] == "large"


async def test_address_chooses_the_agent(lane: Lane) -> None:
    assert text_of(await lane.play("t", "r-1", "hi", agent="rambler")) == "1 messages"
    assert text_of(await lane.play("t", "r-2", "hi", agent="script")) == "hi "
    assert text_of(await lane.play("t", "r-3", "hi")) == "hi "


# --- how it ends ---------------------------------------------------------------------------------

OPEN_ALL = (
    ["event", {"type": "STEP_STARTED", "stepName": "s"}],
    ["event", {"type": "TOOL_CALL_START", "toolCallId": "c", "toolCallName": "pick"}],
    ["event", {"type": "TOOL_CALL_ARGS", "toolCallId": "c", "delta": "{}"}],
    ["event", {"type": "TEXT_MESSAGE_START", "messageId": "m", "role": "assistant"}],
    ["event", {"type": "TEXT_MESSAGE_CONTENT", "messageId": "m", "delta": "hi"}],
)
CLOSED = ["TEXT_MESSAGE_END", "TOOL_CALL_END", "STEP_FINISHED"]


async def test_agent_that_returns_early_has_everything_closed_for_it(lane: Lane) -> None:
    events = await lane.play("t", "r-1", steps(*OPEN_ALL))
    assert types_of(events)[-4:] == [*CLOSED, "RUN_FINISHED"]
    ids = (events[-4]["messageId"], events[-3]["toolCallId"], events[-2]["stepName"])
    assert ids == ("m", "c", "s")


async def test_agent_that_raises_has_everything_closed_for_it(lane: Lane) -> None:
    events = await lane.play("t", "r-1", steps(*OPEN_ALL, ["raise", "ValueError", "x"]))
    assert types_of(events)[-4:] == [*CLOSED, "RUN_ERROR"]


async def test_chunks_are_spelled_out(lane: Lane) -> None:
    chunk = {"type": "TEXT_MESSAGE_CHUNK", "messageId": "m", "delta": "hi"}
    more = {"type": "TEXT_MESSAGE_CHUNK", "delta": " you"}
    events = await lane.play("t", "r-1", steps(["event", chunk], ["event", more]))
    assert text_of(events) == "hi you"
    assert types_of(events) == [
        *("RUN_STARTED", "TEXT_MESSAGE_START", "TEXT_MESSAGE_CONTENT", "TEXT_MESSAGE_CONTENT"),
        *("TEXT_MESSAGE_END", "RUN_FINISHED"),
    ]


async def test_null_in_what_an_agent_says_stays_where_it_is(lane: Lane) -> None:
    value = {"found": None, "list": [None, {"deep": None}]}
    said = [
        {"type": "CUSTOM", "name": "result", "value": value},
        {"type": "STATE_SNAPSHOT", "snapshot": value},
    ]
    events = await lane.play("t", "r-1", steps(*(["event", event] for event in said)))
    assert events[1:-1] == said


async def test_start_and_end_are_the_gateways_and_what_follows_is_dropped(lane: Lane) -> None:
    names = {"threadId": "t", "runId": "r-1"}
    script = steps(
        ["event", {"type": "RUN_STARTED", **names}],
        ["say", "all"],
        ["event", {"type": "RUN_FINISHED", **names, "result": {"n": 1}}],
        ["say", "too late"],
        ["event", {"type": "RUN_ERROR", "message": "too late"}],
    )
    events = await lane.play("t", "r-1", script)
    assert types_of(events) == [
        *("RUN_STARTED", "TEXT_MESSAGE_START", "TEXT_MESSAGE_CONTENT", "TEXT_MESSAGE_END"),
        "RUN_FINISHED",
    ]
    assert events[0]["input"]["messages"][0]["id"] == "r-1-question"
    assert events[-1]["result"] == {"n": 1}
    dropped = await lane.server.wait_for_log(
        lambda entry: entry.get("user_id") == lane.user and entry.get("count") == 2
    )
    assert dropped["run_id"] == "r-1"


async def test_run_interrupts_for_a_human_and_goes_on_with_the_answer(lane: Lane) -> None:
    interrupts = [{"id": "i-1", "reason": "tool_call", "message": "May I?"}]
    end = {
        "type": "RUN_FINISHED",
        "threadId": "t",
        "runId": "r-1",
        "outcome": {"type": "interrupt", "interrupts": interrupts},
    }
    events = await lane.play("t", "r-1", steps(["event", end]))
    assert events[-1]["outcome"] == {"type": "interrupt", "interrupts": interrupts}
    resume = [{"interruptId": "i-1", "status": "resolved", "payload": {"approved": True}}]
    events = await lane.play("t", "r-2", steps(["input"]), resume=resume)
    assert json.loads(text_of(events))["resume"] == resume


@pytest.mark.parametrize("kind", RAISED)
async def test_raising_agent_ends_its_run_and_nothing_else(lane: Lane, kind: str) -> None:
    secret = f"{lane.user}: {SECRET}"
    events = await lane.play("t", "r-1", steps(["say", "almost"], ["raise", kind, secret]))
    assert types_of(events)[-2:] == ["TEXT_MESSAGE_END", "RUN_ERROR"]
    error_id = assert_failed(events[-1], "agent_error")
    record = await only_record_of(lane.server, error_id)
    assert (record["user_id"], record["run_id"]) == (lane.user, "r-1")
    assert record["chain"][0] == "AgentError: the agent raised"
    root = "UnspeakableError: (its text" if kind == "unspeakable" else kind
    assert record["chain"][-1].startswith(root)
    if kind not in {"unspeakable", "GeneratorExit", "CancelledError"}:
        assert secret in json.dumps(record)
    assert text_of(await lane.play("t", "r-2", "still here")) == "still here "


async def test_text_of_an_error_never_leaves_the_process(lane: Lane) -> None:
    async with lane.connect(agent="crash") as client:
        await client.run("t", "r-1", "go")
        frames = await client.until(is_terminal)
        frames += await settled(client)
        await client.send({"type": "subscribe", "threadId": "t"})
        frames += await client.until(is_terminal)
    assert SECRET not in json.dumps(frames)
    assert "ValueError" not in json.dumps(frames)
    record = await only_record_of(lane.server, assert_failed(frames[-1]["chunk"], "agent_error"))
    assert SECRET in json.dumps(record)


async def test_agents_own_error_is_told_without_its_text(lane: Lane) -> None:
    error = {"type": "RUN_ERROR", "message": SECRET, "code": f"{SECRET}!"}
    events = await lane.play("t", "r-1", steps(["event", error]))
    record = await only_record_of(lane.server, assert_failed(events[-1], "agent_error"))
    assert SECRET not in json.dumps(events[1:])
    assert SECRET in json.dumps(record)


@pytest.mark.parametrize("kind", NONSENSE)
async def test_nonsense_ends_the_run_in_a_protocol_error(lane: Lane, kind: str) -> None:
    events = await lane.play("t", "r-1", steps(["say", "well"], ["nonsense", kind], ["say", "no"]))
    assert types_of(events)[-2:] == ["TEXT_MESSAGE_END", "RUN_ERROR"]
    assert text_of(events) == "well"
    error_id = assert_failed(events[-1], "agent_protocol")
    assert (await only_record_of(lane.server, error_id))["run_id"] == "r-1"
    assert text_of(await lane.play("t", "r-2", "still here")) == "still here "


@pytest.mark.parametrize("step", [["hold", "never"], ["deaf"]], ids=["waits", "is deaf"])
async def test_agent_that_never_ends_is_ended_at_its_deadline(
    hasty_server: Server, step: list[str]
) -> None:
    lane = Lane(hasty_server)
    began = monotonic()
    events = await lane.play("t", "r-1", steps(["say", "well"], step))
    assert monotonic() - began < 0.5 + 5
    assert types_of(events)[-2:] == ["TEXT_MESSAGE_END", "RUN_ERROR"]
    assert_failed(events[-1], "agent_timeout")
    assert text_of(await lane.play("t", "r-2", "still here")) == "still here "


async def test_event_over_its_limit_ends_the_run(tmp_path: Path) -> None:
    env = {"ISOLANE_LIMIT_EVENT_BYTES": "2000"}
    async with own_server(tmp_path, SCRIPT, env=env) as server:
        lane = Lane(server)
        async with lane.connect() as client:
            assert client.welcome is not None
            assert client.welcome["limits"]["eventBytes"] == 2000
        # Bytes, not characters: 900 of these are 1800, and 1100 are too many.
        events = await lane.play("t", "r-1", steps(said("é" * 900)))
        assert events[-1]["type"] == "RUN_FINISHED"
        events = await lane.play("t", "r-2", steps(said("é" * 1100)))
        assert_failed(events[-1], "agent_protocol")


def said(value: str) -> list[Any]:
    return ["event", {"type": "CUSTOM", "name": "n", "value": value}]


# --- who may watch, and who need not -------------------------------------------------------------


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_closing_the_socket_never_stops_a_run(lane: Lane, how: str) -> None:
    gate = f"{lane.user} go"
    async with lane.connect() as client:
        await client.run("t", "r-1", steps(["say", "1 "], ["hold", gate], ["say", "2"]))
        await client.until_event("TEXT_MESSAGE_CONTENT")
        if how == "reset":
            client.socket.transport.abort()
    async with lane.connect() as client:
        assert client.welcome is not None
        (active,) = client.welcome["activeRuns"]
        follower = await client.subscribe("t")
        await client.until_event("TEXT_MESSAGE_CONTENT")
        assert active == {"threadId": "t", "runId": "r-1", "head": follower.cursor}
        await lane.open_gate(gate)
        end = await client.until_end("r-1")
    assert end["chunk"]["outcome"] == {"type": "success"}
    assert follower.text == "1 2"


async def test_sockets_that_said_hello_hear_when_a_thread_changes(
    lane: Lane, server: Server
) -> None:
    gate = f"{lane.user} go"
    stranger = Lane(server)
    async with (
        lane.connect() as watcher,
        lane.connect(hello=False) as silent,
        stranger.connect() as other,
    ):
        await silent.run("t", "r-1", steps(["hold", gate]))
        begun = await watcher.recv()
        assert begun.pop("updatedAt") > 1_700_000_000_000
        assert begun == {
            "type": "thread",
            "threadId": "t",
            "title": steps(["hold", gate]),
            "activeRunId": "r-1",
            "deleted": False,
        }
        await lane.open_gate(gate)
        frames = await silent.until(is_terminal)
        assert len(envelopes(frames)) == len(frames)
        assert (await watcher.recv())["activeRunId"] is None
        assert await settled(other) == []


def assert_failed(event: Frame, code: str) -> str:
    """Look at a RUN_ERROR that tells nothing but its code, and return its errorId."""
    error_id = event["metadata"]["errorId"]
    assert event.keys() == {"type", "runId", "message", "code", "metadata"}
    assert (event["type"], event["code"]) == ("RUN_ERROR", code)
    assert event["metadata"] == {"errorId": error_id}
    assert event["message"].startswith("The agent ")
    assert isinstance(error_id, str)
    return error_id


async def only_record_of(server: Server, error_id: str) -> dict[str, Any]:
    """Return the one log record that an errorId names."""
    found = await server.wait_for_log(lambda entry: entry.get("error_id") == error_id)
    assert [entry for entry in server.logs if error_id in json.dumps(entry)] == [found]
    return found


RUN_BOUNDS: Final = {
    "runBytes": ("ISOLANE_LIMIT_RUN_BYTES", 100_000, steps(["blobs", 1000, 20_000])),
    "runEvents": ("ISOLANE_LIMIT_RUN_EVENTS", 50, steps(["count", 100_000])),
}


@pytest.mark.parametrize("limit", RUN_BOUNDS)
async def test_run_that_says_too_much_ends_and_leaves_room_for_others(
    tmp_path: Path, limit: str
) -> None:
    variable, value, flood = RUN_BOUNDS[limit]
    async with own_server(tmp_path, SCRIPT, env={variable: str(value)}) as server:
        lane = Lane(server)
        async with lane.connect() as client:
            assert client.welcome is not None
            assert client.welcome["limits"][limit] == value
            seen = await client.subscribe("t")
            end = (await lane.finish(client, "t", "r-1", flood))["chunk"]
            assert (end["type"], end["code"]) == ("RUN_ERROR", "agent_protocol")
            assert end["message"] == f"The run has more than its {limit}, which are {value}."
            assert len(seen.events) <= 50 + 2  # what was open is closed, then comes the end
            assert sum(len(json.dumps(event)) for event in seen.events) < 2 * 100_000
            assert (await lane.finish(client, "t", "r-2", "more"))["chunk"]["type"] == (
                "RUN_FINISHED"
            )
