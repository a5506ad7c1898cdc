"""Pages of other origins that may use the gateway: what browsers ask on their behalf, and are told.

A listed page reads answers, and asks with a bearer token or a ticket. It is never told that cookies
may come along (`Access-Control-Allow-Credentials`), so no browser lets it read what they open.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from isolane.doors.credentials import get_headers
from isolane.settings.addresses import parse_origin, write_origin

OPEN_PATHS: Final = ("/agui/", "/ai/", "/api/", "/v1/")
"""What stands below these is for pages of other origins, too."""
METHODS: Final = "GET, HEAD, POST, PATCH, DELETE"
EXPOSED: Final = (
    "Retry-After, WWW-Authenticate, X-Request-Id, X-Should-Retry, X-Isolane-Run, "
    "X-Isolane-Thread, X-Vercel-AI-UI-Message-Stream"
)
"""Headers that a page may read beside those that each may."""
MAX_AGE_S: Final = 600
"""For so long a browser need not ask again."""
_HEADER_NAMES: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~, -]{1,4096}")


class Cors:
    """Stands before the app, and lets pages of the listed origins read what it answers."""

    def __init__(self, app: ASGIApp, *, origins: Iterable[str]) -> None:
        """Stand before `app`; `origins` are those of the settings."""
        self._app = app
        self._origins = {parse_origin(origin) for origin in origins} - {None}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a preflight of a listed page, and pass everything else on."""
        if scope["type"] != "http" or not self._origins or not _is_open(scope):
            await self._app(scope, receive, send)
            return
        origin = self._find_listed(scope)

        async def send_openly(message: Message) -> None:
            if message["type"] == "http.response.start":
                _open(message, origin)
            await send(message)

        if origin is not None and _is_preflight(scope):
            await _answer_preflight(scope, send_openly)
        else:
            await self._app(scope, receive, send_openly)

    def _find_listed(self, scope: Scope) -> str | None:
        """Return the origin that asks, as browsers write it; None for one that isn't listed."""
        named = get_headers(scope, b"origin")
        origin = parse_origin(named[0]) if len(named) == 1 else None
        return write_origin(*origin) if origin is not None and origin in self._origins else None


def _is_open(scope: Mapping[str, Any]) -> bool:
    path: str = scope["path"].removeprefix(scope.get("root_path", ""))
    return f"{path}/".startswith(OPEN_PATHS)


def _is_preflight(scope: Mapping[str, Any]) -> bool:
    return scope["method"] == "OPTIONS" and bool(
        get_headers(scope, b"access-control-request-method")
    )


def _open(message: Message, origin: str | None) -> None:
    """Let the page at `origin` read an answer; caches keep it apart from that for others."""
    headers = MutableHeaders(raw=list(message.get("headers", [])))
    headers.add_vary_header("Origin")
    if origin is not None:
        headers["Access-Control-Allow-Origin"] = origin
        headers["Access-Control-Expose-Headers"] = EXPOSED
    message["headers"] = headers.raw


async def _answer_preflight(scope: Scope, send: Send) -> None:
    headers = MutableHeaders()
    headers["Access-Control-Allow-Methods"] = METHODS
    headers["Access-Control-Max-Age"] = str(MAX_AGE_S)
    headers["Vary"] = "Access-Control-Request-Headers"
    wanted = ", ".join(get_headers(scope, b"access-control-request-headers"))
    if _HEADER_NAMES.fullmatch(wanted):  # whichever a client sends: none of them opens anything
        headers["Access-Control-Allow-Headers"] = wanted
    await send({"type": "http.response.start", "status": 204, "headers": headers.raw})
    await send({"type": "http.response.body", "body": b""})
