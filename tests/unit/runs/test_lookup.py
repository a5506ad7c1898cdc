"""The place of a run in its thread's log, when runs begin and end while somebody looks it up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any
from unittest.mock import patch

import pytest
from sqlalchemy import Connection
from tests.house import ALICE, House, ask, context_of, open_house, says

from isolane.errors import NotFound

FIRST, SECOND = context_of("first"), context_of("second")


async def load_start(house: House) -> None:
    begin = await house.service.load_start(SECOND)
    (await house.feed.load_bounds(SECOND.thread_key)).check_cursor(begin)
    assert begin == (await house.records(SECOND))[0].id._replace(seq=begin.seq)


async def follow(house: House) -> None:
    events = await house.events(SECOND)
    assert events[0]["type"] == "RUN_STARTED"


async def welcome(house: House) -> None:
    for run in await house.service.load_active_runs(ALICE):
        (await house.feed.load_bounds(SECOND.thread_key)).check_cursor(run.head)


@pytest.mark.parametrize("late", range(3))
@pytest.mark.parametrize("look", [load_start, follow, welcome])
async def test_a_place_is_in_its_log_although_runs_ended_during_a_read(
    look: Callable[[House], Coroutine[Any, Any, None]], late: int
) -> None:
    async with open_house({"default": says("word")}) as house:
        database, answered, delivered = house.ground.database, asyncio.Event(), asyncio.Event()
        read, reads = database.read, 0

        async def read_late(work: Callable[[Connection], object], **given: str) -> object:
            nonlocal reads
            answer = await read(work, **given)
            if asyncio.current_task() is looking:
                reads += 1
                if reads == late + 1:
                    answered.set()
                    await delivered.wait()
            return answer

        with patch.object(database, "read", read_late):
            looking = asyncio.create_task(look(house))
            seen = asyncio.create_task(answered.wait())
            await asyncio.wait({looking, seen}, return_when=asyncio.FIRST_COMPLETED)
            seen.cancel()
            for context in (FIRST, SECOND):
                await house.service.start(context, ask(context, context.run_key.run_id))
                await house.events(context)
            delivered.set()
            try:
                await looking
            except NotFound:  # it was looked for before it was asked
                return
