"""Signing in at a provider: out to its page, and back with a session."""

from __future__ import annotations

import hmac
from typing import Final

import structlog
from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import BaseModel

from isolane.auth import signin
from isolane.auth.providers import Provider
from isolane.doors.credentials import get_address, get_cookie
from isolane.doors.gateway import Gateway, OpenGateway
from isolane.doors.problems import report
from isolane.doors.sessions import SIGN_IN_PATH, begin_session
from isolane.errors import IsolaneError, NotFound, Unauthenticated

router = APIRouter(tags=["sessions"])

STATE_COOKIE: Final = "isolane_signin"
"""Ties the answer to the browser that asked: nobody is signed in with somebody else's answer."""
FAILED: Final = "/?signin="
"""Where a person lands whose sign-in failed, with the error's code behind."""

_log = structlog.get_logger(__name__)


class ProviderOut(BaseModel):
    """Where users may sign in, and under which words."""

    name: str
    label: str
    href: str


class Ways(BaseModel):
    """How users may sign in here."""

    password: bool
    """With the name and password of a local account."""
    providers: list[ProviderOut]


@router.get("/api/signin")
async def list_ways(gateway: OpenGateway) -> Ways:
    """Say how users may sign in."""
    providers = [
        ProviderOut(
            name=each.name,
            label=each.settings.label or each.name,
            href=f"{SIGN_IN_PATH}/{each.name}",
        )
        for each in gateway.providers.values()
        if each.settings.client_id is not None
    ]
    return Ways(password=gateway.has_own_users, providers=providers)


@router.get(f"{SIGN_IN_PATH}/{{name}}", include_in_schema=False)
async def go_to_provider(gateway: OpenGateway, request: Request, name: str) -> Response:
    """Send the browser to the provider's page."""
    gateway.check_ready()
    provider = _find(gateway, name)
    gateway.guesses.count(get_address(request.scope))
    pending = gateway.sign_ins.begin(name, str(request.url_for("return_from_provider", name=name)))
    try:
        address = await signin.make_address(provider, pending)
    except IsolaneError as error:
        return _fail(error)
    response = RedirectResponse(address, status_code=303)
    response.set_cookie(
        STATE_COOKIE,
        pending.state,
        max_age=signin.LIFETIME_MS // 1000,
        httponly=True,
        samesite="lax",  # the provider's redirect is a navigation from another site
        secure=request.url.scheme == "https",
        path=SIGN_IN_PATH,
    )
    response.headers["cache-control"] = "no-store"
    return response


@router.get(f"{SIGN_IN_PATH}/{{name}}/callback", include_in_schema=False)
async def return_from_provider(
    gateway: OpenGateway, request: Request, name: str, state: str = "", code: str = ""
) -> Response:
    """Take the provider's answer, begin a session, and go to the page."""
    gateway.check_ready()
    provider = _find(gateway, name)
    response = RedirectResponse("/", status_code=303)
    try:
        if not hmac.compare_digest(
            (get_cookie(request.scope, STATE_COOKIE) or "").encode(), state.encode()
        ):
            raise Unauthenticated("invalid", "the answer belongs to another browser's sign-in")
        pending = gateway.sign_ins.take(name, state)
        if not code:
            said = request.query_params.get("error", "nothing")
            raise Unauthenticated("invalid", f"{name} answered {said[:64]!r}")
        user_id = await signin.finish(provider, pending, code)
        await begin_session(gateway, request, response, user_id)
    except IsolaneError as error:
        return _fail(error)
    response.delete_cookie(STATE_COOKIE, path=SIGN_IN_PATH)
    return response


def _find(gateway: Gateway, name: str) -> Provider:
    provider = gateway.providers.get(name)
    if provider is None or provider.settings.client_id is None or not gateway.has_own_users:
        raise NotFound(f"nobody signs in at {name}")
    return provider


def _fail(error: IsolaneError) -> Response:
    """Bring a person back to the page, which says it in words."""
    known, _ = report(error)
    return RedirectResponse(f"{FAILED}{known.code}", status_code=303)
