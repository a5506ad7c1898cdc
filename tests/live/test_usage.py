"""What each user keeps, as those are told who run the gateway, and nobody else."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from tests.live.server import Server
from tests.live.stage import SCRIPT, Lane, mint, own_server, shared_server, steps
from tests.live.test_operations import Ended, isolane

pytestmark = pytest.mark.asyncio(loop_scope="module")

server = shared_server(SCRIPT)
USERS: Final = {"ann": 3, "bob": 1, "corp|émile": 2}
"""Who is there, and with how many threads."""


async def fill(server: Server) -> None:
    for user, threads in USERS.items():
        for number in range(threads):
            text = steps(["blobs", 1, 10_000 * threads])
            await Lane(server, user).play(f"t{number}", f"r-{number}", text)


async def usage(server: Server, *options: str) -> Ended:
    return await isolane("usage", "--data", str(server.data), *options)


async def ask(server: Server, user: str, scope: str | None) -> httpx.Response:
    async with server.http(mint("root", scope=scope)) as http:
        return await http.get(f"/api/users/{user}/usage")


async def test_admin_is_told_and_nobody_else(server: Server) -> None:
    lane = Lane(server)
    await lane.play("t", "r", "hello")
    for scope in (None, "threads:read runs:write", "check"):
        for user in (lane.user, "nobody-here", "root"):
            answer = await ask(server, user, scope)
            assert (answer.status_code, answer.json().get("code")) == (403, "forbidden")
    told = (await ask(server, lane.user, "admin")).json()
    (kept,) = read_rows(server, lane.user)
    assert told == {"userId": lane.user, "storedThreads": 1, "storedBytes": kept[1]}
    async with server.http(lane.token) as http:
        await http.delete("/api/threads/t")
    nothing = {"storedThreads": 0, "storedBytes": 0}
    for user in (lane.user, "nobody-here", "é"):
        assert (await ask(server, user, "admin")).json() == {"userId": user, **nothing}
    assert (await ask(server, "e\u0301", "admin")).json()["userId"] == "é"  # one spelling
    assert (await ask(server, "no%20name", "admin")).status_code == 422


def read_rows(server: Server, user: str) -> list[Any]:
    with closing(sqlite3.connect(server.data / "isolane.db")) as connection:
        query = "SELECT threads, bytes FROM usage WHERE user_id = ?"
        return connection.execute(query, (user,)).fetchall()


async def test_command_and_metrics_tell_the_same_beside_a_server_and_after_its_end(
    tmp_path: Path,
) -> None:
    async with own_server(tmp_path / "data", SCRIPT) as server:
        await fill(server)
        report = json.loads((await usage(server, "--json")).out)
        assert [user["userId"] for user in report["users"]] == ["ann", "corp|émile", "bob"]
        assert [user["storedThreads"] for user in report["users"]] == [3, 2, 1]
        assert report["storedThreads"] == 6
        assert report["storedBytes"] == sum(user["storedBytes"] for user in report["users"])
        metrics = await server.metrics()
        assert metrics["isolane_stored_threads"] == report["storedThreads"]
        assert metrics["isolane_stored_bytes"] == report["storedBytes"]
        async with server.http() as http:
            text = (await http.get("/metrics")).text
        assert not [name for name in ("ann", "bob", "émile") if name in text.split('"')]
        assert "{" not in "".join(line for line in text.splitlines() if "_stored_" in line)
        await server.kill()
        table = [line.split() for line in (await usage(server)).out.splitlines()]
        assert [line[0] for line in table] == ["user", "ann", "corp|émile", "bob", "all"]
        assert table[-1] == ["all", "3", "6", str(report["storedBytes"])]
