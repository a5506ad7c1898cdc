"""The local issuer: signs and checks tokens with a key of its own (HS256)."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import jwt

from isolane.clock import Clock
from isolane.contracts import Identity
from isolane.errors import InvalidContext, Unauthenticated
from isolane.ids import check_user_id

ALGORITHM: Final = "HS256"
KEY_BYTES: Final = 32
TOKEN_MAX_BYTES: Final = 16 << 10
EXPIRY_MAX_S: Final = 253_402_300_799  # the last second of the year 9999


class LocalIssuer:
    """Makes and judges the tokens of users that this gateway vouches for itself."""

    def __init__(self, key: str, *, issuer: str | None, audience: str | None, clock: Clock) -> None:
        """Sign with `key`; `issuer` and `audience` are demanded when they are set."""
        self._key = key
        self._issuer = issuer or None
        self._audience = audience or None
        self._clock = clock

    def __repr__(self) -> str:
        """Name the issuer, never the key."""
        return f"<LocalIssuer {self._issuer or 'without a name'}>"

    def issue(self, user_id: str, *, expires_s: int, scopes: Iterable[str] = ()) -> str:
        """Return a token for `user_id` that dies in `expires_s` seconds; a negative one is dead."""
        now_s = self._clock() // 1000
        claims: dict[str, Any] = {
            "sub": check_user_id("userId", user_id),
            "iat": min(now_s, now_s + expires_s),
            "exp": now_s + expires_s,
            "jti": secrets.token_urlsafe(12),
            **({"iss": self._issuer} if self._issuer else {}),
            **({"aud": self._audience} if self._audience else {}),
        }
        joined = " ".join(scopes)
        if joined:
            claims["scope"] = joined
        return jwt.encode(claims, self._key, algorithm=ALGORITHM)

    async def authenticate(self, token: str) -> Identity:
        """Return who `token` speaks for; raises `Unauthenticated` with its reason."""
        if len(token) > TOKEN_MAX_BYTES:
            raise Unauthenticated("invalid", "the token is too long to be one")
        claims = self._verify(token)
        try:
            user_id = check_user_id("sub", claims["sub"])
        except InvalidContext as error:
            raise Unauthenticated("invalid", "the token's subject is no user id") from error
        # Written so that NaN, which is neither more nor less than anything, is refused too.
        expiry = claims["exp"]
        if not (isinstance(expiry, int | float) and 0 <= expiry <= EXPIRY_MAX_S):
            raise Unauthenticated("invalid", "the token's expiry is no time")
        scopes = str(claims.get("scope", "")).split()
        return Identity(user_id, int(claims["exp"]) * 1000, frozenset(scopes))

    def _verify(self, token: str) -> dict[str, Any]:
        try:
            return jwt.decode(
                token,
                self._key,
                algorithms=[ALGORITHM],
                issuer=self._issuer,
                audience=self._audience,
                options={"require": ["exp", "sub"], "verify_aud": self._audience is not None},
            )
        except jwt.ExpiredSignatureError as error:
            raise Unauthenticated("expired", "the token is expired") from error
        except (jwt.InvalidTokenError, ValueError, OverflowError) as error:
            raise Unauthenticated("invalid", f"the token is refused: {type(error).__name__}") from (
                error
            )


def load_or_create_key(path: Path) -> str:
    """Return the signing key in `path`, made at the first start, readable for its owner only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        _create_key(path)
    return path.read_text().strip()


def _create_key(path: Path) -> None:
    """Put a whole key in place at once: of two processes that start together, one makes it."""
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_urlsafe(KEY_BYTES))
    with suppress(FileExistsError):
        os.link(draft, path)
    draft.unlink()
