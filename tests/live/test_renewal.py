"""Renewal in place: a run outlives its token on one socket, and no socket outlives the last one."""

from __future__ import annotations

import time
from typing import Final

import pytest
from tests.live.client import Client, Frame, connect
from tests.live.server import Server
from tests.live.stage import SCRIPT, Lane, mint, shared_server
from websockets.exceptions import ConnectionClosed

pytestmark = pytest.mark.asyncio(loop_scope="module")

server = shared_server(
    SCRIPT,
    "slow=agents:slow",
    "babbler=protocol_agents:babbler",
    env={"ISOLANE_HEARTBEAT_S": "0.5"},
)

LATE_S: Final = 5.0
"""How long after its expiry a socket may still get an event, at the very most."""


@pytest.fixture
def lane(server: Server) -> Lane:
    return Lane(server)


def expiring(lane: Lane, life_s: float) -> str:
    """Return a token that dies after so long, to the millisecond."""
    return mint(lane.user, exp=time.time() + life_s)


@pytest.mark.parametrize(
    "life_s, run_s",
    [
        (4.0, 9.0),
        pytest.param(60.0, 120.0, marks=pytest.mark.soak),
    ],
)
async def test_run_outlives_its_tokens_on_one_socket(
    lane: Lane, life_s: float, run_s: float
) -> None:
    count, renewals = round(run_s * 10), 0
    async with connect(lane.server.websocket_url("slow"), expiring(lane, life_s)) as client:
        log = await client.subscribe("t")
        await client.run("t", "r-1", f"count {count} every 100ms")
        renew_at_s = time.time() + life_s / 2
        while not log.has_ended("r-1"):
            await client.recv()
            if time.time() >= renew_at_s:
                renew_at_s = time.time() + life_s / 2
                renewals += 1
                await client.send({"type": "auth", "token": expiring(lane, life_s)})
    assert log.text == "".join(f"{number} " for number in range(1, count + 1))
    assert renewals * life_s / 2 >= run_s - life_s, "or the first token has lasted"


async def test_token_of_another_user_is_refused_and_nothing_changes(lane: Lane) -> None:
    other = Lane(lane.server)
    async with lane.connect() as client:
        await assert_is_mismatch(other, client)
        await client.run("t", "r-1", "whose am I")
        await client.until_end("r-1")
        await client.send({"type": "auth", "token": expiring(lane, 2)})
        await assert_is_mismatch(other, client)
        assert await client.closed() == (4401, "expired"), "its own token's end is still its end"
    async with lane.connect() as own, other.connect() as others:
        assert (await own.subscribe("t")).after != (await others.subscribe("t")).after
        async with lane.server.http(other.token) as http:
            assert (await http.get("/api/threads/t")).status_code == 404


async def assert_is_mismatch(other: Lane, client: Client) -> None:
    await client.send({"type": "auth", "token": other.token})
    error = await client.until_type("error")
    assert error["code"] == "identity_mismatch"
    assert other.user not in str(error)


async def test_expired_socket_gets_nothing_from_an_agent_that_goes_on(lane: Lane) -> None:
    async with lane.connect(agent="babbler") as client:
        await client.run("t", "r-1", "go on and on")
        await client.until_event("TEXT_MESSAGE_CONTENT")
        expires_at_s = time.time() + 2
        await client.send({"type": "auth", "token": mint(lane.user, exp=expires_at_s)})
        last_at_s = await time_of_last_event(client)
        assert (client.socket.close_code, client.socket.close_reason) == (4401, "expired")
    assert last_at_s - expires_at_s < LATE_S
    async with lane.connect() as client:
        log = await client.subscribe("t")
        assert not log.has_ended("r-1"), "the run itself goes on"
        await client.until_event("TEXT_MESSAGE_CONTENT")
        await client.abort("r-1")
        await client.until_true(lambda: log.has_ended("r-1"))


async def time_of_last_event(client: Client) -> float:
    """Return when the last event came on a socket that is closed meanwhile."""
    last_at_s = 0.0
    try:
        while True:
            if "chunk" in await client.recv():
                last_at_s = time.time()
    except ConnectionClosed:
        assert last_at_s, "there was an event"
        return last_at_s


async def test_warning_comes_once_for_each_token(lane: Lane) -> None:
    async with connect(lane.server.websocket_url(), expiring(lane, 30)) as client:
        frames: list[Frame] = []
        for life_s in (20, 10):
            frames += await client.until(lambda frame: frame["type"] == "auth_expiring")
            await client.send({"type": "auth", "token": expiring(lane, life_s)})
            frames += await client.until(lambda frame: frame["type"] == "auth_ok")
    assert [frame["type"] for frame in frames] == ["auth_expiring", "auth_ok"] * 2
    assert frames[1]["expiresAt"] == frames[2]["expiresAt"]
