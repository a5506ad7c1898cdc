"""A wall clock that is set while the server runs: nobody is shut out, and nothing lives longer."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

import httpx
from tests.live.client import connect
from tests.live.server import Server
from tests.live.stage import Lane, mint, own_server

SETTER: Final = "setter=clock_agents:setter"
AHEAD_S: Final = 7200


def fresh_token(user: str) -> str:
    return mint(user, expires_s=4 * AHEAD_S, iat=time.time(), isolane=True)


async def set_clock(server: Server, ahead_s: int) -> None:
    keeper = Lane(server)
    async with connect(server.websocket_url(), fresh_token(keeper.user)) as client:
        await keeper.finish(client, "t", "set", str(ahead_s))


async def status_of(server: Server, token: str) -> int:
    async with server.http(token) as http:
        return (await http.get("/api/threads")).status_code


async def test_sign_out_while_the_clock_was_ahead_shuts_nobody_out(tmp_path: Path) -> None:
    async with own_server(tmp_path, SETTER) as server:
        old = fresh_token("ada")
        await set_clock(server, AHEAD_S)
        async with server.http(old) as http:
            assert (await http.delete("/api/sessions")).status_code == httpx.codes.NO_CONTENT
        assert await status_of(server, old) == httpx.codes.UNAUTHORIZED
        await set_clock(server, 0)
        assert await status_of(server, fresh_token("ada")) == httpx.codes.OK
        assert await status_of(server, old) == httpx.codes.UNAUTHORIZED


async def test_clock_that_is_set_ends_no_ticket(tmp_path: Path) -> None:
    async with own_server(tmp_path, SETTER) as server:
        tickets = await server.tickets(fresh_token("ada"), 2)
        for ticket, ahead_s in zip(tickets, (AHEAD_S, -AHEAD_S), strict=True):
            await set_clock(server, ahead_s)
            async with connect(f"{server.websocket_url()}?ticket={ticket}", None) as client:
                assert client.welcome is not None
        await set_clock(server, 0)
