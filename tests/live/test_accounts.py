"""Local accounts: the command line, signing in and out, what a session's cookie is good for."""

from __future__ import annotations

import asyncio
import sys
import unicodedata
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import pytest_asyncio
from tests.live.client import run_frame
from tests.live.people import (
    COOKIE,
    PASSWORD,
    add_user,
    cookie_socket,
    isolane,
    sign_in,
    signed_in,
)
from tests.live.server import START_TIMEOUT_S, Server, free_port
from tests.live.stage import SCRIPT, Lane, mint, read_to_close, shared_server
from websockets.exceptions import InvalidStatus

pytestmark = pytest.mark.asyncio(loop_scope="module")

FRIEND: Final = "https://friend.example"

server = shared_server(SCRIPT, env={"ISOLANE_ALLOWED_ORIGINS": FRIEND})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def user(server: Server) -> str:
    """Give the name of an account that no test removes."""
    assert (await add_user(server.data, "ada")).code == 0
    return "ada"


def foreign_origins(server: Server) -> list[str]:
    """Return what a browser may say that is not a page of ours."""
    return [
        "https://evil.example",
        "null",
        "",
        f"{server.url}.evil.example",
        f"http://evil.example/{server.address}",
        f"http://{server.address}@evil.example",
        f"http://127.0.0.1:{server.port + 1}",
        "http://127.0.0.1",
        f"https://{server.address}",
        f"http://localhost:{server.port}",
        f"{FRIEND}.evil.example",
        "http://friend.example",
        f"{FRIEND}:8443",
        "*",
    ]


# ---- the command line ------------------------------------------------------------------------


async def test_account_lives_from_its_adding_to_its_removal(server: Server, user: str) -> None:
    composed, decomposed = (unicodedata.normalize(form, "zoë") for form in ("NFC", "NFD"))
    assert await add_user(server.data, decomposed) == (0, "", "")
    listed = await isolane("user", "list", data=server.data)
    assert listed == (0, f"{user}\n{composed}\n", "")
    async with signed_in(server, composed) as http, signed_in(server, decomposed) as other:
        for client in (http, other):  # either way to write it is the one name
            assert (await client.get("/api/me")).json()["userId"] == composed
        assert (await isolane("user", "remove", decomposed, data=server.data)).code == 0
        for client in (http, other):
            assert (await client.get("/api/me")).status_code == 401
        assert (await sign_in(http, composed)).status_code == 401
    gone = await isolane("user", "remove", composed, data=server.data)
    assert (gone.code, gone.err.strip()) == (1, f"Error: no account is called {composed}")


@pytest.mark.parametrize(
    "name, password, why",
    [("ada", PASSWORD, "taken"), ("bob", "short", "password"), ("../bob", PASSWORD, "username")],
)
async def test_account_that_cannot_be_is_refused_in_one_sentence(
    server: Server, user: str, name: str, password: str, why: str
) -> None:
    assert user == "ada"
    refused = await add_user(server.data, name, password)
    assert refused.code == 1
    assert why in refused.err
    assert len(refused.err.splitlines()) == 1


async def test_no_password_is_kept_or_shown(server: Server, user: str) -> None:
    async with signed_in(server, user) as http:
        secret = http.cookies[COOKIE]
    await sign_in_wrongly(server, user)
    kept = b"".join(path.read_bytes() for path in server.data.iterdir())
    for word in (PASSWORD, "not the password", secret):
        assert word.encode() not in kept
        assert word not in "\n".join(server.lines)
    assert b"$argon2id$" in kept


async def sign_in_wrongly(server: Server, name: str) -> httpx.Response:
    async with server.http() as http:
        return await sign_in(http, name, "not the password")


# ---- signing in and out ----------------------------------------------------------------------


async def test_signing_in_sets_a_cookie_that_scripts_cannot_read(server: Server, user: str) -> None:
    async with server.http() as http:
        answer = await sign_in(http, user)
        assert answer.status_code == 200
        assert answer.json().keys() == {"userId", "expiresAt"}
        assert answer.headers["cache-control"] == "no-store"
        name, *flags = answer.headers["set-cookie"].lower().split("; ")
        assert name.startswith(f"{COOKIE}=")
        assert {"httponly", "samesite=lax", "path=/"} <= set(flags)
        assert "secure" not in flags, "the server is asked by plain http"
        me = await http.get("/api/me")
    assert me.json() == answer.json()
    assert me.json()["userId"] == user


async def test_cookie_of_a_page_by_https_stays_there(server: Server, user: str) -> None:
    async with server.http() as http:
        answer = await sign_in(http, user, **{"x-forwarded-proto": "https"})
    assert "; secure" in answer.headers["set-cookie"].lower()


async def test_wrong_password_and_unknown_user_are_answered_alike(
    server: Server, user: str
) -> None:
    wrong = await sign_in_wrongly(server, user)
    unknown = await sign_in_wrongly(server, "nobody")
    answers = []
    for answer in (wrong, unknown):
        assert answer.status_code == 401
        assert "set-cookie" not in answer.headers
        body = answer.json()
        assert body.pop("errorId").startswith("err_")
        answers.append(body)
    assert answers[0] == answers[1]
    assert (answers[0]["code"], answers[0]["reason"]) == ("unauthenticated", "invalid")


@pytest.mark.parametrize("password", [PASSWORD.upper(), f" {PASSWORD}", "", "x" * 5000, "é\0"])
async def test_other_passwords_are_no_passwords(server: Server, user: str, password: str) -> None:
    async with server.http() as http:
        answer = await sign_in(http, user, password)
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")


@pytest.mark.parametrize(
    "body, field",
    [
        ({}, "username"),
        ({"username": "ada"}, "password"),
        ({"username": 7, "password": PASSWORD}, "username"),
        ({"username": "ada", "password": None}, "password"),
        ({"username": ["ada"], "password": PASSWORD}, "username"),
    ],
)
async def test_sign_in_without_its_fields_names_the_field(
    server: Server, body: dict[str, Any], field: str
) -> None:
    async with server.http() as http:
        answer = await http.post("/api/session", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input")
    assert answer.json()["field"] == field
    assert PASSWORD not in answer.text


async def test_signing_out_ends_the_session_at_once(server: Server, user: str) -> None:
    async with signed_in(server, user) as http, signed_in(server, user) as other:
        secret = http.cookies[COOKIE]
        answer = await http.delete("/api/session", headers={"Origin": server.url})
        assert answer.status_code == 204
        assert f'{COOKIE}=""' in answer.headers["set-cookie"]
        assert COOKIE not in http.cookies
        async with server.http() as thief:
            kept = await thief.get("/api/me", headers={"Cookie": f"{COOKIE}={secret}"})
        assert (kept.status_code, kept.json()["code"]) == (401, "unauthenticated")
        assert (await other.get("/api/me")).status_code == 200, "another device stays signed in"
        again = await http.delete("/api/session", headers={"Origin": server.url})
        assert again.status_code == 204


async def test_bearer_counts_before_the_cookie(server: Server, user: str) -> None:
    async with signed_in(server, user) as http:
        other = await http.get("/api/me", headers={"Authorization": f"Bearer {mint('else')}"})
        assert other.json()["userId"] == "else"
        for odd in ("Bearer not-a-token", "Basic YWRhOmFkYQ==", "Bearer"):
            refused = await http.get("/api/me", headers={"Authorization": odd})
            assert (refused.status_code, refused.json()["code"]) == (401, "unauthenticated")


@pytest.mark.parametrize(
    "beside", ["theme=dark", 'odd={"a": 1, "b": [2]}', "two words", "a=b=c", "=", "x[1]=2"]
)
async def test_cookie_is_found_beside_others_of_the_same_host(
    server: Server, user: str, beside: str
) -> None:
    async with signed_in(server, user) as http:
        own = f"{COOKIE}={http.cookies[COOKIE]}"
    async with server.http() as http:
        for cookie in (f"{beside}; {own}", f"{own}; {beside}"):
            answer = await http.get("/api/me", headers={"Cookie": cookie})
            assert (answer.status_code, answer.json().get("userId")) == (200, user), cookie


# ---- the cookie needs its page ---------------------------------------------------------------


def writes() -> list[tuple[str, str, dict[str, Any] | None]]:
    """Return every route that changes something."""
    return [
        ("POST", "/api/tickets", None),
        ("POST", "/api/threads", {"threadId": "t"}),
        ("PATCH", "/api/threads/t", {"title": "new"}),
        ("DELETE", "/api/threads/t", None),
        ("POST", "/api/runs/r-1/abort", None),
        ("POST", "/agui", run_frame("t", "r-2", "hello")),
        ("POST", "/agui/script", run_frame("t", "r-2", "hello")),
        ("DELETE", "/api/session", None),
        ("DELETE", "/api/sessions", None),
        ("DELETE", "/api/sessions/some", None),
        ("POST", "/api/users/some/sign-out", None),
    ]


async def test_write_with_a_cookie_needs_the_origin_of_our_page(server: Server, user: str) -> None:
    async with signed_in(server, user) as http:
        for method, path, body in writes():
            for origins in ([], *([origin] for origin in foreign_origins(server))):
                await is_forbidden(http, method, path, body, origins)
            await is_forbidden(http, method, path, body, [server.url, "https://evil.example"])
            await is_forbidden(http, method, path, body, [server.url, server.url])
        assert (await http.get("/api/threads")).json()["threads"] == []


async def is_forbidden(
    http: httpx.AsyncClient,
    method: str,
    path: str,
    body: dict[str, Any] | None,
    origins: Sequence[str],
) -> None:
    headers = [("Origin", origin) for origin in origins]
    answer = await http.request(method, path, json=body, headers=headers)
    said = (answer.status_code, answer.json()["code"])
    assert said == (403, "forbidden"), (method, path, origins)


@pytest.mark.parametrize("which", ["own", "friend", "own with its default spelled"])
async def test_our_pages_and_those_on_the_list_may_write(
    server: Server, user: str, which: str
) -> None:
    origin = {"own": server.url, "friend": FRIEND}.get(which, f"{FRIEND}:443")
    async with signed_in(server, user) as http:
        headers = {"Origin": origin}
        made = await http.post("/api/threads", json={"threadId": "t"}, headers=headers)
        assert made.status_code == 201
        ran = await http.post("/agui", json=run_frame("t", "r-1", "hello"), headers=headers)
        assert ran.text.count("data: ") > 3
        assert (await http.delete("/api/threads/t", headers=headers)).status_code == 204


async def test_reading_needs_no_origin_but_no_foreign_one(server: Server, user: str) -> None:
    async with signed_in(server, user) as http:
        for path in ("/api/me", "/api/threads"):
            assert (await http.get(path)).status_code == 200
            assert (await http.get(path, headers={"Origin": server.url})).status_code == 200
            for origin in foreign_origins(server):
                answer = await http.get(path, headers={"Origin": origin})
                assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


async def test_foreign_page_signs_nobody_in(server: Server, user: str) -> None:
    async with server.http() as http:
        for origin in foreign_origins(server):
            answer = await sign_in(http, user, Origin=origin)
            assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
            assert not http.cookies
        assert (await sign_in(http, user, Origin=server.url)).status_code == 200


async def test_bearer_needs_no_origin(server: Server, user: str) -> None:
    async with signed_in(server, user) as http:
        http.headers["Authorization"] = f"Bearer {Lane(server).token}"
        for origin in (None, "https://evil.example", "null"):
            headers = {} if origin is None else {"Origin": origin}
            answer = await http.post("/api/threads", json={}, headers=headers)
            assert answer.status_code == 201


async def test_socket_with_a_cookie_needs_the_origin_of_our_page(server: Server, user: str) -> None:
    async with signed_in(server, user) as http:
        cookie = http.cookies[COOKIE]
    for origins in ((), *((origin,) for origin in foreign_origins(server))):
        with pytest.raises(InvalidStatus) as refused:
            async with cookie_socket(server, cookie, *origins, offered=False):
                pytest.fail(f"{origins} was let in")
        assert refused.value.response.status_code == 403
        async with cookie_socket(server, cookie, *origins) as client:
            frames, close = await read_to_close(client)
        assert [(frame["type"], frame["code"]) for frame in frames] == [("error", "forbidden")]
        assert close == (4403, "forbidden")
    for origins in ((server.url,) * 2, (server.url, "https://evil.example")):
        with pytest.raises(InvalidStatus) as refused:
            async with cookie_socket(server, cookie, *origins, offered=False):
                pytest.fail(f"{origins} was let in")
        assert refused.value.response.status_code in {400, 403}


@pytest.mark.parametrize("which", ["own", "friend"])
async def test_socket_of_our_page_needs_only_the_cookie(
    server: Server, user: str, which: str
) -> None:
    async with signed_in(server, user) as http:
        cookie = http.cookies[COOKIE]
    origin = server.url if which == "own" else FRIEND
    async with cookie_socket(server, cookie, origin) as client:
        await client.send({"type": "hello", "v": 1})
        assert (await client.until_type("welcome"))["userId"] == user
        await client.run("t", "r-1", "hello")
        assert (await client.until_end("r-1"))["chunk"]["type"] == "RUN_FINISHED"


async def test_ended_session_opens_no_socket_and_closes_those_it_opened(
    server: Server, user: str
) -> None:
    async with signed_in(server, user) as http:
        cookie = http.cookies[COOKIE]
        async with cookie_socket(server, cookie, server.url) as client:
            await client.send({"type": "hello", "v": 1})
            await client.until_type("welcome")
            await http.delete("/api/session", headers={"Origin": server.url})
            async with cookie_socket(server, cookie, server.url) as late:
                assert (await read_to_close(late))[1] == (4401, "invalid")
            assert await client.closed() == (4401, "revoked")


# ---- the demo --------------------------------------------------------------------------------


@asynccontextmanager
async def demo(data: Path, *options: str) -> AsyncIterator[dict[str, str]]:
    """Serve the demo and give the sign-in link of each account."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "isolane", "serve", "--demo", "--data", str(data), *options),
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=DEVNULL,
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(START_TIMEOUT_S):
            lines = [(await process.stdout.readline()).decode() for _ in range(2)]
        yield dict(line.strip().split(": ", 1) for line in lines)
    finally:
        process.terminate()
        await asyncio.wait_for(process.wait(), START_TIMEOUT_S)
    assert process.returncode == 0


async def test_demo_prints_a_link_for_each_of_two_that_works_once(tmp_path: Path) -> None:
    port = free_port()
    page = Server(tmp_path, (), port=port)
    cookies = {}
    async with demo(tmp_path, "--port", str(port)) as links:
        assert links.keys() == {"alice", "bob"}
        for name, link in links.items():
            assert link.startswith(f"{page.url}/")
            cookies[name] = await redeem(page, link, name)
            async with cookie_socket(page, cookies[name], page.url) as client:
                await client.send({"type": "hello", "v": 1})
                assert (await client.until_type("welcome"))["userId"] == name
            async with page.http() as thief:
                again = await thief.get(link)
                assert (again.status_code, again.json()["code"]) == (401, "unauthenticated")
                assert not thief.cookies
    async with demo(tmp_path, "--port", str(port)) as new_links:
        assert set(new_links.values()).isdisjoint(links.values())
        for name, cookie in cookies.items():
            await who_is(page, cookie, name)  # a session survives a restart
        await redeem(page, new_links["bob"], "bob")


async def redeem(page: Server, link: str, name: str) -> str:
    """Follow a sign-in link and return the session's cookie."""
    async with page.http() as http:
        answer = await http.get(link)
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        cookie = http.cookies[COOKIE]
    await who_is(page, cookie, name)
    return cookie


async def who_is(page: Server, cookie: str, name: str) -> None:
    async with page.http() as http:
        me = await http.get("/api/me", headers={"Cookie": f"{COOKIE}={cookie}"})
        assert (me.status_code, me.json().get("userId")) == (200, name)


@pytest.mark.parametrize("host", ["0.0.0.0", "isolane.example"])  # noqa: S104
async def test_demo_is_for_this_machine_only(tmp_path: Path, host: str) -> None:
    refused = await isolane("serve", "--demo", "--host", host, data=tmp_path)
    assert refused.code == 2
    assert "loopback" in refused.err
    assert "code=" not in refused.out + refused.err
