"""Request bodies have a size: counted as they come, for every route, before anybody reads them.

A large one is read once its user has room for it, and dropped when its client leaves before it is
taken.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from isolane.doors.gateway import Gateway
from isolane.doors.room import SMALL_BYTES, Hall
from isolane.errors import InvalidFrame, InvalidInput, TooLarge, Unavailable
from isolane.tasks import end_task
from isolane.wire.frames import decode_object
from isolane.wire.lists import Known, NewPart, WholeList

LoadKnown = Callable[[WholeList], Awaitable[Known]]
"""Returns what the thread has that a list is for."""
Pick = Callable[[WholeList, Known], NewPart]
"""Returns what is new of a list."""
LISTS: Final = ("/agui/", "/ai/", "/v1/chat/completions/", "/v1/responses/")
"""Below these, bodies may hold whole lists."""
MOST_KEY: Final = "isolane.body_max_bytes"
"""Where a request's scope keeps how large its body may be."""
PASSES: Final = 6
"""Turns of the event loop in which a server notices that a client has hung up."""
SENT_PER_NEW: Final = 16
"""Bytes that are sent count as one that is new in their user's pace: they are looked at only."""
LOOK_S: Final = 1.0
GRACE_S: Final = 5.0
LEAST_BYTES_S: Final = 512 * 1024
"""What a large body must bring each second after the first five, while others wait for its room."""


class BodyLimit:
    """Refuses a body that is too large with 413; an announced one before its first byte is read.

    Only runs have large ones, and are read strictly: any other is small, whoever sends it.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int, frame_bytes: int) -> None:
        """Stand before `app`; a whole list may have `max_bytes`, all else less."""
        self._app = app
        self._max_bytes = max_bytes
        self._frame_bytes = frame_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on but what is too large."""
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
        """Return how many bytes the body of a request may have."""
        path = scope["path"].removeprefix(scope.get("root_path", ""))  # where it is mounted
        if f"{path}/".startswith(LISTS):
            return self._max_bytes
        return min(self._frame_bytes, SMALL_BYTES)


@dataclass(slots=True)
class Body:
    """A user's whole body, and what is reserved for it."""

    content: bytearray
    request: Request
    frame_bytes: int
    """So much of it may be new."""
    _hall: AsyncExitStack

    @property
    def is_small(self) -> bool:
        """Whether it is so small that it may be read on the event loop, and all of it be new."""
        return len(self.content) <= min(SMALL_BYTES, self.frame_bytes)

    async def drop(self) -> None:
        """Forget the content, and let other large bodies come. Safe to cancel."""
        self.content = bytearray()
        await self._hall.aclose()


@asynccontextmanager
async def reading(
    request: Request, gateway: Gateway, user_id: str, *, sent_per_new: int = SENT_PER_NEW
) -> AsyncIterator[Body]:
    """Read a user's whole body, and hold its room for the block's time.

    One above `frameBytes` waits unread for its pace and for the hall. Whoever waits for the hall
    has room already: a body in chunks has, and nobody in the hall may wait for it. Of such a body
    `sent_per_new` bytes count as one in its user's pace.

    Raises `InvalidFrame` for a compressed one, `ClientDisconnect` when the client leaves before the
    body is there, `Unavailable` when others wait for the hall and it comes too slowly. Safe to
    cancel.
    """
    _check_encoding(request)
    frame_bytes = gateway.settings.limit_frame_bytes
    announced, most = _get_announced(request.scope), request.scope[MOST_KEY]
    if announced is not None and announced > most:
        raise _too_large(most)  # now: it would wait for room that it never needs
    async with AsyncExitStack() as room, AsyncExitStack() as hall:
        body = Body(bytearray(), request, frame_bytes, hall)
        if announced is not None and announced > frame_bytes:
            await gateway.factory.pace(user_id, announced // sent_per_new)
        if announced is None or announced > SMALL_BYTES:
            size = frame_bytes if announced is None else min(announced, frame_bytes)
            await room.enter_async_context(gateway.intake.room.hold(user_id, size))
        if announced is not None and announced > frame_bytes:
            await hall.enter_async_context(gateway.intake.hall.hold(user_id, announced))
        if announced is None and not await _read(request.receive, body.content, frame_bytes):
            await hall.enter_async_context(gateway.intake.hall.hold(user_id, most))
            await _read_in_time(request.receive, body.content, gateway.intake.hall)
            pace = gateway.factory.pace(user_id, len(body.content) // sent_per_new)
            await _outlast(request.receive, pace)
        elif announced is not None:
            await _read_in_time(request.receive, body.content, gateway.intake.hall)
        yield body


def _check_encoding(request: Request) -> None:
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in {"", "identity"}:
        raise InvalidFrame(f"a body may not be compressed, and this one is {encoding[:40]!r}")


async def read_whole(body: Body, gateway: Gateway, user_id: str, *, name: str) -> dict[str, Any]:
    """Return the object that a body of OpenAI's holds, at its user's pace.

    Above `frameBytes` only the end of the list of that `name` may be new, and the pace of `reading`
    is all that counts. Raises what `WholeList` and its `read_all` raise, `InvalidFrame`, and
    `ClientDisconnect` when the client leaves before that. Safe to cancel.
    """
    if body.is_small:
        return decode_object(bytes(body.content))
    if len(body.content) <= body.frame_bytes:
        await _outlast(body.request.receive, gateway.factory.pace(user_id, len(body.content)))
        return await gateway.intake.read_beside(decode_object, bytes(body.content))
    most = body.frame_bytes
    try:
        whole = await gateway.intake.read_beside(WholeList, body.content, max_bytes=most, name=name)
    except InvalidInput as error:
        if error.field != name:
            raise
        raise TooLarge(f"{name}: what is no list may have {most} bytes") from error
    return await gateway.intake.read_beside(whole.read_all)


async def read_new(
    body: Body,
    gateway: Gateway,
    user_id: str,
    load_known: LoadKnown,
    *,
    pick: Pick = WholeList.pick,
) -> dict[str, Any]:
    """Return the object that a body holds, with stand-ins for the messages that aren't new.

    A small body is read as it is. Of a larger one `load_known` tells what the thread has; it is
    read beside the event loop, at the pace of what is new in it. The body is dropped then.
    Raises `InvalidFrame`, `InvalidInput`, `TooLarge`, and `ClientDisconnect` when the client
    leaves before that. Safe to cancel.
    """
    if body.is_small:
        return decode_object(bytes(body.content))
    whole = await gateway.intake.read_beside(WholeList, body.content, max_bytes=body.frame_bytes)
    known = await load_known(whole)
    new = await gateway.intake.read_beside(pick, whole, known)
    del whole
    await body.drop()
    await _outlast(body.request.receive, gateway.factory.pace(user_id, len(new.text)))
    return await gateway.intake.read_beside(new.read)


async def _read(receive: Receive, content: bytearray, most: int) -> bool:
    """Read a body until it is whole, or has more than `most` bytes; say whether it is whole."""
    while len(content) <= most:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        content += message.get("body", b"")
        if not message.get("more_body", False):
            return True
    return False


async def _read_in_time(receive: Receive, content: bytearray, hall: Hall) -> None:
    """Read the rest of a body. While others wait for the hall, it has to come fast enough."""
    loop = asyncio.get_running_loop()
    began_s, had = loop.time(), len(content)
    whole = asyncio.ensure_future(_read(receive, content, sys.maxsize))
    try:
        while not (await asyncio.wait({whole}, timeout=LOOK_S))[0]:
            due = (loop.time() - began_s - GRACE_S) * LEAST_BYTES_S
            if hall.is_awaited and len(content) - had < due:
                raise Unavailable("the body came too slowly while others waited; send it again")
        whole.result()
    finally:
        await end_task(whole)


async def _outlast(receive: Receive, waiting: Awaitable[None]) -> None:
    """Wait for `waiting`, and raise `ClientDisconnect` as soon as the client has gone."""
    gone = asyncio.ensure_future(receive())  # nothing else comes behind a whole body
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
    """Return the size that a request announces; None when it doesn't."""
    headers = Headers(scope=scope)
    announced = headers.get("content-length", "")
    is_chunked = "transfer-encoding" in headers  # then the other one counts for nothing
    return int(announced[:19]) if announced.isdecimal() and not is_chunked else None


def _too_large(most: int) -> HTTPException:
    # Of this class, for FastAPI takes any other error of a body for one of its syntax.
    return HTTPException(413, f"a body may have {most} bytes")
