"""What every keeper of limits promises."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isolane.clock import now_ms
from isolane.contracts import Limits, ensure
from isolane.engines.memory.limits import LocalLimits
from isolane.errors import LimitExceeded

ALICE = "alice"
CONNECTIONS = "connectionsPerUser"
PUBLISHED = {"connectionsPerUser": 2, "requestsPerUser": 1, "framesPerMinute": 5}
ENGINES = [LocalLimits]


@pytest.fixture(params=ENGINES, ids=["local"])
def limits(request: pytest.FixtureRequest) -> Limits:
    made: Limits = request.param(PUBLISHED, clock=now_ms)
    return made


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


@pytest.mark.parametrize("engine", ENGINES, ids=["local"])
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
