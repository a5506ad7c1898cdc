"""The local issuer, which signs and checks tokens with its own keys (HS256)."""

from __future__ import annotations

import secrets
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from typing import Any, Final

import jwt

from isolane.auth.tokens import (
    EXACT,
    EXPIRY_MAX_S,
    Leeway,
    OpenedToken,
    check_claims,
    open_token,
    refused,
    to_identity,
    verify,
)
from isolane.clock import Clock
from isolane.contracts import Identity, SigningKey, SigningKeys
from isolane.errors import ContractError, InvalidInput
from isolane.ids import get_subject, to_user_id
from isolane.subjects import SEPARATOR

ALGORITHM: Final = "HS256"
"""The one algorithm of local tokens."""
OWN_MARK: Final = "isolane"
"""Claim of tokens that this class made; their times come from our own clock."""


class LocalIssuer:
    """Makes and checks the tokens of users that this gateway vouches for itself."""

    def __init__(
        self,
        keys: SigningKeys,
        *,
        issuer: str | None,
        audience: str | None,
        clock: Clock,
        foreign: Iterable[str] = (),
        leeway_s: float = 0,
    ) -> None:
        """Sign with the newest key; `issuer` and `audience` are required when they are set.

        `foreign` has the names of other issuers. A local token never speaks for one of their users.
        Other programs may sign with the same key, and their clocks may be `leeway_s` seconds ahead.
        """
        self._keys = keys
        self._loaded: Sequence[SigningKey] = ()
        self._known: Mapping[str, SigningKey] = {}
        self.dropped_keys = 0
        """Count of loads that found a key to be dropped."""
        self._issuer = issuer or None
        self._audience = audience or None
        self._clock = clock
        self._foreign = frozenset(foreign)
        self._leeway = Leeway(begin_s=leeway_s)

    def __repr__(self) -> str:
        """Return the issuer's name, never a key."""
        return f"<LocalIssuer {self._issuer or 'without a name'}>"

    def issue(self, user_id: str, *, expires_s: int, scopes: Iterable[str] = ()) -> str:
        """Return a token for a user that expires in `expires_s` seconds.

        A negative number is expired.

        `user_id` is the user's own name and becomes the token's subject. `to_user_id` makes the
        user id from it.

        Raises:
            InvalidContext: `user_id` is no name.
            InvalidInput: `expires_s` is out of range.
            ContractError: The keys are on another machine, and a plain function can't wait for it.
        """
        now_ms = self._clock()
        expiry_s = now_ms // 1000 + expires_s
        if expiry_s > EXPIRY_MAX_S:
            raise InvalidInput("expires", "is beyond the year 9999")
        claims: dict[str, Any] = {
            "sub": get_subject(to_user_id("userId", user_id)),
            OWN_MARK: True,
            # The issue time has milliseconds, so that a token made just after a sign-out is newer
            # than it.
            "iat": min(now_ms / 1000, expiry_s),
            "exp": expiry_s,
            "jti": secrets.token_urlsafe(12),
            **({"iss": self._issuer} if self._issuer else {}),
            **({"aud": self._audience} if self._audience else {}),
        }
        joined = " ".join(scopes)
        if joined:
            claims["scope"] = joined
        key = _take_at_once(self._keys.take(expiry_s))
        return jwt.encode(claims, key.secret, algorithm=ALGORITHM, headers={"kid": key.id})

    async def authenticate(self, token: str) -> Identity:
        """Return the identity behind `token`.

        Raises:
            Unauthenticated: The token is refused; `reason` says why.
        """
        return await self.judge(open_token(token))

    async def judge(self, opened: OpenedToken) -> Identity:
        """Return the identity behind a token that was parsed already.

        Raises:
            Unauthenticated: The token is refused; `reason` says why.
        """
        if opened.algorithm != ALGORITHM:
            raise refused("it is signed in another way than ours")
        leeway = EXACT if opened.claims.get(OWN_MARK) is True else self._leeway
        check_claims(opened, audience=self._audience, leeway=leeway)
        await self.load_keys()
        key = self._find_key(opened)
        verify(
            opened,
            key.secret,
            algorithms=[ALGORITHM],
            issuer=self._issuer,
            audience=self._audience,
            leeway=leeway,
        )
        identity = to_identity(opened, key_id=key.id, leeway=leeway)
        name, separator, _ = identity.user_id.partition(SEPARATOR)
        if separator and name in self._foreign:
            raise refused("it speaks for a user of another issuer")
        return identity

    async def load_keys(self) -> Sequence[SigningKey]:
        """Return the keys that count now, the newest first. Safe to cancel.

        Raises:
            Unavailable: The keys can't be reached.
        """
        found = await self._keys.load()
        if found is not self._loaded:  # ids are hashes, which each handshake would compute again
            known = {key.id: key for key in found}
            # A credential is judged between two looks for revocations, so a drop is noticed here.
            self.dropped_keys += not self._known.keys() <= known.keys()
            self._loaded, self._known = found, known
        return found

    def knows_key(self, key_id: str) -> bool:
        """Say whether tokens of that key were valid when the keys were loaded last."""
        return key_id in self._known

    def _find_key(self, opened: OpenedToken) -> SigningKey:
        """Return the key that a token names.

        A token without a key id was signed with the newest.
        """
        if opened.key_id is None:
            return self._loaded[0]
        key = self._known.get(opened.key_id)
        if key is None:
            raise refused("it names a key that isn't ours")
        return key


def _take_at_once(taking: Coroutine[Any, Any, SigningKey]) -> SigningKey:
    """Return the key that `SigningKeys.take` returns without waiting.

    Hosts and the command line issue tokens in plain functions. An `asyncio.run` there would fail
    inside a host's running loop. Keys in memory and in a file never wait.
    """
    try:
        taking.send(None)
    except StopIteration as ended:
        key: SigningKey = ended.value
        return key
    taking.close()
    raise ContractError("LocalIssuer.issue can't wait for its keys; keep them in memory or a file")
