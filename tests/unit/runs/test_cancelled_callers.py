"""A caller that is cancelled changes nothing that it had begun."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import aclosing, closing, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from tests.house import ALICE, House, ask, context_of, key_of, open_house, says, sqlite_url, until

from isolane.context import RunKey
from isolane.contracts import Disposition
from isolane.errors import NotFound

Act = Callable[[House], Coroutine[Any, Any, object]]


async def waiting(input: object) -> AsyncIterator[object]:  # noqa: A002, ARG001
    yield "waiting"
    await asyncio.Event().wait()


def start(run_id: str) -> Act:
    context = context_of(run_id)
    return lambda house: house.service.start(context, ask(context, run_id))


async def cancel_while_locked(house: House, folder: Path, act: Act) -> None:
    """Cancel `act` while it waits for a database that somebody else has locked."""
    database: Any = house.ground.database
    with closing(sqlite3.connect(folder / "isolane.db")) as other:
        other.execute("BEGIN IMMEDIATE")
        with patch.object(database._commits, "put", wraps=database._commits.put) as write:
            task = asyncio.create_task(act(house))
            await until(lambda: write.called)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        other.rollback()


async def start_and_hear(house: House, run_id: str) -> None:
    """Start a run, and return once the log has its agent's first words."""
    await start(run_id)(house)
    async with aclosing(house.service.follow(context_of(run_id))) as records:
        async for record in records:
            if b"CONTENT" in record.payload:
                return


@pytest.mark.parametrize("place", [0, 1], ids=["goes now", "waits for its turn"])
async def test_a_start_is_finished_without_its_caller(tmp_path: Path, place: int) -> None:
    async with open_house({"default": waiting}, url=sqlite_url(tmp_path)) as house:
        for number in range(place):
            await start_and_hear(house, f"before-{number}")
        await cancel_while_locked(house, tmp_path, start("r"))
        ticket: Any = await start("r")(house)
        assert ticket.disposition is Disposition.ATTACHED
        for run_id in [*(f"before-{number}" for number in range(place)), "r"]:
            await house.service.abort(context_of(run_id))
            events = await house.events(context_of(run_id))
            assert events[-1]["outcome"] == {"type": "cancelled"}
        assert await house.ground.book.load_open_runs() == []
        await until(lambda: len(house.tasks) == 0)
        assert not house.limits._held


async def test_a_deletion_is_finished_without_its_caller(tmp_path: Path) -> None:
    async with open_house({"default": waiting}, url=sqlite_url(tmp_path)) as house:
        await start_and_hear(house, "r")
        delete: Act = lambda house: house.service.delete_thread(context_of())  # noqa: E731
        await cancel_while_locked(house, tmp_path, delete)
        await until(lambda: not house.service._live)
        with pytest.raises(NotFound):
            await house.service.locate(context_of(), "r")
        await until(lambda: len(house.tasks) == 0)
        assert house.notices[-1]["deleted"] is True
        assert not house.limits._held


@pytest.mark.parametrize("passes", range(12))
async def test_a_start_cancelled_after_any_pass_of_the_loop_is_whole_or_nothing(
    passes: int,
) -> None:
    async with open_house({"default": says("word")}) as house:
        task = asyncio.create_task(start("r")(house))
        for _ in range(passes):
            await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await until(lambda: len(house.tasks) == 0)
        assert not house.service._live
        assert not house.limits._held
        assert await house.ground.book.load_open_runs() == []
        if await house.ground.store.load_run(RunKey(ALICE, "r")) is not None:
            records = await house.records(context_of("r"))
            assert [record.is_end for record in records][-1:] == [True]


async def test_a_drain_is_finished_without_its_caller() -> None:
    async with open_house({"default": waiting}) as house:
        await start("r")(house)
        draining = asyncio.create_task(house.service.drain(timeout_s=0))
        await asyncio.sleep(0)
        draining.cancel()
        with pytest.raises(asyncio.CancelledError):
            await draining
        events = await house.events(context_of("r"))
        assert events[-1]["code"] == "going_away"
        await until(lambda: len(house.tasks) == 0)


async def test_a_start_whose_house_closes_is_told_so() -> None:
    async with (
        open_house({"default": says("word")}) as house,
        house.service._deletion.under_way.hold(key_of()),  # nobody ends this wait
    ):
        task = asyncio.create_task(start("r")(house))
        await until(lambda: house.service._admission._starting)
        await house.tasks.close()
        with pytest.raises(Exception, match="the gateway ended during the start of r"):
            await task
