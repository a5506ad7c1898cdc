"""Answers of the run book that come late or never, while beats compare rows with memory."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from itertools import groupby
from typing import Any, Final

from tests.house import START, House, ask, context_of, key_of, open_house
from tests.interleaving.agents import AGENTS
from tests.interleaving.explorer import every_seed, explore
from tests.interleaving.place import open_empty
from tests.interleaving.scheduler import ShuffledLoop
from tests.interleaving.test_service import assert_whole

from isolane.errors import Unavailable
from isolane.tasks import end_task

THREADS: Final = ("t0", "t1")
QUESTIONS: Final = 4
LOST_SHARE: Final = 0.2
SLOW: Final = frozenset({"admit", "claim", "begin", "give_back", "load_held"})
"""Methods of the run book whose answers take a while."""
DELAYS_S: Final = (0.0, 0.0, 0.0, 0.02, 0.6, 1.7, 3.1)
"""Seconds that an answer may take; the longest are longer than a run may be unknown."""
BEAT_S: Final = 0.7
LONGEST_S: Final = 120.0


class SlowBook:
    """The house's own book. Its answers come late, and some get lost."""

    def __init__(self, book: object, loop: ShuffledLoop) -> None:
        self._book = book
        self._loop = loop
        self.lost_share = LOST_SHARE

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - any of the book's methods
        method = getattr(self._book, name)
        if name not in SLOW:
            return method

        async def call(*given: object, **named: object) -> object:
            answer = await method(*given, **named)
            await asyncio.sleep(self._loop.chance.choice(DELAYS_S))
            if self._loop.chance.random() < self.lost_share:
                raise Unavailable("the answer was lost")
            return answer

        return call


async def beats(house: House) -> None:
    """Let beats come as long as this world stands."""
    while True:
        with suppress(Unavailable):
            await house.service.beat()
        await asyncio.sleep(BEAT_S)
        house.clock.now += round(BEAT_S * 1000)


async def questions(loop: ShuffledLoop) -> None:
    books: list[SlowBook] = []

    def wrap(book: object) -> Any:  # noqa: ANN401 - one book for another
        books.append(SlowBook(book, loop))
        return books[0]

    async with open_house(AGENTS, open_at=open_empty, wrap_book=wrap) as house:

        async def ask_soon(number: int) -> None:
            await asyncio.sleep(loop.chance.random())
            context = context_of(f"r{number}", thread_id=loop.chance.choice(THREADS))
            agent = loop.chance.choice(("hasty", "talker"))
            with suppress(Unavailable):
                await house.service.start(context, ask(context, f"q{number}"), agent=agent)

        async with asyncio.timeout(LONGEST_S):
            beating = loop.create_task(beats(house))
            await asyncio.gather(*(ask_soon(number) for number in range(QUESTIONS)))
            books[0].lost_share = 0.0
            # No event tells of it.
            while house.tasks or await house.ground.book.load_open_runs():  # noqa: ASYNC110
                await asyncio.sleep(BEAT_S)
            await end_task(beating)
        await assert_each_ran_once(house)


async def assert_each_ran_once(house: House) -> None:
    assert not house.service._live
    for thread_id in THREADS:
        records = await house.ground.log.read(key_of(thread_id), after=START, limit=1000)
        spans = [(run_id, list(span)) for run_id, span in groupby(records, lambda r: r.run_id)]
        assert len({run_id for run_id, _ in spans}) == len(spans)  # no run within another
        for _, span in spans:
            assert_whole(span)


@every_seed
def test_each_run_ends_once_although_answers_are_late_or_lost(seeds: range) -> None:
    explore(questions, seeds)
