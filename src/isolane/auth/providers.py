"""OpenID Connect providers: issuers of others, whose tokens are checked with their public keys."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

import httpx

from isolane.auth.keys import DOCUMENT_MAX_BYTES, KeyCache
from isolane.auth.local import LocalIssuer
from isolane.auth.tokens import (
    Leeway,
    OpenedToken,
    check_claims,
    open_token,
    to_identity,
    verify,
)
from isolane.clock import Clock
from isolane.contracts import Identity
from isolane.errors import InvalidFrame, Unavailable
from isolane.settings import ProviderSettings, is_safe_address
from isolane.subjects import SEPARATOR
from isolane.wire.frames import decode_object

TIMEOUT_S: Final = 5.0
"""Seconds after which a request to a provider is given up."""
WHY_CHARACTERS: Final = 256
"""Maximum characters of the reason why an address can't be reached."""
RETRY_MS: Final = 5_000
"""Minimum milliseconds between two failed requests. Anybody who opens a sign-in address causes
one."""
DISCOVERY_PATH: Final = "/.well-known/openid-configuration"
"""Path of the discovery document (OpenID Connect Discovery 1.0, 4)."""


class Provider:
    """One provider whose tokens are accepted, with its keys and its discovery document."""

    def __init__(
        self,
        settings: ProviderSettings,
        http: httpx.AsyncClient,
        *,
        clock: Clock,
        leeway_s: float = 0,
    ) -> None:
        """Send requests over `http` when a token or a sign-in needs them.

        The provider's own clock may be `leeway_s` seconds ahead or behind.
        """
        self.settings = settings
        self.http = http
        self.leeway = Leeway(begin_s=leeway_s, end_s=leeway_s)
        self._clock = clock
        self._metadata: Mapping[str, Any] | None = None
        self._asked_at: int | None = None
        self._asking = asyncio.Lock()
        self.keys = KeyCache(self._fetch_keys, clock=clock)

    @property
    def name(self) -> str:
        """First part of its users' ids, before the subject."""
        return self.settings.name

    async def judge(self, opened: OpenedToken) -> Identity:
        """Return the identity behind a token.

        Raises:
            Unauthenticated: The token is refused; `reason` says why.
            Unavailable: The provider's keys can't be fetched.
        """
        check_claims(opened, audience=self.settings.audience, leeway=self.leeway)
        key = await self.keys.find(opened.key_id, opened.algorithm)
        verify(
            opened,
            key,
            algorithms=[opened.algorithm],
            issuer=self.settings.issuer,
            audience=self.settings.audience,
            leeway=self.leeway,
        )
        return to_identity(
            opened,
            prefix=self.name + SEPARATOR,
            allowed=frozenset(self.settings.scopes),
            leeway=self.leeway,
        )

    async def load_metadata(self) -> Mapping[str, Any]:
        """Return the provider's discovery document, after a check that it names this issuer.

        Raises:
            Unavailable: The document can't be fetched, or names another issuer (OpenID Connect
                Discovery 1.0, 4.3).
        """
        async with self._asking:  # others wait here for the same answer
            if self._metadata is None:
                self._metadata = await self._ask()
        return self._metadata

    async def _ask(self) -> Mapping[str, Any]:
        if self._asked_at is not None and 0 <= self._clock() - self._asked_at < RETRY_MS:
            raise Unavailable(f"{self.name}: its discovery document couldn't be had just now")
        self._asked_at = self._clock()
        address = self.settings.issuer.rstrip("/") + DISCOVERY_PATH
        try:
            found = decode_object(await fetch(self.http, address))
        except InvalidFrame as error:
            raise Unavailable(f"{self.name}: its discovery document can't be read") from error
        if found.get("issuer") != self.settings.issuer:
            raise Unavailable(f"{self.name}: its discovery document is of another issuer")
        self._asked_at = None
        return found

    async def find_endpoint(self, name: str) -> str:
        """Return an address from the discovery document.

        Raises:
            Unavailable: The document can't be fetched, or has no such address.
        """
        address = (await self.load_metadata()).get(name)
        if not isinstance(address, str) or not is_safe_address(address):
            raise Unavailable(f"{self.name}: its discovery document has no usable {name}")
        return address

    async def _fetch_keys(self) -> bytes:
        self._metadata = None  # the keys may have moved to another address
        address = self.settings.jwks_url or await self.find_endpoint("jwks_uri")
        return await fetch(self.http, address)


class Issuers:
    """The authenticator over all accepted issuers: the local one and the providers."""

    def __init__(self, local: LocalIssuer, providers: Mapping[str, Provider]) -> None:
        """Judge tokens by the issuer that they name; `providers` are keyed by name."""
        self._local = local
        self._by_issuer = {each.settings.issuer: each for each in providers.values()}

    async def authenticate(self, token: str) -> Identity:
        """Return the identity behind `token`.

        Raises:
            Unauthenticated: The token is refused; `reason` says why.
            Unavailable: The provider's keys can't be fetched.
        """
        opened = open_token(token)
        issuer = opened.claims.get("iss")
        provider = self._by_issuer.get(issuer) if isinstance(issuer, str) else None
        return await (self._local if provider is None else provider).judge(opened)


async def fetch(http: httpx.AsyncClient, address: str) -> bytes:
    """Return a small document; redirects are not followed.

    Raises:
        Unavailable: There is no such document, or no answer in 5 s.
    """
    status, found = await ask(http, "GET", address)
    if status != HTTPStatus.OK:
        raise Unavailable(f"{address} answered {status}")
    return found


async def ask(
    http: httpx.AsyncClient,
    method: str,
    address: str,
    *,
    body: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> tuple[int, bytes]:
    """Return status and body of a small answer.

    Raises:
        Unavailable: There was no answer in 5 s, or it was too large.
    """
    found = bytearray()
    try:
        # The client's own timeout counts per chunk, and an answer may trickle in.
        async with (
            asyncio.timeout(TIMEOUT_S),
            http.stream(method, address, content=body, headers=headers) as response,
        ):
            async for piece in response.aiter_bytes():
                found += piece
                if len(found) > DOCUMENT_MAX_BYTES:
                    raise Unavailable(f"{address} answered more than {DOCUMENT_MAX_BYTES} bytes")
            return response.status_code, bytes(found)
    except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
        raise Unavailable(f"{address} can't be reached: {_explain(error)}") from error


def _explain(error: BaseException) -> str:
    """Return the text of a failure's first cause: a certificate, a name, a proxy."""
    said = str(error).strip()
    return f"{type(error).__name__}: {said}"[:WHY_CHARACTERS] if said else type(error).__name__
