"""A question that is asked just as the answer before it ends has its turn in any order."""

from __future__ import annotations

import asyncio
from typing import Final

from tests.house import ask, context_of, open_house
from tests.interleaving.agents import AGENTS
from tests.interleaving.explorer import every_seed, explore
from tests.interleaving.place import open_empty
from tests.interleaving.scheduler import ShuffledLoop

QUESTIONS: Final = 4
STEPS_MAX: Final = 40
"""Turns of the loop after which a question is asked at the latest: about as long as an answer."""
LONGEST_S: Final = 60.0
"""Seconds of this world, more than all answers take. Nobody looks for lost turns here."""


async def questions(loop: ShuffledLoop) -> None:
    async with open_house(AGENTS, open_at=open_empty) as house:

        async def ask_soon(number: int) -> None:
            for _ in range(loop.chance.randrange(STEPS_MAX)):
                await asyncio.sleep(0)
            context = context_of(f"r{number}")
            await house.service.start(context, ask(context, f"q{number}"), agent="hasty")
            await house.events(context)

        async with asyncio.timeout(LONGEST_S):
            await asyncio.gather(*(ask_soon(number) for number in range(QUESTIONS)))
            while len(house.tasks):  # noqa: ASYNC110 - no event tells of it
                await asyncio.sleep(0.1)
        assert await house.ground.book.load_open_runs() == []
        assert not house.service._live


@every_seed
def test_a_question_asked_as_the_answer_ends_has_its_turn(seeds: range) -> None:
    explore(questions, seeds)
