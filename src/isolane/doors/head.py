"""`HEAD` for every `GET`: the same answer without its body (RFC 9110, 9.3.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEAD_KEY: Final = "isolane.head"
"""Key of a scope whose answer is sent without its body."""


def is_head(scope: Mapping[str, Any]) -> bool:
    """Say whether a request is `HEAD`; such a request uses no ticket and no code up."""
    return bool(scope.get(HEAD_KEY))


class HeadAsGet:
    """Stands before the app, which sees a `GET` for each `HEAD`."""

    def __init__(self, app: ASGIApp) -> None:
        """Stand before `app`."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on.

        An answer to `HEAD` ends after its headers, also a stream without an end.
        """
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def send_head(message: Message) -> None:
            if message["type"] == "http.response.start":
                await send(message)
                # The app hears now that the reader is gone, because nothing more will be read.
                await send({"type": "http.response.body", "body": b""})

        await self._app({**scope, "method": "GET", HEAD_KEY: True}, receive, send_head)
