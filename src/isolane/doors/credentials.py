"""Who speaks: the one place where a request's credential becomes a context."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from fastapi import Depends, Request
from starlette.requests import cookie_parser

from isolane.agents import check
from isolane.context import UserExecutionContext
from isolane.contracts import Identity, Scope
from isolane.doors.gateway import Gateway, OpenGateway
from isolane.errors import (
    ContractError,
    Forbidden,
    InvalidContext,
    MissingScope,
    Unauthenticated,
)
from isolane.ids import check_user_id

COOKIE: Final = "isolane_session"
_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_ENOUGH: Final[Mapping[Scope, frozenset[str]]] = {
    Scope.READ: frozenset({Scope.READ, Scope.WRITE, Scope.CHECK}),
    Scope.WRITE: frozenset({Scope.WRITE, Scope.CHECK}),
    Scope.CHECK: frozenset({Scope.CHECK}),
    Scope.ADMIN: frozenset({Scope.ADMIN}),
}
"""Who may write reads along, and a check reads and writes what it made."""
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}

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


def get_cookie(scope: AsgiScope, name: str = COOKIE) -> str | None:
    """Return what a cookie holds; by default the session's secret."""
    for value in get_headers(scope, b"cookie"):
        found = cookie_parser(value).get(name)
        if found is not None:
            return found
    return None


def get_address(scope: AsgiScope) -> str:
    """Return the address that a request comes from, as far as a trusted proxy says it."""
    client = scope.get("client")
    return client[0] if client else ""


def check_origin(gateway: Gateway, scope: AsgiScope, *, is_needed: bool) -> None:
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


def _own_origin(scope: AsgiScope) -> tuple[str, str, int | None] | None:
    hosts = get_headers(scope, b"host")
    scheme = {"ws": "http", "wss": "https"}.get(scope["scheme"], scope["scheme"])
    return _origin(f"{scheme}://{hosts[0]}") if len(hosts) == 1 else None


async def judge_token(gateway: Gateway, token: str) -> Identity:
    """Return who a token speaks for; an authenticator that returns nothing denies.

    Raises `Unauthenticated`, `Unavailable`, and `ContractError` for what is no identity.
    """
    found: object = await gateway.authenticator.authenticate(token)
    if found is None:
        raise Unauthenticated("invalid", "the authenticator knows nobody by this token")
    if not isinstance(found, Identity):
        raise ContractError(
            f"{type(gateway.authenticator).__name__}.authenticate returned "
            f"{type(found).__name__}; return an isolane.Identity, or None to deny"
        )
    try:
        check_user_id("user_id", found.user_id)
    except InvalidContext as error:
        raise ContractError(
            f"{type(gateway.authenticator).__name__}.authenticate returned an Identity of nobody; "
            f"return None to deny"
        ) from error
    if found.expires_at is not None and gateway.clock() >= found.expires_at:
        raise Unauthenticated("expired", "the credential is expired")
    return gateway.check_revoked(found)


async def judge_cookie(gateway: Gateway, scope: AsgiScope, *, is_write: bool) -> Identity:
    """Return who a cookie speaks for: the host's own where it has users, else the session's.

    A cookie comes along whoever asks, so the page that asks must be known: for each write, and
    for each socket. Raises `Unauthenticated`, `Forbidden`.
    """
    secret = get_cookie(scope, gateway.cookie) if gateway.cookie else None
    if secret is None:
        raise Unauthenticated("missing")
    check_origin(gateway, scope, is_needed=is_write)
    if gateway.has_own_users:
        return gateway.check_revoked(await gateway.sessions.load(secret))
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


async def _identify(gateway: OpenGateway, request: Request) -> Identity:
    is_write = request.method not in _SAFE_METHODS
    return await authenticate(gateway, request.scope, is_write=is_write)


def _allowing(needed: Scope) -> Callable[[Identity], Awaitable[Identity]]:
    async def allow(identity: Annotated[Identity, Depends(_identify)]) -> Identity:
        require(identity, needed)
        return identity

    return allow


def make_context(
    identity: Identity, scope: AsgiScope, *, connection_id: str | None = None
) -> UserExecutionContext:
    """Return the context of one request: whose it is, and the id that a proxy gave it, if any."""
    given = get_headers(scope, b"x-request-id")
    return UserExecutionContext(
        user_id=identity.user_id,
        connection_id=connection_id,
        parent_request_id=given[0] if given else None,
    )


Identified = Annotated[Identity, Depends(_identify)]
"""What a route asks for to know whose credential came, whatever that may do."""
Reader = Annotated[Identity, Depends(_allowing(Scope.READ))]
"""As above, for a credential that may read."""
Writer = Annotated[Identity, Depends(_allowing(Scope.WRITE))]
"""As above, for a credential that may write."""
Admin = Annotated[Identity, Depends(_allowing(Scope.ADMIN))]
"""As above, for a credential that may act on other users."""


async def _context_to_read(identity: Reader, request: Request) -> UserExecutionContext:
    return make_context(identity, request.scope)


async def _context_to_write(identity: Writer, request: Request) -> UserExecutionContext:
    return make_context(identity, request.scope)


ReadContext = Annotated[UserExecutionContext, Depends(_context_to_read)]
"""What a route asks for to read for the user."""
WriteContext = Annotated[UserExecutionContext, Depends(_context_to_write)]
"""What a route asks for to act for the user."""
