"""The wiring of identity: own tokens, providers, sessions, or the users of a host."""

from __future__ import annotations

import hmac
import os
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final

import structlog
from pydantic import SecretStr

from isolane import clock
from isolane.auth.accounts import Accounts
from isolane.auth.guessing import GuessGuard
from isolane.auth.judge import Judge
from isolane.auth.local import LocalIssuer
from isolane.auth.outbound import create_http
from isolane.auth.providers import Issuers, Provider
from isolane.auth.revocations import Revocations
from isolane.auth.sessions import SessionBook
from isolane.auth.signin import SignIns
from isolane.auth.strangers import Strangers
from isolane.auth.tickets import TicketBook
from isolane.contracts import Authenticator, SigningKey, SigningKeys, ensure
from isolane.doors.parts import Credentials, SignInDesk
from isolane.engines.file.signing_keys import FileSigningKeys
from isolane.engines.memory.signing_keys import LocalSigningKeys
from isolane.settings import KEY_NAME, Settings
from isolane.sql.database import Database
from isolane.subjects import Subjects
from isolane.tasks import TaskOwner

LINK_LIFETIME_MS: Final = 24 * 3600 * 1000
"""Milliseconds for which a sign-in link can be used."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class HostUsers:
    """A host's own users: who tells them apart, and in which cookie, if any, their token comes."""

    authenticator: Authenticator
    cookie: str | None = None


def prove_key(secret: SecretStr | None) -> str:
    """Return what tells two keys of settings apart, and nothing else of them; "" without one."""
    if secret is None:
        return ""
    return hmac.digest(secret.get_secret_value().encode(), b"isolane node", "sha256").hex()


def make_issuer(settings: Settings) -> LocalIssuer:
    """Return the local issuer, with the key of the settings or those of the data folder."""
    secret = settings.secret_key
    keys = (
        LocalSigningKeys(SigningKey(secret.get_secret_value()))
        if secret
        else FileSigningKeys(settings.data / KEY_NAME)
    )
    return LocalIssuer(
        ensure(keys, SigningKeys),
        issuer=settings.issuer,
        audience=settings.audience,
        clock=clock.now_ms,
        foreign=[provider.name for provider in settings.providers],
        leeway_s=settings.clock_leeway_s,
    )


def make_credentials(
    settings: Settings,
    database: Database,
    providers: Mapping[str, Provider],
    *,
    tasks: TaskOwner,
    users: HostUsers | None,
) -> Credentials:
    """Return what tells who comes. Where the host has `users`, it is their authenticator's word."""
    issuer = make_issuer(settings)
    own = ensure(Issuers(issuer, providers), Authenticator)
    authenticator = own if users is None else users.authenticator
    return Credentials(
        judge=Judge(authenticator, tasks=tasks, is_own=users is None),
        clock=clock.now_ms,
        cookie=settings.cookie_name if users is None else users.cookie or "",
        has_own_users=users is None,
        subjects=_make_subjects(settings, has_own_users=users is None),
        issuer=issuer,
        sessions=SessionBook(
            database,
            clock=clock.now_ms,
            tasks=tasks,
            idle_ms=round(settings.session_idle_s * 1000),
            max_ms=round(settings.session_max_s * 1000),
        ),
        tickets=TicketBook(database, "socket", clock=clock.now_ms, timer=clock.new_steady_clock()),
        revocations=Revocations(database, clock=clock.now_ms),
        strangers=Strangers(
            clock=clock.monotonic_ms, per_minute=settings.limit_failed_handshakes_per_address
        ),
    )


def _make_subjects(settings: Settings, *, has_own_users: bool) -> Subjects:
    """Return what knows the issuers of user ids; where the host has the users, there are none."""
    if not has_own_users:
        return Subjects()
    return Subjects(
        own_issuer=settings.issuer,
        issuers={each.name: each.issuer for each in settings.providers},
    )


def make_sign_in(database: Database, providers: Mapping[str, Provider]) -> SignInDesk:
    """Return what people sign in with."""
    steady = clock.new_steady_clock()
    return SignInDesk(
        accounts=Accounts(database, clock=clock.now_ms),
        guesses=GuessGuard(database, clock=steady),
        providers=providers,
        pending=SignIns(database, clock=steady),
        links=TicketBook(
            database,
            "sign-in",
            clock=clock.now_ms,
            timer=steady,
            lifetime_ms=LINK_LIFETIME_MS,
            replaces_oldest=True,
        ),
    )


async def open_providers(settings: Settings, stack: AsyncExitStack) -> dict[str, Provider]:
    """Make what speaks to the providers. They are asked when somebody comes with their token."""
    found: dict[str, Provider] = {}
    if settings.providers:
        http = await stack.enter_async_context(create_http(settings, os.environ))
        for each in settings.providers:
            found[each.name] = Provider(
                each, http, clock=clock.now_ms, leeway_s=settings.clock_leeway_s
            )
            stack.push_async_callback(found[each.name].keys.close)
            if each.audience is None:
                _log.warning("provider_without_audience", provider=each.name)
    return found
