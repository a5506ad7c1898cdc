"""Sign-in at a provider: to the provider's page, and back with a session."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Any, Final

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import BaseModel

from isolane.auth import signin
from isolane.auth.providers import Provider
from isolane.doors.credentials import get_address, get_cookie
from isolane.doors.dependencies import READY, CredentialsDep, SettingsDep, SignInDep
from isolane.doors.head import is_head
from isolane.doors.outside import SIGN_IN_PATH, get_home, get_origin, is_secure
from isolane.doors.parts import Credentials, SignInDesk
from isolane.doors.problems import report
from isolane.doors.sessions import get_device, set_cookie
from isolane.errors import IsolaneError, NotFound, Unauthenticated
from isolane.settings import COOKIE_NAME, Settings

router = APIRouter(tags=["sessions"])

STATE_COOKIE: Final = "isolane_signin"
"""Cookie that ties an answer to the browser that asked, so that nobody is signed in with another
person's answer."""
FAILED: Final = "?signin="
"""Query of the page's address after a failed sign-in; the error's code follows."""


class ProviderOut(BaseModel):
    """A provider where users may sign in, with its label."""

    name: str
    label: str
    href: str


class Ways(BaseModel):
    """The ways to sign in here."""

    password: bool
    """True when users may sign in with a local account."""
    providers: list[ProviderOut]


@router.get("/api/signin")
async def list_ways(credentials: CredentialsDep, desk: SignInDep, request: Request) -> Ways:
    """List the ways to sign in."""
    path = get_signin_path(request.scope)
    providers = [
        ProviderOut(
            name=each.name,
            label=each.settings.label or each.name,
            href=f"{path}/{each.name}",
        )
        for each in desk.providers.values()
        if each.settings.client_id is not None
    ]
    return Ways(password=credentials.has_own_users, providers=providers)


@router.get(f"{SIGN_IN_PATH}/{{name}}", include_in_schema=False, dependencies=[READY])
async def go_to_provider(
    credentials: CredentialsDep,
    desk: SignInDep,
    settings: SettingsDep,
    request: Request,
    name: str,
) -> Response:
    """Redirect the browser to the provider's page."""
    provider = _find(credentials, desk, name)
    if is_head(request.scope):
        return RedirectResponse(get_home(request.scope), status_code=303)
    await desk.guesses.count(get_address(request.scope))
    path = get_signin_path(request.scope)
    callback = f"{get_origin(request.scope)}{path}/{name}/callback"
    pending = await desk.pending.begin(name, callback)
    try:
        address = await signin.make_address(provider, pending)
    except IsolaneError as error:
        return _fail(request, error)
    response = RedirectResponse(address, status_code=303)
    response.set_cookie(
        state_cookie_of(settings),
        pending.state,
        max_age=signin.LIFETIME_MS // 1000,
        httponly=True,
        samesite="lax",  # the provider's redirect is a navigation from another site
        secure=is_secure(request.scope),
        path=path,
    )
    response.headers["cache-control"] = "no-store"
    return response


@router.get(f"{SIGN_IN_PATH}/{{name}}/callback", include_in_schema=False, dependencies=[READY])
async def return_from_provider(
    credentials: CredentialsDep,
    desk: SignInDep,
    settings: SettingsDep,
    request: Request,
    name: str,
    *,
    state: str = "",
    code: str = "",
) -> Response:
    """Accept the provider's answer, begin a session, and go to the page."""
    provider = _find(credentials, desk, name)
    response = RedirectResponse(get_home(request.scope), status_code=303)
    if is_head(request.scope):  # the code is for the browser, which comes with a GET
        return response
    try:
        _check_browser(get_cookie(request.scope, state_cookie_of(settings)), state)
        pending = await desk.pending.take(name, state)
        if not code:
            said = request.query_params.get("error", "nothing")
            raise Unauthenticated("invalid", f"{name} answered {said[:64]!r}")
        user_id = await signin.finish(provider, pending, code)
        begun = await credentials.sessions.begin(user_id, device=get_device(request))
    except IsolaneError as error:
        return _fail(request, error)
    set_cookie(settings, request, response, begun)
    response.delete_cookie(state_cookie_of(settings), path=get_signin_path(request.scope))
    return response


def state_cookie_of(settings: Settings) -> str:
    """Return the cookie's name, which follows the name of the session cookie."""
    name = settings.cookie_name
    return STATE_COOKIE if name == COOKIE_NAME else f"{name}_signin"


def _find(credentials: Credentials, desk: SignInDesk, name: str) -> Provider:
    provider = desk.providers.get(name) if credentials.has_own_users else None
    if provider is None or provider.settings.client_id is None:
        raise NotFound(f"nobody signs in at {name}")
    return provider


def _check_browser(cookie: str | None, state: str) -> None:
    if not cookie:
        raise Unauthenticated(
            "invalid",
            "no cookie of a sign-in came along: it began in another browser, or at another address"
            " than the one it ended at, which ISOLANE_PUBLIC_URL says behind a proxy",
        )
    if not hmac.compare_digest(cookie.encode(), state.encode()):
        raise Unauthenticated("invalid", "the answer belongs to another browser's sign-in")


def get_signin_path(scope: Mapping[str, Any]) -> str:
    """Return the path of a sign-in in addresses."""
    return f"{get_home(scope).rstrip('/')}{SIGN_IN_PATH}"


def _fail(request: Request, error: IsolaneError) -> Response:
    """Redirect to the page, which explains the failure."""
    known, _ = report(error)
    home = get_home(request.scope)
    return RedirectResponse(f"{home}{FAILED}{known.code}", status_code=303)
