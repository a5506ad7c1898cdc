"""What every token must be before anybody asks for a key: read strictly, with bounded work."""

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
KEY_ID_MAX_CHARACTERS: Final = 256
EXPIRY_MAX_S: Final = 253_402_300_799  # the last second of the year 9999

_PART: Final = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_OWN_KEY_MEMBERS: Final = frozenset({"jku", "jwk", "x5u", "x5c"})
"""With these a token says itself which key it is to be judged by (RFC 7515, 4.1)."""
_TYPES: Final = frozenset({"jwt", "at+jwt", "application/at+jwt"})
_ID_TOKEN_CLAIMS: Final = frozenset({"nonce", "at_hash", "c_hash", "s_hash"})
"""Only an ID token has them (OpenID Connect Core 1.0, 2 and 3.3.2.11): it says who signed in to a
page, and opens no door."""


class Leeway(NamedTuple):
    """Seconds by which the clock that stamped a token may differ from ours (RFC 7519, 4.1.4)."""

    begin_s: float = 0
    """How far ahead `iat` and `nbf` may be."""
    end_s: float = 0
    """How long ago `exp` may be. What the token opens ends so much later, too."""


EXACT: Final = Leeway()
"""For what was stamped by the same clock."""


@dataclass(frozen=True, slots=True)
class OpenedToken:
    """A token that was read, and that nobody has verified yet."""

    text: str
    algorithm: str
    key_id: str | None
    kind: str
    claims: Mapping[str, Any]


def open_token(token: str) -> OpenedToken:
    """Read a token without believing it; raises `Unauthenticated`. Asks nobody for anything."""
    if len(token) > TOKEN_MAX_BYTES:
        raise refused("it is too long to be one")
    parts = token.split(".")
    if len(parts) != 3 or not all(_PART.fullmatch(part) for part in parts):  # noqa: PLR2004 - RFC 7515, 7.1
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
    """Refuse what no key can make good, before anybody is asked for one.

    Raises `Unauthenticated`. That a token is expired is told only once its signature is right. An
    ID token is refused, unless it is one that is wanted.
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
    """Check signature and claims against `key`; raises `Unauthenticated`.

    That a token is expired is told only of one that is right in all else.
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
                "verify_exp": False,  # below, with a leeway of its own
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
    """Return who a verified token speaks for; `prefix` tells users of one issuer from another's.

    Of the scopes that it names those count that are `allowed`.
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
        # Without the claim nobody can show that it is newer than a sign-out everywhere. A clock
        # that is ahead dates a token later than it is: it counts as made at the earliest moment.
        issued_at=max(0, _read_time_ms(claims.get("iat")) - int(leeway.begin_s * 1000)),
        key_id=key_id,
    )


def read_scopes(claim: object, allowed: frozenset[str]) -> frozenset[str]:
    """Return which of the allowed scopes a claim names; a plain user's when it names none.

    Other words are other systems': providers put `openid` and `profile` there.
    """
    known = allowed.intersection(claim.split() if isinstance(claim, str) else ())
    return known or PLAIN & allowed


def refused(why: str) -> Unauthenticated:
    """Return the error for a token that isn't one; `why` is for the log."""
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
    """Say whether it is one, also as two well-known providers mark theirs, and what is none.

    One of those puts `nonce` into access tokens too, and says that they are such.
    """
    claims = opened.claims
    if claims.get("typ") == "ID" or claims.get("token_use") == "id":
        return True
    is_for_access = opened.kind.endswith("at+jwt") or claims.get("typ") == "Bearer"
    return not is_for_access and not _ID_TOKEN_CLAIMS.isdisjoint(claims)


def _is_time(claim: object) -> TypeGuard[float]:
    """Say whether it is seconds since 1970; JSON's true and false are no numbers."""
    return (
        isinstance(claim, int | float)
        and not isinstance(claim, bool)
        and 0 <= claim <= EXPIRY_MAX_S
    )


def _read_time_ms(claim: object) -> int:
    return int(claim * 1000) if _is_time(claim) else 0
