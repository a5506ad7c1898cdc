"""Large bodies: what their user's pace counts, and who has to make room when others wait."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import count
from typing import Final

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from isolane.clock import now_ms
from isolane.doors import bodies
from isolane.doors.bodies import MOST_KEY, SENT_PER_NEW, Body, read_new, reading
from isolane.doors.parts import Intake
from isolane.doors.room import Hall, Room
from isolane.engines.memory.limits import LocalLimits
from isolane.errors import TooLarge, Unavailable
from isolane.wire.lists import Known, WholeList

FRAME_BYTES: Final = 100_000
MOST: Final = 10 * FRAME_BYTES
KNOWN: Final = Known(ids={"old"})


class Paces:
    """Counts what a user's pace is asked for, and lets all come at once."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    async def pace(self, _limits: object, user_id: str, size: int) -> None:
        assert user_id == "alice"
        self.sizes.append(size)


@pytest.fixture
def paces(monkeypatch: pytest.MonkeyPatch) -> Paces:
    asked = Paces()
    monkeypatch.setattr(bodies, "pace", asked.pace)
    return asked


@pytest.fixture
def intake(paces: Paces) -> Iterator[Intake]:
    del paces
    made = Intake(limits=LocalLimits({}, clock=now_ms), frame_bytes=FRAME_BYTES, hall=Hall(MOST))
    yield made
    made.close()


def frame_of(old: int, new: int) -> bytes:
    """Return a body with so many bytes of words that are known, and that are new."""
    listed = [("old", "x" * old), ("new", "y" * new)]
    said = [{"id": name, "role": "user", "content": text} for name, text in listed]
    return json.dumps({"messages": said}).encode()


def request_of(*messages: Message, announced: int | None = None) -> Request:
    """Return a request to which these messages come, and then nothing more."""
    coming: Iterator[Message] = iter(messages)

    async def receive() -> Message:
        for message in coming:
            return message
        await asyncio.Event().wait()
        raise AssertionError

    headers = [] if announced is None else [(b"content-length", str(announced).encode())]
    return Request({"type": "http", "headers": headers, MOST_KEY: MOST}, receive)


def whole(body: bytes, *, is_announced: bool = True) -> Request:
    """Return a request whose body comes in two pieces."""
    half = len(body) // 2
    return request_of(
        {"type": "http.request", "body": body[:half], "more_body": True},
        {"type": "http.request", "body": body[half:], "more_body": False},
        announced=len(body) if is_announced else None,
    )


async def load_known(_whole: WholeList) -> Known:
    return KNOWN


@asynccontextmanager
async def taken(request: Request, intake: Intake) -> AsyncIterator[Body]:
    async with reading(request, intake, "alice") as body:
        yield body
    assert (intake.hall.get_held(), intake.room.get_held("alice")) == (0, 0)


@pytest.mark.parametrize("is_announced", [True, False])
async def test_pace_counts_what_is_new_and_a_sixteenth_of_what_is_sent(
    intake: Intake,
    paces: Paces,
    *,
    is_announced: bool,
) -> None:
    content, new = frame_of(3 * FRAME_BYTES, 70_000), len(frame_of(0, 70_000))
    async with taken(whole(content, is_announced=is_announced), intake) as body:
        assert intake.hall.get_held() == (len(content) if is_announced else MOST)
        read = await read_new(body, intake, "alice", load_known)
        assert intake.hall.get_held() == 0  # others may come before the run is taken on
        assert intake.room.get_held("alice") == FRAME_BYTES
    assert read["messages"][1]["content"] == "y" * 70_000
    sent, said = paces.sizes
    assert sent == len(content) // SENT_PER_NEW
    assert abs(said - new) < 100  # what is old left commas and brackets behind at most


async def test_body_below_a_frame_counts_what_is_new_alone(intake: Intake, paces: Paces) -> None:
    async with taken(whole(frame_of(80_000, 10)), intake) as body:
        assert intake.hall.get_held() == 0
        await read_new(body, intake, "alice", load_known)
    assert len(paces.sizes) == 1
    assert paces.sizes[0] < 200


async def test_small_body_is_read_as_it_is_and_nobody_looks_anything_up(
    intake: Intake,
    paces: Paces,
) -> None:
    async def never(_whole: WholeList) -> Known:
        raise AssertionError

    async with taken(whole(frame_of(10, 10)), intake) as body:
        read = await read_new(body, intake, "alice", never)
    assert [one["id"] for one in read["messages"]] == ["old", "new"]
    assert paces.sizes == []


@pytest.mark.parametrize("is_announced", [True, False])
async def test_client_that_leaves_half_way_leaves_nothing(
    intake: Intake,
    *,
    is_announced: bool,
) -> None:
    request = request_of(
        {"type": "http.request", "body": b"x" * 2 * FRAME_BYTES, "more_body": True},
        {"type": "http.disconnect"},
        announced=MOST if is_announced else None,
    )
    with pytest.raises(ClientDisconnect):
        async with taken(request, intake):
            raise AssertionError
    assert (intake.hall.get_held(), intake.room.get_held("alice")) == (0, 0)


async def test_refused_body_leaves_nothing(intake: Intake) -> None:
    with pytest.raises(TooLarge):
        async with taken(whole(frame_of(10, 2 * FRAME_BYTES)), intake) as body:
            await read_new(body, intake, "alice", load_known)
    assert (intake.hall.get_held(), intake.room.get_held("alice")) == (0, 0)


async def test_body_that_says_it_is_too_large_waits_for_nothing(
    intake: Intake,
    paces: Paces,
) -> None:
    async with intake.hall.hold("bob", MOST):
        with pytest.raises(HTTPException) as refused:
            async with reading(request_of(announced=MOST + 1), intake, "alice"):
                raise AssertionError
    assert refused.value.status_code == 413
    assert paces.sizes == []


async def test_body_that_trickles_makes_room_when_others_wait(
    intake: Intake,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bodies, "LOOK_S", 0.001)
    monkeypatch.setattr(bodies, "GRACE_S", 0.0)
    looks, is_looked_at = count(), asyncio.Event()
    is_awaited = vars(Hall)["is_awaited"].fget

    def look(hall: Hall) -> bool:
        if next(looks) == 3:
            is_looked_at.set()
        return bool(is_awaited(hall))

    monkeypatch.setattr(Hall, "is_awaited", property(look))
    trickling = request_of(announced=MOST)

    async def read() -> None:
        async with reading(trickling, intake, "alice"):
            raise AssertionError

    slow = asyncio.create_task(read())
    await is_looked_at.wait()
    assert not slow.done()  # nobody waits: it may take its time
    async with asyncio.timeout(10), intake.hall.hold("bob", 1):
        with pytest.raises(Unavailable, match="too slowly"):
            await slow


async def test_bodies_of_a_user_never_wait_for_one_another_in_a_circle(
    intake: Intake,
) -> None:
    """Those in chunks have room before anybody knows that they need the hall, too."""
    intake = replace(intake, room=Room(4 * FRAME_BYTES))
    content, go = frame_of(3 * FRAME_BYTES, 10), asyncio.Event()

    async def read(*, is_announced: bool) -> None:
        request = whole(content, is_announced=is_announced)

        async def receive() -> Message:
            await go.wait()
            return await request.receive()

        async with reading(Request(request.scope, receive), intake, "alice") as body:
            await read_new(body, intake, "alice", load_known)

    in_chunks = [asyncio.create_task(read(is_announced=False)) for _ in range(4)]
    await asyncio.sleep(0)  # each has its room
    announced = asyncio.create_task(read(is_announced=True))
    await asyncio.sleep(0)
    go.set()
    async with asyncio.timeout(10):
        await asyncio.gather(*in_chunks, announced)
    assert (intake.hall.get_held(), intake.room.get_held("alice")) == (0, 0)


async def test_one_body_of_each_user_at_a_time_and_a_sum_of_all() -> None:
    hall, order = Hall(10), list[str]()

    async def hold(user_id: str, size: int) -> None:
        async with hall.hold(user_id, size):
            order.append(f"{user_id} {size}")

    async with hall.hold("alice", 4):
        again = asyncio.create_task(hold("alice", 1))
        await asyncio.sleep(0)
        waits = [hall.is_awaited]  # alice waits for herself alone
        await hold("bob", 6)
        large = asyncio.create_task(hold("bob", 7))
        await asyncio.sleep(0)
        waits.append(hall.is_awaited)
        assert (waits, order) == ([False, True], ["bob 6"])
    await asyncio.gather(again, large)
    assert sorted(order[1:]) == ["alice 1", "bob 7"]
    assert hall.get_held() == 0
