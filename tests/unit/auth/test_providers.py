"""Providers: whose tokens count, as whom, and what is believed of what they say."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from tests.house import ManualClock, until
from tests.live.issuer import (
    AUDIENCE,
    DISCOVERY,
    JWKS,
    Issuer,
    IssuerServer,
    Key,
    jwks_of,
    network,
    new_claims,
    new_key,
    running_issuer,
)

from isolane.auth import providers
from isolane.auth.keys import DOCUMENT_MAX_BYTES, FETCH_INTERVAL_MS
from isolane.auth.local import LocalIssuer
from isolane.auth.providers import Issuers, Provider, fetch
from isolane.clock import now_ms
from isolane.contracts import PLAIN, Identity, SigningKey
from isolane.engines.memory.signing_keys import LocalSigningKeys
from isolane.errors import Unauthenticated, Unavailable
from isolane.settings import ProviderSettings

SECRET = "a secret of the local issuer, long enough"


@dataclass
class Gate:
    """The issuers of a gateway with a local one and these providers."""

    issuers: Issuers
    providers: dict[str, Provider]
    clock: ManualClock

    async def user_of(self, token: str) -> str:
        return (await self.issuers.authenticate(token)).user_id

    async def refusal(self, token: str) -> str:
        with pytest.raises(Unauthenticated) as caught:
            await self.issuers.authenticate(token)
        return caught.value.reason


@asynccontextmanager
async def gate_to(
    *issuers: Issuer,
    strangers: Sequence[Issuer] = (),
    leeway_s: float = 0,
    **changed: Any,  # noqa: ANN401 - any setting
) -> AsyncIterator[Gate]:
    """Open a gateway's issuers in a net with strangers; `changed` settings are each provider's."""
    clock = ManualClock()
    async with network(*issuers, *strangers) as http:
        found = {
            each.name: Provider(
                ProviderSettings(**{**each.settings, **changed}),
                http,
                clock=clock,
                leeway_s=leeway_s,
            )
            for each in issuers
        }
        local = LocalIssuer(
            LocalSigningKeys(SigningKey(SECRET)),
            issuer=None,
            audience=None,
            clock=now_ms,
            foreign=found,
        )
        yield Gate(Issuers(local, found), found, clock)
        for provider in found.values():
            await provider.keys.close()


def local_token(subject: str, **more: Any) -> str:  # noqa: ANN401 - any claim
    return Key(SECRET, "HS256", None).sign(new_claims(subject, **more))


# --- whose tokens count, and as whom --------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["EdDSA", "ES256", "RS256"])
async def test_token_speaks_for_the_subject_at_its_provider(algorithm: str) -> None:
    corp = Issuer(keys=[new_key(algorithm)])
    async with gate_to(corp) as gate:
        identity = await gate.issuers.authenticate(corp.token("ada", exp=4_000_000_000, iat=1000))
    assert identity == Identity("corp|ada", 4_000_000_000_000, PLAIN, issued_at=1_000_000)


@pytest.mark.parametrize(
    "subject, user_id",
    [
        ("abc/def==", "corp|abc%2Fdef%3D%3D"),
        ("o'brien@example.com", "corp|o%27brien@example.com"),
        ("CN=Ada,OU=R&D", "corp|CN%3DAda%2COU%3DR%26D"),
        ("a b", "corp|a%20b"),
        ("x_y.com#EXT#@z.onmicrosoft.com", "corp|x_y.com%23EXT%23@z.onmicrosoft.com"),
        ("a%20b", "corp|a%2520b"),
        ("~" * 255, f"corp|{'%7E' * 255}"),
        ("x" * 255, f"corp|{'x' * 255}"),
    ],
)
async def test_subject_of_any_ascii_is_a_user(subject: str, user_id: str) -> None:
    corp = Issuer()
    async with gate_to(corp) as gate:
        assert await gate.user_of(corp.token(subject)) == user_id


async def test_clock_of_a_provider_may_differ_a_little() -> None:
    corp = Issuer()
    now_s = int(time.time())
    async with gate_to(corp, leeway_s=60) as gate:
        ahead, too_far = now_s + 20, now_s + 90
        for token in (corp.token("ada", iat=ahead), corp.token("ada", nbf=ahead)):
            assert await gate.user_of(token) == "corp|ada"
        for token in (corp.token("ada", iat=too_far), corp.token("ada", nbf=too_far)):
            assert await gate.refusal(token) == "invalid"
        late = await gate.issuers.authenticate(corp.token("ada", iat=now_s, exp=now_s - 20))
        assert late.expires_at == (now_s + 40) * 1000
        # A sign-out of a moment ago holds, however far ahead the clock was that stamped this one.
        assert late.issued_at == (now_s - 60) * 1000
        assert await gate.refusal(corp.token("ada", exp=now_s - 60)) == "expired"


async def test_same_subject_of_three_issuers_is_three_users() -> None:
    corp, club = Issuer("corp"), Issuer("club")
    async with gate_to(corp, club) as gate:
        tokens = [corp.token("ada"), club.token("ada"), local_token("ada")]
        assert [await gate.user_of(token) for token in tokens] == ["corp|ada", "club|ada", "ada"]


async def test_provider_speaks_for_its_own_users_only() -> None:
    corp, club = Issuer("corp"), Issuer("club", keys=[new_key()])
    async with gate_to(corp, club) as gate:
        for key in (club.keys[0], new_key(), Key(SECRET, "HS256", None)):
            assert await gate.refusal(corp.token("ada", key=key)) == "invalid"
            if key not in club.keys:
                assert await gate.refusal(club.token("ada", key=key)) == "invalid"


@pytest.mark.parametrize("subject", ["corp|ada", "corp|", "corp||ada", "corp|corp|ada"])
async def test_nobody_elses_token_speaks_for_a_providers_user(subject: str) -> None:
    corp, club = Issuer("corp"), Issuer("club")
    async with gate_to(corp, club) as gate:
        assert await gate.refusal(local_token(subject)) == "invalid"
        assert await gate.user_of(club.token(subject)) == f"club|{subject}"
        assert await gate.user_of(corp.token(subject)) == f"corp|{subject}"


@pytest.mark.parametrize("subject", ["corp", "Corp|ada", "corporation|ada", "a|corp|ada", "|corp"])
async def test_local_subject_that_only_looks_alike_is_a_local_user(subject: str) -> None:
    async with gate_to(Issuer("corp")) as gate:
        assert await gate.user_of(local_token(subject)) == subject


async def test_local_key_signs_for_no_provider_and_no_provider_for_the_local_issuer() -> None:
    corp = Issuer()
    async with gate_to(corp) as gate:
        assert await gate.refusal(local_token("ada", iss=corp.url, aud=AUDIENCE)) == "invalid"
        assert await gate.refusal(corp.token("ada", iss=None)) == "invalid"
        assert corp.asked == []


@pytest.mark.parametrize("issuer", ["", "x", None, 5, ["https://corp.example"], {}])
async def test_issuer_that_nobody_knows_is_no_way_in(issuer: object) -> None:
    corp = Issuer()
    async with gate_to(corp) as gate:
        assert await gate.refusal(corp.token("ada", iss=issuer)) == "invalid"
    assert corp.asked == []


@pytest.mark.parametrize(
    "near", ["https://corp.example/", "https://CORP.example", "http://corp.example"]
)
async def test_issuer_is_the_very_text_that_is_configured(near: str) -> None:
    corp = Issuer()
    async with gate_to(corp) as gate:
        assert await gate.refusal(corp.token("ada", iss=near)) == "invalid"
        assert await gate.user_of(corp.token("ada")) == "corp|ada"


@pytest.mark.parametrize("subject", ["", " ", "x" * 1020, "/" * 340, "none", "\ud800"])
async def test_subject_that_is_no_user_id_behind_the_name_is_invalid(subject: str) -> None:
    corp = Issuer()
    async with gate_to(corp) as gate:
        assert await gate.refusal(corp.token(subject)) == "invalid"
        assert await gate.user_of(corp.token("x" * 123)) == "corp|" + "x" * 123


SCOPES: list[tuple[object, set[str] | frozenset[str]]] = [
    (None, PLAIN),
    ("", PLAIN),
    ("openid profile", PLAIN),
    (["threads:read"], PLAIN),
    ("openid threads:read", {"threads:read"}),
    ("threads:read runs:write", PLAIN),
    ("threads:read admin check", {"threads:read"}),
    ("admin", PLAIN),
    ("THREADS:READ", PLAIN),
]


@pytest.mark.parametrize("claim, scopes", SCOPES)
async def test_provider_gives_out_the_scopes_of_a_plain_user_only(
    claim: object, scopes: set[str]
) -> None:
    corp = Issuer()
    async with gate_to(corp) as gate:
        assert (await gate.issuers.authenticate(corp.token("ada", scope=claim))).scopes == scopes


async def test_provider_gives_out_more_and_less_when_that_is_set() -> None:
    corp = Issuer()
    async with gate_to(corp, scopes=["threads:read", "admin"]) as gate:
        for claim, scopes in [
            ("threads:read runs:write admin", {"threads:read", "admin"}),
            ("admin", {"admin"}),
            (None, {"threads:read"}),
            ("openid", {"threads:read"}),
        ]:
            found = await gate.issuers.authenticate(corp.token("ada", scope=claim))
            assert found.scopes == scopes, claim


@pytest.mark.parametrize("issued", [None, "1000", -5, True])
async def test_token_that_tells_no_time_counts_as_older_than_any(issued: object) -> None:
    corp = Issuer()
    async with gate_to(corp) as gate:
        assert (await gate.issuers.authenticate(corp.token("ada", iat=issued))).issued_at == 0


async def test_audience_is_demanded_where_it_is_set_only() -> None:
    corp = Issuer()
    async with gate_to(corp, audience=None) as gate:
        for audience in ("another", ["a", "b"], None):
            assert await gate.user_of(corp.token("ada", aud=audience)) == "corp|ada"
    async with gate_to(corp, audience="") as gate:  # never set, but odd: it lets nobody in
        for audience in ("another", "", [], None):
            assert await gate.refusal(corp.token("ada", aud=audience)) == "invalid"


# --- what a provider says of itself ---------------------------------------------------------------


async def test_keys_are_where_the_discovery_document_says() -> None:
    corp = Issuer()
    elsewhere = Issuer("keys", keys=corp.keys)
    document = {"issuer": corp.url, "jwks_uri": "https://keys.example/jwks"}
    corp.documents[DISCOVERY] = json.dumps(document).encode()
    async with gate_to(corp, strangers=[elsewhere]) as gate:
        assert await gate.user_of(corp.token("ada")) == "corp|ada"
    assert [path for path, _ in corp.asked] == [DISCOVERY]
    assert [path for path, _ in elsewhere.asked] == [JWKS]


async def test_configured_address_of_keys_needs_no_discovery() -> None:
    corp = Issuer()
    corp.documents["/own"] = jwks_of(*corp.keys)
    async with gate_to(corp, jwks_url=f"{corp.url}/own") as gate:
        assert await gate.user_of(corp.token("ada")) == "corp|ada"
    assert [path for path, _ in corp.asked] == ["/own"]


def discovery_documents() -> dict[str, bytes]:
    right = {"issuer": "https://corp.example", "jwks_uri": "https://corp.example/jwks"}
    odd: dict[str, Any] = {
        "of another issuer": {**right, "issuer": "https://evil.example"},
        "of an issuer with a slash": {**right, "issuer": "https://corp.example/"},
        "without an issuer": {"jwks_uri": right["jwks_uri"]},
        "without an address": {"issuer": right["issuer"]},
        "with an address of another type": {**right, "jwks_uri": [right["jwks_uri"]]},
        "with a plain address": {**right, "jwks_uri": "http://corp.example/jwks"},
        "with a file": {**right, "jwks_uri": "file:///etc/passwd"},
        "with half an address": {**right, "jwks_uri": "https://["},
        "with an odd address": {**right, "jwks_uri": "https://a b.example/\x00"},
        "with an odd port": {**right, "jwks_uri": "https://corp.example:99999/jwks"},
        "that is a list": [right],
    }
    return {name: json.dumps(said).encode() for name, said in odd.items()} | {
        "that is no JSON": b"<html>",
        "that is too long": json.dumps(right).encode().ljust(DOCUMENT_MAX_BYTES + 1),
    }


@pytest.mark.parametrize("which", list(discovery_documents()))
async def test_odd_discovery_document_is_no_word_of_the_provider(which: str) -> None:
    corp = Issuer()
    corp.documents[DISCOVERY] = discovery_documents()[which]
    plain = Issuer(url="http://corp.example", keys=corp.keys)
    async with gate_to(corp, strangers=[plain]) as gate:
        with pytest.raises(Unavailable):
            await gate.issuers.authenticate(corp.token("ada"))
        assert corp.fetches == plain.fetches == 0
        corp.documents.clear()
        gate.clock.now += FETCH_INTERVAL_MS
        assert await gate.user_of(corp.token("ada")) == "corp|ada"


@pytest.mark.parametrize("left", [None, b"<html>this page has moved"], ids=["404", "200"])
async def test_keys_that_moved_are_found_where_they_are_now(left: bytes | None) -> None:
    corp = Issuer()
    async with gate_to(corp) as gate:
        await gate.user_of(corp.token("ada"))
        document = {"issuer": corp.url, "jwks_uri": f"{corp.url}/moved"}
        corp.documents = {DISCOVERY: json.dumps(document).encode(), JWKS: left}
        corp.documents["/moved"] = jwks_of(new := new_key(kid="new"))
        answers = []
        for _ in range(3):
            gate.clock.now += FETCH_INTERVAL_MS
            try:
                answers.append(await gate.user_of(corp.token("ada", key=new)))
            except Unavailable:
                answers.append("unavailable")
    assert answers[-1] == "corp|ada"


async def test_provider_that_is_down_is_unavailable_and_takes_no_other_along() -> None:
    corp, club = Issuer("corp", is_down=True), Issuer("club")
    async with gate_to(corp, club) as gate:
        for _ in range(3):
            with pytest.raises(Unavailable) as caught:
                await gate.issuers.authenticate(corp.token("ada"))
            assert (caught.value.http_status, caught.value.close_code) == (503, 1013)
            assert await gate.user_of(club.token("ada")) == "club|ada"
            assert await gate.user_of(local_token("ada")) == "ada"
        corp.is_down = False
        gate.clock.now += FETCH_INTERVAL_MS
        assert await gate.user_of(corp.token("ada")) == "corp|ada"


async def test_provider_that_hangs_holds_up_no_other() -> None:
    corp, club = Issuer("corp"), Issuer("club")
    corp.answering.clear()
    async with gate_to(corp, club) as gate:
        waiting = asyncio.create_task(gate.user_of(corp.token("ada")))
        await until(lambda: corp.asked)
        assert await gate.user_of(club.token("ada")) == "club|ada"
        assert await gate.user_of(local_token("ada")) == "ada"
        assert not waiting.done()
        corp.answering.set()
        assert await waiting == "corp|ada"


# --- over real sockets ----------------------------------------------------------------------------


@pytest.fixture
async def server() -> AsyncIterator[IssuerServer]:
    async with running_issuer() as server:
        yield server


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    """Give a client as the gateway has one."""
    async with httpx.AsyncClient(trust_env=False) as http:
        yield http


async def test_document_comes_whole(server: IssuerServer, http: httpx.AsyncClient) -> None:
    server.documents["/x"] = b"x" * DOCUMENT_MAX_BYTES
    assert await fetch(http, f"{server.url}/x") == server.documents["/x"]


@pytest.mark.parametrize(
    "status", ["301 Moved", "302 Found", "307 Temporary", "404 Not Found", "500 Oh", "204 No"]
)
async def test_answer_that_is_none_is_unavailable_and_followed_nowhere(
    server: IssuerServer, http: httpx.AsyncClient, status: str
) -> None:
    server.status, server.headers = status, (f"Location: {server.url}/elsewhere",)
    with pytest.raises(Unavailable, match=status[:3]):
        await fetch(http, server.url + JWKS)
    assert [path for path, _ in server.asked] == [JWKS]


@pytest.mark.parametrize("way", ["hangs", "trickles"])
async def test_answer_that_never_ends_is_waited_for_a_bounded_time(
    server: IssuerServer, http: httpx.AsyncClient, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert providers.TIMEOUT_S == 5
    monkeypatch.setattr(providers, "TIMEOUT_S", 0.3)
    server.documents[JWKS] = b"x" * 100_000
    if way == "hangs":
        server.answering.clear()
    else:
        server.pause_s = 0.01
    async with asyncio.timeout(5):
        with pytest.raises(Unavailable):
            await fetch(http, server.url + JWKS)
    assert server.fetches == 1


async def test_answer_that_is_too_long_is_refused(
    server: IssuerServer, http: httpx.AsyncClient
) -> None:
    server.documents[JWKS] = b"x" * (4 << 20)
    with pytest.raises(Unavailable, match=f"more than {DOCUMENT_MAX_BYTES}"):
        await fetch(http, server.url + JWKS)


async def test_nobody_at_an_address_is_unavailable(
    server: IssuerServer, http: httpx.AsyncClient
) -> None:
    await server.take_down()
    with pytest.raises(Unavailable, match="can't be reached"):
        await fetch(http, server.url + JWKS)
    await server.bring_up()
    assert await fetch(http, server.url + JWKS) == jwks_of(*server.keys)
