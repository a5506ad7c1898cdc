"""Whose tokens open which door: ours and several providers', no others, for as long as their keys.

The wrong ones are in `forgery.py`. That each is refused in constant work is tested in process.
"""

from __future__ import annotations

import asyncio
import json
import stat
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import httpx
import jwt
import pytest
import pytest_asyncio
from tests.live.build import Mistake, build_with
from tests.live.client import connect
from tests.live.forgery import HUGE, UNKNOWN_KEY_IDS, WRONG
from tests.live.issuer import (
    AUDIENCE,
    HS256,
    JWKS,
    Issuer,
    IssuerServer,
    Key,
    encode_part,
    new_claims,
    new_key,
    running_issuer,
)
from tests.live.server import POLL_S, Server, running_server
from tests.live.stage import SCRIPT, SECRET_KEY, own_server
from tests.live.stopwatch import stopwatch
from tests.live.test_connecting import AGUI, How, knock, socket, user_of
from tests.live.test_operations import isolane
from tests.live.test_revocation import close_of

from isolane.auth.keys import FETCH_INTERVAL_MS
from isolane.auth.local import LocalIssuer
from isolane.auth.tokens import TOKEN_MAX_BYTES
from isolane.clock import now_ms
from isolane.engines.file.signing_keys import FileSigningKeys
from isolane.settings import KEY_NAME

pytestmark = pytest.mark.asyncio(loop_scope="module")

ALGORITHMS: Final = ("EdDSA", "ES256", "RS256")
GATEWAY: Final = "https://gateway.example"
LOCAL: Final = Key(SECRET_KEY, HS256, None)
LEEWAY_S: Final = 60
"""By so much a provider's clock may differ."""
WITHIN_S: Final = 5.0
"""For what comes with the next interval of a server whose intervals are short."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def corp() -> AsyncIterator[IssuerServer]:
    """Give a provider with a key of each kind."""
    async with running_issuer(
        "corp", *(new_key(each, f"key {each}") for each in ALGORITHMS)
    ) as one:
        yield one


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def club() -> AsyncIterator[IssuerServer]:
    """Give another one, whose keys have the same names."""
    async with running_issuer("club", new_key("ES256", "key ES256")) as one:
        yield one


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(
    corp: IssuerServer, club: IssuerServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Server]:
    """Give a server that takes tokens of its own, of one provider by discovery, of another not."""
    known = [corp.settings, {**club.settings, "jwks_url": club.url + JWKS}]
    env = {
        "ISOLANE_PROVIDERS": json.dumps(known),
        "ISOLANE_ISSUER": GATEWAY,
        "ISOLANE_AUDIENCE": AUDIENCE,
        "ISOLANE_LIMIT_FRAME_BYTES": str(4 << 20),
        "ISOLANE_LIMIT_FRAMES_PER_MINUTE": "1000000",
    }
    async with own_server(tmp_path_factory.mktemp("tokens") / "data", SCRIPT, env=env) as one:
        yield one
    for each in (corp, club):  # whatever came in
        assert_asked_seldom(each)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def http(server: Server) -> AsyncIterator[httpx.AsyncClient]:
    async with server.http() as http:
        yield http


def assert_asked_seldom(issuer: Issuer) -> None:
    moments = [moment for path, moment in issuer.asked if path == JWKS]
    gaps = [later - sooner for sooner, later in pairwise(moments)]
    assert all(gap > FETCH_INTERVAL_MS / 1000 - 1 for gap in gaps), gaps


def local_claims(subject: str) -> dict[str, Any]:
    return new_claims(subject, iss=GATEWAY, aud=AUDIENCE)


def signer(corp: Issuer, kind: str) -> tuple[Key, dict[str, Any]]:
    """Return a key that counts, and what it may sign."""
    if kind == "local":
        return LOCAL, local_claims("ada")
    return next(key for key in corp.keys if key.algorithm == kind), corp.claims("ada")


def sign_longest(key: Key, claims: Mapping[str, Any]) -> str:
    """Return a token of the greatest length that is taken, or up to 3 characters less."""
    left = TOKEN_MAX_BYTES - len(key.sign({**claims, "groups": ""}))
    token = key.sign({**claims, "groups": "x" * (left * 3 // 4)})
    assert TOKEN_MAX_BYTES - 3 <= len(token) <= TOKEN_MAX_BYTES
    return token


async def get_me(http: httpx.AsyncClient, token: str) -> tuple[int, dict[str, Any]]:
    answer = await http.get("/api/me", headers={"Authorization": f"Bearer {token}"})
    return answer.status_code, answer.json()


async def user_by(http: httpx.AsyncClient, token: str) -> str:
    """Return the user whom a token speaks for, or why it speaks for nobody."""
    _, body = await get_me(http, token)
    return str(body.get("userId") or body.get("reason") or body["code"])


async def until_answer(http: httpx.AsyncClient, token: str, wanted: str) -> None:
    """Return once a token is answered so; what is waited for is an interval of the server's."""
    deadline = time.monotonic() + WITHIN_S
    while (answer := await user_by(http, token)) != wanted:
        assert time.monotonic() < deadline, f"{answer}, wanted {wanted}"
        await asyncio.sleep(POLL_S)


# --- tokens to refuse -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["local", *ALGORITHMS])
@pytest.mark.parametrize("which", WRONG)
async def test_wrong_token_opens_no_door(
    server: Server, http: httpx.AsyncClient, corp: IssuerServer, kind: str, which: str
) -> None:
    key, claims = signer(corp, kind)
    expected = "ada" if kind == "local" else "corp|ada"
    assert await user_by(http, key.sign(claims)) == expected
    asked = len(corp.asked)
    token = WRONG[which](key, claims)
    status, body = await get_me(http, token)
    assert (status, body["code"], body["reason"]) == (401, "unauthenticated", "invalid")
    plain = await knock(server.websocket_url(), token=token)
    assert (plain.status, plain.body["reason"]) == (401, "invalid")
    told = await knock(server.websocket_url(), token=token, offered=(AGUI,))
    assert told.close == (4401, "invalid")
    assert [frame["reason"] for frame in told.frames] == ["invalid"]
    if which not in UNKNOWN_KEY_IDS:  # which may be one of the seldom ones
        assert len(corp.asked) == asked


@pytest.mark.parametrize("kind", ["local", *ALGORITHMS])
async def test_expired_token_of_a_right_key_is_expired(
    server: Server, http: httpx.AsyncClient, corp: IssuerServer, kind: str
) -> None:
    key, claims = signer(corp, kind)
    token = key.sign({**claims, "exp": int(time.time()) - 60})
    assert await user_by(http, token) == "expired"
    told = await knock(server.websocket_url(), token=token, offered=(AGUI,))
    assert told.close == (4401, "expired")


@pytest.mark.parametrize("kind", ["local", "ES256"])
@pytest.mark.parametrize("which", HUGE)
async def test_token_of_any_length_renews_nothing_and_harms_nothing(
    server: Server, http: httpx.AsyncClient, corp: IssuerServer, kind: str, which: str
) -> None:
    key, claims = signer(corp, kind)
    huge = HUGE[which](key, claims)
    async with connect(server.websocket_url(), key.sign(claims)) as client:
        await client.send({"type": "auth", "token": huge})
        error = await client.until_type("error")
        assert (error["code"], error["reason"]) == ("unauthenticated", "invalid")
        assert client.welcome is not None
        assert await user_of(client) == client.welcome["userId"]
    with suppress(httpx.TransportError):  # a line that says too much may be cut
        async with server.http(huge) as other:
            assert (await other.get("/api/me")).status_code in {400, 401, 431}
    assert (await get_me(http, key.sign(claims)))[0] == 200


@pytest.mark.parametrize("kind", ["local", *ALGORITHMS])
async def test_token_of_16_kib_opens_every_door(
    server: Server, http: httpx.AsyncClient, corp: IssuerServer, kind: str
) -> None:
    key, claims = signer(corp, kind)
    token = sign_longest(key, claims)
    user = "ada" if kind == "local" else "corp|ada"
    assert await user_by(http, token) == user
    for how in (How(token=token), How(offered=(AGUI, f"bearer.{token}"))):
        async with socket(server.websocket_url(), **how) as client:
            assert await user_of(client) == user
    async with connect(server.websocket_url(), key.sign(claims)) as client:
        await client.send({"type": "auth", "token": token})
        await client.until_type("auth_ok")


async def test_ten_thousand_unknown_key_ids_hold_up_nobody_and_ask_once(
    server: Server, http: httpx.AsyncClient, corp: IssuerServer
) -> None:
    key, claims = signer(corp, "ES256")
    token = key.sign(claims)
    assert await user_by(http, token) == "corp|ada"
    before, began = corp.fetches, time.monotonic()
    _, _, rest = token.partition(".")
    slowest_s = 0.0
    async with connect(server.websocket_url(), token) as client:
        for hundred in range(100):
            for number in range(100):
                header = {"typ": "JWT", "alg": "ES256", "kid": f"unknown-{hundred}-{number}"}
                await client.send({"type": "auth", "token": f"{encode_part(header)}.{rest}"})
            with stopwatch(server.pid) as watch:
                assert await user_by(http, token) == "corp|ada"
                slowest_s = max(slowest_s, watch.took_s)
            for _ in range(100):
                assert (await client.until_type("error"))["reason"] == "invalid"
    intervals = (time.monotonic() - began) * 1000 / FETCH_INTERVAL_MS
    assert corp.fetches - before <= 1 + intervals
    assert slowest_s < 2


# --- whose tokens count ---------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_users_of_a_provider_come_in_by_each_algorithm(
    server: Server, http: httpx.AsyncClient, corp: IssuerServer, algorithm: str
) -> None:
    key, claims = signer(corp, algorithm)
    token = key.sign(claims)
    status, body = await get_me(http, token)
    expiry_ms = (claims["exp"] + LEEWAY_S) * 1000
    assert (status, body) == (200, {"userId": "corp|ada", "expiresAt": expiry_ms})
    async with connect(server.websocket_url(), token) as client:
        assert client.welcome is not None
        assert client.welcome["userId"] == "corp|ada"
        assert client.welcome["tokenExpiresAt"] == expiry_ms


async def test_same_subject_of_three_issuers_is_three_users_who_never_meet(
    http: httpx.AsyncClient, corp: IssuerServer, club: IssuerServer
) -> None:
    tokens = {
        "corp|eve": corp.token("eve"),
        "club|eve": club.token("eve"),
        "eve": LOCAL.sign(local_claims("eve")),
    }
    for number, (user, token) in enumerate(tokens.items()):
        assert await user_by(http, token) == user
        bearer = {"Authorization": f"Bearer {token}"}
        for thread_id in ("same", f"own-{number}"):
            body = {"threadId": thread_id}
            made = await http.post("/api/threads", json=body, headers=bearer)
            assert made.status_code == 201
    for number, token in enumerate(tokens.values()):
        bearer = {"Authorization": f"Bearer {token}"}
        listed = (await http.get("/api/threads", headers=bearer)).json()["threads"]
        assert {each["threadId"] for each in listed} == {"same", f"own-{number}"}
        for other in {0, 1, 2} - {number}:
            foreign = await http.get(f"/api/threads/own-{other}", headers=bearer)
            unknown = await http.get("/api/threads/nowhere", headers=bearer)
            assert without_id(foreign) == without_id(unknown)
            assert foreign.status_code == 404


def without_id(answer: httpx.Response) -> dict[str, Any]:
    return {name: value for name, value in answer.json().items() if name != "errorId"}


async def test_socket_of_one_is_not_renewed_by_another_of_the_same_subject(
    server: Server, corp: IssuerServer, club: IssuerServer
) -> None:
    async with connect(server.websocket_url(), corp.token("ada")) as client:
        for token in (club.token("ada"), LOCAL.sign(local_claims("ada"))):
            await client.send({"type": "auth", "token": token})
            assert (await client.until_type("error"))["code"] == "identity_mismatch"
        await client.send({"type": "auth", "token": corp.token("ada", exp=4_000_000_000)})
        assert (await client.until_type("auth_ok"))["expiresAt"] == 4_000_000_060_000


async def test_local_token_speaks_for_no_user_of_a_provider(http: httpx.AsyncClient) -> None:
    assert await user_by(http, LOCAL.sign(local_claims("corp|ada"))) == "invalid"
    assert await user_by(http, LOCAL.sign(local_claims("corps|ada"))) == "corps|ada"


# --- a provider that is down, and one that rotates ------------------------------------------------


def quick_build(folder: Path) -> Mapping[str, str]:
    """Return what runs a server that asks for keys after 0.2 s and refreshes them after 1 s."""
    return build_with(
        folder,
        Mistake(
            "auth/keys.py", "FETCH_INTERVAL_MS: Final = 30_000", "FETCH_INTERVAL_MS: Final = 200"
        ),
        Mistake("auth/keys.py", "REFRESH_MS: Final = 15 * 60_000", "REFRESH_MS: Final = 1000"),
    )


async def test_provider_may_be_down_come_back_and_rotate(tmp_path: Path) -> None:
    async with running_issuer("corp", new_key(kid="old")) as corp:
        await corp.take_down()
        (old,) = corp.keys
        settings = json.dumps([{**corp.settings, "jwks_url": corp.url + JWKS}])
        env = {**quick_build(tmp_path / "src"), "ISOLANE_PROVIDERS": settings}
        async with own_server(tmp_path / "data", SCRIPT, env=env) as one, one.http() as http:
            status, body = await get_me(http, corp.token("ada"))
            assert (status, body["code"], body["retryable"]) == (503, "unavailable", True)
            told = await knock(one.websocket_url(), token=corp.token("ada"), offered=(AGUI,))
            assert told.close == (1013, "unavailable")
            assert await user_by(http, LOCAL.sign(new_claims("ada"))) == "ada"

            await corp.bring_up()
            await until_answer(http, corp.token("ada"), "corp|ada")
            await corp.take_down()
            new = new_key(kid="new")
            await until_answer(http, corp.token("ada", key=new), "unavailable")
            assert await user_by(http, corp.token("ada")) == "corp|ada"

            corp.keys = [new, old]
            await corp.bring_up()
            await until_answer(http, corp.token("ada"), "corp|ada")
            assert await user_by(http, corp.token("ada", key=old)) == "corp|ada"
            corp.keys = [new]
            await until_answer(http, corp.token("ada", key=old), "invalid")
            assert await user_by(http, corp.token("ada")) == "corp|ada"


# --- rotation of our own keys ---------------------------------------------------------------------


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def own(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    """Give a server whose keys are in its data folder."""
    async with running_server(tmp_path_factory.mktemp("own") / "data", SCRIPT) as one:
        yield one


def issue(server: Server, user: str, *, expires_s: int = 3600) -> str:
    """Return a token as `isolane token` prints it."""
    ring = FileSigningKeys(server.data / KEY_NAME)
    issuer = LocalIssuer(ring, issuer=None, audience=None, clock=now_ms)
    return issuer.issue(user, expires_s=expires_s)


def kid_of(token: str) -> str:
    return str(jwt.get_unverified_header(token)["kid"])


async def rotate(server: Server, *options: str) -> None:
    ended = await isolane("key", "rotate", *options, "--data", str(server.data))
    assert ended == (0, "", "")


async def test_rotation_puts_nobody_out(own: Server) -> None:
    old = issue(own, "ada")
    async with own.http() as http, connect(own.websocket_url(), old) as client:
        await rotate(own)
        new = await own.token("ada")
        assert kid_of(old) != kid_of(new)
        assert await user_by(http, new) == "ada"
        assert await user_by(http, old) == "ada"
        async with connect(own.websocket_url(), old), connect(own.websocket_url(), new):
            assert await user_of(client) == "ada"
        await client.send({"type": "auth", "token": new})
        assert (await client.until_type("auth_ok"))["expiresAt"] > 0
    assert stat.S_IMODE((own.data / KEY_NAME).stat().st_mode) == 0o600


async def test_forgetting_closes_what_old_tokens_opened_within_a_second(own: Server) -> None:
    old = issue(own, "bob")
    (ticket,) = await own.tickets(old)
    async with own.http() as http, connect(own.websocket_url(), old, hello=False) as client:
        closing = asyncio.ensure_future(close_of(client))
        with stopwatch(own.pid) as watch:
            await rotate(own, "--forget")
            close, closed_at_s = await closing
        assert close == (4401, "revoked")
        # From when the old keys were gone: a command's process takes its time before and behind.
        gone_at_s = (own.data / KEY_NAME).stat().st_mtime
        assert closed_at_s - gone_at_s < 1 + watch.late_s(gone_at_s)
        assert await user_by(http, old) == "invalid"
        refused = await knock(f"{own.websocket_url()}?ticket={ticket}", offered=(AGUI,))
        assert refused.close == (4401, "revoked")
        assert await user_by(http, issue(own, "bob")) == "bob"


async def test_socket_that_was_renewed_by_a_newer_key_outlives_the_older_one(own: Server) -> None:
    ring = FileSigningKeys(own.data / KEY_NAME)
    await ring.rotate(now_s=int(time.time()))  # to a key that signs nothing but the next token
    old = issue(own, "cid", expires_s=60)
    async with (
        connect(own.websocket_url(), old, hello=False) as left,
        connect(own.websocket_url(), old) as renewed,
    ):
        await ring.rotate(now_s=int(time.time()))
        await renewed.send({"type": "auth", "token": issue(own, "cid", expires_s=3600)})
        await renewed.until_type("auth_ok")
        # As in two minutes: all that the older key signed is dead by then, said the command.
        await ring.rotate(now_s=int(time.time()) + 120)
        assert await left.closed() == (4401, "revoked")
        assert await user_of(renewed) == "cid"


async def test_key_of_the_settings_is_rotated_where_it_is_set(tmp_path: Path) -> None:
    refused = await isolane(
        *("key", "rotate", "--data", str(tmp_path / "data")),
        env={"ISOLANE_SECRET_KEY": SECRET_KEY},
    )
    assert refused.code == 1
    assert "ISOLANE_SECRET_KEY" in refused.err
    assert len(refused.err.splitlines()) == 1
    assert SECRET_KEY not in refused.err
    assert not (tmp_path / "data").exists()
