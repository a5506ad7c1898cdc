"""The one place that turns a request's credential into a context."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, Final

from fastapi import Depends, Request
from starlette.requests import HTTPConnection

from isolane.agents import check
from isolane.context import UserExecutionContext
from isolane.contracts import Identity, Scope
from isolane.doors.description import BEARER, SESSION
from isolane.doors.gateway import get_gateway
from isolane.doors.outside import UNHEARD_KEY, get_origin
from isolane.doors.parts import Credentials
from isolane.errors import (
    SHOWN_CHARACTERS,
    Forbidden,
    MissingScope,
    Unauthenticated,
)
from isolane.settings import Settings
from isolane.settings.addresses import parse_origin

IDENTITY_KEY: Final = "isolane.identity"
"""Key of a request's scope for the identity."""
_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_ENOUGH: Final[Mapping[Scope, frozenset[str]]] = {
    Scope.READ: frozenset({Scope.READ, Scope.WRITE, Scope.CHECK}),
    Scope.WRITE: frozenset({Scope.WRITE, Scope.CHECK}),
    Scope.CHECK: frozenset({Scope.CHECK}),
    Scope.ADMIN: frozenset({Scope.ADMIN}),
}
"""Scopes that include a needed one. Writing includes reading, and `check` includes both for its own
threads."""

AsgiScope = Mapping[str, Any]


def get_headers(scope: AsgiScope, name: bytes) -> list[str]:
    """Return every value of a header."""
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]


def get_bearer(scope: AsgiScope) -> str | None:
    """Return the token of the Authorization header.

    A malformed header counts as an invalid token.
    """
    for value in get_headers(scope, b"authorization")[:1]:
        scheme, _, token = value.partition(" ")
        return token.strip() if scheme.lower() == "bearer" else ""
    return None


def get_cookies(scope: AsgiScope, name: str) -> list[str]:
    """Return the values of all cookies with that name.

    Browsers send the cookie with the longest path first. That is ours, before the cookie of a host
    above.
    """
    pairs = (pair for value in get_headers(scope, b"cookie") for pair in value.split(";"))
    held = (_read_cookies(pair).get(name) for pair in pairs)
    return [value for value in held if value is not None]


def _read_cookies(header: str) -> Mapping[str, str]:
    """Return the cookies of one `Cookie` header; Starlette's parser isn't public."""
    scope = {"type": "http", "headers": [(b"cookie", header.encode("latin-1"))]}
    return HTTPConnection(scope).cookies


def get_cookie(scope: AsgiScope, name: str) -> str | None:
    """Return the value of the cookie with the longest path, or None."""
    return next(iter(get_cookies(scope, name)), None)


def get_address(scope: AsgiScope) -> str:
    """Return the visitor's address; `Outside` has put there what a trusted proxy says."""
    client = scope.get("client")
    return client[0] if client else ""


def check_origin(settings: Settings, scope: AsgiScope, *, is_needed: bool) -> None:
    """Check that the page behind a request is one of ours or an allowed one.

    A cookie comes with requests of every page; only the Origin header names the page. With
    `is_needed` a missing header is refused.

    Raises:
        Forbidden: The page isn't allowed.
    """
    origins = get_headers(scope, b"origin")
    if not origins and not is_needed:
        return
    if len(origins) != 1:
        raise Forbidden(f"a session cookie needs one Origin, and {len(origins)} came")
    asked = parse_origin(origins[0])
    allowed = {parse_origin(origin) for origin in settings.allowed_origins}
    own = get_origin(scope)
    if asked is None or asked not in {*allowed, parse_origin(own)}:
        raise Forbidden(_explain(settings, scope, asked=origins[0], own=own))


def _explain(settings: Settings, scope: AsgiScope, *, asked: str, own: str) -> str:
    """Return a text for the log: what differs, and the settings that help behind a proxy."""
    advice = "if the page is served from there, set ISOLANE_PUBLIC_URL to its address"
    if settings.public_url is not None:
        advice = "ISOLANE_PUBLIC_URL says so; a page elsewhere belongs in ISOLANE_ALLOWED_ORIGINS"
    elif scope.get(UNHEARD_KEY) is not None:
        advice += f", or name the proxy {scope[UNHEARD_KEY]} in ISOLANE_TRUSTED_PROXIES"
    shown = repr(asked[:SHOWN_CHARACTERS])
    return f"the Origin is {shown}, and the gateway's own is {own[:SHOWN_CHARACTERS]!r}: {advice}"


async def judge_token(credentials: Credentials, token: str) -> Identity:
    """Return the identity behind a token that isn't revoked.

    Raises:
        Unauthenticated: The token is refused or revoked; `reason` says which.
        Unavailable: The authenticator doesn't answer.
        ContractError: The authenticator returned something that is no identity.
    """
    found = await credentials.judge.judge(token)
    if found.expires_at is not None and credentials.clock() >= found.expires_at:
        raise Unauthenticated("expired", "the credential is expired")
    return credentials.check_revoked(found)


async def judge_cookie(
    credentials: Credentials, settings: Settings, scope: AsgiScope, *, is_write: bool
) -> Identity:
    """Return the identity behind a cookie: the host's cookie when the host has users, else ours.

    A cookie comes with requests of every page, so the page must be allowed for each write and each
    socket.

    Raises:
        Unauthenticated: There is no cookie, or its session has ended.
        Forbidden: The page isn't allowed.
    """
    secret = get_cookie(scope, credentials.cookie) if credentials.cookie else None
    if secret is None:
        raise Unauthenticated("missing")
    check_origin(settings, scope, is_needed=is_write)
    if credentials.has_own_users:
        return credentials.check_revoked(await credentials.sessions.load(secret))
    return await judge_token(credentials, secret)


def require(identity: Identity, needed: Scope) -> None:
    """Check that the identity has a scope; only this function decides that.

    Raises:
        MissingScope: It lacks the scope.
    """
    if _ENOUGH[needed].isdisjoint(identity.scopes):
        raise MissingScope(needed)


def require_agent(identity: Identity, agent: str) -> None:
    """Check that the identity may run the agent; with scope `check` only the agent `check`.

    Raises:
        MissingScope: It may not.
    """
    needed = Scope.CHECK if agent == check.NAME else Scope.WRITE
    if needed not in identity.scopes:
        raise MissingScope(needed)


async def authenticate(scope: AsgiScope, *, is_write: bool) -> Identity:
    """Return the identity behind a bearer token, else behind a cookie.

    Raises:
        Unauthenticated: The credential is missing, invalid, expired or revoked.
        Forbidden: The page behind a cookie isn't allowed.
        Unavailable: The gateway accepts no work now.
    """
    gateway = get_gateway(scope)
    gateway.check_ready()
    token = get_bearer(scope)
    if token is not None:
        return await judge_token(gateway.credentials, token)
    return await judge_cookie(gateway.credentials, gateway.settings, scope, is_write=is_write)


async def identify(
    request: Request,
    _bearer: Annotated[None, Depends(BEARER)] = None,
    _session: Annotated[None, Depends(SESSION)] = None,
) -> Identity:
    """Return the identity behind a request's credential, judged before the body is read."""
    known: Identity | None = request.scope.get(IDENTITY_KEY)
    if known is None:
        is_write = request.method not in _SAFE_METHODS
        known = await authenticate(request.scope, is_write=is_write)
        request.scope[IDENTITY_KEY] = known
    return known


def _allowing(needed: Scope) -> Callable[[Identity], Awaitable[Identity]]:
    async def allow(identity: Annotated[Identity, Depends(identify)]) -> Identity:
        require(identity, needed)
        return identity

    return allow


def make_context(
    identity: Identity, scope: AsgiScope, *, connection_id: str | None = None
) -> UserExecutionContext:
    """Return the context of one request: its user, and a proxy's request id as the parent id."""
    given = get_headers(scope, b"x-request-id")
    named = get_gateway(scope).credentials.subjects.find(identity.user_id)
    return UserExecutionContext(
        user_id=identity.user_id,
        issuer=named.issuer,
        subject=named.subject,
        connection_id=connection_id,
        parent_request_id=given[0] if given else None,
    )


Identified = Annotated[Identity, Depends(identify)]
"""The identity behind a request's credential, with any scopes."""
Reader = Annotated[Identity, Depends(_allowing(Scope.READ))]
"""The identity behind a request's credential, which may read."""
Writer = Annotated[Identity, Depends(_allowing(Scope.WRITE))]
"""The identity behind a request's credential, which may write."""
Admin = Annotated[Identity, Depends(_allowing(Scope.ADMIN))]
"""The identity behind a request's credential, which may act on other users."""


async def _context_to_read(identity: Reader, request: Request) -> UserExecutionContext:
    return make_context(identity, request.scope)


async def _context_to_write(identity: Writer, request: Request) -> UserExecutionContext:
    return make_context(identity, request.scope)


ReadContext = Annotated[UserExecutionContext, Depends(_context_to_read)]
"""Dependency of routes that read for the user."""
WriteContext = Annotated[UserExecutionContext, Depends(_context_to_write)]
"""Dependency of routes that act for the user."""
