"""Strict parsing of tokens and checks of their claims, with bounded work."""

from __future__ import annotations

import base64
import binascii
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeGuard

import jwt

from isolane.contracts import PLAIN, Identity, Scope
from isolane.errors import InvalidContext, InvalidFrame, Unauthenticated
from isolane.ids import check_user_id, to_user_id
from isolane.wire.frames import decode_object

TOKEN_MAX_BYTES: Final = 16 << 10
"""Maximum bytes of a token."""
KEY_ID_MAX_CHARACTERS: Final = 256
"""Maximum characters of a key id."""
EXPIRY_MAX_S: Final = 253_402_300_799  # the last second of the year 9999

_PART: Final = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_OWN_KEY_MEMBERS: Final = frozenset({"jku", "jwk", "x5u", "x5c"})
"""Header fields in which a token brings its own key (RFC 7515, 4.1). Such a token is refused."""
_TYPES: Final = frozenset({"jwt", "at+jwt", "application/at+jwt"})
_ID_TOKEN_CLAIMS: Final = frozenset({"nonce", "at_hash", "c_hash", "s_hash"})
"""Claims of ID tokens only (OpenID Connect Core 1.0, 2 and 3.3.2.11). An ID token tells a page who
signed in; it is no credential here."""


class Leeway(NamedTuple):
    """Seconds by which the clock that dated a token may differ from ours (RFC 7519, 4.1.4)."""

    begin_s: float = 0
    """Seconds by which `iat` and `nbf` may be in the future."""
    end_s: float = 0
    """Seconds by which `exp` may be in the past. Connections of the token end that much later,
    too."""


EXACT: Final = Leeway()
"""No leeway, for tokens that our own clock has dated."""


@dataclass(frozen=True, slots=True)
class OpenedToken:
    """A token that was parsed but not verified."""

    text: str
    algorithm: str
    key_id: str | None
    kind: str
    claims: Mapping[str, Any]


def open_token(token: str) -> OpenedToken:
    """Parse a token without trusting it; nothing is fetched.

    Raises:
        Unauthenticated: The text is no token; `detail` says why.
    """
    if len(token) > TOKEN_MAX_BYTES:
        raise refused("it is too long to be one")
    parts = token.split(".")
    if len(parts) != 3 or not all(_PART.fullmatch(part) for part in parts):  # noqa: PLR2004 - a token has three parts (RFC 7515, 7.1)
        raise refused("it is no signed token")
    header, claims = _read_part(parts[0]), _read_part(parts[1])
    _check_header(header)
    kind = header.get("typ", "JWT").lower()
    return OpenedToken(token, header["alg"], header.get("kid"), kind, claims)


def check_claims(
    opened: OpenedToken,
    *,
    audience: str | None,
    leeway: Leeway = EXACT,
    is_id_token: bool = False,
) -> None:
    """Refuse claims that no key can make valid, before a key is fetched.

    An expired token is not refused here, because `expired` is told only to the owner of a right
    signature. An ID token is refused unless it is wanted.

    Raises:
        Unauthenticated: A claim is wrong; `detail` says which.
    """
    claims = opened.claims
    if not isinstance(claims.get("sub"), str):
        raise refused("it names no subject")
    if not _is_time(claims.get("exp")):
        raise refused("its expiry is no time")
    not_before = claims.get("nbf", 0)
    if not _is_time(not_before) or not_before > time.time() + leeway.begin_s:
        raise refused("it is for later")
    audiences = claims.get("aud")
    if audience is not None and audience not in (
        audiences if isinstance(audiences, list) else [audiences]
    ):
        raise refused("it is for another audience")
    if not is_id_token and _is_id_token(opened):
        raise refused("it is an ID token")


def verify(
    opened: OpenedToken,
    key: Any,  # noqa: ANN401 - a secret, or the library's own type for a public key
    *,
    algorithms: Sequence[str],
    issuer: str | None,
    audience: str | None,
    leeway: Leeway = EXACT,
) -> None:
    """Check signature and claims against `key`.

    The reason `expired` is given only for a token that is right in everything else.

    Raises:
        Unauthenticated: The signature or a claim is wrong, or the token is expired.
    """
    try:
        jwt.decode(
            opened.text,
            key,
            algorithms=algorithms,
            issuer=issuer,
            audience=audience,
            leeway=leeway.begin_s,
            options={
                "require": ["exp", "sub"],
                "verify_aud": audience is not None,
                "verify_exp": False,  # checked below, with our own leeway
            },
        )
    except (jwt.PyJWTError, ValueError, TypeError, OverflowError) as error:
        raise refused(type(error).__name__) from error
    if int(opened.claims["exp"]) + leeway.end_s <= time.time():
        raise Unauthenticated("expired", "the token is expired")


def to_identity(
    opened: OpenedToken,
    *,
    prefix: str = "",
    key_id: str | None = None,
    allowed: frozenset[str] = frozenset(Scope),
    leeway: Leeway = EXACT,
) -> Identity:
    """Return the identity behind a verified token; `prefix` separates users of different issuers.

    Only scopes in `allowed` are granted.

    Raises:
        Unauthenticated: The subject is no user id.
    """
    claims = opened.claims
    try:
        user_id = check_user_id("sub", prefix + to_user_id("sub", claims["sub"]))
    except InvalidContext as error:
        raise refused("its subject is no user id") from error
    return Identity(
        user_id,
        int((claims["exp"] + leeway.end_s) * 1000),
        read_scopes(claims.get("scope"), allowed),
        # Without `iat` nobody can show that the token is newer than a sign-out. A clock that is
        # ahead dates a token later than it is. Both count as issued at the earliest possible time.
        issued_at=max(0, _read_time_ms(claims.get("iat")) - int(leeway.begin_s * 1000)),
        key_id=key_id,
    )


def read_scopes(claim: object, allowed: frozenset[str]) -> frozenset[str]:
    """Return the allowed scopes that a claim names; those of a plain user when it names none.

    Other words belong to other systems: providers put `openid` and `profile` there.
    """
    known = allowed.intersection(claim.split() if isinstance(claim, str) else ())
    return known or PLAIN & allowed


def refused(why: str) -> Unauthenticated:
    """Return the error for an invalid token; `why` is for the log."""
    return Unauthenticated("invalid", f"the token is refused: {why}")


def _read_part(part: str) -> dict[str, Any]:
    try:
        return decode_object(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (binascii.Error, ValueError, InvalidFrame) as error:
        raise refused("a part of it can't be read") from error


def _check_header(header: Mapping[str, Any]) -> None:
    kind, key_id = header.get("typ", "JWT"), header.get("kid")
    if not isinstance(header.get("alg"), str):
        raise refused("it names no algorithm")
    if _OWN_KEY_MEMBERS & header.keys():
        raise refused("it brings a key of its own")
    if "crit" in header or "b64" in header:
        raise refused("it wants to be read by other rules")
    if not isinstance(kind, str) or kind.lower() not in _TYPES:
        raise refused("it is of another type")
    if key_id is not None and not (
        isinstance(key_id, str) and 0 < len(key_id) <= KEY_ID_MAX_CHARACTERS
    ):
        raise refused("its key id is none")


def _is_id_token(opened: OpenedToken) -> bool:
    """Say whether a token is an ID token, also by the marks of two well-known providers.

    One of the two puts `nonce` into access tokens as well, and marks those as access tokens.
    """
    claims = opened.claims
    if claims.get("typ") == "ID" or claims.get("token_use") == "id":
        return True
    is_for_access = opened.kind.endswith("at+jwt") or claims.get("typ") == "Bearer"
    return not is_for_access and not _ID_TOKEN_CLAIMS.isdisjoint(claims)


def _is_time(claim: object) -> TypeGuard[float]:
    """Say whether a claim is a time in seconds since 1970; JSON's true and false are not."""
    return (
        isinstance(claim, int | float)
        and not isinstance(claim, bool)
        and 0 <= claim <= EXPIRY_MAX_S
    )


def _read_time_ms(claim: object) -> int:
    return int(claim * 1000) if _is_time(claim) else 0
