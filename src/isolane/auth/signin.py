"""Sign-in at a provider: OpenID Connect's authorization code with PKCE, state and nonce."""

from __future__ import annotations

import secrets
from base64 import b64encode
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from typing import Final, cast
from urllib.parse import quote_plus

from authlib.oauth2.rfc6749.parameters import prepare_grant_uri, prepare_token_request
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from sqlalchemy import Connection, delete, insert, select

from isolane.auth.providers import Provider, ask
from isolane.auth.single_use import digest_of, take_row
from isolane.auth.tokens import check_claims, open_token, refused, to_identity, verify
from isolane.clock import Clock
from isolane.errors import SHOWN_CHARACTERS, InvalidFrame, Unauthenticated, Unavailable
from isolane.sql.database import Database
from isolane.sql.expiry import delete_expired
from isolane.sql.tables import sign_ins
from isolane.subjects import SEPARATOR
from isolane.wire.frames import decode_object

LIFETIME_MS: Final = 10 * 60_000
"""Milliseconds after which an unfinished sign-in expires."""
PENDING_MAX: Final = 1000
"""Maximum number of unfinished sign-ins that are kept."""
SURPLUS_AT_ONCE: Final = 100
"""Sign-ins above that bound that one new sign-in removes."""


@dataclass(frozen=True, slots=True)
class Pending:
    """An unfinished sign-in. Its three secrets are kept together only here."""

    provider: str
    redirect_uri: str
    expires_at: int
    state: str = field(repr=False)
    nonce: str = field(repr=False)
    verifier: str = field(repr=False)


class SignIns:
    """The unfinished sign-ins. They survive a restart, and each can be finished once."""

    def __init__(self, database: Database, *, clock: Clock) -> None:
        """Keep sign-ins in `database`; `clock` is monotonic."""
        self._database = database
        self._clock = clock

    async def begin(self, provider: str, redirect_uri: str) -> Pending:
        """Create a sign-in; above the bound the oldest is removed.

        Raises:
            Unavailable: The database can't be written.
        """
        pending = Pending(
            provider,
            redirect_uri,
            self._clock() + LIFETIME_MS,
            state=secrets.token_urlsafe(32),
            nonce=secrets.token_urlsafe(32),
            verifier=secrets.token_urlsafe(64),
        )
        await self._database.write(partial(_insert, pending))
        return pending

    async def take(self, provider: str, state: str) -> Pending:
        """Return the sign-in that a provider answers, and delete it.

        A cancelled call may have deleted it.

        Raises:
            Unauthenticated: There is no such sign-in, or it has expired.
            Unavailable: The database can't be used.
        """
        row = await take_row(self._database, sign_ins, state)
        # A sign-in of the future began before the clock was set back and the gateway restarted.
        left_ms = 0 if row is None else row.expires_at - self._clock()
        if row is None or row.provider != provider or not 0 < left_ms <= LIFETIME_MS:
            raise Unauthenticated("invalid", "no such sign-in is under way")
        return Pending(
            row.provider,
            row.redirect_uri,
            row.expires_at,
            state=state,
            nonce=row.nonce,
            verifier=row.verifier,
        )


def _insert(pending: Pending, connection: Connection) -> None:
    delete_expired(sign_ins, pending.expires_at - LIFETIME_MS, connection)
    newest = select(sign_ins.c.digest).order_by(sign_ins.c.expires_at.desc())
    surplus = newest.offset(PENDING_MAX - 1).limit(SURPLUS_AT_ONCE)
    connection.execute(delete(sign_ins).where(sign_ins.c.digest.in_(surplus)))
    connection.execute(
        insert(sign_ins).values(
            digest=digest_of(pending.state),
            provider=pending.provider,
            redirect_uri=pending.redirect_uri,
            nonce=pending.nonce,
            verifier=pending.verifier,
            expires_at=pending.expires_at,
        )
    )


async def make_address(provider: Provider, pending: Pending) -> str:
    """Return the address at which the browser signs in.

    Raises:
        Unavailable: The provider doesn't answer.
    """
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
    """Return the user id that the provider vouches for.

    Raises:
        Unauthenticated: The provider refused the code, or its ID token is invalid.
        Unavailable: The provider doesn't answer.
    """
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
        # RFC 6749, 2.3.1, wants both form-encoded first. Releases of authlib differ in that.
        names = settings.client_id, settings.client_secret.get_secret_value()
        pair = ":".join(quote_plus(name) for name in names)
        headers["authorization"] = f"Basic {b64encode(pair.encode()).decode()}"
    return body, headers


async def _read_user(provider: Provider, pending: Pending, id_token: object) -> str:
    """Return the user id in an ID token, checked by OpenID Connect Core 1.0, 3.1.3.7."""
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
