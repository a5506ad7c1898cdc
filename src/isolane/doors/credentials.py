"""Who speaks: the one place where a request's credential becomes a context."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from fastapi import Depends, Request
from starlette.requests import cookie_parser

from isolane.context import UserExecutionContext
from isolane.contracts import Identity
from isolane.doors.gateway import Gateway, OpenGateway
from isolane.errors import Forbidden, Unauthenticated

COOKIE: Final = "isolane_session"
_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}

Scope = Mapping[str, Any]


def get_headers(scope: Scope, name: bytes) -> list[str]:
    """Return every value of a header."""
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]


def get_bearer(scope: Scope) -> str | None:
    """Return the Authorization header's token; an odd header is a token that nobody issued."""
    for value in get_headers(scope, b"authorization")[:1]:
        scheme, _, token = value.partition(" ")
        return token.strip() if scheme.lower() == "bearer" else ""
    return None


def get_cookie(scope: Scope) -> str | None:
    """Return the session cookie's secret."""
    for value in get_headers(scope, b"cookie"):
        found = cookie_parser(value).get(COOKIE)
        if found is not None:
            return found
    return None


def check_origin(gateway: Gateway, scope: Scope, *, is_needed: bool) -> None:
    """Raise `Forbidden` unless the page that asks is one of ours or on the allow-list.

    A cookie goes along whoever asks; the Origin says who does. `is_needed` refuses its absence.
    """
    origins = get_headers(scope, b"origin")
    if not origins and not is_needed:
        return
    if len(origins) != 1:
        raise Forbidden(f"a session cookie needs one Origin, and {len(origins)} came")
    asked = _origin(origins[0])
    allowed = {_origin(origin) for origin in gateway.settings.allowed_origins}
    if asked is None or asked not in {*allowed, _own_origin(scope)}:
        raise Forbidden("the Origin is not on the allow-list")


def _origin(text: str) -> tuple[str, str, int | None] | None:
    """Return scheme, host and port of an origin; None for `null` and what is none."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return None
    if not parts.hostname or parts.path not in {"", "/"} or parts.query or parts.username:
        return None
    return parts.scheme, parts.hostname, port or _DEFAULT_PORTS.get(parts.scheme)


def _own_origin(scope: Scope) -> tuple[str, str, int | None] | None:
    hosts = get_headers(scope, b"host")
    scheme = {"ws": "http", "wss": "https"}.get(scope["scheme"], scope["scheme"])
    return _origin(f"{scheme}://{hosts[0]}") if len(hosts) == 1 else None


async def authenticate(gateway: Gateway, scope: Scope, *, is_write: bool) -> Identity:
    """Return who a bearer token or a session cookie speaks for; the token counts first.

    Raises `Unauthenticated`, `Forbidden` and, when the gateway takes no work, `Unavailable`.
    """
    gateway.check_ready()
    token = get_bearer(scope)
    if token is not None:
        return await gateway.authenticator.authenticate(token)
    secret = get_cookie(scope)
    if secret is None:
        raise Unauthenticated("missing")
    check_origin(gateway, scope, is_needed=is_write)
    return await gateway.sessions.load(secret)


async def _identify(gateway: OpenGateway, request: Request) -> Identity:
    is_write = request.method not in _SAFE_METHODS
    return await authenticate(gateway, request.scope, is_write=is_write)


def make_context(
    identity: Identity, scope: Scope, *, connection_id: str | None = None
) -> UserExecutionContext:
    """Return the context of one request: whose it is, and the id that a proxy gave it, if any."""
    given = get_headers(scope, b"x-request-id")
    return UserExecutionContext(
        user_id=identity.user_id,
        connection_id=connection_id,
        parent_request_id=given[0] if given else None,
    )


async def _contextualise(
    identity: Annotated[Identity, Depends(_identify)], request: Request
) -> UserExecutionContext:
    return make_context(identity, request.scope)


Identified = Annotated[Identity, Depends(_identify)]
"""What a route asks for to know whose credential came."""

UserContext = Annotated[UserExecutionContext, Depends(_contextualise)]
"""What a route asks for to act for the user."""
