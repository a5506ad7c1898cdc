"""The local issuer: signs and checks tokens with keys of its own (HS256)."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import Any, Final

import jwt

from isolane.auth.keyring import KeyRing, SigningKey
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
from isolane.contracts import Identity
from isolane.errors import InvalidInput
from isolane.ids import get_subject, to_user_id
from isolane.subjects import SEPARATOR

ALGORITHM: Final = "HS256"
OWN_MARK: Final = "isolane"
"""The claim of tokens that this class has stamped itself, by the clock that judges them."""


class LocalIssuer:
    """Makes and judges the tokens of users that this gateway vouches for itself."""

    def __init__(
        self,
        ring: KeyRing,
        *,
        issuer: str | None,
        audience: str | None,
        clock: Clock,
        foreign: Iterable[str] = (),
        leeway_s: float = 0,
    ) -> None:
        """Sign with the newest key; `issuer` and `audience` are demanded when they are set.

        `foreign` are the names of other issuers: nobody here speaks for a user of theirs. Others
        may sign with the same key. Their clock may be `leeway_s` seconds ahead.
        """
        self._ring = ring
        self._issuer = issuer or None
        self._audience = audience or None
        self._clock = clock
        self._foreign = frozenset(foreign)
        self._leeway = Leeway(begin_s=leeway_s)

    def __repr__(self) -> str:
        """Name the issuer, never a key."""
        return f"<LocalIssuer {self._issuer or 'without a name'}>"

    def issue(self, user_id: str, *, expires_s: int, scopes: Iterable[str] = ()) -> str:
        """Return a token for a user, which dies in `expires_s` seconds; a negative one is dead.

        `user_id` is the user's own name: the token's subject, of which `to_user_id` makes the id.
        Raises `InvalidContext` for what is no name, and `InvalidInput` for a time that is none.
        """
        now_ms = self._clock()
        expiry_s = now_ms // 1000 + expires_s
        if expiry_s > EXPIRY_MAX_S:
            raise InvalidInput("expires", "is beyond the year 9999")
        claims: dict[str, Any] = {
            "sub": get_subject(to_user_id("userId", user_id)),
            OWN_MARK: True,
            # To the millisecond: a token made just after a sign-out everywhere is a new one.
            "iat": min(now_ms / 1000, expiry_s),
            "exp": expiry_s,
            "jti": secrets.token_urlsafe(12),
            **({"iss": self._issuer} if self._issuer else {}),
            **({"aud": self._audience} if self._audience else {}),
        }
        joined = " ".join(scopes)
        if joined:
            claims["scope"] = joined
        key = self._ring.take(expiry_s)
        return jwt.encode(claims, key.secret, algorithm=ALGORITHM, headers={"kid": key.id})

    async def authenticate(self, token: str) -> Identity:
        """Return who `token` speaks for; raises `Unauthenticated` with its reason."""
        return self.judge(open_token(token))

    def judge(self, opened: OpenedToken) -> Identity:
        """Return who a token that was read speaks for; raises `Unauthenticated`."""
        if opened.algorithm != ALGORITHM:
            raise refused("it is signed in another way than ours")
        leeway = EXACT if opened.claims.get(OWN_MARK) is True else self._leeway
        check_claims(opened, audience=self._audience, leeway=leeway)
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

    @property
    def key_ids(self) -> frozenset[str]:
        """The keys that count now."""
        return frozenset(key.id for key in self._ring.keys)

    @property
    def dropped_keys(self) -> int:
        """How often a key of ours was found to be gone."""
        _ = self._ring.keys
        return self._ring.dropped

    def knows_key(self, key_id: str) -> bool:
        """Say whether what that key signed still counts."""
        return any(key.id == key_id for key in self._ring.keys)

    def _find_key(self, opened: OpenedToken) -> SigningKey:
        """Return the key that a token names; one that names none was signed with the newest."""
        keys = self._ring.keys
        if opened.key_id is None:
            return keys[0]
        for key in keys:
            if key.id == opened.key_id:
                return key
        raise refused("it names a key that isn't ours")
