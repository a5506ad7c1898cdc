"""Gateways that ring one another by Redis: without it all goes on, a quarter of a second later."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple

import pytest
import pytest_asyncio
from tests.brokers import PASSWORD, RedisServer, running_redis
from tests.live.server import Looks, Server, ServerError
from tests.live.stage import SCRIPT, Lane, own_server, steps
from tests.postgres import PostgresServer

pytestmark = pytest.mark.asyncio(loop_scope="module")

STOPPED_WITHIN_MS = 2_000


class House(NamedTuple):
    """Two gateways, and what they share."""

    first: Server
    second: Server
    broker: RedisServer
    url: str


@pytest.fixture(scope="module")
def broker() -> Iterator[RedisServer]:
    with running_redis() as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(
    postgres: PostgresServer, broker: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[House]:
    async with AsyncExitStack() as stack:
        url = stack.enter_context(postgres.database())
        env = {"ISOLANE_DATABASE_URL": url, "ISOLANE_BELL_URL": broker.url}
        first, second = [
            await stack.enter_async_context(
                own_server(tmp_path_factory.mktemp(name), SCRIPT, env=env)
            )
            for name in ("first", "second")
        ]
        yield House(first, second, broker, url)


async def follow_and_stop(house: House) -> int:
    """Follow a run at the other node, stop it there, and return how long the stop took, in ms."""
    one = Lane(house.first)
    other = Lane(house.second, one.user)
    async with one.connect() as here, other.connect() as there:
        await here.run("t", "r", steps(["say", "a"], ["hold", "seen"], ["say", "b"], ["hold", "x"]))
        await here.until_event("TEXT_MESSAGE_CONTENT")
        follower = await there.subscribe("t")
        await there.until_true(lambda: "a" in follower.text)
        await one.open_gate("seen")
        await there.until_true(lambda: "b" in follower.text)
        await there.abort("r")
        await there.until_true(lambda: follower.has_ended("r"))
        assert follower.of_run("r")[-1]["outcome"]["type"] == "cancelled"
    async with house.second.http(other.token) as http:
        took_ms: int = (await http.get("/api/runs/r")).json()["stop"]["tookMs"]
    return took_ms


async def bells_are(house: House, state: str) -> None:
    """Wait until both nodes say so of their bells. They stay ready, whatever the broker does."""
    for server in (house.first, house.second):
        seen: dict[str, object] = {}
        async with server.http() as http:
            async for _ in Looks(10):
                answer = await http.get("/readyz")
                assert answer.status_code == 200
                seen = answer.json()["node"]
                if seen["bell"] == state:
                    break
        assert seen["bell"] == state


@pytest.mark.parametrize("harm", ["none", "killed", "frozen"])
async def test_events_and_stops_arrive_whatever_the_broker_does(house: House, harm: str) -> None:
    await bells_are(house, "ok")
    if harm == "killed":
        house.broker.kill()
    if harm == "frozen":
        house.broker.freeze()
    try:
        if harm != "none":
            await bells_are(house, "deaf")
        assert await follow_and_stop(house) < STOPPED_WITHIN_MS
    finally:
        if harm == "killed":
            house.broker.start()
        if harm == "frozen":
            house.broker.thaw()
    await bells_are(house, "ok")
    assert await follow_and_stop(house) < STOPPED_WITHIN_MS


@pytest.mark.parametrize("address", ["redis://:{}@127.0.0.1:1", "http://:{}@127.0.0.1:1"])
async def test_an_address_that_cannot_be_used_is_one_sentence_without_its_password(
    house: House, tmp_path: Path, address: str
) -> None:
    env = {"ISOLANE_DATABASE_URL": house.url, "ISOLANE_BELL_URL": address.format(PASSWORD)}
    with pytest.raises(ServerError, match="Error: ISOLANE_BELL_URL") as caught:
        async with own_server(tmp_path, SCRIPT, env=env):
            pass
    assert PASSWORD not in str(caught.value)
