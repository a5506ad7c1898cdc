"""The loop that the other tests trust: chance where asyncio promises nothing, and nowhere else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from tests.interleaving.explorer import SEEDS, explore, play
from tests.interleaving.scheduler import ShuffledLoop, Stuck

Play = Callable[[ShuffledLoop], Coroutine[Any, Any, None]]


def orders(scene: Callable[[list[str]], Play]) -> set[str]:
    """Return every order of marks that a scene leaves, over some seeds."""
    found: set[str] = set()
    for seed in range(50):
        marks: list[str] = []
        play(scene(marks), seed)
        found.add("".join(marks))
    return found


async def mark(marks: list[str], name: str) -> None:
    marks.append(name)


def test_tasks_that_are_ready_go_in_any_order() -> None:
    def scene(marks: list[str]) -> Play:
        async def three(_loop: ShuffledLoop) -> None:
            await asyncio.gather(*(mark(marks, name) for name in "abc"))

        return three

    assert orders(scene) == {"abc", "acb", "bac", "bca", "cab", "cba"}


def test_callbacks_of_one_future_keep_their_order() -> None:
    def scene(marks: list[str]) -> Play:
        def leave(name: str, _future: asyncio.Future[None]) -> None:
            marks.append(name)

        async def callbacks(loop: ShuffledLoop) -> None:
            future: asyncio.Future[None] = loop.create_future()
            for name in "abc":
                future.add_done_callback(partial(leave, name))
            future.set_result(None)
            await asyncio.sleep(1)

        return callbacks

    assert orders(scene) == {"abc"}


def test_one_seed_is_one_order() -> None:
    def played(seed: int) -> tuple[int, float, float]:
        async def crowd(loop: ShuffledLoop) -> None:
            await asyncio.gather(*(loop.pause() for _ in range(20)))

        loop = play(crowd, seed)
        return loop.turns, loop.time(), loop.chance.random()

    assert played(1) == played(1)
    assert played(1) != played(2)


def test_time_passes_only_when_nothing_else_can() -> None:
    async def sleepers(loop: ShuffledLoop) -> None:
        late = loop.create_task(asyncio.sleep(3600))
        for _ in range(100):
            await asyncio.sleep(0)
        assert loop.time() == 0
        await late
        assert loop.time() == 3600

    began = time.monotonic()
    explore(sleepers, range(5))
    assert time.monotonic() - began < 10


def test_a_pool_of_one_thread_works_in_order_and_a_larger_one_in_any() -> None:
    def scene(threads: int) -> Callable[[list[str]], Play]:
        def with_marks(marks: list[str]) -> Play:
            async def work(loop: ShuffledLoop) -> None:
                pool = ThreadPoolExecutor(threads)
                await asyncio.gather(
                    *(loop.run_in_executor(pool, marks.append, name) for name in "abc")
                )
                assert not pool._threads

            return work

        return with_marks

    assert orders(scene(1)) == {"abc"}
    assert len(orders(scene(2))) == 6


def test_who_waits_for_what_nobody_does_is_told_at_once() -> None:
    async def forever(loop: ShuffledLoop) -> None:
        await loop.create_future()

    with pytest.raises(Stuck, match="nothing is to come"):
        play(forever, 0)


def test_what_goes_on_for_ever_is_ended() -> None:
    async def forever(_loop: ShuffledLoop) -> None:
        while True:  # noqa: ASYNC110 - the endless loop that is to be found
            await asyncio.sleep(0)

    with pytest.raises(Stuck, match="no end after"):
        play(forever, 0)


def test_an_error_that_nobody_collects_fails_the_seed() -> None:
    async def forgetful(loop: ShuffledLoop) -> None:
        loop.call_soon(int, "no number")
        await asyncio.sleep(1)

    with pytest.raises(AssertionError, match="no number"):
        play(forgetful, 0)


def test_a_seed_that_fails_is_named_with_the_command_that_repeats_it() -> None:
    """A read before an await and a write after it: the mistake that all this is for."""

    async def lost_update(loop: ShuffledLoop) -> None:
        count = 0

        async def add_one() -> None:
            nonlocal count
            before = count
            await loop.pause()
            count = before + 1

        await asyncio.gather(add_one(), add_one())
        assert count == 2

    with pytest.raises(AssertionError) as caught:
        explore(lost_update, range(SEEDS))
    (note,) = caught.value.__notes__
    assert note.endswith(
        " .venv/bin/pytest tests/interleaving/test_scheduler.py::"
        "test_a_seed_that_fails_is_named_with_the_command_that_repeats_it"
    )
    assert "ISOLANE_SEED=" in note
