"""The log over HTTP: event streams of a thread, AG-UI's binding for a run, the snapshot's seam."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from time import monotonic
from typing import Final

import httpx
import pytest
import pytest_asyncio
from tests.live.client import RECV_TIMEOUT_S, Frame, is_terminal, parse_id, run_frame
from tests.live.event_stream import EventStream, open_stream
from tests.live.server import POLL_S, Server
from tests.live.stage import (
    SCRIPT,
    Lane,
    caught_up,
    kept_events,
    own_server,
    settled,
    shared_server,
    steps,
    text_of,
    types_of,
)
from tests.live.stopwatch import stopwatch

pytestmark = pytest.mark.asyncio(loop_scope="module")

server = shared_server(
    SCRIPT,
    "slow=agents:slow",
    "crash=agents:crash",
    env={"ISOLANE_SEND_TIMEOUT_S": "1", "ISOLANE_LIMIT_CONNECTIONS_PER_USER": "3"},
)
AHEAD: Final = 1_000_000


@pytest.fixture
def lane(server: Server) -> Lane:
    return Lane(server)


@pytest_asyncio.fixture(loop_scope="module")
async def http(lane: Lane) -> AsyncIterator[httpx.AsyncClient]:
    async with lane.server.http(lane.token) as client:
        yield client


def held(lane: Lane, *more: list[str]) -> str:
    """Return a script that says `a `, waits for the user's gate, and says `b `."""
    return steps(["say", "a "], ["hold", f"{lane.user} go"], ["say", "b "], *more)


async def open_gate(lane: Lane) -> None:
    await lane.open_gate(f"{lane.user} go")


async def refused(http: httpx.AsyncClient, path: str, **headers: str) -> tuple[int, str]:
    """Ask for events and return how that was refused."""
    answer = await http.get(path, headers=headers)
    return answer.status_code, answer.json()["code"]


# ---- a thread's events -----------------------------------------------------------------------


async def test_stream_is_the_log_with_its_ids(lane: Lane, http: httpx.AsyncClient) -> None:
    await lane.play("t", "r-1", "one two")
    await lane.play("t", "r-2", "three")
    log = await lane.load_log("t")
    async with open_stream(http, "/api/threads/t/events") as stream:
        await stream.until_end("r-2")
    assert stream.entries == [(envelope["id"], envelope["chunk"]) for envelope in log.envelopes]
    assert "no-store" in stream.response.headers["cache-control"]


async def test_stream_begins_strictly_after_and_goes_on_live(
    lane: Lane, http: httpx.AsyncClient
) -> None:
    await lane.play("t", "r-1", "one two")
    log = await lane.load_log("t")
    for place in (0, 3, len(log.envelopes) - 1):
        after = log.envelopes[place]["id"]
        async with open_stream(http, f"/api/threads/t/events?after={after}") as stream:
            await lane.play("t", f"r-after-{place}", "more")
            await stream.until_end(f"r-after-{place}")
        assert parse_id(stream.ids[0]) == (parse_id(after)[0], parse_id(after)[1] + 1)


async def test_last_event_id_counts_before_after(lane: Lane, http: httpx.AsyncClient) -> None:
    await lane.play("t", "r-1", "one two")
    log = await lane.load_log("t")
    path = f"/api/threads/t/events?after={log.envelopes[0]['id']}"
    async with open_stream(http, path, Last_Event_ID=log.envelopes[-2]["id"]) as stream:
        await stream.until_end("r-1")
    assert stream.ids == [log.cursor]


async def test_number_zero_is_the_start_whatever_the_epoch(
    lane: Lane, http: httpx.AsyncClient
) -> None:
    await lane.play("t", "r-1", "one")
    async with open_stream(http, "/api/threads/t/events?after=abc-0") as stream:
        assert (await stream.until_end("r-1")).id == (await lane.load_log("t")).cursor


async def test_cursor_that_leads_nowhere_is_refused(lane: Lane, http: httpx.AsyncClient) -> None:
    await lane.play("t", "r-1", "one")
    epoch, _ = parse_id((await lane.load_log("t")).cursor)
    path = "/api/threads/t/events"
    for cursor in ("", "nonsense", f"{epoch}-{AHEAD}", f"{epoch}--1", f"{epoch}-01", "-1", "é-1"):
        assert await refused(http, f"{path}?after={cursor}") == (422, "invalid_cursor"), cursor
    for cursor in ("nonsense", f"{epoch}-{AHEAD}"):
        assert await refused(http, path, **{"Last-Event-ID": cursor}) == (422, "invalid_cursor")
    assert await refused(http, f"{path}?after=abc-1") == (410, "resume_expired")


async def test_place_that_is_no_longer_kept_is_refused(tmp_path: Path) -> None:
    async with own_server(tmp_path, SCRIPT, env=kept_events(6)) as server:
        lane = Lane(server)
        await lane.play("t", "r-1", "one two")
        first = (await lane.load_log("t")).envelopes[0]["id"]
        for number in range(2, 5):
            await lane.play("t", f"r-{number}", "one two")
        async with server.http(lane.token) as http:
            path = f"/api/threads/t/events?after={first}"
            assert await refused(http, path) == (410, "resume_expired")
            head = (await http.get("/api/threads/t")).json()["head"]
            async with open_stream(http, f"/api/threads/t/events?after={head}") as stream:
                await lane.play("t", "r-5", "three")
                await stream.until_end("r-5")
    assert stream.events[0]["type"] == "RUN_STARTED"


async def test_quiet_stream_is_kept_alive(tmp_path: Path) -> None:
    async with (
        own_server(tmp_path, SCRIPT, env={"ISOLANE_HEARTBEAT_S": "0.3"}) as server,
        server.http(Lane(server).token) as http,
    ):
        await http.post("/api/threads", json={"threadId": "t"})
        async with open_stream(http, "/api/threads/t/events") as stream:
            await three_pings(stream)
            # By no socket: it would have to answer within a heartbeat too.
            await http.post("/agui", json=run_frame("t", "r-1", "one"))
            await stream.until_end("r-1")


async def three_pings(stream: EventStream) -> None:
    pings = 0
    async with asyncio.timeout(RECV_TIMEOUT_S):
        while pings < 3:
            pings += await anext(stream.lines) == ": ping"


async def test_streams_of_one_user_are_limited_as_connections(
    lane: Lane, http: httpx.AsyncClient
) -> None:
    await http.post("/api/threads", json={"threadId": "t"})
    async with AsyncExitStack() as stack:
        for _ in range(2):
            await stack.enter_async_context(open_stream(http, "/api/threads/t/events"))
        async with lane.connect():
            one_more = await http.post("/agui", json=run_frame("u", "r-1", "hello"))
            assert one_more.status_code == 429
            assert (one_more.json()["code"], one_more.json()["retryable"]) == (
                "limit_exceeded",
                True,
            )
            assert "3" in one_more.json()["detail"]
            assert (await http.get("/api/runs/r-1")).status_code == 404, (
                "it was started all the same"
            )
    await slot_is_free(http)


async def slot_is_free(http: httpx.AsyncClient) -> None:
    """Return once a stream may be opened again: the server sees a reader go a moment later."""
    frame = run_frame("free", "free", "x")
    async with asyncio.timeout(RECV_TIMEOUT_S):
        while (await http.post("/agui", json=frame)).status_code == 429:  # noqa: ASYNC110 - in another process
            await asyncio.sleep(POLL_S)


# ---- AG-UI's binding for a run ---------------------------------------------------------------


async def test_run_by_http_is_the_run_of_the_log(lane: Lane, http: httpx.AsyncClient) -> None:
    async with open_stream(http, "/agui", run_frame("t", "r-1", "one two")) as stream:
        await stream.rest()
    assert types_of(stream.events)[0] == "RUN_STARTED"
    assert types_of(stream.events)[-1] == "RUN_FINISHED"
    assert text_of(stream.events) == "one two "
    assert stream.events[0]["input"]["messages"][0]["id"] == "r-1-question"
    log = await lane.load_log("t")
    assert stream.entries == [(envelope["id"], envelope["chunk"]) for envelope in log.envelopes]


async def test_address_chooses_the_agent(http: httpx.AsyncClient) -> None:
    async with open_stream(http, "/agui/slow", run_frame("t", "r-1", "count 2 every 1ms")) as one:
        await one.rest()
    assert text_of(one.events) == "1 2 "
    async with open_stream(http, "/agui/crash", run_frame("t", "r-2", "hello")) as other:
        await other.rest()
    assert (other.events[-1]["type"], other.events[-1]["code"]) == ("RUN_ERROR", "agent_error")
    unknown = await http.post("/agui/nobody", json=run_frame("t", "r-3", "hello"))
    assert (unknown.status_code, unknown.json()["code"]) == (404, "not_found")


async def test_socket_follows_and_joins_a_run_by_http(lane: Lane, http: httpx.AsyncClient) -> None:
    frame = run_frame("t", "r-1", held(lane))
    async with lane.connect() as client, open_stream(http, "/agui", frame) as stream:
        follower = await client.subscribe("t")
        await client.until_event("TEXT_MESSAGE_CONTENT")
        await client.send(frame)
        assert (await client.until_type("accepted"))["disposition"] == "attached"
        await open_gate(lane)
        await client.until_end("r-1")
        await stream.rest()
        assert await settled(client) == [], "the attached run came twice"
    assert stream.entries == [(e["id"], e["chunk"]) for e in follower.envelopes]
    assert types_of(stream.events).count("RUN_STARTED") == 1


async def test_stream_joins_a_run_by_websocket(lane: Lane, http: httpx.AsyncClient) -> None:
    frame = run_frame("t", "r-1", held(lane))
    async with lane.connect() as client:
        follower = await client.subscribe("t")
        await client.send(frame)
        await client.until_event("TEXT_MESSAGE_CONTENT")
        async with open_stream(http, "/agui", frame) as stream:
            await stream.until_type("TEXT_MESSAGE_CONTENT")
            await open_gate(lane)
            await stream.rest()
        await client.until_end("r-1")
        assert await settled(client) == []
    assert stream.entries == [(e["id"], e["chunk"]) for e in follower.envelopes]


async def test_same_run_by_both_at_once_is_one_run(lane: Lane, http: httpx.AsyncClient) -> None:
    async with lane.connect() as client:
        follower = await client.subscribe("t")
        for number in range(8):
            frame = run_frame("t", f"r-{number}", f"{number}")
            answer, _ = await asyncio.gather(http.post("/agui", json=frame), client.send(frame))
            assert answer.status_code == 200
            await client.until_end(f"r-{number}")
            ids = [line[4:] for line in answer.text.splitlines() if line.startswith("id: ")]
            of_run = [e["id"] for e in follower.envelopes if e["runId"] == f"r-{number}"]
            assert ids == of_run
    assert follower.text == "0 1 2 3 4 5 6 7 "
    assert follower.types.count("RUN_STARTED") == 8


async def test_run_id_with_other_content_is_a_conflict(http: httpx.AsyncClient) -> None:
    async with open_stream(http, "/agui", run_frame("t", "r-1", "one")) as stream:
        await stream.rest()
    for other in (run_frame("u", "r-1", "one"), run_frame("t", "r-1", "x", messages=[OTHER])):
        answer = await http.post("/agui", json=other)
        problem = answer.json()
        said = (answer.status_code, problem["code"], problem["retryable"])
        assert said == (409, "run_conflict", False)
    async with open_stream(http, "/agui", run_frame("t", "r-1", "", messages=[])) as again:
        await again.rest()
    assert again.entries == stream.entries


OTHER: Final = {"id": "other", "role": "user", "content": "another question"}


async def test_busy_thread_that_rejects_is_a_conflict(lane: Lane, http: httpx.AsyncClient) -> None:
    async with open_stream(http, "/agui", run_frame("t", "r-1", held(lane))) as stream:
        await stream.until_type("TEXT_MESSAGE_CONTENT")
        frame = run_frame("t", "r-2", "one", forwardedProps={"policy": "reject"})
        answer = await http.post("/agui", json=frame)
        said = (answer.status_code, answer.json()["code"], answer.json()["retryable"])
        assert said == (409, "run_conflict", True)
        await open_gate(lane)
        await stream.rest()


async def test_queued_run_streams_in_its_turn(lane: Lane, http: httpx.AsyncClient) -> None:
    async with (
        open_stream(http, "/agui", run_frame("t", "r-1", held(lane))) as first,
        open_stream(http, "/agui", run_frame("t", "r-2", "two")) as second,
    ):
        await first.until_type("TEXT_MESSAGE_CONTENT")
        await open_gate(lane)
        await asyncio.gather(first.rest(), second.rest())
    assert (text_of(first.events), text_of(second.events)) == ("a b ", "two ")
    assert parse_id(second.ids[0])[1] == parse_id(first.ids[-1])[1] + 1


async def test_cut_run_is_resumed_by_its_last_id(lane: Lane, http: httpx.AsyncClient) -> None:
    frame = run_frame("t", "r-1", held(lane))
    async with open_stream(http, "/agui", frame) as stream:
        last = await stream.until_type("TEXT_MESSAGE_CONTENT")
    assert (await http.get("/api/runs/r-1")).json()["state"] == "running"
    await open_gate(lane)
    assert last.id is not None
    async with open_stream(http, "/agui", frame, Last_Event_ID=last.id) as rest:
        await rest.rest()
    log = await lane.load_log("t")
    assert stream.ids + rest.ids == [envelope["id"] for envelope in log.envelopes]
    assert text_of(rest.events) == "b "


async def test_malformed_last_event_id_starts_nothing(http: httpx.AsyncClient) -> None:
    headers = {"Last-Event-ID": "nonsense"}
    answer = await http.post("/agui", json=run_frame("t", "r-1", "one"), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_cursor")
    assert (await http.get("/api/runs/r-1")).status_code == 404


async def test_last_event_id_that_is_refused_starts_nothing(
    lane: Lane, http: httpx.AsyncClient
) -> None:
    await lane.play("t", "r-1", "one")
    before = await lane.load_log("t")
    epoch, _ = parse_id(before.cursor)
    for cursor, refusal in (
        (f"{epoch}-{AHEAD}", (422, "invalid_cursor")),
        ("abc-1", (410, "resume_expired")),
    ):
        frame, headers = run_frame("t", "r-2", "two"), {"Last-Event-ID": cursor}
        answer = await http.post("/agui", json=frame, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == refusal
        assert (await http.get("/api/runs/r-2")).status_code == 404
    async with open_stream(http, "/agui", run_frame("t", "r-2", "two")) as stream:
        await stream.rest()
    after = await lane.load_log("t")
    assert stream.ids == [envelope["id"] for envelope in after.envelopes[len(before.envelopes) :]]


# ---- readers that go, or don't read ----------------------------------------------------------


@pytest.mark.parametrize("when", ["in mid-run", "on a quiet thread", "with a run that waits"])
async def test_reader_that_goes_leaves_the_run_and_nothing_else(
    lane: Lane, http: httpx.AsyncClient, server: Server, when: str
) -> None:
    await http.post("/api/threads", json={"threadId": "t"})
    baseline = await server.gauges()
    async with lane.connect() as client:
        async with AsyncExitStack() as stack:
            if when == "on a quiet thread":
                for _ in range(2):
                    await stack.enter_async_context(open_stream(http, "/api/threads/t/events"))
                assert (await server.gauges())["isolane_tasks"] > baseline["isolane_tasks"]
            else:
                stream = await stack.enter_async_context(
                    open_stream(http, "/agui", run_frame("t", "r-1", held(lane)))
                )
                await stream.until_type("TEXT_MESSAGE_CONTENT")
            if when == "with a run that waits":
                await stack.enter_async_context(
                    open_stream(http, "/agui", run_frame("t", "r-2", "two"))
                )
        await client.subscribe("t")
        if when == "on a quiet thread":
            await client.run("t", "r-1", "one")
        else:
            await open_gate(lane)
        last = "r-2" if when == "with a run that waits" else "r-1"
        end = await client.until_end(last)
        assert end["chunk"]["outcome"] == {"type": "success"}
    await server.wait_for_gauges(baseline)
    await slot_is_free(http)


async def test_streams_come_and_go_and_the_gauges_are_equal(
    lane: Lane, http: httpx.AsyncClient, server: Server
) -> None:
    await http.post("/api/threads", json={"threadId": "t"})
    await lane.play("t", "r-1", "one")
    baseline = await server.gauges()
    for number in range(30):
        async with open_stream(http, "/api/threads/t/events") as stream:
            if number % 2:
                await stream.until_end("r-1")
        if number % 5 == 0:
            await slot_is_free(http)
    await server.wait_for_gauges(baseline)


async def test_follower_of_a_stream_is_counted(lane: Lane, server: Server) -> None:
    async with server.http(lane.token) as http:
        await http.post("/api/threads", json={"threadId": "t"})
        baseline = await server.gauges()
        async with open_stream(http, "/api/threads/t/events"):
            assert (await server.gauges())["isolane_followers"] >= 1
    await server.wait_for_gauges(baseline)


@asynccontextmanager
async def deaf_reader(lane: Lane, path: str) -> AsyncIterator[asyncio.StreamWriter]:
    """Ask for events and never read; the socket's own buffer is as small as can be."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    sock.settimeout(0)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", lane.server.port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=1)
    request = (
        f"GET {path} HTTP/1.1\r\nHost: {lane.server.address}\r\nAuthorization: Bearer {lane.token}"
    )
    writer.write(f"{request}\r\n\r\n".encode())
    await writer.drain()
    assert (await reader.readexactly(12)) == b"HTTP/1.1 200"
    try:
        yield writer
    finally:
        writer.transport.abort()


async def test_reader_that_never_reads_hurts_nobody_and_is_given_up(
    lane: Lane, http: httpx.AsyncClient, server: Server
) -> None:
    await http.post("/api/threads", json={"threadId": "t"})
    baseline, files = await server.gauges(), open_sockets(server)
    async with AsyncExitStack() as stack:
        for _ in range(2):
            await stack.enter_async_context(deaf_reader(lane, "/api/threads/t/events"))
        async with lane.connect(hello=False) as client:
            await client.run("t", "r-1", steps(["blobs", 60, 200_000]))
            began = monotonic()
            await client.until(is_terminal, timeout_s=30)
            assert monotonic() - began < 15
        neighbour = Lane(server)
        async with neighbour.connect() as other:
            with stopwatch(server.pid) as watch:
                await neighbour.finish(other, "t", "r-1", "hello")
                assert watch.took_s < 2
        # Nothing could be sent for a second here, so they are let go: a slot, a follower each.
        await server.wait_for_gauges(baseline, within_s=10)
        await slot_is_free(http)
        async with asyncio.timeout(RECV_TIMEOUT_S):  # both were reset, unread as they are
            while open_sockets(server) >= files + 2:
                await http.get("/healthz")
    assert not [line for line in server.lines if "ASGI callable" in line]


def open_sockets(server: Server) -> int:
    """Count them; files come and go with the database's readers."""
    count = 0
    for descriptor in Path(f"/proc/{server.pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            count += descriptor.readlink().name.startswith("socket:")
    return count


async def load_pieces(lane: Lane, path: str) -> list[bytes]:
    """Return the pieces in which an answer that ends is sent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", lane.server.port)
    host, credential = f"Host: {lane.server.address}", f"Authorization: Bearer {lane.token}"
    lines = (f"GET {path} HTTP/1.1", host, credential, "Connection: close", "", "")
    writer.write("\r\n".join(lines).encode())
    answer = await asyncio.wait_for(reader.read(), RECV_TIMEOUT_S)
    writer.close()
    rest, pieces = answer.partition(b"\r\n\r\n")[2], list[bytes]()
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        pieces.append(rest[: int(size, 16)])
        rest = rest[int(size, 16) + 2 :]
    return [piece for piece in pieces if piece]


@pytest.mark.parametrize(
    "path",
    ["/v1/responses/resp_r-1?stream=true", "/ai/chat/t/stream", "/agui?runId=r-1"],
)
async def test_events_that_are_there_already_come_in_few_pieces(lane: Lane, path: str) -> None:
    words = "word " * 300
    async with lane.connect() as client:
        await lane.finish(client, "t", "r-1", words)
    pieces = await load_pieces(lane, path)
    assert b"".join(pieces).count(b'"delta":"word "') == 300
    assert len(pieces) < 30


async def test_shutdown_ends_quiet_streams_in_time(tmp_path: Path) -> None:
    async with own_server(tmp_path, SCRIPT, env={"ISOLANE_DRAIN_TIMEOUT_S": "0.5"}) as server:
        lane = Lane(server)
        async with server.http(lane.token) as http:
            await http.post("/api/threads", json={"threadId": "t"})
            frame = run_frame("u", "r-1", held(lane))
            async with (
                open_stream(http, "/api/threads/t/events") as quiet,
                open_stream(http, "/agui", frame) as running,
            ):
                await running.until_type("TEXT_MESSAGE_CONTENT")
                stopping = asyncio.create_task(server.stop())
                ends = await asyncio.gather(running.rest(), quiet.rest())
                stopped = await stopping
        assert (stopped.code, stopped.duration_s < 15) == (0, True)
        assert ends[0][-1].event["code"] == "going_away"
        assert [entry.event["code"] for entry in ends[1]] in ([], ["going_away"])
        server.assert_clean()


# ---- the snapshot's seam ---------------------------------------------------------------------


async def snapshot(http: httpx.AsyncClient, thread_id: str = "t") -> Frame:
    answer = await http.get(f"/api/threads/{thread_id}")
    thread: Frame = answer.raise_for_status().json()
    return thread


async def test_while_a_run_is_active_head_is_the_id_before_its_first_event(
    lane: Lane, http: httpx.AsyncClient
) -> None:
    await lane.play("t", "r-1", "one")
    before = await snapshot(http)
    async with lane.connect() as client:
        follower = await client.subscribe("t")
        await client.run("t", "r-2", held(lane))
        await client.until_event("TEXT_MESSAGE_CONTENT", "r-2")
        during = await snapshot(http)
        assert during["activeRunId"] == "r-2"
        assert (during["head"], during["messages"]) == (before["head"], before["messages"])
        async with (
            lane.connect() as second,
            open_stream(http, f"/api/threads/t/events?after={during['head']}") as stream,
        ):
            other = await second.subscribe("t", during["head"])
            await open_gate(lane)
            for socket_ in (client, second):
                await socket_.until_end("r-2")
            await stream.until_end("r-2")
    expected = [e for e in follower.envelopes if e["runId"] == "r-2"]
    assert other.envelopes == expected
    assert stream.entries == [(e["id"], e["chunk"]) for e in expected]
    after = await snapshot(http)
    assert after["head"] == follower.cursor
    assert [m["content"] for m in after["messages"]][-1] == "a b "


async def test_active_rewind_does_not_show_in_the_snapshot_yet(
    lane: Lane, http: httpx.AsyncClient
) -> None:
    await lane.play("t", "r-1", "one")
    before = await snapshot(http)
    frame = run_frame("t", "r-2", held(lane), forwardedProps={"rewindTo": "r-1-question"})
    async with open_stream(http, "/agui", frame) as stream:
        await stream.until_type("TEXT_MESSAGE_CONTENT")
        during = await snapshot(http)
        assert (during["head"], during["messages"]) == (before["head"], before["messages"])
        await open_gate(lane)
        await stream.rest()
    after = await snapshot(http)
    assert after["messages"][0]["id"] == "r-2-question"


RUNS_MIN: Final = 12
RUNS_MAX: Final = 200
HEADS: Final = 3
"""Snapshots of more places than these are wanted; runs go on until there are."""


async def test_snapshot_and_what_follows_it_meet_under_concurrent_appends(
    lane: Lane, http: httpx.AsyncClient, server: Server
) -> None:
    """Messages up to the head, and the log after it, are together what was said: nothing twice."""
    async with server.http(lane.token) as writing:

        async def write() -> None:
            for number in range(RUNS_MAX):
                if number >= RUNS_MIN and len({seam["head"] for seam in seams}) > HEADS:
                    return
                text = steps(["say", f"{number}-a "], ["count", 3], ["say", f"{number}-b "])
                async with open_stream(
                    writing, "/agui", run_frame("t", f"r-{number}", text)
                ) as one:
                    await one.rest()

        await http.post("/api/threads", json={"threadId": "t"})
        seams = [await snapshot(http)]
        work = asyncio.create_task(write())
        while not work.done():
            seams.append(await snapshot(http))
        await work
    log = await lane.load_log("t")
    ends = [parse_id(e["id"])[1] for e in log.envelopes if is_terminal(e)]
    last = await snapshot(http)
    assert last["head"] == log.cursor
    heads = [parse_id(seam["head"])[1] for seam in seams]
    assert heads == sorted(heads)
    assert len(set(heads)) > HEADS, "the snapshots saw nothing of the runs"
    for seam, head in zip(seams, heads, strict=True):
        assert head in {0, *ends}, "a head is never within a run"
        said = "".join(m["content"] for m in seam["messages"] if m["role"] == "assistant")
        follows = [e["chunk"] for e in log.envelopes if parse_id(e["id"])[1] > head]
        assert said + text_of(follows) == log.text
    async with lane.connect() as client:
        for seam in seams[:: max(1, len(seams) // 5)]:
            await caught_up(client, "t", seam["head"])


async def test_snapshot_then_stream_in_the_middle_of_everything(
    lane: Lane, http: httpx.AsyncClient, server: Server
) -> None:
    """A page that loads at any moment, by either transport, sees each entry once."""
    text = "count 100000 every 10ms"
    async with server.http(lane.token) as writing:
        await http.post("/api/threads", json={"threadId": "t"})
        work = asyncio.create_task(
            writing.post("/agui/slow", json=run_frame("t", "r-1", text), timeout=20)
        )
        seen: list[EventStream] = []
        for _ in range(8):
            head = (await snapshot(http))["head"]
            async with open_stream(http, f"/api/threads/t/events?after={head}") as stream:
                await stream.read()
                seen.append(stream)
        await http.post("/api/runs/r-1/abort")
        assert (await work).status_code == 200
    log = await lane.load_log("t")
    first = log.envelopes[0]["id"]
    assert {stream.ids[0] for stream in seen} == {first}
    answered = [line[4:] for line in (await work).text.splitlines() if line.startswith("id: ")]
    assert answered == [envelope["id"] for envelope in log.envelopes]
