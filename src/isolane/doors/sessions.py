"""Routes for signing in and out, and for exchanging one credential for another."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import BaseModel, Field

from isolane.auth.sessions import Begun, Settle, session_id_of
from isolane.contracts import Identity
from isolane.doors.credentials import (
    Admin,
    Identified,
    Reader,
    Writer,
    check_origin,
    get_address,
    get_cookies,
    get_headers,
)
from isolane.doors.gateway import Gateway, OpenGateway
from isolane.doors.head import is_head
from isolane.doors.outside import SIGN_IN_PATH, get_cookie_path, get_home, is_secure
from isolane.doors.request import UserRoute
from isolane.errors import NotFound, Unauthenticated
from isolane.ids import NAME_WRITTEN_MAX, check_user_id

router = APIRouter(tags=["sessions"], route_class=UserRoute)

# ruff: noqa: N815 - the fields below are the wire's names


class SignIn(BaseModel):
    """A local account's name and password."""

    username: str = Field(max_length=NAME_WRITTEN_MAX)
    password: str


class Me(BaseModel):
    """The user behind the credential, and its expiry in milliseconds since 1970."""

    userId: str
    expiresAt: int | None


class TicketOut(BaseModel):
    """A single-use ticket for a WebSocket's address."""

    ticket: str
    expiresAt: int


class SessionOut(BaseModel):
    """One of the user's sessions.

    Times are milliseconds since 1970; `lastSeenAt` is exact to a minute.
    """

    sessionId: str
    device: str
    """Name of the browser, from its own header."""
    createdAt: int
    lastSeenAt: int
    isCurrent: bool


class Sessions(BaseModel):
    """The user's sessions, the most recently used first."""

    sessions: list[SessionOut]


@router.post("/api/session")
async def sign_in(gateway: OpenGateway, request: Request, response: Response, given: SignIn) -> Me:
    """Sign in to a local account; sets the session cookie."""
    gateway.check_ready()
    gateway.credentials.check_own_users()
    check_origin(gateway.settings, request.scope, is_needed=False)
    address = get_address(request.scope)
    async with gateway.sign_in.guesses.attempt(given.username, address) as forget:
        user_id = await gateway.sign_in.accounts.verify(given.username, given.password)
        begun = await begin_session(gateway, request, response, user_id, settle=forget)
    return _me(begun.identity)


@router.delete("/api/session", status_code=204, response_model=None)
async def sign_out(gateway: OpenGateway, request: Request, response: Response) -> None:
    """End the session, if there is one, and clear the cookie."""
    name = gateway.settings.cookie_name
    secrets = get_cookies(request.scope, name)
    if secrets:
        check_origin(gateway.settings, request.scope, is_needed=True)
    # all of them, because a cookie of a path above would sign the person in again
    for secret in secrets:
        await _end(gateway, secret)
    response.delete_cookie(name, path=get_cookie_path(request.scope))


@router.get("/api/sessions")
async def list_sessions(gateway: OpenGateway, identity: Reader) -> Sessions:
    """List the user's sessions."""
    found = await gateway.credentials.sessions.load_all(identity.user_id)
    listed = [
        SessionOut(
            sessionId=session.session_id,
            device=session.device,
            createdAt=session.created_at,
            lastSeenAt=session.last_seen_at,
            isCurrent=session.session_id == identity.session_id,
        )
        for session in found
    ]
    return Sessions(sessions=listed)


@router.delete("/api/sessions", status_code=204, response_model=None)
async def sign_out_everywhere(
    gateway: OpenGateway, identity: Writer, request: Request, response: Response
) -> None:
    """End all the user's sessions, and revoke every token that was issued to them so far."""
    await gateway.credentials.sessions.end_all(identity.user_id)
    await gateway.enforce_revocations()
    response.delete_cookie(gateway.settings.cookie_name, path=get_cookie_path(request.scope))


@router.delete("/api/sessions/{session_id}", status_code=204, response_model=None)
async def end_session(gateway: OpenGateway, identity: Writer, session_id: str) -> None:
    """End one of the user's sessions, for example on a lost device."""
    await gateway.credentials.sessions.end(identity.user_id, session_id)
    await gateway.enforce_revocations()


@router.post("/api/users/{user_id}/sign-out", status_code=204, response_model=None)
async def sign_user_out(
    gateway: OpenGateway, _admin: Admin, user_id: Annotated[str, Path(max_length=NAME_WRITTEN_MAX)]
) -> None:
    """Sign another user out everywhere; the answer doesn't tell whether the user exists."""
    await gateway.credentials.sessions.end_all(check_user_id("userId", user_id))
    await gateway.enforce_revocations()


@router.get("/api/me")
async def me(identity: Identified) -> Me:
    """Return the user of the credential."""
    return _me(identity)


@router.post("/api/tickets")
async def create_ticket(gateway: OpenGateway, identity: Identified, request: Request) -> TicketOut:
    """Issue a ticket for the user, which can be used once within 30 s.

    A ticket for a page works only for pages of the same origin.
    """
    origins = get_headers(request.scope, b"origin")
    origin = origins[0] if origins else None
    ticket = await gateway.credentials.tickets.issue(identity, origin=origin)
    return TicketOut(ticket=ticket.secret, expiresAt=ticket.expires_at)


@router.get(SIGN_IN_PATH, include_in_schema=False)
async def sign_in_by_link(gateway: OpenGateway, request: Request, code: str = "") -> Response:
    """Sign in by a one-time link, and go to the page."""
    response = RedirectResponse(get_home(request.scope), status_code=303)
    # from a program that looks where a link leads, before a person follows it
    if is_head(request.scope):
        return response
    links = gateway.sign_in.links
    try:
        identity = await links.find(code)
        spend = partial(links.spend, code)
        await begin_session(gateway, request, response, identity.user_id, settle=spend)
    except Unauthenticated:
        if "text/html" not in request.headers.get("accept", ""):
            raise
    return response  # after a used link without a cookie: the page asks the person to sign in


async def begin_session(
    gateway: Gateway,
    request: Request,
    response: Response,
    user_id: str,
    *,
    settle: Settle | None = None,
) -> Begun:
    """Begin a session for a user who has just proved their identity, and set its cookie.

    `settle` writes in the same transaction what the proof changes.
    """
    device = request.headers.get("user-agent", "")
    begun = await gateway.credentials.sessions.begin(user_id, device=device, settle=settle)
    response.set_cookie(
        gateway.settings.cookie_name,
        begun.secret,
        max_age=round(gateway.settings.session_max_s),
        httponly=True,
        samesite="lax",
        secure=is_secure(request.scope),
        path=get_cookie_path(request.scope),
    )
    response.headers["cache-control"] = "no-store"
    return begun


async def _end(gateway: Gateway, secret: str) -> None:
    """End a cookie's session; a session that has ended stays ended."""
    try:
        identity = await gateway.credentials.sessions.load(secret)
        await gateway.credentials.sessions.end(identity.user_id, session_id_of(secret))
    except (Unauthenticated, NotFound):
        return
    await gateway.enforce_revocations()


def _me(identity: Identity) -> Me:
    return Me(userId=identity.user_id, expiresAt=identity.expires_at)
