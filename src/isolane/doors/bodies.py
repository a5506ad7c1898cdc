"""Request bodies have a size: counted as they come, for every route, before anybody reads them."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class BodyLimit:
    """Refuses a body above `max_bytes` with 413; an announced one before its first byte is read."""

    def __init__(self, app: ASGIApp, *, max_bytes: int) -> None:
        """Stand before `app`."""
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on but what is too large."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "")
        received = 0

        async def receive_counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_bytes:
                raise self._too_large()
            return message

        async def receive_nothing() -> Message:
            raise self._too_large()

        is_too_large = announced.isdecimal() and int(announced[:19]) > self._max_bytes
        await self._app(scope, receive_nothing if is_too_large else receive_counted, send)

    def _too_large(self) -> HTTPException:
        # Of this class, for FastAPI takes any other error of a body for one of its syntax.
        return HTTPException(413, f"a body may have {self._max_bytes} bytes")
