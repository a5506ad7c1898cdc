"""Lanes at the database: however much one user wants, another waits for one thing of theirs."""

from __future__ import annotations

import asyncio
from itertools import count

import pytest

from isolane.sql.lanes import Gate, Lanes

FLOOD = 200


def test_lanes_take_turns_and_each_keeps_its_order() -> None:
    lanes: Lanes[str] = Lanes()
    for number in range(3):
        lanes.put("flooder", f"f{number}")
    lanes.put("other", "o")
    taken = [lanes.take() for _ in range(5)]
    assert [one and one[1] for one in taken] == ["f0", "o", "f1", "f2", None]
    assert not lanes


def test_a_lane_that_may_not_have_a_turn_is_passed_over_and_keeps_its_place() -> None:
    lanes: Lanes[int] = Lanes()
    for place, lane in enumerate(("a", "b", "a")):
        lanes.put(lane, place)
    assert lanes.take(lambda lane: lane != "a") == ("b", 1)
    assert lanes.take(lambda _lane: False) is None
    assert [lanes.take(), lanes.take()] == [("a", 0), ("a", 2)]


async def test_who_comes_second_is_let_in_next_however_many_wait_of_the_first() -> None:
    gate, order = Gate(3, most_of_lane=2), list[str]()

    async def pass_through(lane: str) -> None:
        await gate.enter(lane)
        order.append(lane)
        await asyncio.sleep(0)
        gate.leave(lane)

    flood = [asyncio.create_task(pass_through("flooder")) for _ in range(FLOOD)]
    await asyncio.sleep(0)
    assert order == ["flooder"] * 2  # never all three places
    await pass_through("other")
    assert order.index("other") == 2
    await asyncio.gather(*flood)
    assert gate._free == 3


@pytest.mark.parametrize("passes", range(4))
async def test_cancelled_while_it_waits_it_holds_no_place(passes: int) -> None:
    gate = Gate(1, most_of_lane=1)
    await gate.enter("a")
    waiting = asyncio.create_task(gate.enter("b"))
    for number in count():
        if number == passes:
            waiting.cancel()
            break
        if number == 2:
            gate.leave("a")
        await asyncio.sleep(0)
    await asyncio.wait({waiting})
    if passes <= 2:
        gate.leave("a")
    if not waiting.cancelled():
        gate.leave("b")
    assert gate._free == 1
    assert not gate._inside
    assert not gate._waiting


async def test_a_turn_that_comes_with_the_cancellation_goes_to_the_next() -> None:
    gate = Gate(1, most_of_lane=1)
    await gate.enter("a")
    waiting = [asyncio.create_task(gate.enter(lane)) for lane in ("b", "c")]
    await asyncio.sleep(0)
    gate.leave("a")
    waiting[0].cancel()
    await waiting[1]
    assert waiting[0].cancelled()
    gate.leave("c")
    assert gate._free == 1
