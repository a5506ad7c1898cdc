"""Pages of other origins that may use the gateway (CORS).

A listed page may read answers, and authenticates with a bearer token or a ticket. Browsers don't
get `Access-Control-Allow-Credentials`. So such a page can't read an answer that a cookie opened.
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
"""Paths below which pages of other origins are allowed."""
METHODS: Final = "GET, HEAD, POST, PATCH, DELETE"
EXPOSED: Final = (
    "Retry-After, WWW-Authenticate, X-Request-Id, X-Should-Retry, X-Isolane-Run, "
    "X-Isolane-Thread, X-Vercel-AI-UI-Message-Stream"
)
"""Response headers that a page may read, besides those that every page may."""
MAX_AGE_S: Final = 600
"""Seconds for which a browser may reuse the answer."""
_HEADER_NAMES: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~, -]{1,4096}")


class Cors:
    """Stands before the app and lets pages of the listed origins read answers."""

    def __init__(self, app: ASGIApp, *, origins: Iterable[str]) -> None:
        """Stand before `app`; `origins` come from the settings."""
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
        """Return the page's origin in the browser's spelling, or None when it isn't listed."""
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
    """Let the page at `origin` read an answer.

    Caches keep it separate from other origins' answers.
    """
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
    if _HEADER_NAMES.fullmatch(wanted):  # any header of a client, because no header opens anything
        headers["Access-Control-Allow-Headers"] = wanted
    await send({"type": "http.response.start", "status": 204, "headers": headers.raw})
    await send({"type": "http.response.body", "body": b""})
