"""A gateway that is cut off from its database: answers that come late, or never."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final, NamedTuple

import pytest
import pytest_asyncio
from tests.live.client import Client
from tests.live.proxy import Proxy, proxy_to
from tests.live.server import LOOPBACK, Looks, Server
from tests.live.stage import SCRIPT, Lane, own_server, steps
from tests.postgres import PostgresServer

pytestmark = pytest.mark.asyncio(loop_scope="module")

LEASE_S: Final = 5.0
CUTS: Final = 12
RUNS: Final = 4
ANSWERS: Final = {"accepted", "error"}
CONTENT: Final = "TEXT_MESSAGE_CONTENT"


class House(NamedTuple):
    """A gateway behind a line that may break, and one beside it."""

    cut_off: Server
    other: Server
    line: Proxy


@pytest_asyncio.fixture(loop_scope="module")
async def house(postgres: PostgresServer, tmp_path: Path) -> AsyncIterator[House]:
    async with AsyncExitStack() as stack:
        url = stack.enter_context(postgres.database())
        line = await stack.enter_async_context(proxy_to(postgres.port))
        other = await stack.enter_async_context(
            own_server(tmp_path / "other", SCRIPT, env={"ISOLANE_DATABASE_URL": url})
        )
        through = url.replace(f"{LOOPBACK}:{postgres.port}", line.address)
        cut_off = await stack.enter_async_context(
            own_server(tmp_path / "cut-off", SCRIPT, env={"ISOLANE_DATABASE_URL": through})
        )
        yield House(cut_off, other, line)


async def until_not_ready(server: Server, *, is_ready: bool = False) -> None:
    """Wait until the gateway says that it isn't ready, or that it is again."""
    async with server.http() as http:
        async for _ in Looks(30):
            if (await http.get("/readyz")).is_success is is_ready:
                return
    raise AssertionError(f"ready is {not is_ready} for ever")


def logged(server: Server, event: str) -> int:
    return sum(entry.get("event") == event for entry in server.logs)


async def test_answers_that_come_late_lose_nothing_and_double_nothing(house: House) -> None:
    lane, beside = Lane(house.cut_off), house.other
    words = [["say", f"{number} "] for number in range(40)]
    paced = [step for word in words for step in (word, ["pause", 0.1])]
    async with lane.connect() as client:
        await client.run("t", "r", steps(*paced))
        await client.until_event("TEXT_MESSAGE_CONTENT")
        follower = await client.subscribe("t")
        house.line.pause()
        await until_not_ready(house.cut_off)
        house.line.resume()
        await client.until_true(lambda: follower.has_ended("r"))
        await until_not_ready(house.cut_off, is_ready=True)
    assert follower.types[-1] == "RUN_FINISHED"
    assert follower.text == "".join(f"{number} " for number in range(40))
    log = await Lane(beside, lane.user).load_log("t")
    assert log.events == follower.events
    assert not logged(beside, "node_declared_dead")


async def test_a_gateway_that_is_away_for_longer_than_its_lease_writes_nothing_more(
    house: House,
) -> None:
    lane = Lane(house.cut_off)
    other = Lane(house.other, lane.user)
    async with lane.connect() as client, other.connect() as there:
        await client.run("t", "r", steps(["say", "a"], ["pause", 3 * LEASE_S], ["say", "late"]))
        await client.until_event("TEXT_MESSAGE_CONTENT")
        follower = await there.subscribe("t")
        house.line.pause()
        while not follower.has_ended("r"):
            await there.recv(timeout_s=LEASE_S + 10)
        house.line.resume()
        async for _ in Looks(30):
            if logged(house.cut_off, "node_was_declared_dead"):
                break
        await until_not_ready(house.cut_off, is_ready=True)
        assert (await lane.play("t", "again", "again"))[-1]["type"] == "RUN_FINISHED"
        log = await other.load_log("t")
    assert follower.of_run("r")[-1]["code"] == "agent_lost"
    assert "late" not in log.text
    assert log.types.count("RUN_ERROR") == 1


async def insist(client: Client, run_id: str, text: str) -> None:
    """Send a run frame until it is accepted: whether the frame before was is nobody's to know."""
    async with asyncio.timeout(60):
        while True:
            await client.run("t", run_id, text)
            *_, answer = await client.until(lambda frame: frame.get("type") in ANSWERS)
            if answer["type"] == "accepted":
                return
            assert answer["code"] == "unavailable", answer


@pytest.mark.parametrize("needle", [b"COMMI", b"INSERT 0", b"UPDATE", b"SELECT"])
async def test_an_answer_that_got_lost_of_whatever_statement_harms_no_run(
    house: House, needle: bytes
) -> None:
    """What was committed without an answer counts once, and what wasn't is done again."""
    lane = Lane(house.cut_off)
    names = [f"r{number}" for number in range(RUNS)]
    async with lane.connect() as client:
        follower = await client.subscribe("t")
        house.line.cut_after(needle, *(3 + number % 5 for number in range(CUTS)))
        for name in names:
            await insist(client, name, steps(["count", 20], ["pause", 0.1], ["count", 20]))
        await client.until_true(lambda: all(follower.has_ended(name) for name in names))
        assert house.line.cuts
    await until_not_ready(house.cut_off, is_ready=True)
    log = await Lane(house.other, lane.user).load_log("t")
    assert log.events == follower.events
    for name in names:
        types = [event["type"] for event in log.of_run(name)]
        assert types.count("RUN_STARTED") == 1
        assert types.count("RUN_FINISHED") + types.count("RUN_ERROR") == 1
        if types[-1] == "RUN_FINISHED":
            said = [one["delta"] for one in log.of_run(name) if one["type"] == CONTENT]
            assert "".join(said) == 2 * "".join(f"{number} " for number in range(1, 21))
