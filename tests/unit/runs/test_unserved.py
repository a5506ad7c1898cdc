"""An agent that no node serves: its runs wait for a minute, and then end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence

import pytest
from tests.house import House, ask, context_of, open_house

from isolane.contracts import RunState
from isolane.errors import Unavailable, UnknownAgent
from isolane.runs.unserved import UNSERVED_MS


async def echo(_input: object) -> AsyncIterator[object]:
    yield "said"


class Others:
    """Members that aren't alone, with other nodes that come and go."""

    is_alone = False

    def __init__(self, members: object) -> None:
        self._members = members
        self.served: dict[str, Sequence[str]] = {}

    def __getattr__(self, name: str) -> object:
        return getattr(self._members, name)

    def get_others(self) -> Mapping[str, Sequence[str]]:
        return self.served


def with_others(house: House) -> Others:
    """Let the house have other nodes beside it."""
    others = Others(house.service._roster._members)
    for part in (house.service._roster, house.service._beat, house.service._beat._unserved):
        part._members = others  # type: ignore[assignment]
    return others


async def test_a_run_of_an_agent_that_is_away_for_too_long_ends_as_unavailable() -> None:
    async with open_house({"default": echo}) as house:
        others = with_others(house)
        others.served = {"worker": ["far"]}
        own = context_of("1")
        await house.service.start(own, ask(own, "a"), agent="far")
        others.served = {}
        await house.service.beat()
        house.clock.now += UNSERVED_MS - 1
        await house.service.beat()
        assert (await house.service.load_run(own, "1")).state is RunState.QUEUED
        house.clock.now += 1
        await house.service.beat()
        events = await house.events(own)
        assert (events[-1]["type"], events[-1]["code"]) == ("RUN_ERROR", "unavailable")
        # The question stays, and the next one waits no second minute.
        later = context_of("2")
        await house.service.start(later, ask(later, "b"), agent="far")
        await house.service.beat()
        assert (await house.events(later))[-1]["code"] == "unavailable"


async def test_an_agent_that_comes_back_in_time_has_a_whole_minute_again() -> None:
    async with open_house({"default": echo}) as house:
        others = with_others(house)
        others.served = {"worker": ["far"]}
        own = context_of("1")
        await house.service.start(own, ask(own, "a"), agent="far")
        for _ in range(3):
            others.served = {}
            await house.service.beat()
            house.clock.now += UNSERVED_MS - 1
            others.served = {"worker": ["far"]}
            await house.service.beat()
        assert (await house.service.load_run(own, "1")).state is RunState.QUEUED


async def test_a_name_that_was_seen_stays_known_and_others_are_refused() -> None:
    async with open_house({}) as house:
        others = with_others(house)
        with pytest.raises(Unavailable, match="no node serves an agent"):
            house.service.check_agent(None)
        others.served = {"worker": ["far", "farther"]}
        assert house.service.check_agent(None) == "far"
        others.served = {}
        assert house.service.check_agent("farther") == "farther"
        with pytest.raises(UnknownAgent):
            house.service.check_agent("nobody")


async def test_own_agents_answer_beside_those_of_others() -> None:
    async with open_house({"default": echo}) as house:
        with_others(house).served = {"worker": ["far"]}
        own = context_of("1")
        await house.service.start(own, ask(own, "a"))
        assert (await house.events(own))[-1]["type"] == "RUN_FINISHED"
        assert house.service.agent_names == ("default", "far")
