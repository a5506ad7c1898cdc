"""Answers that nobody reads: bounded by user, dropped in time, and of no cost to others."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest
from tests.live.server import Looks, Server
from tests.live.stage import SCRIPT, Lane, own_server
from tests.live.tcp import small_socket
from tests.live.test_pages import write_thread

UNREAD: Final = "isolane_answers_unread_bytes"
MOST_BYTES: Final = 4 << 20
SOCKETS: Final = 24
"""Of one user, who asks for a page of a megabyte on each and reads nothing."""
GROWTH_KIB: Final = 16 * 1024
"""What the process may hold more: 4 MiB that wait, as much while it is read from the disk, and what
the heap doesn't give back. Without a bound it would be 24 MiB that wait alone."""
SEND_TIMEOUT_S: Final = 1.5


async def read_unread(server: Server) -> float:
    """Return how many bytes wait for their readers."""
    return (await server.metrics())[UNREAD]


@asynccontextmanager
async def deaf_askers(lane: Lane) -> AsyncIterator[list[socket.socket]]:
    """Ask for thread `t` on many sockets, and read nothing from any."""
    lines = ("GET /api/threads/t HTTP/1.1", f"Host: {lane.server.address}")
    request = "\r\n".join([*lines, f"Authorization: Bearer {lane.token}", "", ""]).encode()
    sockets = [small_socket(lane.server.port) for _ in range(SOCKETS)]
    try:
        for one in sockets:
            await asyncio.get_running_loop().sock_sendall(one, request)
        yield sockets
    finally:
        for one in sockets:
            one.close()


@pytest.mark.parametrize("leaves", [False, True], ids=["stays", "leaves"])
async def test_answers_that_one_user_does_not_read_are_bounded(
    *, leaves: bool, tmp_path: Path
) -> None:
    await write_thread(tmp_path, "ann", runs=2, answers=4, size=250_000)
    timeout_s = "60" if leaves else str(SEND_TIMEOUT_S)
    async with own_server(tmp_path, SCRIPT, env={"ISOLANE_SEND_TIMEOUT_S": timeout_s}) as server:
        ann, bob = Lane(server, "ann"), Lane(server, "bob")
        async with server.http(ann.token) as http, bob.connect() as honest:
            assert (await http.get("/api/threads/t")).is_success
            before_kib = server.resident_kib()
            async with deaf_askers(ann):
                async for _ in Looks(5):
                    if await read_unread(server) > MOST_BYTES - 1_010_000:
                        break
                await bob.finish(honest, "t", "r-1", "the socket of somebody else")
                refused = await http.get("/api/threads/t")
                assert refused.status_code == 429
                assert refused.json()["code"] == "limit_exceeded"
                assert refused.json()["detail"].startswith("bytes of answers")
                assert int(refused.headers["retry-after"]) >= 1
                assert await read_unread(server) <= MOST_BYTES
                assert server.resident_kib() - before_kib < GROWTH_KIB
                if not leaves:
                    await until_read(server)
            await until_read(server)
            assert (await http.get("/api/threads/t")).is_success
        assert honest.socket.close_code == 1000


async def until_read(server: Server) -> None:
    """Return once nothing waits for a reader any more."""
    async for _ in Looks(5):
        if await read_unread(server) == 0:
            return
    raise TimeoutError(f"{await read_unread(server)} bytes wait still")
