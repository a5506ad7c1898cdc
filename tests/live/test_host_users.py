"""An authenticator of a host's own: one that hangs, ends, or spells its users in its own way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.live.client import Frame, connect
from tests.live.server import Looks, Server
from tests.live.stage import Lane, mint, read_to_close, shared_server

pytestmark = pytest.mark.asyncio(loop_scope="module")

server = shared_server("holder=slow_users:holder", env={"HASTY_JUDGE": "1"})

PENDING = "isolane_authentications_pending"
PENDING_MAX = 4
HANGING_S = 20.0


@pytest.fixture
async def lane(server: Server, tmp_path: Path) -> AsyncIterator[Lane]:
    yield Lane(server)
    open_gate(tmp_path / "gate")


def open_gate(gate: Path) -> None:
    gate.touch()


def is_of(error_id: str, entry: dict[str, Any]) -> bool:
    """Say whether a log entry is the one that an error names."""
    return entry.get("error_id") == error_id


async def wait_for_pending(server: Server, count: int) -> None:
    """Return once so many tokens wait to be judged."""
    pending = None
    async for _ in Looks(HANGING_S):
        pending = (await server.metrics())[PENDING]
        if pending == count:
            return
    raise TimeoutError(f"{pending} tokens wait")


async def knock(lane: Lane, token: str) -> tuple[Frame, tuple[int | None, str]]:
    """Open a socket that is refused; return its error and its close."""
    async with connect(lane.server.websocket_url(), token, hello=False) as client:
        frames, close = await read_to_close(client)
    return frames[-1], close


async def test_token_that_is_never_judged_is_refused_in_time(lane: Lane, tmp_path: Path) -> None:
    hanging = mint(lane.user, gate=str(tmp_path / "gate"))
    knocking = [asyncio.create_task(knock(lane, hanging)) for _ in range(PENDING_MAX)]
    await wait_for_pending(lane.server, PENDING_MAX)
    error, close = await knock(lane, lane.token)  # one more than may wait, whoever it is
    assert (error["code"], error["retryable"], close) == (
        "unavailable",
        True,
        (1013, "unavailable"),
    )
    for error, close in await asyncio.gather(*knocking):
        assert (error["code"], close) == ("unavailable", (1013, "unavailable"))
        entry = await lane.server.wait_for_log(partial(is_of, error["errorId"]))
        assert entry["reason"] == "Issuers hasn't judged a token within 1 s"
    await wait_for_pending(lane.server, 0)
    async with lane.connect() as client:
        await client.subscribe("t")


async def test_renewal_and_request_that_are_never_judged_are_refused(
    lane: Lane, tmp_path: Path
) -> None:
    hanging = mint(lane.user, gate=str(tmp_path / "gate"))
    async with lane.connect() as client, lane.server.http(hanging) as http:
        await client.send({"type": "auth", "token": hanging})
        assert (await client.until_type("error"))["code"] == "unavailable"
        answer = await http.get("/api/me")
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
        await client.subscribe("t")


async def test_judging_that_ignores_its_end_counts_until_it_ends(
    lane: Lane, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    error, _ = await knock(lane, mint(lane.user, gate=str(gate), deaf=True))
    assert error["code"] == "unavailable"
    await wait_for_pending(lane.server, 1)
    open_gate(gate)
    await wait_for_pending(lane.server, 0)


async def test_authenticator_that_ends_the_process_ends_one_socket(lane: Lane) -> None:
    error, close = await knock(lane, mint(lane.user, exits=True))
    assert (error["code"], close) == ("internal", (1011, "internal"))
    async with lane.connect() as client:
        await client.subscribe("t")


# --- one name, written in two ways ---------------------------------------------------------------

NAME = "\u00e9ve"
APART = mint(NAME, form="NFD")


async def test_slots_come_back_however_a_name_is_written(server: Server) -> None:
    lane, held = Lane(server, user=NAME), await server.gauges()
    limit = 0
    for _ in range(30):
        async with lane.connect_with(APART) as client:
            await client.send({"type": "hello", "v": 1})
            welcome = await client.until_type("welcome")
            assert welcome["userId"] == NAME
            limit = welcome["limits"]["connectionsPerUser"]
    assert limit < 30
    await server.wait_for_gauges(held)


async def test_either_way_to_write_a_name_renews_the_other(server: Server) -> None:
    lane = Lane(server, user=NAME)
    for first, then in ((lane.token, APART), (APART, lane.token), (APART, APART)):
        async with connect(server.websocket_url(), first) as client:
            await client.send({"type": "auth", "token": then})
            assert (await client.until_type("auth_ok"))["expiresAt"] > 0


async def test_threads_are_the_same_however_a_name_is_written(server: Server) -> None:
    lane = Lane(server, user=NAME)
    async with lane.connect() as client:
        await client.run("t", "r-1", "go")
        await client.until_event("TEXT_MESSAGE_CONTENT")
        async with server.http(APART) as http:
            threads = (await http.get("/api/threads")).json()["threads"]
            assert [thread["threadId"] for thread in threads] == ["t"]
            assert (await http.post("/api/runs/r-1/abort")).status_code == 202
        await client.until_end("r-1")


async def test_sign_out_everywhere_closes_both(server: Server) -> None:
    lane = Lane(server, user=NAME)
    async with (
        connect(server.websocket_url(), APART) as one,
        connect(server.websocket_url(), lane.token) as other,
    ):
        async with server.http(APART) as http:
            assert (await http.delete("/api/sessions")).status_code == 204
        for client in (one, other):
            assert await client.closed() == (4401, "revoked")
