"""Signing in at a provider: the right answers of a published server, and what nobody may answer.

Redirects are walked here by hand; `tests/browser/test_signin.py` walks them in a browser.
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from hashlib import sha256
from typing import Any, Final
from urllib.parse import parse_qs, parse_qsl, urlsplit

import httpx
import pytest
import pytest_asyncio
from tests.live.false_provider import Asked, FalseProvider
from tests.live.issuer import Key, new_key
from tests.live.people import COOKIE, new_person
from tests.live.provider import CLIENT_ID, Provider, serving, walk_pages
from tests.live.server import LOOPBACK, Server, free_port
from tests.live.stage import SCRIPT, shared_server
from tests.live.untold import note

pytestmark = pytest.mark.asyncio(loop_scope="module")

STATE_COOKIE: Final = "isolane_signin"
REFUSED: Final = "unauthenticated"
CORP: Final = Provider("corp")
CLUB: Final = Provider("club", "ES256", is_public=False)
CREW: Final = Provider("crew", "EdDSA")
AWAY: Final = Provider("away")
"""Nobody is ever there."""
PUBLISHED: Final = (CORP, CLUB, CREW)
TOKENS_ONLY: Final = {"name": "machines", "issuer": "https://machines.example"}
CODE: Final = "what-the-false-one-gives"
OTHER_KEY: Final = new_key("ES256", "key-1")


FALSE_PORT: Final = free_port()
FALSE: Final = FalseProvider("false", url=f"http://{LOOPBACK}:{FALSE_PORT}", port=FALSE_PORT)
SETTINGS: Final = [*(each.settings for each in (*PUBLISHED, AWAY)), FALSE.settings, TOKENS_ONLY]

server = shared_server(SCRIPT, env={"ISOLANE_PROVIDERS": json.dumps(SETTINGS)})


@pytest_asyncio.fixture(scope="module", loop_scope="module", autouse=True)
async def providers(server: Server) -> AsyncIterator[None]:
    """Serve all providers but the one that is away."""
    FALSE.write_discovery()
    await FALSE.bring_up()
    async with serving(server, *PUBLISHED):
        yield
    await FALSE.take_down()


# ---- what people do --------------------------------------------------------------------------


async def begin(http: httpx.AsyncClient, name: str) -> Asked:
    """Follow the page's link to a provider, as far as the gateway says where that is."""
    answer = await http.get(f"/signin/{name}")
    assert answer.status_code == 303
    query = dict(parse_qsl(urlsplit(answer.headers["location"]).query))
    for secret in (query["state"], query["nonce"]):
        note(secret)
    return Asked(answer.headers["location"], query)


async def sign_in(http: httpx.AsyncClient, provider: Provider, subject: str) -> httpx.Response:
    """Sign in at a provider, and return what the gateway says to its answer."""
    return await http.get(await come_back(http, provider, subject))


async def come_back(http: httpx.AsyncClient, provider: Provider, subject: str) -> str:
    """Sign in at a provider; return the address at which it sends the browser back."""
    asked = await begin(http, provider.name)
    address = await walk_pages(http, asked.address, subject, until=asked.query["redirect_uri"])
    note(parse_qs(urlsplit(address).query)["code"][0])
    return address


async def answer_falsely(
    http: httpx.AsyncClient, *, key: Key | None = None, **claims: object
) -> httpx.Response:
    """Sign in at the false provider, with an ID token of these claims."""
    asked = await begin(http, FALSE.name)
    token = FALSE.id_token(asked, key=key, **claims)
    FALSE.hand_out(id_token=token)
    return await bring_code(http, asked)


async def bring_code(http: httpx.AsyncClient, asked: Asked) -> httpx.Response:
    """Come back from the false provider with a code."""
    query = {"state": asked.query["state"], "code": CODE}
    return await http.get(f"/signin/{FALSE.name}/callback", params=query)


async def who(http: httpx.AsyncClient) -> str | None:
    """Return who the browser is signed in as."""
    answer = await http.get("/api/me")
    return str(answer.json()["userId"]) if answer.is_success else None


def assert_let_in(answer: httpx.Response) -> None:
    """Fail unless the answer brings the person to the page, with a session."""
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert COOKIE in answer.cookies


def assert_sent_back(answer: httpx.Response, code: str = REFUSED) -> None:
    """Fail unless the answer brings the person to the page, without a session."""
    assert (answer.status_code, answer.headers["location"]) == (303, f"/?signin={code}")
    assert COOKIE not in answer.cookies


# ---- the right way ---------------------------------------------------------------------------


@pytest.mark.parametrize("provider", PUBLISHED, ids=lambda provider: provider.algorithm)
async def test_who_signs_in_at_a_provider_is_its_subject_under_its_name(
    server: Server, provider: Provider
) -> None:
    async with server.http() as http:
        assert_let_in(await sign_in(http, provider, "ada"))
        assert await who(http) == f"{provider.name}|ada"
        sessions = (await http.get("/api/sessions")).json()["sessions"]
        assert [session["isCurrent"] for session in sessions] == [True]


async def test_subject_with_other_characters_signs_in_at_a_published_provider(
    server: Server,
) -> None:
    async with server.http() as http:
        assert_let_in(await sign_in(http, CORP, "CN=O'Brien 100%,OU=R&D"))
        assert await who(http) == "corp|CN%3DO%27Brien%20100%25%2COU%3DR%26D"


async def test_one_subject_of_two_providers_and_an_account_of_that_name_are_three_users(
    server: Server,
) -> None:
    person = await new_person(server)
    async with person.sign_in() as browser, server.http() as corp, server.http() as club:
        assert_let_in(await sign_in(corp, CORP, person.name))
        assert_let_in(await sign_in(club, CLUB, person.name))
        run = {"threadId": "mine", "runId": "r", "messages": [], "forwardedProps": {}}
        asked = await corp.post("/agui", json=run, headers={"Origin": server.url})
        assert asked.is_success, asked.text
        lists = [await each.get("/api/threads") for each in (corp, club, browser.http)]
        assert [len(each.json()["threads"]) for each in lists] == [1, 0, 0]


async def test_provider_is_asked_anew_each_time_with_pkce_state_and_nonce(server: Server) -> None:
    async with server.http() as http:
        first, second = await begin(http, "corp"), await begin(http, "corp")
    assert first.query["code_challenge_method"] == "S256"
    assert first.query["response_type"] == "code"
    assert first.query["scope"].split() == ["openid"]
    for name in ("state", "nonce", "code_challenge"):
        assert len(first.query[name]) >= 43  # 256 bits
        assert first.query[name] != second.query[name]


async def test_code_is_redeemed_with_the_verifier_of_its_challenge(server: Server) -> None:
    async with server.http() as http:
        asked = await begin(http, FALSE.name)
        FALSE.hand_out(id_token=FALSE.id_token(asked))
        assert_let_in(await bring_code(http, asked))
        assert await who(http) == "false|ada"
    told = dict(parse_qsl(FALSE.told))
    digest = sha256(told["code_verifier"].encode()).digest()
    assert base64.urlsafe_b64encode(digest).decode().rstrip("=") == asked.query["code_challenge"]
    assert told["redirect_uri"] == asked.query["redirect_uri"]
    assert told["code"] == CODE


async def test_cookies_are_for_the_browser_and_its_own_navigations(server: Server) -> None:
    async with server.http() as http:
        out = await http.get("/signin/corp")
        back = await sign_in(http, CORP, "ada")
    given = [*out.headers.get_list("set-cookie"), *back.headers.get_list("set-cookie")]
    state, session = (
        next(each for each in given if each.startswith(f"{name}=") and "Max-Age=0" not in each)
        for name in (STATE_COOKIE, COOKIE)
    )
    assert {"HttpOnly", "SameSite=lax", "Path=/signin"} <= set(state.split("; "))
    assert {"HttpOnly", "SameSite=lax", "Path=/"} <= set(session.split("; "))
    assert STATE_COOKIE not in http.cookies  # it has done its work


async def test_signing_in_again_is_another_session(server: Server) -> None:
    """A cookie that somebody planted before doesn't become the person's."""
    async with server.http() as http:
        await sign_in(http, CORP, "eve")
        planted = http.cookies[COOKIE]
        await sign_in(http, CLUB, "ada")
        assert http.cookies[COOKIE] != planted
        assert await who(http) == "club|ada"


async def test_page_is_told_where_one_signs_in(server: Server) -> None:
    async with server.http() as http:
        ways = (await http.get("/api/signin")).json()
    names = [*(each.name for each in (*PUBLISHED, AWAY)), FALSE.name]
    assert ways["password"] is True
    assert [way["href"] for way in ways["providers"]] == [f"/signin/{name}" for name in names]
    assert ways["providers"][0]["label"] == "Corp"
    assert ways["providers"][-1]["label"] == FALSE.name


@pytest.mark.parametrize("name", ["machines", "nobody"])
async def test_nobody_signs_in_where_that_is_not_offered(server: Server, name: str) -> None:
    async with server.http() as http:
        assert (await http.get(f"/signin/{name}")).status_code == 404
        assert (await http.get(f"/signin/{name}/callback?state=x&code=y")).status_code == 404


# ---- who else comes back ---------------------------------------------------------------------


@pytest.mark.parametrize("is_under_way", [True, False], ids=["own sign-in", "no sign-in"])
async def test_answer_to_another_browser_signs_nobody_in(
    server: Server, *, is_under_way: bool
) -> None:
    async with server.http() as eve, server.http() as ada:
        address = await come_back(eve, CORP, "eve")
        if is_under_way:
            await begin(ada, "corp")
        assert_sent_back(await ada.get(address))
        assert await who(ada) is None
        assert_let_in(await eve.get(address))  # nobody has spent what is hers


async def test_code_of_another_sign_in_signs_nobody_in(server: Server) -> None:
    """The provider itself refuses it: the verifier is another's."""
    async with server.http() as eve, server.http() as ada:
        code = parse_qs(urlsplit(await come_back(eve, CORP, "eve")).query)["code"][0]
        asked = await begin(ada, "corp")
        query = {"state": asked.query["state"], "code": code}
        assert_sent_back(await ada.get("/signin/corp/callback", params=query))
        assert await who(ada) is None


@pytest.mark.parametrize("query", ["", "code=x", "state=&code=x", "state=made-up&code=x"])
async def test_answer_without_its_state_signs_nobody_in(server: Server, query: str) -> None:
    async with server.http() as http:
        assert_sent_back(await http.get(f"/signin/corp/callback?{query}"))
        await begin(http, "corp")
        assert_sent_back(await http.get(f"/signin/corp/callback?{query}"))


async def test_answer_counts_once(server: Server) -> None:
    """Also at a provider that would take its code again."""
    async with server.http() as http:
        asked = await begin(http, FALSE.name)
        state = http.cookies[STATE_COOKIE]
        FALSE.hand_out(id_token=FALSE.id_token(asked))
        assert_let_in(await bring_code(http, asked))
        assert_sent_back(await bring_code(http, asked))
        http.cookies.set(STATE_COOKIE, state, domain=LOOPBACK, path="/signin")
        assert_sent_back(await bring_code(http, asked))
        assert await who(http) == "false|ada"  # what was begun goes on


async def test_answer_counts_at_the_provider_that_was_asked(server: Server) -> None:
    """Also when another one has learned all that it needs."""
    async with server.http() as http:
        asked = await begin(http, CORP.name)
        FALSE.hand_out(id_token=FALSE.id_token(asked))
        assert_sent_back(await bring_code(http, asked))
        assert await who(http) is None


async def test_refusal_of_the_provider_ends_the_sign_in(server: Server) -> None:
    async with server.http() as http:
        asked = await begin(http, FALSE.name)
        query = {"state": asked.query["state"], "error": "access_denied"}
        assert_sent_back(await http.get(f"/signin/{FALSE.name}/callback", params=query))
        FALSE.hand_out(id_token=FALSE.id_token(asked))
        assert_sent_back(await bring_code(http, asked))
        assert await who(http) is None


# ---- what else a provider may say ------------------------------------------------------------

WRONG: Final[dict[str, dict[str, Any]]] = {
    "of another sign-in": {"nonce": "another"},
    "without a nonce": {"nonce": None},
    "with an odd nonce": {"nonce": ["another"]},
    "for another client": {"aud": "somebody-else"},
    "for another client too": {"aud": [CLIENT_ID, "somebody-else"], "azp": "somebody-else"},
    "for nobody": {"aud": None},
    "of another issuer": {"iss": "https://elsewhere.example"},
    "of no issuer": {"iss": None},
    "expired": {"expires_s": -60},
    "without an end": {"exp": None},
    "of nobody": {"sub": None},
    "signed by another": {"key": OTHER_KEY},
    "signed with what all know": {"key": Key(CLIENT_ID, "HS256", "key-1")},
}


@pytest.mark.parametrize("claims", WRONG.values(), ids=WRONG.keys())
async def test_id_token_that_does_not_fit_signs_nobody_in(
    server: Server, claims: dict[str, Any]
) -> None:
    async with server.http() as http:
        assert_sent_back(await answer_falsely(http, **claims))
        assert await who(http) is None
        assert_let_in(await answer_falsely(http))  # it was nothing else


OK: Final = "200 OK"
ODD: Final[dict[str, tuple[str, bytes, str]]] = {
    "no ID token": (OK, b'{"access_token": "x"}', REFUSED),
    "an ID token that is none": (OK, b'{"access_token": "x", "id_token": "x"}', REFUSED),
    "an ID token that is no text": (OK, b'{"access_token": "x", "id_token": [1]}', REFUSED),
    "a refusal": ("400 Bad Request", b'{"error": "invalid_grant"}', REFUSED),
    "an odd refusal": ("401 Unauthorized", b'{"error": ["x"]}', REFUSED),
    "no JSON": (OK, b"<html>", "unavailable"),
    "nothing": (OK, b"", "unavailable"),
    "no object": (OK, b"[1, 2]", "unavailable"),
    "too much": (OK, b'{"x": "' + b"x" * 1_000_000 + b'"}', "unavailable"),
    "a failure": ("503 Service Unavailable", b"{}", "unavailable"),
}


@pytest.mark.parametrize("status, body, code", ODD.values(), ids=ODD.keys())
async def test_odd_answer_for_a_code_signs_nobody_in(
    server: Server, status: str, body: bytes, code: str
) -> None:
    async with server.http() as http:
        asked = await begin(http, FALSE.name)
        FALSE.documents["/token"], FALSE.token_status = body, status
        try:
            assert_sent_back(await bring_code(http, asked), code)
        finally:
            FALSE.token_status = OK
        assert await who(http) is None


async def test_redirect_for_a_code_is_not_followed(server: Server) -> None:
    """The code and the client's secret are for one address only."""
    async with server.http() as http:
        asked = await begin(http, FALSE.name)
        FALSE.documents["/token"], FALSE.token_status = b"{}", "307 Temporary Redirect"
        FALSE.headers = (f"Location: {FALSE.url}/elsewhere",)
        try:
            answer = await bring_code(http, asked)
        finally:
            FALSE.token_status, FALSE.headers = OK, ()
        assert answer.headers["location"].startswith("/?signin=")
        assert await who(http) is None
        assert "/elsewhere" not in [path for path, _ in FALSE.asked]


async def test_provider_that_is_down_brings_people_back_and_hinders_nobody_else(
    server: Server,
) -> None:
    person = await new_person(server)
    async with server.http() as http, person.sign_in() as browser:
        assert_sent_back(await http.get("/signin/away"), "unavailable")
        assert_let_in(await sign_in(http, CORP, "ada"))
        assert await who(browser.http) == person.name


async def test_provider_that_goes_down_meanwhile_brings_people_back(server: Server) -> None:
    async with server.http() as http:
        asked = await begin(http, FALSE.name)
        await FALSE.take_down()
        try:
            assert_sent_back(await bring_code(http, asked), "unavailable")
        finally:
            await FALSE.bring_up()
        assert_let_in(await answer_falsely(http))
