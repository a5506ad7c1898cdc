"""What each answer tells browsers, whichever part of the gateway gives it.

No answer is taken for another kind of content than it says, and none is shown in a frame of a page
that the settings don't name.
"""

from __future__ import annotations

from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY: Final = "content-security-policy"
STARTS: Final = frozenset({"http.response.start", "websocket.http.response.start"})


class BrowserRules:
    """Stands before everything, and adds to each answer what holds for all of them."""

    def __init__(self, app: ASGIApp, *, frame_policy: str) -> None:
        """Stand before `app`; `frame_policy` says whose pages may show an answer in a frame."""
        self._app = app
        self._frame_policy = frame_policy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on."""

        async def send_with_rules(message: Message) -> None:
            if message["type"] in STARTS:
                self._add_rules(message)
            await send(message)

        await self._app(scope, receive, send_with_rules)

    def _add_rules(self, message: Message) -> None:
        headers = MutableHeaders(raw=list(message.get("headers", [])))
        headers.setdefault("x-content-type-options", "nosniff")
        parts = headers.get(POLICY), self._frame_policy
        headers[POLICY] = "; ".join(part for part in parts if part)
        message["headers"] = headers.raw
