"""Turns: a few in each pass of the loop, one user after the other, and nobody waits for nothing."""

from __future__ import annotations

import asyncio

from tests.house import until

from isolane.health.fairness import TURNS_EACH_PASS, Turns


async def take(turns: Turns, user_id: str, taken: list[str]) -> None:
    await turns.take(user_id)
    taken.append(user_id)


async def test_who_comes_alone_does_not_wait() -> None:
    turns = Turns()
    with_no_pause = turns.take("alice")
    try:
        with_no_pause.send(None)
    except StopIteration:
        return
    raise AssertionError("it waited")


async def test_a_user_who_wants_one_thing_waits_for_one_of_each_other() -> None:
    turns, taken = Turns(), list[str]()
    names = [*["alice"] * 10, *["bob"] * 10, "carol"]
    await asyncio.gather(*(take(turns, name, taken) for name in names))
    assert taken[TURNS_EACH_PASS:][:3] == ["alice", "bob", "carol"]
    assert len(taken) == len(names)


async def test_no_pass_gives_more_turns_than_it_may() -> None:
    turns, taken = Turns(), list[str]()
    tasks = [asyncio.create_task(take(turns, "alice", taken)) for _ in range(20)]
    while len(taken) < len(tasks):
        before = len(taken)
        await asyncio.sleep(0)
        assert len(taken) - before <= TURNS_EACH_PASS
    await asyncio.gather(*tasks)


async def test_a_turn_that_nobody_waits_for_any_more_goes_to_the_next() -> None:
    turns, taken = Turns(), list[str]()
    tasks = [asyncio.create_task(take(turns, "alice", taken)) for _ in range(5)]
    await asyncio.sleep(0)
    for task in tasks[1:-1]:
        task.cancel()
    await until(lambda: len(taken) == 2)
    await asyncio.wait(tasks)
    assert not turns._lines
