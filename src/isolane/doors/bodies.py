"""Request bodies have a size: counted as they come, for every route, before anybody reads them.

A large one is read once its user has room for it, and dropped when its client leaves before it is
taken.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from isolane.doors.room import SMALL_BYTES, Room

RUNS: Final = ("/agui/", "/ai/", "/v1/chat/completions/", "/v1/responses/")
"""Below these, bodies may be large."""
MOST_KEY: Final = "isolane.body_max_bytes"
"""Where a request's scope keeps how large its body may be."""
PASSES: Final = 6
"""Turns of the event loop in which a server notices that a client has hung up."""


class BodyLimit:
    """Refuses a body that is too large with 413; an announced one before its first byte is read.

    Only runs have large ones, and are read strictly: any other is small, whoever sends it.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int) -> None:
        """Stand before `app`; a run may have `max_bytes`."""
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on but what is too large."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        most = self._max_bytes
        path = scope["path"].removeprefix(scope.get("root_path", ""))  # where it is mounted
        if not f"{path}/".startswith(RUNS):
            most = min(most, SMALL_BYTES)
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

        is_too_large = _get_announced(scope, 0) > most
        await self._app(scope, receive_nothing if is_too_large else receive_counted, send)


@asynccontextmanager
async def reading(
    request: Request, room: Room, user_id: str, *, pace: Callable[[int], Awaitable[None]]
) -> AsyncIterator[bytes]:
    """Read a user's whole body, and hold its room for the block's time.

    `pace` waits until a body of that size may be taken. Raises `ClientDisconnect` when the client
    leaves before that. Safe to cancel.
    """
    size = _get_announced(request.scope, request.scope[MOST_KEY])
    if size <= SMALL_BYTES:
        yield await request.body()
        return
    async with room.hold(user_id, size):
        body = await request.body()
        await _outlast(request.receive, pace(len(body)))
        yield body


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


def _get_announced(scope: Scope, default: int) -> int:
    """Return the size that a request announces, or `default` when it doesn't."""
    headers = Headers(scope=scope)
    announced = headers.get("content-length", "")
    is_chunked = "transfer-encoding" in headers  # then the other one counts for nothing
    return int(announced[:19]) if announced.isdecimal() and not is_chunked else default


def _too_large(most: int) -> HTTPException:
    # Of this class, for FastAPI takes any other error of a body for one of its syntax.
    return HTTPException(413, f"a body may have {most} bytes")
