"""Tokens that nobody may take: each is made from a right one, by a single change."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final, TypeAlias

from tests.live.issuer import HS256, Claims, Key, encode_part, new_key

Recipe: TypeAlias = Callable[[Key, dict[str, Any]], str]
"""Makes a token to refuse of a key that counts and of claims that it may sign."""


@cache
def _thief(algorithm: str, kid: str | None) -> Key:
    """Return a key that nobody here knows, of the same kind and name as one that is known."""
    if algorithm == HS256:
        return Key("a secret of somebody else's, long enough", HS256, kid)
    return new_key(algorithm, kid)


def _unsigned(algorithm: str) -> Recipe:
    return lambda key, claims: key.sign(claims, alg=algorithm).rpartition(".")[0] + "."


def _header(**header: object) -> Recipe:
    return lambda key, claims: key.sign(claims, **header)


def _claims(**changed: object) -> Recipe:
    return lambda key, claims: key.sign({**claims, **changed})


def _without(claim: str) -> Recipe:
    return lambda key, claims: key.sign({n: v for n, v in claims.items() if n != claim})


def _twice(part: Claims, name: str, first: object) -> bytes:
    """Return a JSON object in which a key stands twice; most readers take the second."""
    return f"{{{json.dumps(name)}: {json.dumps(first)}, {json.dumps(part)[1:]}".encode()


def _of_public_key(key: Key, claims: Claims) -> str:
    return Key(key.public_text, HS256, key.kid).sign(claims)


def _of_other_algorithm(key: Key, claims: Claims) -> str:
    other = "ES256" if key.algorithm in {"RS256", HS256} else "RS256"
    return _thief(other, key.kid).sign(claims)


def _with_own_key(key: Key, claims: Claims) -> str:
    thief = _thief("ES256", key.kid)
    return thief.sign(claims, jwk=thief.jwk)


def _of_other_issuer(key: Key, claims: Claims) -> str:
    return key.sign({**claims, "iss": "https://evil.example"})


def _tampered(key: Key, claims: Claims) -> str:
    head, _, signature = key.sign(claims).split(".")
    return f"{head}.{encode_part({**claims, 'sub': 'eve'})}.{signature}"


def _with_doubled_header(key: Key, claims: Claims) -> str:
    header = {"typ": "JWT", "alg": key.algorithm, **({"kid": key.kid} if key.kid else {})}
    return key.sign_parts(_twice(header, "alg", "none"), claims)


_ELSEWHERE: Final = "https://evil.example/keys"

ODD_HEADERS: Final[Mapping[str, Recipe]] = {
    "none": _unsigned("none"),
    "none in capitals": _unsigned("NONE"),
    "none, and signed": _header(alg="none"),
    "no algorithm": _header(alg=None),
    "algorithm of another type": _header(alg=["ES256"]),
    "jku": _header(jku=_ELSEWHERE),
    "x5u": _header(x5u=_ELSEWHERE),
    "x5c": _header(x5c=["MIIB"]),
    "jwk": _header(jwk={"kty": "oct", "k": "AA"}),
    "signed by the key in it": _with_own_key,
    "unknown crit": _header(crit=["x"], x=1),
    "empty crit": _header(crit=[]),
    "not in base64": _header(b64=False),
    "key id too long": _header(kid="k" * 300),
    "key id of another type": _header(kid={"k": 1}),
    "empty key id": _header(kid=""),
    "another type": _header(typ="logout+jwt"),
    "doubled header": _with_doubled_header,
}
ODD_CLAIMS: Final[Mapping[str, Recipe]] = {
    "no expiry": _without("exp"),
    "expiry null": _claims(exp=None),
    "expiry as text": _claims(exp="soon"),
    "expiry as digits": _claims(exp="4000000000"),
    "expiry of a float's end": _claims(exp=1e308),
    "expiry in a list": _claims(exp=[4_000_000_000]),
    "no subject": _without("sub"),
    "subject of another type": _claims(sub=["ada"]),
    "ID token by nonce": _claims(nonce="n"),
    "ID token by hash": _claims(at_hash="h"),
    "ID token by its mark": _claims(typ="ID"),
    "doubled subject": lambda key, claims: key.sign(_twice(claims, "sub", "eve")),
    "deep": _claims(deep=json.loads("[" * 100 + "]" * 100)),
}
"""What no key could make good, so that nobody need be asked for one."""
WRONG_CLAIMS: Final[Mapping[str, Recipe]] = {
    "not yet": _claims(nbf=4_000_000_000),
    "not yet, as text": _claims(nbf="4000000000"),
    "issued later": _claims(iat=4_000_000_000),
    "another audience": _claims(aud="another"),
    "no audience": _without("aud"),
    "nobody's audience": _claims(aud=[]),
    "another issuer": _of_other_issuer,
}
WRONG_KEYS: Final[Mapping[str, Recipe]] = {
    "the public key as a secret": _of_public_key,
    "another algorithm than the key's": _of_other_algorithm,
    "another key of that name": lambda key, claims: _thief(key.algorithm, key.kid).sign(claims),
    "tampered": _tampered,
    "expired, and of another key": lambda key, claims: _thief(key.algorithm, key.kid).sign(
        {**claims, "exp": 1_000_000_000}
    ),
}
UNKNOWN_KEY_IDS: Final[Mapping[str, Recipe]] = {
    "key id is a path": _header(kid="../../../../dev/null"),
    "key id is SQL": _header(kid="x' UNION SELECT 'a' --"),
    "key id is an address": _header(kid=_ELSEWHERE),
}
HUGE: Final[Mapping[str, Recipe]] = {
    "1 MB": _claims(padding="x" * 1_000_000),
    "1 MB of dots": lambda _key, _claims: "." * 1_000_000,
    "key id of 1 MB": _header(kid="k" * 1_000_000),
    "a bit too long": _claims(padding="x" * 12_200),
}
"""Longer than a token may be."""
WRONG: Final[Mapping[str, Recipe]] = (
    {**ODD_HEADERS, **ODD_CLAIMS, **WRONG_CLAIMS, **WRONG_KEYS, **UNKNOWN_KEY_IDS}
)  # fmt: skip
