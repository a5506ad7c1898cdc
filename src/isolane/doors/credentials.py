"""Who speaks: the one place where a request's credential becomes a context."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, Final

from fastapi import Depends, Request
from starlette.requests import HTTPConnection

from isolane.agents import check
from isolane.context import UserExecutionContext
from isolane.contracts import Identity, Scope
from isolane.doors.description import BEARER, SESSION
from isolane.doors.gateway import Gateway, OpenGateway, get_gateway
from isolane.doors.outside import UNHEARD_KEY, get_origin
from isolane.errors import (
    SHOWN_CHARACTERS,
    Forbidden,
    MissingScope,
    Unauthenticated,
)
from isolane.settings import Settings
from isolane.settings.addresses import parse_origin

IDENTITY_KEY: Final = "isolane.identity"
"""Where a request's scope keeps whose it is."""
_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_ENOUGH: Final[Mapping[Scope, frozenset[str]]] = {
    Scope.READ: frozenset({Scope.READ, Scope.WRITE, Scope.CHECK}),
    Scope.WRITE: frozenset({Scope.WRITE, Scope.CHECK}),
    Scope.CHECK: frozenset({Scope.CHECK}),
    Scope.ADMIN: frozenset({Scope.ADMIN}),
}
"""Who may write reads along, and a check reads and writes what it made."""

AsgiScope = Mapping[str, Any]


def get_headers(scope: AsgiScope, name: bytes) -> list[str]:
    """Return every value of a header."""
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]


def get_bearer(scope: AsgiScope) -> str | None:
    """Return the Authorization header's token; an odd header is a token that nobody issued."""
    for value in get_headers(scope, b"authorization")[:1]:
        scheme, _, token = value.partition(" ")
        return token.strip() if scheme.lower() == "bearer" else ""
    return None


def get_cookies(scope: AsgiScope, name: str) -> list[str]:
    """Return what each cookie of that name holds.

    Browsers send that of the longest path first: ours, before that of what is served above.
    """
    pairs = (pair for value in get_headers(scope, b"cookie") for pair in value.split(";"))
    held = (_read_cookies(pair).get(name) for pair in pairs)
    return [value for value in held if value is not None]


def _read_cookies(header: str) -> Mapping[str, str]:
    """Return what one `Cookie` header holds; Starlette's own parser isn't public."""
    scope = {"type": "http", "headers": [(b"cookie", header.encode("latin-1"))]}
    return HTTPConnection(scope).cookies


def get_cookie(scope: AsgiScope, name: str) -> str | None:
    """Return what the cookie holds that is nearest to our own path."""
    return next(iter(get_cookies(scope, name)), None)


def get_address(scope: AsgiScope) -> str:
    """Return the visitor's address; `Outside` has put there what a trusted proxy says of it."""
    client = scope.get("client")
    return client[0] if client else ""


def check_origin(settings: Settings, scope: AsgiScope, *, is_needed: bool) -> None:
    """Raise `Forbidden` unless the page that asks is one of ours or on the allow-list.

    A cookie goes along whoever asks; the Origin says who does. `is_needed` refuses its absence.
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
    """Say for the log what differs, and which settings would mend it behind a proxy."""
    advice = "if the page is served from there, set ISOLANE_PUBLIC_URL to its address"
    if settings.public_url is not None:
        advice = "ISOLANE_PUBLIC_URL says so; a page elsewhere belongs in ISOLANE_ALLOWED_ORIGINS"
    elif scope.get(UNHEARD_KEY) is not None:
        advice += f", or name the proxy {scope[UNHEARD_KEY]} in ISOLANE_TRUSTED_PROXIES"
    shown = repr(asked[:SHOWN_CHARACTERS])
    return f"the Origin is {shown}, and the gateway's own is {own[:SHOWN_CHARACTERS]!r}: {advice}"


async def judge_token(gateway: Gateway, token: str) -> Identity:
    """Return who a token speaks for, as long as its credential counts.

    Raises `Unauthenticated`, `Unavailable`, and `ContractError` for what is no identity.
    """
    found = await gateway.credentials.judge.judge(token)
    if found.expires_at is not None and gateway.clock() >= found.expires_at:
        raise Unauthenticated("expired", "the credential is expired")
    return gateway.credentials.check_revoked(found)


async def judge_cookie(gateway: Gateway, scope: AsgiScope, *, is_write: bool) -> Identity:
    """Return who a cookie speaks for: the host's own where it has users, else the session's.

    A cookie comes along whoever asks, so the page that asks must be known: for each write, and
    for each socket. Raises `Unauthenticated`, `Forbidden`.
    """
    secret = get_cookie(scope, gateway.credentials.cookie) if gateway.credentials.cookie else None
    if secret is None:
        raise Unauthenticated("missing")
    check_origin(gateway.settings, scope, is_needed=is_write)
    if gateway.credentials.has_own_users:
        return gateway.credentials.check_revoked(await gateway.credentials.sessions.load(secret))
    return await judge_token(gateway, secret)


def require(identity: Identity, needed: Scope) -> None:
    """Raise `MissingScope` unless the identity may; the one place where that is decided."""
    if _ENOUGH[needed].isdisjoint(identity.scopes):
        raise MissingScope(needed)


def require_agent(identity: Identity, agent: str) -> None:
    """Raise `MissingScope` unless the identity may run the agent: `check` runs its own only."""
    needed = Scope.CHECK if agent == check.NAME else Scope.WRITE
    if needed not in identity.scopes:
        raise MissingScope(needed)


async def authenticate(gateway: Gateway, scope: AsgiScope, *, is_write: bool) -> Identity:
    """Return who a bearer token or a cookie speaks for; the token counts first.

    Raises `Unauthenticated`, `Forbidden` and, when the gateway takes no work, `Unavailable`.
    """
    gateway.check_ready()
    token = get_bearer(scope)
    if token is not None:
        return await judge_token(gateway, token)
    return await judge_cookie(gateway, scope, is_write=is_write)


async def identify(
    gateway: OpenGateway,
    request: Request,
    _bearer: Annotated[None, Depends(BEARER)] = None,
    _session: Annotated[None, Depends(SESSION)] = None,
) -> Identity:
    """Return whose credential came with a request; it is judged once, before the body is read."""
    known: Identity | None = request.scope.get(IDENTITY_KEY)
    if known is None:
        is_write = request.method not in _SAFE_METHODS
        known = await authenticate(gateway, request.scope, is_write=is_write)
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
    """Return the context of one request: whose it is, and the id that a proxy gave it, if any."""
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
"""The identity behind a request's credential, whatever that credential may do."""
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
"""What a route asks for to read for the user."""
WriteContext = Annotated[UserExecutionContext, Depends(_context_to_write)]
"""What a route asks for to act for the user."""
