"""Signing in at a provider: OpenID Connect's authorization code, with PKCE, state and nonce."""

from __future__ import annotations

import secrets
from base64 import b64encode
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final, cast
from urllib.parse import quote_plus

from authlib.oauth2.rfc6749.parameters import prepare_grant_uri, prepare_token_request
from authlib.oauth2.rfc7636 import create_s256_code_challenge

from isolane.auth.providers import Provider, ask
from isolane.auth.tokens import check_claims, open_token, refused, to_identity, verify
from isolane.clock import Clock
from isolane.errors import SHOWN_CHARACTERS, InvalidFrame, Unauthenticated, Unavailable
from isolane.frames import decode_object
from isolane.subjects import SEPARATOR

LIFETIME_MS: Final = 10 * 60_000
"""A sign-in that took longer begins anew."""
PENDING_MAX: Final = 1000


@dataclass(frozen=True, slots=True)
class Pending:
    """A sign-in that is under way at a provider. Its secrets never meet in one place elsewhere."""

    provider: str
    redirect_uri: str
    expires_at: int
    state: str = field(repr=False)
    nonce: str = field(repr=False)
    verifier: str = field(repr=False)


class SignIns:
    """The sign-ins of one process that are under way. They die soon, so a restart loses few."""

    def __init__(self, clock: Clock) -> None:
        """Begin with none; nobody sets `clock`."""
        self._clock = clock
        self._pending: dict[str, Pending] = {}

    def begin(self, provider: str, redirect_uri: str) -> Pending:
        """Remember a new sign-in; the oldest is forgotten when there are too many."""
        pending = Pending(
            provider,
            redirect_uri,
            self._clock() + LIFETIME_MS,
            state=secrets.token_urlsafe(32),
            nonce=secrets.token_urlsafe(32),
            verifier=secrets.token_urlsafe(64),
        )
        while len(self._pending) >= PENDING_MAX:
            del self._pending[next(iter(self._pending))]
        self._pending[pending.state] = pending
        return pending

    def take(self, provider: str, state: str) -> Pending:
        """Return the sign-in that a provider answers, once; raises `Unauthenticated`."""
        pending = self._pending.pop(state, None)
        if pending is None or pending.provider != provider or self._clock() >= pending.expires_at:
            raise Unauthenticated("invalid", "no such sign-in is under way")
        return pending


async def make_address(provider: Provider, pending: Pending) -> str:
    """Return where the browser goes to sign in; raises `Unavailable`."""
    return cast(
        "str",
        prepare_grant_uri(
            await provider.find_endpoint("authorization_endpoint"),
            provider.settings.client_id,
            "code",
            redirect_uri=pending.redirect_uri,
            scope="openid",
            state=pending.state,
            nonce=pending.nonce,
            code_challenge=create_s256_code_challenge(pending.verifier),
            code_challenge_method="S256",
        ),
    )


async def finish(provider: Provider, pending: Pending, code: str) -> str:
    """Return the user id that the provider vouches for; raises `Unauthenticated`, `Unavailable`."""
    endpoint = await provider.find_endpoint("token_endpoint")
    body, headers = _make_request(provider, pending, code)
    status, answer = await ask(provider.http, "POST", endpoint, body=body, headers=headers)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise Unavailable(f"{provider.name} answered {status} to the code")
    try:
        found = decode_object(answer)
    except InvalidFrame as error:
        raise Unavailable(f"{provider.name}: its answer can't be read") from error
    if status != HTTPStatus.OK:
        said = str(found.get("error"))[:SHOWN_CHARACTERS]
        raise Unauthenticated("invalid", f"{provider.name} refused the code: {said}")
    return await _read_user(provider, pending, found.get("id_token"))


def _make_request(provider: Provider, pending: Pending, code: str) -> tuple[str, dict[str, str]]:
    settings = provider.settings
    headers = {"content-type": "application/x-www-form-urlencoded", "accept": "application/json"}
    body = prepare_token_request(
        "authorization_code",
        code=code,
        redirect_uri=pending.redirect_uri,
        code_verifier=pending.verifier,
        client_id=settings.client_id,
    )
    if settings.client_id is not None and settings.client_secret is not None:
        # Both are form-encoded first (RFC 6749, 2.3.1), which releases of authlib do differently.
        names = settings.client_id, settings.client_secret.get_secret_value()
        pair = ":".join(quote_plus(name) for name in names)
        headers["authorization"] = f"Basic {b64encode(pair.encode()).decode()}"
    return body, headers


async def _read_user(provider: Provider, pending: Pending, id_token: object) -> str:
    """Return whom an ID token names, checked as OpenID Connect Core 1.0, 3.1.3.7, says."""
    if not isinstance(id_token, str):
        raise refused("the provider sent no ID token")
    opened = open_token(id_token)
    client_id = provider.settings.client_id
    check_claims(opened, audience=client_id, leeway=provider.leeway, is_id_token=True)
    verify(
        opened,
        await provider.keys.find(opened.key_id, opened.algorithm),
        algorithms=[opened.algorithm],
        issuer=provider.settings.issuer,
        audience=client_id,
        leeway=provider.leeway,
    )
    if not secrets.compare_digest(str(opened.claims.get("nonce")), pending.nonce):
        raise refused("the ID token is of another sign-in")
    if opened.claims.get("azp", client_id) != client_id:
        raise refused("the ID token is for another client")
    return to_identity(opened, prefix=provider.name + SEPARATOR).user_id
