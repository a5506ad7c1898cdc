"""Headers for browsers on every answer of the gateway.

No browser may guess another type of content, and no page may show an answer in a frame unless the
settings name that page.
"""

from __future__ import annotations

from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY: Final = "content-security-policy"
STARTS: Final = frozenset({"http.response.start", "websocket.http.response.start"})


class BrowserRules:
    """Stands before all routes and adds headers to each answer."""

    def __init__(self, app: ASGIApp, *, frame_policy: str) -> None:
        """Stand before `app`; `frame_policy` names the pages that may show an answer in a frame."""
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
