"""Event streams over HTTP: what each holds of its user's, and that it comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.types import Message
from tests.house import ALICE, House, key_of, open_house, says

from isolane.contracts import Identity
from isolane.doors.event_stream import EventStream, Followed, Streams, open_stream
from isolane.doors.gateway import Gateway
from isolane.errors import IsolaneError
from isolane.runs.readers import HttpReader
from isolane.sockets.slot import Member, Slot


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with open_house({"default": says()}, limit_connections_per_user=1) as opened:
        yield opened
        assert not opened.service._unread._readers._of
        assert opened.sockets.stream_count == 0
        assert not opened.limits._held


def streams_of(house: House, *, revoked: bool = False) -> Streams:
    def own(slot: Slot, member: Member) -> None:
        credentials = SimpleNamespace(is_revoked=lambda _identity: revoked)
        gateway: Any = SimpleNamespace(sockets=house.sockets, credentials=credentials)
        Gateway.own(gateway, slot, member)

    return Streams(
        settings=house.settings,
        clock=house.clock,
        tasks=house.tasks,
        sockets=house.sockets,
        service=house.service,
        feed=house.feed,
        own=own,
        why_unfinished=IsolaneError,
    )


async def never() -> AsyncGenerator[bytes, None]:
    """Tell nothing, for ever."""
    await asyncio.Event().wait()
    yield b""


async def tell(followed: Followed[bytes]) -> AsyncGenerator[bytes, None]:
    try:
        async for batch in followed.with_beats():
            yield batch or b""
    except Exception as error:  # noqa: BLE001 - whatever it is, the reader is told
        yield str(error).encode()


async def begin(streams: Streams, reader: HttpReader) -> EventStream:
    followed = Followed(streams, Identity(ALICE), never())
    return EventStream(followed, tell, reader=reader)


async def stay() -> Message:
    """Be a reader who never goes."""
    await asyncio.Event().wait()
    raise AssertionError


async def serve(
    stream: EventStream, receive: Callable[[], Awaitable[Message]]
) -> tuple[list[Message], asyncio.Task[None]]:
    """Begin to serve a stream; return what is sent, and the task that serves."""
    sent: list[Message] = []
    begun = asyncio.Event()

    async def send(message: Message) -> None:
        sent.append(message)
        begun.set()

    serving = asyncio.create_task(stream({"type": "http"}, receive, send))
    await begun.wait()
    return sent, serving


async def test_stream_that_was_refused_holds_nothing(house: House) -> None:
    async def refuse(_reader: HttpReader) -> EventStream:
        raise KeyError

    with pytest.raises(KeyError):
        await open_stream(streams_of(house), Identity(ALICE), key_of(), refuse)


async def test_client_that_leaves_while_its_stream_is_opened_holds_nothing(house: House) -> None:
    async def wait(_reader: HttpReader) -> EventStream:
        waiting.set()
        await asyncio.Event().wait()
        raise AssertionError

    waiting = asyncio.Event()
    opening = asyncio.create_task(open_stream(streams_of(house), Identity(ALICE), key_of(), wait))
    await waiting.wait()
    assert house.limits._held
    opening.cancel()
    await asyncio.wait({opening})


@pytest.mark.parametrize("is_cut", [True, False], ids=["cut", "left"])
async def test_stream_is_in_the_book_until_its_reader_goes(house: House, *, is_cut: bool) -> None:
    streams, gone = streams_of(house), asyncio.Event()

    async def leave() -> Message:
        await gone.wait()
        return {"type": "http.disconnect"}

    stream = await open_stream(streams, Identity(ALICE), key_of(), partial(begin, streams))
    _, serving = await serve(stream, leave)
    assert (house.sockets.stream_count, house.sockets.connection_count) == (1, 0)
    assert stream.is_open
    if is_cut:
        serving.cancel()
    gone.set()
    await asyncio.wait({serving})


async def test_stream_whose_credential_was_revoked_while_it_opened_ends(house: House) -> None:
    streams = streams_of(house, revoked=True)
    stream = await open_stream(streams, Identity(ALICE), key_of(), partial(begin, streams))
    sent, serving = await serve(stream, stay)
    await serving
    assert b"revoked" in b"".join(message.get("body", b"") for message in sent)
