"""What every keeper of limits promises."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.house import until
from tests.postgres import PostgresServer

from isolane.clock import now_ms
from isolane.contracts import Limits, NodeInfo, ensure
from isolane.engines.memory.limits import LocalLimits
from isolane.engines.postgres import limits as module
from isolane.engines.postgres.database import open_database
from isolane.engines.postgres.limits import SharedLimits
from isolane.errors import LimitExceeded
from isolane.sql.nodes import add_node, remove_node
from isolane.tasks import TaskOwner

ALICE = "alice"
CONNECTIONS = "connectionsPerUser"
PUBLISHED = {"connectionsPerUser": 2, "requestsPerUser": 1, "framesPerMinute": 5}


@asynccontextmanager
async def shared(url: str, node_id: str) -> AsyncIterator[SharedLimits]:
    """Have the limits of a node for the block."""
    database, tasks = await open_database(url), TaskOwner()
    info = NodeInfo(node_id)
    await database.write(lambda one: add_node(one, node_id, info, now=1))
    try:
        yield SharedLimits(
            LocalLimits(PUBLISHED, clock=now_ms),
            database,
            get_node_id=lambda: node_id,
            most=PUBLISHED[CONNECTIONS],
            tasks=tasks,
        )
    finally:
        await until(lambda: not len(tasks))  # what was given back is written
        await database.close()


@pytest.fixture(params=["local", "postgres"])
def url(request: pytest.FixtureRequest) -> Iterator[str | None]:
    """Give the address of the database that counts; None for counts of one process."""
    if request.param == "local":
        yield None
        return
    postgres: PostgresServer = request.getfixturevalue("postgres")
    with postgres.clean_database() as address:
        yield address


@pytest.fixture
async def limits(url: str | None) -> AsyncIterator[Limits]:
    if url is None:
        yield LocalLimits(PUBLISHED, clock=now_ms)
        return
    async with shared(url, "one") as made:
        yield made


def test_it_keeps_its_contract(limits: Limits) -> None:
    ensure(limits, Limits)


async def test_the_published_number_is_the_enforced_one(limits: Limits) -> None:
    for _ in range(3):
        async with (
            limits.take(ALICE, CONNECTIONS),
            limits.take(ALICE, CONNECTIONS),
        ):
            with pytest.raises(LimitExceeded, match="connectionsPerUser is limited to 2") as caught:
                await take_in_vain(limits, CONNECTIONS)
        assert caught.value.retry_after_ms is not None


async def test_who_was_refused_holds_no_more_than_before(limits: Limits) -> None:
    async with limits.take(ALICE, "requestsPerUser"):
        for _ in range(10):
            with pytest.raises(LimitExceeded):
                await take_in_vain(limits, "requestsPerUser")
    async with limits.take(ALICE, "requestsPerUser"):
        pass


async def test_whatever_ends_the_block_gives_the_place_back(limits: Limits) -> None:
    with pytest.raises(KeyError):
        async with limits.take(ALICE, "requestsPerUser"):
            raise KeyError
    holding = asyncio.create_task(hold_for_ever(limits))
    await asyncio.sleep(0)
    holding.cancel()
    await asyncio.wait({holding})
    async with limits.take(ALICE, "requestsPerUser"):
        pass


async def test_users_and_limits_are_counted_apart(limits: Limits) -> None:
    async with (
        limits.take(ALICE, "requestsPerUser"),
        limits.take("bob", "requestsPerUser"),
        limits.take(ALICE, CONNECTIONS),
    ):
        pass


async def test_more_at_once_than_the_limit_admit_exactly_the_limit(limits: Limits) -> None:
    async with AsyncExitStack() as held:
        takes = [held.enter_async_context(limits.take(ALICE, CONNECTIONS)) for _ in range(9)]
        answers = await asyncio.gather(*takes, return_exceptions=True)
    assert sum(isinstance(answer, LimitExceeded) for answer in answers) == 7


async def test_connections_are_counted_over_all_nodes(postgres: PostgresServer) -> None:
    with postgres.clean_database() as url:
        async with shared(url, "one") as one, shared(url, "two") as two, AsyncExitStack() as held:
            nodes = [one, two]
            takes = [
                held.enter_async_context(nodes[number % 2].take(ALICE, CONNECTIONS))
                for number in range(20)
            ]
            answers = await asyncio.gather(*takes, return_exceptions=True)
            admitted = sum(answer is None for answer in answers)
            assert 1 <= admitted <= PUBLISHED[CONNECTIONS]
            refused = [answer for answer in answers if answer is not None]
            assert all(isinstance(answer, LimitExceeded) for answer in refused)
            async with two.take("bob", CONNECTIONS), one.take("bob", CONNECTIONS):
                for each in nodes:
                    with pytest.raises(LimitExceeded):
                        await take_of_bob(each)
        async with (
            shared(url, "three") as three,
            three.take(ALICE, CONNECTIONS),
            three.take(ALICE, CONNECTIONS),
        ):
            pass


async def test_connections_of_a_node_that_is_gone_count_no_more(
    postgres: PostgresServer,
) -> None:
    with postgres.clean_database() as url:
        async with (
            shared(url, "one") as one,
            shared(url, "two") as two,
            one.take(ALICE, CONNECTIONS),
            one.take(ALICE, CONNECTIONS),
        ):
            with pytest.raises(LimitExceeded):
                await take_in_vain(two, CONNECTIONS)
            database = await open_database(url)
            await database.write(lambda each: remove_node(each, "one"))
            await database.close()
            async with two.take(ALICE, CONNECTIONS):
                pass


async def test_what_nobody_foresaw_reaches_those_who_came_and_nobody_later(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> NoReturn:
        raise ValueError("nobody foresaw this")

    with postgres.clean_database() as url:
        async with shared(url, "one") as one:
            with monkeypatch.context() as patch:
                patch.setattr(module, "_put", broken)
                with pytest.raises(ValueError, match="nobody foresaw"):
                    await take_in_vain(one, CONNECTIONS)
            async with one.take(ALICE, CONNECTIONS), one.take(ALICE, CONNECTIONS):
                with pytest.raises(LimitExceeded):
                    await take_in_vain(one, CONNECTIONS)


async def take_of_bob(limits: Limits) -> None:
    async with limits.take("bob", CONNECTIONS):
        raise AssertionError("one too many was let in")


async def take_in_vain(limits: Limits, limit: str) -> None:
    async with limits.take(ALICE, limit):
        raise AssertionError("one too many was let in")


async def hold_for_ever(limits: Limits) -> None:
    async with limits.take(ALICE, "requestsPerUser"):
        await asyncio.Event().wait()


def test_a_rate_is_refused_with_when_to_come_back(limits: Limits) -> None:
    for _ in range(5):
        limits.hit(ALICE, "framesPerMinute")
    with pytest.raises(LimitExceeded, match="framesPerMinute is limited to 5") as caught:
        limits.hit(ALICE, "framesPerMinute")
    assert 0 < (caught.value.retry_after_ms or 0) <= 60_000
    limits.hit("bob", "framesPerMinute")


@pytest.mark.parametrize("engine", [LocalLimits], ids=["local"])
@given(st.lists(st.booleans(), max_size=40))
async def test_any_taking_and_giving_keeps_the_count(
    engine: type[LocalLimits], moves: list[bool]
) -> None:
    limits: Limits = engine(PUBLISHED, clock=now_ms)
    held: list[AsyncExitStack] = []
    for takes in moves:
        if takes and len(held) < 2:
            held.append(AsyncExitStack())
            await held[-1].enter_async_context(limits.take(ALICE, CONNECTIONS))
        elif takes:
            with pytest.raises(LimitExceeded):
                await take_in_vain(limits, CONNECTIONS)
        elif held:
            await held.pop().aclose()
