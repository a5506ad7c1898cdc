"""Frames: what a client may say, when, how much of it, and what it is told when it may not."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from time import monotonic

import pytest
from tests.live.client import Client, Frame, is_terminal, run_frame
from tests.live.server import Server
from tests.live.stage import (
    SCRIPT,
    Lane,
    envelopes,
    mint,
    own_server,
    read_to_close,
    settled,
    shared_server,
    steps,
)
from tests.live.stopwatch import stopwatch

pytestmark = pytest.mark.asyncio(loop_scope="module")

HEARTBEAT_S = 0.3
server = shared_server(SCRIPT, env={"ISOLANE_HEARTBEAT_S": "15"})
# Who doesn't answer a ping for as long as a heartbeat is gone, be it a test that got no core.
hasty_server = shared_server(SCRIPT, env={"ISOLANE_HEARTBEAT_S": str(HEARTBEAT_S)})
small_server = shared_server(
    SCRIPT,
    env={
        "ISOLANE_LIMIT_FRAME_BYTES": "2000",
        "ISOLANE_LIMIT_FRAMES_PER_MINUTE": "30",
        "ISOLANE_LIMIT_THREADS_PER_USER": "2",
    },
)

HELLO = {"type": "hello", "v": 1}


async def exchange(client: Client, frame: Frame) -> Frame:
    """Send a frame and return the next one that comes."""
    await client.send(frame)
    return await client.recv()


def nested(depth: int) -> str:
    """Return a ping that is so many objects and lists deep."""
    return '{"type":"ping","t":' + "[" * (depth - 1) + "]" * (depth - 1) + "}"


def run_with(**fields: object) -> str:
    """Return a run frame with other values in some fields; what is `...` is left out."""
    frame = run_frame("t", "r", "word") | fields
    return json.dumps({name: value for name, value in frame.items() if value is not ...})


INVALID_FRAMES = {
    "empty": "",
    "blank": "  ",
    "no JSON": "hello",
    "half": '{"type":"ping"',
    "two": '{"type":"ping"}{"type":"ping"}',
    "null": "null",
    "number": "7",
    "text": '"ping"',
    "list": '[{"type":"ping"}]',
    "encoded twice": json.dumps('{"type":"ping"}'),
    "empty object": "{}",
    "duplicate key": '{"type":"ping","type":"ping"}',
    "duplicate key below": '{"type":"ping","t":{"a":1,"a":1}}',
    "NaN": '{"type":"ping","t":NaN}',
    "Infinity": '{"type":"ping","t":[-Infinity]}',
    "a number that is none": '{"type":"ping","t":1e999}',
    "101 digits": '{"type":"ping","t":' + "9" * 101 + "}",
    "101 digits and a point": '{"type":"ping","t":1.' + "9" * 100 + "}",
    "5,000 digits": '{"type":"ping","t":' + "9" * 5000 + "}",
    "depth 65": nested(65),
    "depth 200,000": nested(200_000),
    "lone surrogate": '{"type":"ping","t":"\\ud800"}',
    "lone surrogate in a key": '{"type":"ping","t":{"\\udfff":1}}',
    "unknown type": '{"type":"dance"}',
    "type null": '{"type":null}',
    "type of another type": '{"type":{"type":"ping"}}',
    "an envelope": '{"id":"e-1","chunk":{}}',
    "single quotes": "{'type':'ping'}",
    "comment": '{"type":"ping"} // now',
    "trailing comma": '{"type":"ping",}',
    "byte order mark": '\ufeff{"type":"ping"}',
    "NUL": "\x00",
}
NO_NAMES: list[object] = ["", " ", "a b", "a/b", "../x", "*", "a\x00", "a\n", "é", "\uff21"]
NO_NAMES += ["x" * 129, None, 7, True, [], {}]
NO_TOKENS: list[object] = [None, "", 7, []]
NO_LISTS: list[object] = [{}, "text", 7]
NO_MESSAGES: list[object] = [
    *(None, "text", []),
    {"role": "user", "content": "x"},
    {"id": 7, "role": "user", "content": "x"},
    {"id": "m", "role": "user"},
    {"id": "m", "role": "user", "content": 7},
    {"id": "m", "role": "tool", "content": "x"},
]
NAMED = (("subscribe", "threadId"), ("unsubscribe", "threadId"), ("abort", "runId"))
INVALID_INPUTS: dict[str, tuple[str, str]] = {
    "hello of another version": ('{"type":"hello","v":2}', "v"),
    "hello without version": ('{"type":"hello"}', "v"),
    "hello of version true": ('{"type":"hello","v":true}', "v"),
    "hello of version one, as text": ('{"type":"hello","v":"1"}', "v"),
    **{
        f"{kind} with {name} {bad!r}": (json.dumps({"type": kind, name: bad}), name)
        for kind, name in NAMED
        for bad in NO_NAMES
    },
    **{
        f"{kind} without {name}": (json.dumps({"type": kind}), name)
        for kind, name in (*NAMED, ("auth", "token"))
    },
    **{
        f"auth with {bad!r}": (json.dumps({"type": "auth", "token": bad}), "token")
        for bad in NO_TOKENS
    },
    **{
        f"run with {name} {bad!r}": (run_with(**{name: bad}), name)
        for name, bads in {
            "threadId": [..., *NO_NAMES],
            "runId": [..., *NO_NAMES],
            "messages": [..., None, *NO_LISTS],
            "tools": NO_LISTS,
            "context": NO_LISTS,
            "resume": NO_LISTS,
            "parentRunId": [[], 7],
        }.items()
        for bad in bads
    },
    **{f"run with message {m!r}": (run_with(messages=[m]), "messages.0") for m in NO_MESSAGES},
}


@pytest.fixture
def lane(server: Server) -> Lane:
    return Lane(server)


@pytest.fixture
def hasty(hasty_server: Server) -> Lane:
    return Lane(hasty_server)


@pytest.fixture
def small(small_server: Server) -> Lane:
    return Lane(small_server)


# --- hello ---------------------------------------------------------------------------------------


async def test_welcome_says_who_what_and_how_much(lane: Lane) -> None:
    token = mint(lane.user, exp=4_000_000_000)
    async with lane.connect_with(token) as client:
        await client.send(HELLO)
        welcome = await client.recv()
    assert welcome.pop("connectionId")
    assert welcome == {
        "type": "welcome",
        "v": 1,
        "userId": lane.user,
        "heartbeatMs": 15_000,
        "limits": {
            "connectionsPerUser": 20,
            "threadsPerUser": 20,
            "runsPerUser": 5,
            "queuedRunsPerThread": 5,
            "framesPerMinute": 600,
            "requestsPerUser": 16,
            "frameBytes": 1 << 20,
            "requestBytes": 64 << 20,
            "chatFrameBytes": 16 << 20,
            "eventBytes": (1 << 20) - 512,
            "runBytes": 16 << 20,
            "runEvents": 100_000,
            "storedThreadsPerUser": 10_000,
            "storedBytesPerUser": 1 << 30,
            "sendTimeoutMs": 20000,
        },
        "capabilities": {
            "transport": {"streaming": True, "websocket": True, "resumable": True},
            "nodes": 1,
        },
        "tokenExpiresAt": 4_000_000_000_000,
        "activeRuns": [],
    }


async def test_each_socket_has_an_id_of_its_own(lane: Lane) -> None:
    async with lane.connect() as one, lane.connect() as other:
        assert one.welcome is not None
        assert other.welcome is not None
        assert one.welcome["connectionId"] != other.welcome["connectionId"]
        assert one.welcome["userId"] == other.welcome["userId"]


async def test_before_hello_there_are_data_frames_only(lane: Lane) -> None:
    async with lane.connect(hello=False) as client:
        for kind in ("subscribe", "unsubscribe", "auth", "ping"):
            await client.send({"type": kind, "threadId": "t", "token": lane.token})
            error = await client.recv()
            assert_bare_error(error, "invalid_frame")
        await client.run("t", "r-1", "word")
        frames = await client.until(is_terminal)
        assert envelopes(frames) == frames
        await client.send(HELLO)
        assert (await client.recv())["type"] == "welcome"
        await client.send("no JSON")
        await client.until_type("error")


# --- what is malformed ---------------------------------------------------------------------------


@pytest.mark.parametrize("text", INVALID_FRAMES.values(), ids=INVALID_FRAMES)
async def test_what_is_no_frame_is_refused_and_the_connection_lives(lane: Lane, text: str) -> None:
    async with lane.connect(hello=False) as plain, lane.connect() as client:
        await plain.send(text)
        assert_bare_error(await plain.recv(), "invalid_frame")
        await client.send(text)
        assert_error(await client.recv(), "invalid_frame")
        assert await settled(client) == await settled(plain) == []


@pytest.mark.parametrize("text,field", INVALID_INPUTS.values(), ids=INVALID_INPUTS)
async def test_wrong_field_is_named_and_the_connection_lives(
    lane: Lane, text: str, field: str
) -> None:
    async with lane.connect() as client:
        await client.send(text)
        error = await client.recv()
        assert_error(error, "invalid_input")
        assert error["field"].startswith(field)
        assert error["message"].startswith(error["field"])
        assert await settled(client) == []


@pytest.mark.parametrize(
    "t",
    [
        *(0, -1.5, "", "text \u0000 \U0001f600", None, True, [], {"a": [{"b": None}]}),
        *(int("9" * 100), -int("9" * 100), 2**64, 1e308),
    ],
    ids=lambda t: repr(t)[:20],
)
async def test_ping_is_answered_with_its_t(lane: Lane, t: object) -> None:
    async with lane.connect() as client:
        await client.send({"type": "ping", "t": t})
        assert await client.recv() == {"type": "pong"} | ({} if t is None else {"t": t})
        await client.send({"type": "ping"})
        assert await client.recv() == {"type": "pong"}


async def test_depth_of_64_and_names_of_128_characters_are_fine(lane: Lane) -> None:
    async with lane.connect() as client:
        await client.send(nested(64))
        assert (await client.recv())["type"] == "pong"
        for name in ("x" * 128, "A-z0.9_:-", ".", "0", "__proto__", "constructor"):
            await client.send({"type": "subscribe", "threadId": name})
            assert (await client.recv())["threadId"] == name


async def test_client_may_say_more_than_is_known(lane: Lane) -> None:
    more = {"extra": 1, "userId": "somebody-else", "__proto__": {"polluted": True}}
    async with lane.connect() as client:
        await client.send({"type": "subscribe", "threadId": "t", **more})
        assert (await client.recv())["type"] == "subscribed"
        await client.run("u", "r-1", "word", **more)
        assert is_terminal(await client.until_end("r-1"))


@pytest.mark.parametrize("hello", [True, False])
async def test_twenty_malformed_frames_in_ten_seconds_end_the_connection(
    lane: Lane, *, hello: bool
) -> None:
    async with lane.connect(hello=hello) as client, lane.connect() as other:
        for number in range(20):
            # What is well-formed in between doesn't make up for it; each kind counts.
            await client.send(["no JSON", '{"type":"abort"}', "[]"][number % 3])
            await client.run("t", "r-1", "word", messages=[])
        frames, (code, _) = await read_to_close(client)
        kinds = {"error"} if hello else {"RUN_ERROR"}
        errors = [f for f in frames if f.get("code") in {"invalid_frame", "invalid_input"}]
        assert (code, len(errors)) == (1008, 20)
        assert {error["type"] for error in errors} == kinds
        assert await settled(other) == []


async def test_nineteen_malformed_frames_are_forgiven(lane: Lane) -> None:
    async with lane.connect() as client:
        for _ in range(19):
            await client.send("no JSON")
            await client.recv()
        assert await settled(client) == []


async def test_errors_of_one_moment_have_an_id_each(lane: Lane) -> None:
    stranger = Lane(lane.server)
    async with lane.connect() as client, stranger.connect() as other:
        for _ in range(19):
            await asyncio.gather(client.send("no JSON"), other.send("no JSON"))
        errors = [await who.until_type("error") for who in (client, other) for _ in range(19)]
    ids = {error["errorId"] for error in errors}
    assert len(ids) == len(errors)
    for error_id in ids:
        await lane.server.wait_for_log(partial(has_error_id, error_id))
    logged = [entry["error_id"] for entry in lane.server.logs if entry.get("error_id") in ids]
    assert sorted(logged) == sorted(ids)


def has_error_id(error_id: str, entry: dict[str, object]) -> bool:
    return entry.get("error_id") == error_id


# --- sizes and rates -----------------------------------------------------------------------------


async def test_binary_is_closed_with_1003(lane: Lane) -> None:
    async with lane.connect() as client:
        await client.send(json.dumps(HELLO).encode())
        assert (await client.closed())[0] == 1003


@pytest.mark.parametrize("hello", [True, False])
@pytest.mark.parametrize("letter", ["x", "é", "😀"])
async def test_frame_above_frame_bytes_is_closed_with_1009(
    small: Lane, letter: str, *, hello: bool
) -> None:
    def ping(size: int) -> str:
        rest = size - len('{"type":"ping","t":""}')
        count, odd = divmod(rest, len(letter.encode()))
        return f'{{"type":"ping","t":"{letter * count}{"x" * odd}"}}'

    async with small.connect(hello=hello) as client:
        await client.send(ping(2000))
        assert (await client.recv())["type"] == ("pong" if hello else "RUN_ERROR")
        await client.send(ping(2001))
        error = await client.recv()
        assert (error["type"], error["code"]) == ("error", "too_large")
        assert "2000" in error["message"]
        assert await client.closed() == (1009, "too_large")


async def test_frame_far_above_frame_bytes_is_closed_with_1009(small: Lane) -> None:
    async with small.connect() as client:
        await client.send("x" * 1_000_000)
        assert (await client.closed())[0] in {1009, 1006}  # 1006: a reset outran the close


async def test_who_leaves_a_flood_behind_is_let_go(small: Lane) -> None:
    before = await small.server.gauges()
    async with small.connect() as client:
        for _ in range(30 + 64):  # those above the rate would take a quarter of a second each
            await client.send({"type": "unsubscribe", "threadId": "t"})
    await small.server.wait_for_gauges(before, within_s=5)


async def test_frames_above_their_rate_are_refused_until_later(small: Lane) -> None:
    began = monotonic()
    async with small.connect() as client:
        answers = [await exchange(client, {"type": "ping"}) for _ in range(29 + 25)]
        errors = [answer for answer in answers if answer != {"type": "pong"}]
        # One was the hello. A minute that slides gives some back while it does.
        assert answers[:29] == [{"type": "pong"}] * 29
        assert len(errors) >= 25 - 1 - (monotonic() - began) * 30 / 60
        for error in errors:
            assert_error(error, "limit_exceeded", retryable=True)
            assert "framesPerMinute is limited to 30" in error["message"]
            assert 0 < error["retryAfterMs"] <= 60_000
        # The rate is the user's, not the socket's; it is refused, not punished.
        async with small.connect(hello=False) as other:
            for number in range(8):
                await other.run("t", f"r-{number}", "word")
            *_, bare = await other.until(lambda event: event["type"] == "RUN_ERROR")
            assert bare["code"] == "limit_exceeded"
            assert "framesPerMinute" in bare["message"]
        # What stops a run is counted with the rest, and carried out.
        await client.send({"type": "abort", "runId": "unknown"})
        *_, unknown = await client.until(lambda frame: frame["type"] == "error")
        assert_error(unknown, "not_found")
        neighbour = Lane(small.server)
        async with neighbour.connect() as free:
            assert await settled(free) == []


async def test_threads_that_one_user_has_open_are_limited(small: Lane) -> None:
    async with small.connect() as client, small.connect() as other:
        await client.subscribe("t-1")
        await other.subscribe("t-2")
        for device in (client, other):
            await device.send({"type": "subscribe", "threadId": "t-3"})
            error = await device.until_type("error")
            assert_error(error, "limit_exceeded", retryable=True)
            assert error["threadId"] == "t-3"
            assert "threadsPerUser" in error["message"]
            assert "2" in error["message"]
        await client.subscribe("t-2")  # open already
        await client.send({"type": "unsubscribe", "threadId": "t-1"})
        await client.until_type("unsubscribed")
        await client.subscribe("t-3")


# --- heartbeats ----------------------------------------------------------------------------------


async def test_server_pings_at_each_heartbeat(hasty: Lane) -> None:
    began = monotonic()
    with stopwatch(hasty.server.pid) as watch:
        async with hasty.connect(hello=False) as client:
            for _ in range(4):
                assert json.loads(await client.socket.recv()) == {"type": "ping"}
            assert watch.took_s < 6 * HEARTBEAT_S
    assert monotonic() - began > 3 * HEARTBEAT_S


async def test_peer_that_answers_no_ping_is_closed_after_two_heartbeats(hasty: Lane) -> None:
    async with hasty.connect() as healthy:
        began = monotonic()
        with stopwatch(hasty.server.pid) as watch:
            async with raw_socket(hasty) as (reader, _):
                frames = await asyncio.wait_for(read_rest(reader), 10)
            assert watch.took_s < 4 * HEARTBEAT_S + 1
        assert monotonic() - began > HEARTBEAT_S
        assert b"\x89" in frames, "no RFC 6455 ping came"
        assert b'{"type":"ping"}' in frames
        assert await settled(healthy) == []


async def read_rest(reader: asyncio.StreamReader) -> bytes:
    """Read to the end, or to the reset."""
    data = b""
    try:
        while piece := await reader.read(65536):
            data += piece
    except ConnectionResetError:
        pass
    return data


@asynccontextmanager
async def raw_socket(
    lane: Lane,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Open a WebSocket by hand, which then says nothing unless it is told to."""
    reader, writer = await asyncio.open_connection("127.0.0.1", lane.server.port)
    key = base64.b64encode(b"sixteen bytes of")
    lines = [
        *(b"GET /ws HTTP/1.1", b"Host: localhost", b"Connection: Upgrade", b"Upgrade: websocket"),
        *(b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Key: " + key),
        b"Authorization: Bearer " + lane.token.encode(),
    ]
    writer.write(b"\r\n".join([*lines, b"", b""]))
    try:
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        yield reader, writer
    finally:
        writer.transport.abort()


async def test_client_that_never_reads_is_given_up(tmp_path: Path) -> None:
    env = {"ISOLANE_SEND_TIMEOUT_S": "0.5", "ISOLANE_HEARTBEAT_S": "60"}
    async with own_server(tmp_path, SCRIPT, env=env) as server:
        lane = Lane(server)
        baseline = await server.gauges()
        async with raw_socket(lane) as (_, writer):
            for frame in (HELLO, {"type": "subscribe", "threadId": "t"}):
                writer.write(masked(json.dumps(frame)))
            await lane.play("t", "r-1", steps(["blobs", 100, 200_000]))
            entry = await server.wait_for_log(lambda e: e.get("code") == "slow_consumer")
            assert entry["connection_id"]
            await server.wait_for_gauges(baseline)


def masked(text: str) -> bytes:
    """Return a text frame, masked by zeros."""
    payload = text.encode()
    return b"\x81\xff" + len(payload).to_bytes(8, "big") + bytes(4) + payload


# --- shapes of errors ----------------------------------------------------------------------------


def assert_error(error: Frame, code: str, *, retryable: bool = False) -> None:
    always = {"type", "code", "message", "errorId", "retryable"}
    assert always <= error.keys() <= always | {"retryAfterMs", "threadId", "runId", "field"}
    assert (error["type"], error["code"], error["retryable"]) == ("error", code, retryable)
    assert error["message"]
    assert error["errorId"]


def assert_bare_error(event: Frame, code: str) -> None:
    assert event.keys() == {"type", "message", "code", "metadata"}
    assert (event["type"], event["code"]) == ("RUN_ERROR", code)
    assert event["metadata"].keys() == {"errorId"}
