"""Signing in: what turns one credential into another."""

from __future__ import annotations

from fastapi import APIRouter, Request
from pydantic import BaseModel

from isolane.contracts import Identity
from isolane.doors.gateway import Gateway, OpenGateway
from isolane.errors import Unauthenticated


class TicketOut(BaseModel):
    """A single-use ticket for the WebSocket's address."""

    ticket: str
    expiresAt: int  # noqa: N815 - the wire's name


router = APIRouter(prefix="/api", tags=["sessions"])


@router.post("/tickets")
async def create_ticket(gateway: OpenGateway, request: Request) -> TicketOut:
    """Give out a ticket that stands for the bearer once, within 30 s."""
    ticket = gateway.tickets.issue(await authenticate(gateway, request))
    return TicketOut(ticket=ticket.secret, expiresAt=ticket.expires_at)


async def authenticate(gateway: Gateway, request: Request) -> Identity:
    """Return who an HTTP request speaks for; raises `Unauthenticated`, `Unavailable`."""
    gateway.check_ready()
    header = request.headers.get("authorization")
    if header is None:
        raise Unauthenticated("missing")
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer":
        raise Unauthenticated("invalid", "only bearer tokens are taken")
    return await gateway.authenticator.authenticate(token.strip())
