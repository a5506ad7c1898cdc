"""Routes for signing in and out, and for exchanging one credential for another."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import BaseModel, Field

from isolane.auth.sessions import Begun, SessionBook, session_id_of
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
from isolane.doors.dependencies import (
    READY,
    CredentialsDep,
    EnforceDep,
    SettingsDep,
    SignInDep,
)
from isolane.doors.head import is_head
from isolane.doors.outside import SIGN_IN_PATH, get_cookie_path, get_home, is_secure
from isolane.doors.request import UserRoute
from isolane.errors import NotFound, Unauthenticated
from isolane.ids import NAME_WRITTEN_MAX, check_user_id
from isolane.settings import Settings

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


@router.post("/api/session", dependencies=[READY])
async def sign_in(
    credentials: CredentialsDep,
    desk: SignInDep,
    settings: SettingsDep,
    request: Request,
    response: Response,
    *,
    given: SignIn,
) -> Me:
    """Sign in to a local account; sets the session cookie."""
    credentials.check_own_users()
    check_origin(settings, request.scope, is_needed=False)
    async with desk.guesses.attempt(given.username, get_address(request.scope)) as forget:
        user_id = await desk.accounts.verify(given.username, given.password)
        begun = await credentials.sessions.begin(user_id, device=get_device(request), settle=forget)
    set_cookie(settings, request, response, begun)
    return _me(begun.identity)


@router.delete("/api/session", status_code=204, response_model=None)
async def sign_out(
    credentials: CredentialsDep,
    enforce: EnforceDep,
    settings: SettingsDep,
    request: Request,
    response: Response,
) -> None:
    """End the session, if there is one, and clear the cookie."""
    name = settings.cookie_name
    secrets = get_cookies(request.scope, name)
    if secrets:
        check_origin(settings, request.scope, is_needed=True)
    # all of them, because a cookie of a path above would sign the person in again
    for secret in secrets:
        if await _end(credentials.sessions, secret):
            await enforce()
    response.delete_cookie(name, path=get_cookie_path(request.scope))


@router.get("/api/sessions")
async def list_sessions(credentials: CredentialsDep, identity: Reader) -> Sessions:
    """List the user's sessions."""
    found = await credentials.sessions.load_all(identity.user_id)
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
    credentials: CredentialsDep,
    enforce: EnforceDep,
    settings: SettingsDep,
    identity: Writer,
    *,
    request: Request,
    response: Response,
) -> None:
    """End all the user's sessions, and revoke every token that was issued to them so far."""
    await credentials.sessions.end_all(identity.user_id)
    await enforce()
    response.delete_cookie(settings.cookie_name, path=get_cookie_path(request.scope))


@router.delete("/api/sessions/{session_id}", status_code=204, response_model=None)
async def end_session(
    credentials: CredentialsDep, enforce: EnforceDep, identity: Writer, session_id: str
) -> None:
    """End one of the user's sessions, for example on a lost device."""
    await credentials.sessions.end(identity.user_id, session_id)
    await enforce()


@router.post("/api/users/{user_id}/sign-out", status_code=204, response_model=None)
async def sign_user_out(
    credentials: CredentialsDep,
    enforce: EnforceDep,
    _admin: Admin,
    user_id: Annotated[str, Path(max_length=NAME_WRITTEN_MAX)],
) -> None:
    """Sign another user out everywhere; the answer doesn't tell whether the user exists."""
    await credentials.sessions.end_all(check_user_id("userId", user_id))
    await enforce()


@router.get("/api/me")
async def me(identity: Identified) -> Me:
    """Return the user of the credential."""
    return _me(identity)


@router.post("/api/tickets")
async def create_ticket(
    credentials: CredentialsDep, identity: Identified, request: Request
) -> TicketOut:
    """Issue a ticket for the user, which can be used once within 30 s.

    A ticket for a page works only for pages of the same origin.
    """
    origins = get_headers(request.scope, b"origin")
    origin = origins[0] if origins else None
    ticket = await credentials.tickets.issue(identity, origin=origin)
    return TicketOut(ticket=ticket.secret, expiresAt=ticket.expires_at)


@router.get(SIGN_IN_PATH, include_in_schema=False)
async def sign_in_by_link(
    credentials: CredentialsDep,
    desk: SignInDep,
    settings: SettingsDep,
    request: Request,
    code: str = "",
) -> Response:
    """Sign in by a one-time link, and go to the page."""
    response = RedirectResponse(get_home(request.scope), status_code=303)
    # from a program that looks where a link leads, before a person follows it
    if is_head(request.scope):
        return response
    spend = partial(desk.links.spend, code)
    try:
        user_id = (await desk.links.find(code)).user_id
        begun = await credentials.sessions.begin(user_id, device=get_device(request), settle=spend)
    except Unauthenticated:
        if "text/html" not in request.headers.get("accept", ""):
            raise
        return response  # the link is used up, and the page asks the person to sign in
    set_cookie(settings, request, response, begun)
    return response


def get_device(request: Request) -> str:
    """Return the name of the browser behind a request, from its own header."""
    return request.headers.get("user-agent", "")


def set_cookie(settings: Settings, request: Request, response: Response, begun: Begun) -> None:
    """Set the cookie of a session that has just begun."""
    response.set_cookie(
        settings.cookie_name,
        begun.secret,
        max_age=round(settings.session_max_s),
        httponly=True,
        samesite="lax",
        secure=is_secure(request.scope),
        path=get_cookie_path(request.scope),
    )
    response.headers["cache-control"] = "no-store"


async def _end(sessions: SessionBook, secret: str) -> bool:
    """End a cookie's session; False when it had ended before."""
    try:
        identity = await sessions.load(secret)
        await sessions.end(identity.user_id, session_id_of(secret))
    except (Unauthenticated, NotFound):
        return False
    return True


def _me(identity: Identity) -> Me:
    return Me(userId=identity.user_id, expiresAt=identity.expires_at)
