"""Users as others call them: any subject of any issuer, at every door, and after a restart."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from typing import Any, Final
from urllib.parse import quote

import pytest
import pytest_asyncio
from tests.live.client import connect
from tests.live.false_provider import FalseProvider
from tests.live.issuer import HS256, Key, new_claims
from tests.live.people import COOKIE, cookie_socket, isolane, ticket_socket
from tests.live.server import Server
from tests.live.stage import SCRIPT, SECRET_KEY, own_server, steps
from tests.live.test_signin import CODE, begin
from tests.live.untold import note

from isolane.auth.local import LocalIssuer
from isolane.clock import now_ms
from isolane.contracts import SigningKey
from isolane.engines.memory.signing_keys import LocalSigningKeys
from isolane.ids import to_user_id

pytestmark = pytest.mark.asyncio(loop_scope="module")

SUBJECTS: Final = (
    "abc/def==",
    "o'brien@example.com",
    "CN=Ada Lovelace,OU=R&D",
    "ada_corp.com#EXT#@corp.onmicrosoft.com",
    "100%",
    "a%2Fb",
    '<b>"ada"</b>\\',
    "~" * 255,
)
LOCAL: Final = Key(SECRET_KEY, HS256, None)
OWN: Final = "https://own.example"
WHO: Final = steps(["who"])
LEEWAY_S: Final = 60


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def corp() -> AsyncIterator[FalseProvider]:
    async for one in _serving("corp"):
        yield one


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def club() -> AsyncIterator[FalseProvider]:
    async for one in _serving("club"):
        yield one


async def _serving(name: str) -> AsyncIterator[FalseProvider]:
    one = FalseProvider(name)
    await one.bring_up()
    one.write_discovery()
    yield one
    await one.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(
    corp: FalseProvider, club: FalseProvider, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Server]:
    """Give a server that takes tokens of its own, and of two providers."""
    env = {
        "ISOLANE_PROVIDERS": json.dumps([corp.settings, club.settings]),
        "ISOLANE_ISSUER": OWN,
    }
    async with own_server(tmp_path_factory.mktemp("subjects") / "data", SCRIPT, env=env) as one:
        yield one


def own_token(name: str) -> str:
    """Return a token that the gateway's own issuer has stamped."""
    ring = LocalSigningKeys(SigningKey(SECRET_KEY))
    issuer = LocalIssuer(ring, issuer=OWN, audience=None, clock=now_ms)
    return note(issuer.issue(name, expires_s=3600))


async def me(server: Server, token: str) -> dict[str, Any]:
    async with server.http(token) as http:
        found: dict[str, Any] = (await http.get("/api/me")).json()
    return found


async def told(server: Server, token: str, *, run_id: str = "r") -> list[str | None]:
    """Return what an agent is told of whoever has the token: user id, issuer and subject."""
    async with connect(server.websocket_url(), token) as client:
        follower = await client.subscribe("t")
        await client.run("t", run_id, WHO)
        await client.until_true(lambda: follower.has_ended(run_id))
        found: list[str | None] = json.loads(follower.text)
    return found


@pytest.mark.parametrize("subject", SUBJECTS)
async def test_any_subject_of_a_provider_comes_in_and_its_agent_hears_it(
    server: Server, corp: FalseProvider, subject: str
) -> None:
    user_id = "corp|" + to_user_id("sub", subject)
    token = corp.token(subject)
    assert (await me(server, token))["userId"] == user_id
    assert await told(server, token) == [user_id, corp.url, subject]


async def test_one_subject_of_three_issuers_is_three_users(
    server: Server, corp: FalseProvider, club: FalseProvider
) -> None:
    subject = "o'brien/ü"
    local = LOCAL.sign(new_claims(subject, iss=OWN))
    found = [
        await told(server, token) for token in (corp.token(subject), club.token(subject), local)
    ]
    assert [user_id for user_id, _, _ in found] == [
        "corp|o%27brien%2Fü",
        "club|o%27brien%2Fü",
        "o%27brien%2Fü",
    ]
    assert [issuer for _, issuer, _ in found] == [corp.url, club.url, OWN]
    assert {name for _, _, name in found} == {subject}


async def test_names_that_differ_by_an_escape_only_are_two_users(
    server: Server, corp: FalseProvider
) -> None:
    pairs = (("a/b", "a%2Fb"), ("a b", "a%20b"), ("corp|x/", "corp|x%2F"))
    for one, other in pairs:
        assert (await me(server, corp.token(one)))["userId"] != (
            await me(server, corp.token(other))
        )["userId"]


async def test_session_of_any_subject_outlives_a_restart(
    server: Server, corp: FalseProvider
) -> None:
    subject = "CN=Ada,OU=R&D"
    async with server.http() as http:
        asked = await begin(http, corp.name)
        ahead_s = int(time.time()) + 20
        corp.hand_out(id_token=corp.id_token(asked, sub=subject, iat=ahead_s, nbf=ahead_s))
        query = {"state": asked.query["state"], "code": CODE}
        await http.get(f"/signin/{corp.name}/callback", params=query)
        cookie = http.cookies[COOKIE]
        before = (await http.get("/api/me")).json()["userId"]
    await server.restart()
    async with cookie_socket(server, cookie, server.url, hello=True) as client:
        assert client.welcome is not None
        assert client.welcome["userId"] == before == "corp|CN%3DAda%2COU%3DR%26D"
        follower = await client.subscribe("of-a-session")
        await client.run("of-a-session", "r", WHO)
        await client.until_true(lambda: follower.has_ended("r"))
        assert json.loads(follower.text) == [before, corp.url, subject]
    headers = {"Cookie": f"{COOKIE}={cookie}", "Origin": server.url}
    async with server.http() as http:
        ticket = (await http.post("/api/tickets", headers=headers)).json()["ticket"]
    async with ticket_socket(server, ticket, origin=server.url) as client:
        assert client.welcome is not None
        assert client.welcome["userId"] == before


async def test_run_that_waited_over_a_restart_hears_the_subject(
    server: Server, corp: FalseProvider
) -> None:
    subject = "abc/def=="
    token = corp.token(subject)
    async with connect(server.websocket_url(), token) as client:
        await client.run("waits", "first", steps(["hold", "never"]))
        await client.until_type("accepted")
        await client.run("waits", "second", WHO)
        assert (await client.until_type("accepted"))["disposition"] == "queued"
    await server.kill()
    await server.start()
    async with connect(server.websocket_url(), token) as client:
        follower = await client.subscribe("waits")
        await client.until_true(lambda: follower.has_ended("second"))
    assert json.loads(follower.text)[1:] == [corp.url, subject]


@pytest.mark.parametrize("name", ["corp|o'brien/1", "corp|o%27brien%2F1"])
async def test_command_line_signs_out_whom_an_id_or_a_provider_names(
    server: Server, corp: FalseProvider, name: str
) -> None:
    async with connect(server.websocket_url(), corp.token("o'brien/1"), hello=False) as client:
        assert await isolane("user", "sign-out", name, data=server.data) == (0, "", "")
        assert await client.closed() == (4401, "revoked")


async def test_token_of_the_command_line_is_for_any_name(server: Server) -> None:
    name = "CN=O'Brien,OU=100%"
    assert await told(server, await server.token(name)) == [to_user_id("sub", name), OWN, name]


async def test_admin_names_a_user_by_the_id(server: Server, corp: FalseProvider) -> None:
    admin = LOCAL.sign(new_claims("root", iss=OWN, scope="admin"))
    user_id = (await me(server, corp.token("gone/with=")))["userId"]
    quoted = quote(user_id, safe="")
    async with server.http(admin) as http:
        usage = await http.get(f"/api/users/{quoted}/usage")
        assert usage.json()["userId"] == user_id == "corp|gone%2Fwith%3D"
        assert (await http.post(f"/api/users/{quoted}/sign-out")).status_code == 204
    assert (await me(server, corp.token("gone/with=")))["reason"] == "revoked"


# ---- clocks --------------------------------------------------------------------------------------


async def test_clocks_of_others_may_differ_a_little_at_every_door(
    server: Server, corp: FalseProvider
) -> None:
    now_s = int(time.time())
    for token in (
        LOCAL.sign(new_claims("bob", iss=OWN, iat=now_s + 2, nbf=now_s + 2)),
        corp.token("bob", iat=now_s + 20, nbf=now_s + 20),
        corp.token("bob", exp=now_s - 5),
    ):
        assert (await me(server, token))["userId"].endswith("bob")
        async with connect(server.websocket_url(), token) as client:
            assert client.welcome is not None
            await client.send({"type": "auth", "token": token})
            await client.until_type("auth_ok")
    late = LOCAL.sign(new_claims("bob", iss=OWN, exp=now_s - 5))
    assert (await me(server, late))["reason"] == "expired"


async def test_socket_of_a_provider_ends_with_the_leeway_and_one_of_ours_with_its_token(
    server: Server, corp: FalseProvider
) -> None:
    expiry_s = int(time.time()) + 300
    for token, end_s in (
        (corp.token("bob", exp=expiry_s), expiry_s + LEEWAY_S),
        (LOCAL.sign(new_claims("bob", iss=OWN, exp=expiry_s)), expiry_s),
    ):
        async with connect(server.websocket_url(), token) as client:
            assert client.welcome is not None
            assert client.welcome["tokenExpiresAt"] == end_s * 1000
    soon = corp.token("bob", exp=int(time.time()) - LEEWAY_S + 4)
    async with connect(server.websocket_url(), soon, hello=False) as client:
        assert await client.closed() == (4401, "expired")


async def test_token_of_a_clock_that_is_ahead_outlives_no_sign_out(
    server: Server, corp: FalseProvider
) -> None:
    ahead = corp.token("eve", iat=int(time.time()) + 50)
    own = own_token("eve")
    async with server.http(ahead) as http:
        assert (await http.delete("/api/sessions")).status_code == 204
        assert (await http.get("/api/me")).json()["reason"] == "revoked"
    # Made before the sign-out, by the same clock; it is another user's, so it stays.
    assert (await me(server, own))["userId"] == "eve"
    async with server.http(own) as http:
        assert (await http.delete("/api/sessions")).status_code == 204
    assert (await me(server, own))["reason"] == "revoked"
    assert (await me(server, own_token("eve")))["userId"] == "eve"


# ---- one size for tokens -------------------------------------------------------------------------


async def test_no_door_takes_a_token_above_16_kib(server: Server, corp: FalseProvider) -> None:
    token = corp.token("bob", groups="x" * 12_400)
    assert len(token) > 16 << 10
    assert (await me(server, token))["reason"] == "invalid"
    async with connect(server.websocket_url(), token, hello=False) as client:
        assert await client.closed() == (4401, "invalid")
    async with connect(server.websocket_url(), corp.token("bob")) as client:
        await client.send({"type": "auth", "token": token})
        assert (await client.until_type("error"))["reason"] == "invalid"
