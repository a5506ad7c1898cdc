"""Request bodies have a size: counted as they come, for every route, before anybody reads them."""

from __future__ import annotations

from typing import Final

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SMALL_BYTES: Final = 64 * 1024
RUNS: Final = "/agui/"


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
        announced = Headers(scope=scope).get("content-length", "")
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

        is_too_large = announced.isdecimal() and int(announced[:19]) > most
        await self._app(scope, receive_nothing if is_too_large else receive_counted, send)


def _too_large(most: int) -> HTTPException:
    # Of this class, for FastAPI takes any other error of a body for one of its syntax.
    return HTTPException(413, f"a body may have {most} bytes")
