"""Turns and stops that only the rows of runs know of."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.house import ALICE, House, ask, context_of, draft_of, open_house, until
from tests.unit.runs.test_service import Gate, echo, outcome

from isolane.context import RunKey
from isolane.contracts import RunBook, StopSignal, Terms
from isolane.errors import Unavailable


async def look(house: House) -> None:
    """Look once for what only the rows know."""
    await house.service._driver.dispatcher.look(await house.service._beat.load_signs())


async def execute(house: House, statement: str) -> None:
    """Change rows beside the gateway, as nothing should."""
    await house.ground.database.write(
        lambda connection: connection.exec_driver_sql(statement).rowcount
    )


async def test_a_run_that_waits_although_nobody_has_the_turn_begins_at_the_next_look() -> None:
    async with open_house({"default": echo}) as house:
        await house.ground.begin_run(context_of("1"), draft_of("a"))
        await house.ground.add_run(context_of("2"), draft_of("b"))
        await execute(house, "DELETE FROM runs WHERE run_id = '1'")
        await look(house)
        assert outcome(await house.events(context_of("2"))) == "success"


async def test_a_stop_that_another_process_wrote_is_obeyed_at_the_next_look() -> None:
    gate = Gate()
    async with open_house({"default": gate.run}) as house:
        own = context_of("1")
        await house.service.start(own, ask(own, "a"))
        await until(lambda: bool(gate.entered))
        assert await house.ground.book.request_stop(own.run_key, asked_at=7)
        await look(house)
        assert outcome(await house.events(own)) == "cancelled"
        stored = await house.service.load_run(own, "1")
        assert stored.stop is not None
        assert stored.stop.requested_at == 7


@pytest.mark.parametrize("run_id", ["under-way", "waiting"])
async def test_a_stop_is_on_record_once_it_is_told(run_id: str) -> None:
    let_go = asyncio.Event()

    async def slow(_input: object, _context: object, _stop: StopSignal) -> AsyncIterator[object]:
        yield "word"
        await let_go.wait()

    async with open_house({"default": slow}) as house:
        for each in ("under-way", "waiting"):
            await house.service.start(context_of(each), ask(context_of(each), each))
        await house.service.abort(context_of(run_id))
        stopped = {run.run_id: run.stop_at for run in await house.ground.book.load_open_runs()}
        assert stopped == {"under-way": None, "waiting": None, run_id: house.clock()}
        let_go.set()
        assert outcome(await house.events(context_of(run_id))) == "cancelled"


async def test_a_stop_holds_here_although_it_cannot_be_written() -> None:
    gate = Gate()

    class Full:
        """The house's own book, in which no stop can be written."""

        def __init__(self, book: object) -> None:
            self._book = book

        def __getattr__(self, name: str) -> object:
            return getattr(self._book, name)

        async def request_stop(self, key: RunKey, *, asked_at: int) -> bool:
            raise Unavailable(f"the disk is full: {key}, {asked_at}")

    def wrap(book: Any) -> Any:  # noqa: ANN401 - one book for another
        return Full(book)

    async with open_house({"default": gate.run}, wrap_book=wrap) as house:
        own = context_of("1")
        await house.service.start(own, ask(own, "a"))
        await house.service.abort(own)
        assert outcome(await house.events(own)) == "cancelled"


async def test_a_claim_that_fails_for_now_is_tried_until_it_succeeds() -> None:
    gate, refusals = Gate(), [Unavailable("busy"), Unavailable("busy")]

    class Busy:
        """The house's own book, in which the first claims are refused."""

        def __init__(self, book: RunBook) -> None:
            self._book = book

        def __getattr__(self, name: str) -> object:
            return getattr(self._book, name)

        async def claim(self, node_id: str, *, room: int, agents: None = None) -> object:
            if refusals:
                raise refusals.pop()
            return await self._book.claim(node_id, room=room, agents=agents)

    def wrap(book: Any) -> Any:  # noqa: ANN401 - one book for another
        return Busy(book)

    async with open_house({"default": gate.run}, wrap_book=wrap) as house:
        first, second = context_of("1"), context_of("2")
        await house.service.start(first, ask(first, "a"))
        await house.service.start(second, ask(second, "b"))
        gate.opened.set()
        async with asyncio.timeout(10):
            assert outcome(await house.events(second)) == "success"
        assert not refusals


async def test_a_run_that_another_process_let_in_is_attached_to() -> None:
    async with open_house({"default": echo}) as house:
        own = context_of("1")
        admit = house.ground.book.admit

        async def admit_late(context: Any, draft: Any, terms: Terms) -> object:  # noqa: ANN401
            await admit(context, draft, terms)
            return await admit(context, draft, terms)

        house.ground.book.admit = admit_late  # type: ignore[method-assign,assignment]
        ticket = await house.service.start(own, ask(own, "a"))
        assert ticket.disposition == "attached"
        assert not house.service._live
        assert await house.ground.book.find_active(ALICE)
