"""Room by user: what is held together is bounded, and who waits comes in order or not at all."""

from __future__ import annotations

import asyncio

import pytest
from tests.house import until

from isolane.doors.line import Line
from isolane.doors.room import SMALL_BYTES, Room


async def test_who_finds_no_room_waits_in_order_and_users_have_their_own() -> None:
    room, order = Room(10), list[str]()

    async def hold(name: str, size: int, user_id: str = "alice") -> None:
        async with room.hold(user_id, size):
            order.append(name)
            await asyncio.sleep(0)

    await room.take("alice", 8)
    waiting = [asyncio.create_task(hold(name, size)) for name, size in (("a", 9), ("b", 1))]
    await hold("other", 10, "bob")
    assert order == ["other"]  # "b" would fit, and stays behind "a"
    room.give_back("alice", 8)
    await asyncio.gather(*waiting)
    assert order == ["other", "a", "b"]
    assert (room.get_held("alice"), room.get_held("bob")) == (0, 0)


async def test_one_that_is_larger_than_all_room_has_it_alone() -> None:
    room = Room(10)
    async with room.hold("alice", 100):
        second = asyncio.create_task(room.take("alice", 1))
        await asyncio.sleep(0)
        assert not second.done()
    await second


@pytest.mark.parametrize("passes", range(4))
async def test_cancelled_while_it_waits_it_holds_nothing_and_lets_the_next_one_in(
    passes: int,
) -> None:
    room = Room(10)
    await room.take("alice", 10)
    first, second = (asyncio.create_task(room.take("alice", size)) for size in (10, 5))
    await asyncio.sleep(0)
    for number in range(4):
        if number == passes:
            first.cancel()
        if number == 1:
            room.give_back("alice", 10)
        await asyncio.sleep(0)
    await asyncio.wait({first})
    if not first.cancelled():
        room.give_back("alice", 10)
    await second
    assert room.get_held("alice") == 5
    assert not room._lines


async def test_large_frames_of_all_sockets_of_a_user_share_one_room() -> None:
    text = "x" * (SMALL_BYTES + 1)
    message = {"type": "websocket.receive", "text": text}
    room = Room(len(text))
    lines = [Line(10 * len(text), room=room, user_id="alice") for _ in range(2)]
    await lines[0].put(message)
    held_up = asyncio.create_task(lines[1].put(message))
    await lines[1].put({"type": "websocket.receive", "text": "small"})
    beside = Line(10 * len(text), room=room, user_id="bob")
    await beside.put(message)
    assert lines[0].take() is message
    assert not held_up.done()  # the first one is carried out just now
    assert lines[0].take() is None
    await held_up
    lines[1].close()
    await until(lambda: not room.get_held("alice"))


async def test_room_that_comes_with_the_cancellation_goes_to_the_next() -> None:
    room = Room(10)
    await room.take("alice", 10)
    waiting = [asyncio.create_task(room.take("alice", 10)) for _ in range(2)]
    await asyncio.sleep(0)
    room.give_back("alice", 10)
    waiting[0].cancel()
    await waiting[1]
    assert waiting[0].cancelled()
    room.give_back("alice", 10)
    assert not room.get_held("alice")
