"""Issuers that somebody else runs: OpenID Connect providers, known by their public keys."""

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
WHY_CHARACTERS: Final = 256
"""How much of the reason is told why an address can't be reached."""
RETRY_MS: Final = 5_000
"""Whoever opens a sign-in address makes the gateway ask: not more often than this, in vain."""
DISCOVERY_PATH: Final = "/.well-known/openid-configuration"


class Provider:
    """One issuer whose tokens count here, with its keys and what it says about itself."""

    def __init__(
        self,
        settings: ProviderSettings,
        http: httpx.AsyncClient,
        *,
        clock: Clock,
        leeway_s: float = 0,
    ) -> None:
        """Ask over `http`, when a token or a sign-in needs it.

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
        """What stands before the subject in the ids of its users."""
        return self.settings.name

    async def judge(self, opened: OpenedToken) -> Identity:
        """Return who a token speaks for; raises `Unauthenticated`, `Unavailable`."""
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
        """Return the provider's discovery document, which names this issuer.

        Raises `Unavailable` when it can't be had or is another's (OpenID Connect Discovery 1.0,
        4.3).
        """
        async with self._asking:  # who comes meanwhile waits for the same answer
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
        """Return an address that the discovery document gives; raises `Unavailable`."""
        address = (await self.load_metadata()).get(name)
        if not isinstance(address, str) or not is_safe_address(address):
            raise Unavailable(f"{self.name}: its discovery document has no usable {name}")
        return address

    async def _fetch_keys(self) -> bytes:
        self._metadata = None  # they may have moved
        address = self.settings.jwks_url or await self.find_endpoint("jwks_uri")
        return await fetch(self.http, address)


class Issuers:
    """Every issuer whose tokens count: the local one and the providers. An `Authenticator`."""

    def __init__(self, local: LocalIssuer, providers: Mapping[str, Provider]) -> None:
        """Judge by the issuer that a token names; `providers` are by their names."""
        self._local = local
        self._by_issuer = {each.settings.issuer: each for each in providers.values()}

    async def authenticate(self, token: str) -> Identity:
        """Return who `token` speaks for; raises `Unauthenticated`, `Unavailable`."""
        opened = open_token(token)
        issuer = opened.claims.get("iss")
        provider = self._by_issuer.get(issuer) if isinstance(issuer, str) else None
        return self._local.judge(opened) if provider is None else await provider.judge(opened)


async def fetch(http: httpx.AsyncClient, address: str) -> bytes:
    """Return a small document; raises `Unavailable`. Follows nobody elsewhere."""
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
    """Return status and body of a small answer; raises `Unavailable` when there is none in 5 s."""
    found = bytearray()
    try:
        # In all: the client's own time counts for each piece, and they may trickle.
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
    """Say why, in the words of whoever knows: a certificate, a name, a proxy."""
    said = str(error).strip()
    return f"{type(error).__name__}: {said}"[:WHY_CHARACTERS] if said else type(error).__name__
