"""How many HTTP requests a user may have at once, and what their bodies cost before they are read.

A request is held open by a body that doesn't come: it counts from before its body is read.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from dataclasses import dataclass
from sqlite3 import connect
from time import monotonic
from typing import Any, Final

import httpx
import pytest
from tests.live.client import RECV_TIMEOUT_S, run_frame
from tests.live.server import LOOPBACK, Looks, Server
from tests.live.stage import SCRIPT, Lane, shared_server, steps

from isolane.doors.room import ROOM_BYTES
from isolane.engines.memory.limits import WEIGHT_S
from isolane.settings import DATABASE_NAME, Settings

pytestmark = pytest.mark.asyncio(loop_scope="module")

REQUESTS: Final = 4
BODY_BYTES: Final = Settings().limit_frame_bytes
ROOM: Final = ROOM_BYTES // BODY_BYTES
"""So many of the largest bodies of one user are read at once."""
LEFT: Final = range(ROOM, ROOM + REQUESTS)
"""Numbers of the runs whose clients leave."""
LEAVING: Final = 150
GROWN_KIB_MAX: Final = 64 * 1024
"""What is held for one user, as it came and as it is read, is a third of it; the bodies of all who
leave are twice as much. An allocator gives memory back in steps, and each thread has its own."""

server = shared_server(SCRIPT, env={"ISOLANE_LIMIT_REQUESTS_PER_USER": str(REQUESTS)})
roomy_server = shared_server(SCRIPT)


@dataclass
class Upload:
    """A request on a line of its own, whose body the test sends as it likes."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, body: bytes) -> None:
        self.writer.write(body)
        await self.writer.drain()

    async def answer(self) -> tuple[int, dict[str, str], dict[str, Any]]:
        """Return status, headers and body of the answer."""
        async with asyncio.timeout(RECV_TIMEOUT_S):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
            status, *lines = head.strip().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in lines)
            body = await self.reader.readexactly(int(headers["content-length"]))
        return int(status.split()[1]), headers, json.loads(body or b"{}")


@asynccontextmanager
async def upload(
    lane: Lane, path: str, *headers: str, length: int | None = 1000
) -> AsyncIterator[Upload]:
    """Begin a POST and send its head; without a length its body comes in chunks."""
    reader, writer = await asyncio.open_connection(LOOPBACK, lane.server.port)
    size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    head = [
        f"POST {path} HTTP/1.1",
        f"Host: {lane.server.address}",
        f"Authorization: Bearer {lane.token}",
        "Content-Type: application/json",
        size,
        *headers,
    ]
    writer.write("\r\n".join([*head, "", ""]).encode())
    await writer.drain()
    try:
        yield Upload(reader, writer)
    finally:
        writer.close()


async def hold(stack: AsyncExitStack, lane: Lane, path: str) -> Upload:
    """Begin a request, and return once the server has asked for its body: it counts then."""
    one = await stack.enter_async_context(upload(lane, path, "Expect: 100-continue"))
    assert (await one.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
    return one


# --- how many ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/api/threads", "/agui", "/agui/script"])
async def test_one_request_too_many_is_refused_before_its_body_is_read(
    server: Server, path: str
) -> None:
    lane = Lane(server)
    async with AsyncExitStack() as stack:
        held = [await hold(stack, lane, path) for _ in range(REQUESTS)]
        surplus = await stack.enter_async_context(upload(lane, path, "Expect: 100-continue"))
        status, headers, problem = await surplus.answer()
        assert (status, problem["code"]) == (429, "limit_exceeded")
        assert problem["detail"] == f"requestsPerUser is limited to {REQUESTS}"
        assert int(headers["retry-after"]) >= 1
        await held[0].send(b"no JSON".ljust(1000))
        assert (await held[0].answer())[0] == 400
        await hold(stack, lane, path)  # there is room for one again


async def test_nobody_else_is_refused_and_what_ends_something_never_is(server: Server) -> None:
    lane, other = Lane(server), Lane(server)
    async with (
        AsyncExitStack() as stack,
        server.http(lane.token) as http,
        server.http(other.token) as beside,
    ):
        await http.post("/api/threads", json={"threadId": "t"})
        async with lane.connect() as client:
            await client.run("t", f"run-{lane.user}", steps(["hold", "never"]))
            for _ in range(REQUESTS):
                await hold(stack, lane, "/api/threads")
            assert (await http.get("/api/threads")).status_code == 429
            assert (await http.post(f"/api/runs/run-{lane.user}/abort")).status_code == 202
            await client.until_end(f"run-{lane.user}")
        assert (await http.delete("/api/threads/t")).status_code == 204
        assert (await beside.get("/api/threads")).status_code == 200
        assert (await http.delete("/api/sessions")).status_code == 204


async def test_requests_whose_clients_have_gone_count_no_more(server: Server) -> None:
    lane = Lane(server)
    async with AsyncExitStack() as stack:
        for _ in range(REQUESTS):
            await hold(stack, lane, "/agui")
    async with server.http(lane.token) as http:
        async for _ in Looks(RECV_TIMEOUT_S):
            if (await http.get("/api/threads")).status_code == 200:
                return
    raise AssertionError("the places of those who left are not free again")


async def test_event_streams_count_as_connections_only(server: Server) -> None:
    lane = Lane(server)
    async with server.http(lane.token) as http, AsyncExitStack() as stack:
        await http.post("/api/threads", json={"threadId": "t"})
        for _ in range(REQUESTS + 1):
            stream = http.stream("GET", "/api/threads/t/events")
            assert (await stack.enter_async_context(stream)).status_code == 200
        assert (await http.get("/api/threads")).status_code == 200


# --- what their bodies cost ----------------------------------------------------------------------


def large_run(lane: Lane, number: int, text: str = "word") -> bytes:
    """Return a run of the largest size that a body may have."""
    frame = run_frame(f"t-{number}", f"{lane.user}-{number}", text)
    empty = json.dumps({**frame, "state": ""}).encode()
    return json.dumps({**frame, "state": "x" * (BODY_BYTES - len(empty))}).encode()


async def begin_large(
    stack: AsyncExitStack, lane: Lane, *headers: str, length: int | None
) -> Upload:
    return await stack.enter_async_context(
        upload(lane, "/agui", "Expect: 100-continue", *headers, length=length)
    )


async def is_asked_for_its_body(one: Upload) -> bool:
    return (await one.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")


@pytest.mark.parametrize(
    "length, headers",
    [(BODY_BYTES, ()), (None, ()), (None, ("Content-Length: 10",))],
    ids=["announced", "in chunks", "announced by a lie"],
)
async def test_large_body_is_not_read_before_its_user_has_room(
    roomy_server: Server, length: int | None, headers: tuple[str, ...]
) -> None:
    lane, other = Lane(roomy_server), Lane(roomy_server)
    async with AsyncExitStack() as stack:
        held = [await begin_large(stack, lane, *headers, length=length) for _ in range(ROOM)]
        for one in held:
            assert await is_asked_for_its_body(one)
        surplus = await begin_large(stack, lane, *headers, length=length)
        assert await is_asked_for_its_body(await begin_large(stack, other, *headers, length=length))
        asked = asyncio.create_task(is_asked_for_its_body(surplus))
        await asyncio.wait({asked}, timeout=0.3)  # nothing comes, however long
        assert not asked.done()
        await lane.play("t", f"small-{lane.user}", "word")  # small ones need no room
        held[0].writer.close()
        assert await asyncio.wait_for(asked, RECV_TIMEOUT_S)


async def leave_before_their_turn(lane: Lane, http: httpx.AsyncClient) -> bool:
    """Send runs whose clients leave; say whether all left before the pace allowed another body."""
    began = monotonic()
    for number in range(ROOM):  # so many are read at once, what comes next has to wait
        assert (await http.post("/agui", content=large_run(lane, number))).status_code == 200
    async with AsyncExitStack() as stack:
        for number in LEFT:
            one = await stack.enter_async_context(upload(lane, "/agui", length=BODY_BYTES))
            await one.send(large_run(lane, number))
        for _ in range(5):  # it reads 4 KiB in a pass
            await pass_by(lane.server)
    await pass_by(lane.server)  # it sees that they have left
    return monotonic() - began < WEIGHT_S


async def test_run_whose_client_left_before_its_body_was_taken_never_begins(server: Server) -> None:
    for _ in range(5):  # on a slow machine their turn may come before they leave
        lane = Lane(server)
        async with server.http(lane.token) as http:
            if not await leave_before_their_turn(lane, http):
                continue
            async for _ in Looks(RECV_TIMEOUT_S):
                if (await http.get("/api/threads")).status_code == 200:
                    break
            last = large_run(lane, LEFT.stop)  # its turn comes when theirs would have
            done = await http.post("/agui", content=last, timeout=RECV_TIMEOUT_S)
            assert done.status_code == 200
            for number in LEFT:
                assert (await http.get(f"/api/runs/{lane.user}-{number}")).status_code == 404
            return
    pytest.skip("this machine is too slow to leave in time")


async def test_bodies_of_those_who_leave_at_once_cost_nobody_memory(roomy_server: Server) -> None:
    lane, honest = Lane(roomy_server), Lane(roomy_server)
    await honest.play("t", f"before-{honest.user}", "word")
    before_kib = roomy_server.resident_kib()
    body = large_run(lane, 0)

    async def leave() -> None:
        async with upload(lane, "/agui", length=BODY_BYTES) as one:
            with suppress(ConnectionError):
                await one.send(body)

    await asyncio.gather(*(leave() for _ in range(LEAVING)))
    *_, end = await honest.play("t", f"after-{honest.user}", "word")
    assert end["type"] == "RUN_FINISHED"
    assert roomy_server.resident_kib() - before_kib < GROWN_KIB_MAX


# --- whose turn it is at the database ------------------------------------------------------------


async def pass_by(server: Server) -> None:
    """Return when the server has had time for all that it was sent before: turns of its loop."""
    async with server.http() as http:
        for _ in range(20):
            await http.get("/healthz")


async def test_a_write_waits_for_one_of_another_user_however_many_they_want(
    roomy_server: Server,
) -> None:
    """The disk is locked while one user asks for all they may, and another for one thing."""
    lane, other = Lane(roomy_server), Lane(roomy_server)
    many = Settings().limit_requests_per_user
    async with AsyncExitStack() as stack:
        flood = [await hold(stack, lane, "/api/threads") for _ in range(many)]
        one = await hold(stack, other, "/api/threads")
        lock = stack.enter_context(closing(connect(roomy_server.data / DATABASE_NAME)))
        lock.execute("BEGIN IMMEDIATE")
        for each in flood:
            await each.send(b"{}".ljust(1000))
        await pass_by(roomy_server)
        await one.send(b"{}".ljust(1000))
        await pass_by(roomy_server)
        lock.execute("ROLLBACK")
        _, _, made = await one.answer()
        theirs = [(await each.answer())[2] for each in flood]
    assert sum(each["createdAt"] < made["createdAt"] for each in theirs) <= 2
