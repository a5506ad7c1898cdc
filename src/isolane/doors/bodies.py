"""Request bodies with a bounded size, which is counted while they arrive, on every route.

A large body is read when its user has room for it. It is dropped when its client leaves first.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from isolane.doors.parts import Intake
from isolane.doors.rate import pace
from isolane.doors.room import SMALL_BYTES, Hall
from isolane.errors import InvalidFrame, InvalidInput, TooLarge, Unavailable
from isolane.tasks import end_task
from isolane.wire.frames import decode_object
from isolane.wire.lists import Known, NewPart, WholeList

T = TypeVar("T")
LoadKnown = Callable[[WholeList], Awaitable[Known]]
"""Returns what the thread knows of a list of messages."""
Pick = Callable[[WholeList, Known], NewPart]
"""Returns the new part of a list."""
LISTS: Final = ("/agui/", "/ai/", "/v1/chat/completions/", "/v1/responses/")
"""Paths below which a body may have a whole list of messages."""
MOST_KEY: Final = "isolane.body_max_bytes"
"""Key of a request's scope for the most bytes of its body."""
PASSES: Final = 6
"""Passes of the event loop after which a server has noticed that a client is gone."""
SENT_PER_NEW: Final = 16
"""Bytes of a large body that count as one new byte in their user's pace, because known bytes are
only scanned."""
LOOK_S: Final = 1.0
"""Seconds between two looks at the speed of a body."""
GRACE_S: Final = 5.0
"""Seconds for which a body may be slow."""
LEAST_BYTES_S: Final = 512 * 1024
"""Bytes per second that a large body must bring after that time, while others wait for its room."""


class BodyLimit:
    """Refuses a body that is too large with 413; an announced size before the first byte is read.

    Only runs have large bodies, and those are read strictly. Every other body must be small.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int, frame_bytes: int) -> None:
        """Stand before `app`. A whole list may have `max_bytes`; every other body less."""
        self._app = app
        self._max_bytes = max_bytes
        self._frame_bytes = frame_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on every request whose body is small enough."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        most = self._get_most(scope)
        scope[MOST_KEY] = most
        received = 0

        async def receive_counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > most:
                raise _too_large(most)
            return message

        async def receive_nothing() -> Message:
            raise _too_large(most)

        is_too_large = (_get_announced(scope) or 0) > most
        await self._app(scope, receive_nothing if is_too_large else receive_counted, send)

    def _get_most(self, scope: Scope) -> int:
        """Return the most bytes of a request's body."""
        # the path below a host's mount
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if f"{path}/".startswith(LISTS):
            return self._max_bytes
        return min(self._frame_bytes, SMALL_BYTES)


@dataclass(slots=True)
class Body:
    """A user's whole body, and its reserved room."""

    content: bytearray
    request: Request
    frame_bytes: int
    """Maximum bytes of the body that may be new."""
    _hall: AsyncExitStack

    @property
    def is_small(self) -> bool:
        """True when the body may be read on the event loop, and all of it may be new."""
        return len(self.content) <= min(SMALL_BYTES, self.frame_bytes)

    async def drop(self) -> None:
        """Release the content and the room for other large bodies. Safe to cancel."""
        self.content = bytearray()
        await self._hall.aclose()


@asynccontextmanager
async def reading(
    request: Request, intake: Intake, user_id: str, *, sent_per_new: int = SENT_PER_NEW
) -> AsyncIterator[Body]:
    """Read a user's whole body, and keep its room reserved while the block runs.

    A body above `frameBytes` waits unread for its user's pace and for the hall. A body that waits
    for the hall has room already. A body in chunks has it too, because nobody in the hall may wait
    for room. `sent_per_new` bytes of a large body count as one byte in its user's pace. Safe to
    cancel.

    Raises:
        InvalidFrame: The body is compressed.
        ClientDisconnect: The client left before the body was complete.
        Unavailable: Others wait for the hall, and the body comes too slowly.
    """
    _check_encoding(request)
    frame_bytes = intake.frame_bytes
    announced, most = _get_announced(request.scope), request.scope[MOST_KEY]
    if announced is not None and announced > most:
        raise _too_large(most)  # refused now, because it would wait for room in vain
    async with AsyncExitStack() as room, AsyncExitStack() as hall:
        body = Body(bytearray(), request, frame_bytes, hall)
        if announced is not None and announced > frame_bytes:
            await pace(intake.limits, user_id, announced // sent_per_new)
        if announced is None or announced > SMALL_BYTES:
            size = frame_bytes if announced is None else min(announced, frame_bytes)
            await room.enter_async_context(intake.room.hold(user_id, size))
        if announced is not None and announced > frame_bytes:
            await hall.enter_async_context(intake.hall.hold(user_id, announced))
        if announced is None and not await _read(request.receive, body.content, frame_bytes):
            await hall.enter_async_context(intake.hall.hold(user_id, most))
            await _read_in_time(request.receive, body.content, intake.hall)
            size = len(body.content) // sent_per_new
            await _outlast(request.receive, pace(intake.limits, user_id, size))
        elif announced is not None:
            await _read_in_time(request.receive, body.content, intake.hall)
        yield body


def _check_encoding(request: Request) -> None:
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in {"", "identity"}:
        raise InvalidFrame(f"a body may not be compressed, and this one is {encoding[:40]!r}")


async def read_whole(body: Body, intake: Intake, user_id: str, *, name: str) -> dict[str, Any]:
    """Return the object in a body of OpenAI's clients, at its user's pace.

    Above `frameBytes` only the end of the list called `name` may be new. The pace of `reading` is
    the only one that counts. Safe to cancel.

    Raises:
        InvalidFrame: The strict reader refuses the JSON.
        TooLarge: The new part is too large.
        ClientDisconnect: The client left before that.
    """
    if body.is_small:
        return decode_object(bytes(body.content))
    if len(body.content) <= body.frame_bytes:
        await _outlast(body.request.receive, pace(intake.limits, user_id, len(body.content)))
        return await intake.read_beside(decode_object, bytes(body.content))
    most = body.frame_bytes
    try:
        whole = await intake.read_beside(WholeList, body.content, max_bytes=most, name=name)
    except InvalidInput as error:
        if error.field != name:
            raise
        raise TooLarge(f"{name}: what is no list may have {most} bytes") from error
    return await intake.read_beside(whole.read_all)


async def read_new(
    body: Body,
    intake: Intake,
    user_id: str,
    load_known: LoadKnown,
    *,
    pick: Pick = WholeList.pick,
) -> dict[str, Any]:
    """Return the object in a body, with placeholders for messages that aren't new.

    A small body is decoded directly. For a larger one `load_known` returns what the thread has. It
    is then read in a thread, at the pace of its new part, and is dropped. Safe to cancel.

    Raises:
        InvalidFrame: The strict reader refuses the JSON.
        InvalidInput: A field is wrong; the text names it.
        TooLarge: The new part is too large.
        ClientDisconnect: The client left before that.
    """
    if body.is_small:
        return decode_object(bytes(body.content))
    whole = await intake.read_beside(WholeList, body.content, max_bytes=body.frame_bytes)
    known = await load_known(whole)
    new = await intake.read_beside(pick, whole, known)
    del whole
    await body.drop()
    await _outlast(body.request.receive, pace(intake.limits, user_id, len(new.text)))
    return await intake.read_beside(new.read)


async def _read(receive: Receive, content: bytearray, most: int) -> bool:
    """Read a body until it is complete, or larger than `most` bytes; say whether it is complete."""
    while len(content) <= most:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        content += message.get("body", b"")
        if not message.get("more_body", False):
            return True
    return False


async def _read_in_time(receive: Receive, content: bytearray, hall: Hall) -> None:
    """Read the rest of a body; while others wait for the hall, it must come fast enough."""
    had = len(content)

    def is_slow(passed_s: float) -> bool:
        return len(content) - had < (passed_s - GRACE_S) * LEAST_BYTES_S

    await come_in_time(_read(receive, content, sys.maxsize), hall, is_slow=is_slow)


async def come_in_time(coming: Awaitable[T], hall: Hall, *, is_slow: Callable[[float], bool]) -> T:
    """Return what comes; while others wait for the hall, it must come fast enough.

    `is_slow` gets the seconds that have passed. Safe to cancel.

    Raises:
        Unavailable: Others wait, and it comes too slowly.
    """
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    whole = asyncio.ensure_future(coming)
    try:
        while not (await asyncio.wait({whole}, timeout=LOOK_S))[0]:
            if hall.is_awaited and is_slow(loop.time() - began_s):
                raise Unavailable("it came too slowly while others waited; send it again")
        return whole.result()
    finally:
        await end_task(whole)


async def _outlast(receive: Receive, waiting: Awaitable[None]) -> None:
    """Wait for `waiting`, and raise `ClientDisconnect` as soon as the client has left."""
    gone = asyncio.ensure_future(receive())  # after a whole body the only message is the disconnect
    paced = asyncio.ensure_future(waiting)
    try:
        await asyncio.wait({gone, paced}, return_when=asyncio.FIRST_COMPLETED)
        for _ in range(PASSES):
            if gone.done() and gone.result()["type"] == "http.disconnect":
                raise ClientDisconnect
            await asyncio.sleep(0)
        await paced
    finally:
        for task in (gone, paced):
            task.cancel()
        await asyncio.wait({gone, paced})


def _get_announced(scope: Scope) -> int | None:
    """Return the announced size of a request's body, or None."""
    headers = Headers(scope=scope)
    announced = headers.get("content-length", "")
    is_chunked = "transfer-encoding" in headers  # in chunks, the announced size doesn't count
    return int(announced[:19]) if announced.isdecimal() and not is_chunked else None


def _too_large(most: int) -> HTTPException:
    # The error has this class, because FastAPI takes every other error for a syntax error.
    return HTTPException(413, f"a body may have {most} bytes")
