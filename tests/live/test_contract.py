"""The failure that it all began with: a forgotten await, in front of a live server."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import websockets
from tests.live.build import Mistake, build_with
from tests.live.client import Frame
from tests.live.server import LEFTOVERS, Server, running_server
from tests.live.stage import SCRIPT, SECRET_KEY, Lane, own_server, read_to_close, steps

from isolane.sockets.factory import WebSocketManagerFactory

FACTORY: Final = "sockets/factory.py"
RUNNING: Final = "sockets/open_factory.py"
FORGOTTEN: Final = Mistake(
    RUNNING, "await chosen.create_manager(context)", "chosen.create_manager(context)"
)
UNCHECKED: Final = Mistake(
    RUNNING, "return ensure(manager, WebSocketManagerProtocol)", "return manager"
)


@asynccontextmanager
async def planted_server(folder: Path, *mistakes: Mistake) -> AsyncIterator[Server]:
    """Serve a build with mistakes in it."""
    env = {"ISOLANE_SECRET_KEY": SECRET_KEY, **build_with(folder / "build", *mistakes)}
    async with running_server(folder / "data", SCRIPT, env=env, is_planted=True) as server:
        yield server


async def subscribe_in_vain(server: Server) -> tuple[list[Frame], tuple[int | None, str]]:
    """Return what comes, up to the close, when the first thread is asked for."""
    async with Lane(server).connect() as client:
        await client.send({"type": "subscribe", "threadId": "t"})
        return await read_to_close(client)


def record_of(server: Server, error_id: str) -> dict[str, Any]:
    """Return the one record of the log that an `errorId` names."""
    (record,) = [entry for entry in server.logs if entry.get("error_id") == error_id]
    return record


async def test_a_forgotten_await_is_told_from_the_surface_to_the_root(tmp_path: Path) -> None:
    async with planted_server(tmp_path, FORGOTTEN) as server:
        (error,), (code, _) = await subscribe_in_vain(server)
    assert (error["type"], error["code"], code) == ("error", "internal", 1011)
    assert not [mark for mark in LEFTOVERS if mark in str(error)]  # what it was is the log's alone
    surface, immediate, root = record_of(server, error["errorId"])["chain"]
    assert surface.startswith("ConnectionFailed: connection conn_")
    assert "WebSocketManagerProtocol wants an object, got a coroutine that nobody" in immediate
    file = tmp_path / "build" / "isolane" / FACTORY
    name = WebSocketManagerFactory.create_manager.__qualname__
    _, line = inspect.getsourcelines(WebSocketManagerFactory.create_manager)
    assert f"made by {name} in {file}, line {line}; write: await {name}(…)" in root
    assert not [entry for entry in server.lines if "never awaited" in entry]  # it was closed


async def test_without_the_check_the_error_says_nothing_of_where_it_came_from(
    tmp_path: Path,
) -> None:
    async with planted_server(tmp_path, FORGOTTEN, UNCHECKED) as server:
        (_, error), (code, _) = await subscribe_in_vain(server)
    assert (error["code"], code) == ("internal", 1011)
    chain = record_of(server, error["errorId"])["chain"]
    assert chain[1:] == ["AttributeError: 'coroutine' object has no attribute 'add_connection'"]


async def test_the_scan_of_a_servers_output_finds_what_was_left_un_awaited(tmp_path: Path) -> None:
    async with planted_server(tmp_path, FORGOTTEN, UNCHECKED) as server:
        await subscribe_in_vain(server)
    assert {mark for mark in LEFTOVERS for line in server.lines if mark in line} == {
        "coroutine",
        "never awaited",
    }


async def test_a_normal_run_logs_nothing_at_warning_or_above(tmp_path: Path) -> None:
    async with own_server(tmp_path / "data", SCRIPT) as server:
        lane = Lane(server)
        async with lane.connect() as client, lane.connect() as other:
            await other.subscribe("t")
            await lane.finish(client, "t", "r-1", steps(["say", "a"], ["count", 20]))
            await lane.finish(client, "t", "r-2", "again")
            await other.until_end("r-2")
            await client.send({"type": "unsubscribe", "threadId": "t"})
        async with lane.replay("r-1") as replay:
            assert (await replay.closed())[0] == 1000
        async with server.http(lane.token) as http:
            assert (await http.get("/api/threads/t")).status_code == 200
    assert any(entry["event"] == "connected" for entry in server.logs)
    assert [entry for entry in server.logs if entry["level"] not in {"debug", "info"}] == []


@pytest.mark.parametrize(
    "given, kept", [("trace-1:a.b", "trace-1:a.b"), ("a b", None), ("null", None)]
)
async def test_a_request_id_from_outside_is_the_parent_of_ours_or_dropped(
    given: str, kept: str | None, tmp_path: Path
) -> None:
    async with own_server(tmp_path / "data", SCRIPT) as server:
        headers = {"Authorization": f"Bearer {Lane(server).token}", "X-Request-Id": given}
        url = server.websocket_url()
        async with websockets.connect(url, additional_headers=headers, proxy=None):
            record = await server.wait_for_log(lambda entry: entry["event"] == "connected")
    assert record["request_id"].startswith("req_")
    assert record["parent_request_id"] == kept
