"""The local issuer: what it signs it takes, and nothing else."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.house import ManualClock

from isolane.auth.local import OWN_MARK, LocalIssuer
from isolane.clock import now_ms
from isolane.contracts import SigningKey
from isolane.engines.memory.signing_keys import LocalSigningKeys
from isolane.errors import ContractError, InvalidContext, Unauthenticated
from isolane.ids import get_subject, to_user_id

KEY = "k" * 43
SECOND = 1000


def issuer_of(
    *, key: str = KEY, issuer: str | None = None, audience: str | None = None
) -> LocalIssuer:
    ring = LocalSigningKeys(SigningKey(key))
    return LocalIssuer(ring, issuer=issuer, audience=audience, clock=now_ms, foreign=["corp"])


def in_an_hour() -> int:
    return int(time.time()) + 3600


def signed(*, key: str = KEY, algorithm: str = "HS256", **claims: Any) -> str:  # noqa: ANN401 - a claim may be anything
    return jwt.encode({"sub": "alice", "exp": in_an_hour(), **claims}, key, algorithm=algorithm)


def raw(header: object, claims: object, signature: bytes = b"") -> str:
    parts = [json.dumps(header).encode(), json.dumps(claims).encode(), signature]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


async def refusal(token: str, **how: str | None) -> str:
    with pytest.raises(Unauthenticated) as caught:
        await issuer_of(**how).authenticate(token)  # type: ignore[arg-type]
    assert len(token) < 8 or token not in str(caught.value)  # a letter stands in any sentence
    return caught.value.reason


async def test_what_was_issued_speaks_for_its_user() -> None:
    issuer = issuer_of(issuer="me", audience="you")
    before = now_ms() // SECOND
    token = issuer.issue("alice@example.org", expires_s=60, scopes=["check", "openid"])
    identity = await issuer.authenticate(token)
    assert identity.user_id == "alice@example.org"
    assert identity.scopes == {"check"}
    assert identity.expires_at is not None
    assert before + 60 <= identity.expires_at / SECOND <= before + 65


@pytest.mark.parametrize("name", ["o'brien@example.com", "CN=Ada,OU=R&D", "100%", "a%2Fb", "~ ~"])
async def test_any_name_may_be_issued_a_token(name: str) -> None:
    issuer = issuer_of()
    token = issuer.issue(name, expires_s=60)
    assert jwt.decode(token, options={"verify_signature": False})["sub"] == name
    user_id = (await issuer.authenticate(token)).user_id
    assert (user_id, get_subject(user_id)) == (to_user_id("sub", name), name)


async def test_a_token_of_negative_life_is_expired() -> None:
    assert await refusal(issuer_of().issue("alice", expires_s=-1)) == "expired"


def test_nobody_gets_a_token_for_what_names_nobody() -> None:
    with pytest.raises(InvalidContext):
        issuer_of().issue(" ", expires_s=60)


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": "soon"}, {"exp": 1e308}, {"exp": 10**30}, {"exp": None}, {"exp": []}, {"exp": {}},
        {"exp": float("inf")}, {"exp": float("nan")}, {"exp": str(2**33)},
        {"nbf": 2**33}, {"nbf": "later"}, {"nbf": []},
        {"sub": ""}, {"sub": "  "}, {"sub": None}, {"sub": 5}, {"sub": ["alice"]},
        {"sub": "none"}, {"sub": "x" * 1025}, {"sub": "\u0958" * 513}, {"sub": "/" * 342},
    ],
    ids=lambda claims: ascii(claims)[:30],
)  # fmt: skip
async def test_odd_claims_are_invalid(claims: dict[str, Any]) -> None:
    payload = {"sub": "alice", "exp": in_an_hour(), **claims}
    token = jwt.api_jws.encode(json.dumps(payload).encode(), KEY, algorithm="HS256")
    assert await refusal(token) == "invalid"


@pytest.mark.parametrize("missing", ["exp", "sub"])
async def test_expiry_and_subject_are_required(missing: str) -> None:
    claims = {"sub": "alice", "exp": in_an_hour()}
    del claims[missing]
    assert await refusal(jwt.encode(claims, KEY, algorithm="HS256")) == "invalid"


async def test_the_algorithm_none_is_refused() -> None:
    claims = {"sub": "alice", "exp": in_an_hour()}
    for name in ("none", "None", "NONE", "nOnE", ""):
        assert await refusal(raw({"alg": name, "typ": "JWT"}, claims)) == "invalid"
    assert await refusal(raw({"typ": "JWT"}, claims)) == "invalid"


async def test_another_algorithm_is_refused_with_the_right_key() -> None:
    for algorithm in ("HS384", "HS512"):
        assert await refusal(signed(algorithm=algorithm, key="k" * 64)) == "invalid"


async def test_another_key_is_refused() -> None:
    assert await refusal(signed(key="x" * 43)) == "invalid"
    assert await refusal(signed(key="x" * 43), issuer=None) == "invalid"


async def test_expired_is_expired_and_expired_of_another_key_is_invalid() -> None:
    past = int(time.time()) - 10
    assert await refusal(signed(exp=past)) == "expired"
    assert await refusal(signed(exp=past, key="x" * 43)) == "invalid"


async def test_issuer_and_audience_are_checked_when_they_are_set() -> None:
    assert await refusal(signed(), issuer="me") == "invalid"
    assert await refusal(signed(iss="other"), issuer="me") == "invalid"
    assert await refusal(signed(), audience="you") == "invalid"
    assert await refusal(signed(aud="other"), audience="you") == "invalid"
    assert (await issuer_of(issuer="me").authenticate(signed(iss="me"))).user_id == "alice"
    assert (await issuer_of(audience="you").authenticate(signed(aud=["you"]))).user_id == "alice"


async def test_an_issuer_without_a_name_takes_what_it_made() -> None:
    nameless = issuer_of(issuer="", audience="")  # as an empty variable sets it
    assert (await nameless.authenticate(nameless.issue("alice", expires_s=60))).user_id == "alice"


@pytest.mark.parametrize(
    "header",
    [{"alg": "HS256", "crit": ["x"], "x": 1}, {"alg": "HS256", "jku": "https://evil.example"},
     {"alg": "HS256", "kid": "../../etc/passwd"}, {"alg": 5}, [], None, "x"],
    ids=str,
)  # fmt: skip
async def test_an_odd_header_is_invalid(header: object) -> None:
    assert await refusal(raw(header, {"sub": "alice", "exp": in_an_hour()}, b"x" * 32)) == "invalid"


@pytest.mark.parametrize(
    "token", ["", ".", "..", "a.b.c", "ä.ö.ü", "\0", "\ud800", "x" * (1 << 20), "." * 10_000]
)
async def test_nonsense_is_invalid(token: str) -> None:
    assert await refusal(token) == "invalid"


@given(st.text(max_size=60))
async def test_any_nonsense_is_invalid(token: str) -> None:
    assert await refusal(token) == "invalid"


@pytest.mark.parametrize("subject", ["corp|alice", "corp|", "corp||alice"])
async def test_nobody_here_speaks_for_a_user_of_another_issuer(subject: str) -> None:
    assert await refusal(signed(sub=subject)) == "invalid"


@pytest.mark.parametrize("subject", ["corp", "corp2|alice", "CORP|alice", "al|corp", "|corp"])
async def test_a_subject_that_only_looks_alike_is_a_user_here(subject: str) -> None:
    assert (await issuer_of().authenticate(signed(sub=subject))).user_id == subject


async def test_a_token_names_the_key_that_signed_it() -> None:
    issuer = issuer_of()
    token = issuer.issue("alice", expires_s=60)
    key_id = (await issuer.load_keys())[0].id
    assert jwt.get_unverified_header(token)["kid"] == key_id
    assert (await issuer.authenticate(token)).key_id == key_id
    assert issuer.knows_key(key_id)
    assert not issuer.knows_key("another")
    assert KEY not in key_id


async def test_a_key_that_is_not_ours_is_named_in_vain() -> None:
    for key_id in ("another", "..", "\0", "k" * 256):
        token = jwt.encode(
            {"sub": "alice", "exp": in_an_hour()}, KEY, algorithm="HS256", headers={"kid": key_id}
        )
        assert await refusal(token) == "invalid"


async def test_each_key_of_the_ring_judges_what_it_signed() -> None:
    new, old = SigningKey("n" * 43), SigningKey("o" * 43)
    former = LocalIssuer(LocalSigningKeys(old), issuer=None, audience=None, clock=now_ms)
    ring = LocalSigningKeys(new, old)
    issuer = LocalIssuer(ring, issuer=None, audience=None, clock=now_ms)
    for token, key in (
        (former.issue("a", expires_s=9), old),
        (issuer.issue("a", expires_s=9), new),
    ):
        assert (await issuer.authenticate(token)).key_id == key.id
    named_wrong = jwt.encode(
        {"sub": "a", "exp": in_an_hour()}, old.secret, algorithm="HS256", headers={"kid": new.id}
    )
    with pytest.raises(Unauthenticated):
        await issuer.authenticate(named_wrong)


async def test_a_token_tells_to_the_millisecond_when_it_was_made() -> None:
    clock = ManualClock(now_ms() - 1)
    issuer = LocalIssuer(LocalSigningKeys(SigningKey(KEY)), issuer=None, audience=None, clock=clock)
    identity = await issuer.authenticate(issuer.issue("alice", expires_s=60))
    assert identity.issued_at == clock.now


# ---- the clocks of others that sign with the same key --------------------------------------------


def with_leeway(leeway_s: float = 60) -> LocalIssuer:
    ring = LocalSigningKeys(SigningKey(KEY))
    return LocalIssuer(ring, issuer=None, audience=None, clock=now_ms, leeway_s=leeway_s)


@pytest.mark.parametrize("claim", ["iat", "nbf"])
@pytest.mark.parametrize("ahead_s", [2, 30, 58, 62, 3600])
async def test_clock_that_is_a_little_ahead_stamps_tokens_that_count(
    claim: str, ahead_s: int
) -> None:
    claims: dict[str, Any] = {claim: int(time.time()) + ahead_s}
    token = signed(**claims)
    if ahead_s < 60:
        assert (await with_leeway().authenticate(token)).user_id == "alice"
    else:
        with pytest.raises(Unauthenticated, match="refused"):
            await with_leeway().authenticate(token)
    with pytest.raises(Unauthenticated, match="refused"):
        await with_leeway(0).authenticate(token)


@pytest.mark.parametrize("is_own", [True, False], ids=["its own", "another's"])
async def test_token_of_the_local_key_ends_at_its_expiry(*, is_own: bool) -> None:
    marked: dict[str, Any] = {OWN_MARK: True} if is_own else {}
    for late_s in (1, 30):
        with pytest.raises(Unauthenticated, match="expired"):
            await with_leeway().authenticate(signed(exp=int(time.time()) - late_s, **marked))
    expiry_s = int(time.time()) + 30
    identity = await with_leeway().authenticate(signed(exp=expiry_s, **marked))
    assert identity.expires_at == expiry_s * SECOND


async def test_what_the_gateway_stamped_is_as_old_as_it_says_and_all_else_older() -> None:
    issued_s = int(time.time())
    issuer = with_leeway()
    assert (await issuer.authenticate(signed(iat=issued_s, isolane=True))).issued_at == (
        issued_s * SECOND
    )
    odds: list[dict[str, Any]] = [{}, {OWN_MARK: False}, {OWN_MARK: 1}, {OWN_MARK: "true"}]
    for odd in odds:
        identity = await issuer.authenticate(signed(iat=issued_s, **odd))
        assert identity.issued_at == (issued_s - 60) * SECOND
    own = await issuer.authenticate(issuer.issue("alice", expires_s=60))
    assert own.issued_at is not None
    assert now_ms() - own.issued_at < 60 * SECOND


async def test_the_gateways_own_stamp_is_never_of_the_future() -> None:
    ahead = signed(iat=int(time.time()) + 30, isolane=True)
    with pytest.raises(Unauthenticated, match="refused"):
        await with_leeway().authenticate(ahead)


@pytest.mark.parametrize("issued", [None, "1000", True, -1, 1e300])
async def test_a_token_that_tells_no_time_counts_as_older_than_any(issued: object) -> None:
    claims = {"sub": "alice", "exp": in_an_hour(), **({} if issued is None else {"iat": issued})}
    token = jwt.api_jws.encode(json.dumps(claims).encode(), KEY, algorithm="HS256")
    try:
        assert (await issuer_of().authenticate(token)).issued_at == 0
    except Unauthenticated as error:
        assert error.reason == "invalid"  # noqa: PT017 - to refuse it is as good


async def test_a_changed_letter_is_invalid() -> None:
    token = signed()
    head, body, signature = token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    forged = raw({"alg": "HS256", "typ": "JWT"}, {**claims, "sub": "bob"}).rstrip(".")
    assert await refusal(f"{forged}.{signature}") == "invalid"
    other = "B" if signature.startswith("A") else "A"
    assert await refusal(f"{head}.{body}.{other}{signature[1:]}") == "invalid"


def test_printing_an_issuer_prints_no_key() -> None:
    assert KEY not in f"{issuer_of()!r}"


# ---- keys that are dropped, and keys on another machine -----------------------------------------


class _FarKeys(LocalSigningKeys):
    """Keys for which a caller has to wait."""

    async def take(self, expiry_s: int) -> SigningKey:
        await asyncio.sleep(0)
        return await super().take(expiry_s)


def test_issue_refuses_keys_that_it_would_have_to_wait_for() -> None:
    issuer = LocalIssuer(_FarKeys(), issuer=None, audience=None, clock=now_ms)
    with pytest.raises(ContractError, match="memory or a file"):
        issuer.issue("alice", expires_s=60)


async def test_key_that_came_and_went_between_two_loads_counts_as_dropped() -> None:
    keys = LocalSigningKeys()
    issuer = LocalIssuer(keys, issuer=None, audience=None, clock=now_ms)
    await issuer.load_keys()
    await keys.rotate(now_s=0, forget=True)
    token = issuer.issue("alice", expires_s=60)
    await issuer.authenticate(token)
    before = issuer.dropped_keys
    await keys.rotate(now_s=0, forget=True)
    await issuer.load_keys()
    assert issuer.dropped_keys == before + 1
