"""Signing in: what turns one credential into another."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import BaseModel

from isolane.auth.sessions import LIFETIME_MS
from isolane.contracts import Identity
from isolane.doors.credentials import COOKIE, Identified, check_origin, get_cookie
from isolane.doors.gateway import Gateway, OpenGateway
from isolane.errors import Unauthenticated

router = APIRouter(tags=["sessions"])

SIGN_IN_PATH: Final = "/signin"


class SignIn(BaseModel):
    """A local account's name and password."""

    username: str
    password: str


class Me(BaseModel):
    """Who the credential speaks for, and until when (milliseconds since 1970)."""

    userId: str  # noqa: N815 - the wire's names
    expiresAt: int | None  # noqa: N815


class TicketOut(BaseModel):
    """A single-use ticket for the WebSocket's address."""

    ticket: str
    expiresAt: int  # noqa: N815


@router.post("/api/session")
async def sign_in(gateway: OpenGateway, request: Request, response: Response, given: SignIn) -> Me:
    """Sign in to a local account; sets the session cookie."""
    gateway.check_ready()
    check_origin(gateway, request.scope, is_needed=False)
    user_id = await gateway.accounts.verify(given.username, given.password)
    return await _begin(gateway, request, response, user_id)


@router.delete("/api/session", status_code=204)
async def sign_out(gateway: OpenGateway, request: Request, response: Response) -> None:
    """End the session, if there is one, and clear the cookie."""
    secret = get_cookie(request.scope)
    if secret is not None:
        check_origin(gateway, request.scope, is_needed=True)
        identity = await gateway.sessions.end(secret)
        if identity is not None:
            gateway.factory.revoke(identity)
    response.delete_cookie(COOKIE, path="/")


@router.get("/api/me")
async def me(identity: Identified) -> Me:
    """Say whose credential this is."""
    return _me(identity)


@router.post("/api/tickets")
async def create_ticket(gateway: OpenGateway, identity: Identified) -> TicketOut:
    """Give out a ticket that stands for the bearer once, within 30 s."""
    ticket = gateway.tickets.issue(identity)
    return TicketOut(ticket=ticket.secret, expiresAt=ticket.expires_at)


@router.get(SIGN_IN_PATH, include_in_schema=False)
async def sign_in_by_link(gateway: OpenGateway, request: Request, code: str = "") -> Response:
    """Sign in by a one-time link, and go to the page."""
    response = RedirectResponse("/", status_code=303)
    try:
        identity = gateway.links.redeem(code)
    except Unauthenticated:
        if "text/html" not in request.headers.get("accept", ""):
            raise
        return response  # a person with a used link: the page asks them to sign in
    await _begin(gateway, request, response, identity.user_id)
    return response


async def _begin(gateway: Gateway, request: Request, response: Response, user_id: str) -> Me:
    session = await gateway.sessions.begin(user_id)
    response.set_cookie(
        COOKIE,
        session.secret,
        max_age=LIFETIME_MS // 1000,
        httponly=True,
        samesite="lax",
        secure=request.url.scheme == "https",
        path="/",
    )
    response.headers["cache-control"] = "no-store"
    return _me(Identity(user_id, session.expires_at))


def _me(identity: Identity) -> Me:
    return Me(userId=identity.user_id, expiresAt=identity.expires_at)
