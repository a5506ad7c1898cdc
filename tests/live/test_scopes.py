"""What a credential may do: every scope at every door."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, NamedTuple

import httpx
import pytest
from starlette.routing import BaseRoute, Route
from tests.live.client import Client, connect, is_terminal, run_frame
from tests.live.people import new_person
from tests.live.server import Server
from tests.live.stage import SCRIPT, Lane, mint, read_to_close, shared_server, steps

from isolane.app import create_app
from isolane.settings import Settings

pytestmark = pytest.mark.asyncio(loop_scope="module")

server = shared_server(SCRIPT)

READ: Final = "threads:read"
WRITE: Final = "runs:write"
HOLD: Final = steps(["say", "1 "], ["hold", "never"])


@pytest.fixture
def lane(server: Server) -> Lane:
    return Lane(server)


class Ask(NamedTuple):
    """One request, and which scopes it is answered to."""

    method: str
    path: str
    body: Any
    needed: tuple[str, ...]
    """What a refusal names, or one of these: of two that are missing, the first one asked for."""


READING: Final = [
    Ask("GET", "/api/sessions", None, (READ,)),
    Ask("GET", "/api/threads", None, (READ,)),
    Ask("GET", "/api/threads/t", None, (READ,)),
    Ask("GET", "/api/threads/t/events?after=bad", None, (READ,)),
    Ask("GET", "/api/runs/r-1", None, (READ,)),
    Ask("GET", "/agui/script/capabilities", None, (READ,)),
    Ask("GET", "/agui?threadId=t", None, (READ,)),
    Ask("GET", "/agui/script?runId=r-1", None, (READ,)),
]
WRITING: Final = [
    Ask("POST", "/api/threads", {"threadId": "made"}, (WRITE,)),
    Ask("PATCH", "/api/threads/t", {"title": "new"}, (WRITE,)),
    Ask("POST", "/api/runs/r-1/abort", None, (WRITE,)),
    Ask("DELETE", "/api/sessions/unknown", None, (WRITE,)),
    Ask("DELETE", "/api/threads/t", None, (WRITE,)),
]
RUNNING: Final = [
    Ask("POST", "/agui", run_frame("t", "r-2", "hello"), (WRITE,)),
    Ask("POST", "/agui/script", run_frame("t", "r-3", "hello"), (WRITE,)),
]
CHECKING: Final = [
    Ask("POST", "/agui/check", run_frame("t", "r-4", '[["say", "hello"]]'), (WRITE, "check")),
    Ask("GET", "/agui/check/capabilities", None, (READ, "check")),
    Ask("GET", "/agui/check?threadId=t", None, (READ, "check")),
]
RULING: Final = [
    Ask("GET", "/api/users/nobody-here/usage", None, ("admin",)),
    Ask("POST", "/api/users/nobody-here/sign-out", None, ("admin",)),
]
ENDING: Final = [Ask("DELETE", "/api/sessions", None, (WRITE,))]
EVERYTHING: Final = [*READING, *WRITING, *RUNNING, *CHECKING, *RULING, *ENDING]
"""In an order in which none takes away what the next one needs."""

PLAIN_USER: Final = [*READING, *WRITING, *RUNNING, *ENDING]
MAY: Final = {
    READ: READING,
    WRITE: PLAIN_USER,
    f"{READ} {WRITE}": PLAIN_USER,
    f"{WRITE} admin": [*PLAIN_USER, *RULING],
    "check": [*READING, *WRITING, *CHECKING, *ENDING],
    f"{READ} check": [*READING, *WRITING, *CHECKING, *ENDING],
    f"{READ} admin": [*READING, *RULING],
    "admin": RULING,
    "openid profile": PLAIN_USER,
    "": PLAIN_USER,
    None: PLAIN_USER,
}
"""Who may do what; words that aren't ours make nobody less, nor more, than a plain user."""


# ---- over HTTP -----------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", MAY)
async def test_scope_opens_its_routes_and_no_other(lane: Lane, scope: str | None) -> None:
    await lane.play("t", "r-1", "before")
    async with lane.server.http(mint(lane.user, scope=scope)) as http:
        for ask in EVERYTHING:
            answer = await http.request(ask.method, ask.path, json=ask.body)
            if ask in MAY[scope]:
                assert answer.status_code not in {401, 403}, (ask, answer.text)
            else:
                is_refused(answer, ask.needed)


def is_refused(answer: httpx.Response, needed: tuple[str, ...]) -> None:
    """See that the answer names the scope that is missing."""
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (403, "forbidden"), answer.request.url
    assert problem["detail"].rpartition("with the scope ")[2] in needed, answer.request.url


async def test_nothing_happened_that_was_refused(lane: Lane) -> None:
    await lane.play("t", "r-1", "before")
    async with lane.server.http(mint(lane.user, scope=READ)) as http:
        before = (await http.get("/api/threads")).text
        for ask in (*WRITING, *RUNNING, *CHECKING, *RULING, *ENDING):
            assert (await http.request(ask.method, ask.path, json=ask.body)).status_code == 403
        assert (await http.get("/api/threads")).text == before
        for run_id in ("r-2", "r-3", "r-4"):
            assert (await http.get(f"/api/runs/{run_id}")).status_code == 404


PUBLIC: Final = {
    *(f"GET {path}" for path in ("/", "/healthz", "/readyz", "/metrics", "/api/signin", "/signin")),
    "GET /openapi.json",
    *("GET /ai/chat", "GET /ai/{agent}/chat"),
    "GET /signin/{name}",
    "GET /signin/{name}/callback",
    "POST /api/session",
    "DELETE /api/session",
}
"""What answers whoever comes."""
OWN: Final = {"GET /api/me", "POST /api/tickets"}
"""What answers whoever has a credential: it says or hands on no more than that has."""


def all_routes(routes: Iterable[BaseRoute]) -> list[Route]:
    """Return the app's routes, those of its routers too."""
    found: list[Route] = []
    for route in routes:
        inner = getattr(route, "original_router", None)
        if inner is not None:
            found += all_routes(inner.routes)
        elif isinstance(route, Route):
            found.append(route)
    return found


def asks() -> list[tuple[str, str]]:
    """Return each route of the gateway as method and path."""
    app = create_app(Settings(), {})
    return [
        (method, route.path)
        for route in all_routes(app.routes)
        for method in sorted((route.methods or set()) - {"HEAD"})
    ]


def code_of(answer: httpx.Response) -> str | None:
    """Return the code of a refusal, which clients of OpenAI look for in an object of its own."""
    body = answer.json()
    code: str | None = body.get("error", body).get("code")
    return code


async def test_admin_alone_opens_nothing_but_what_is_said(lane: Lane) -> None:
    known = {f"{method} {path}" for method, path in asks()}
    assert known >= PUBLIC | OWN
    assert len(known - PUBLIC - OWN) >= 15
    async with lane.server.http(mint(lane.user, scope="admin")) as http:
        for method, path in asks():
            name = f"{method} {path}"
            if name in PUBLIC or "/api/users/{user_id}/" in name:
                continue
            answer = await http.request(method, path.replace("{", "").replace("}", ""), json={})
            refused = (answer.status_code, code_of(answer))
            wanted = (200, None) if name in OWN else (403, "forbidden")
            assert refused == wanted, name


async def test_no_route_but_the_public_ones_answers_nobody(lane: Lane) -> None:
    async with lane.server.http() as http:
        for method, path in asks():
            if f"{method} {path}" in PUBLIC:
                continue
            answer = await http.request(method, path.replace("{", "").replace("}", ""), json={})
            assert (answer.status_code, code_of(answer)) == (401, "unauthenticated"), path


async def test_admin_may_sign_out_whom_it_likes_and_is_told_nothing_of_them(lane: Lane) -> None:
    async with lane.server.http(mint("root", scope="admin")) as http, lane.connect() as client:
        answers = [
            await http.post(f"/api/users/{user}/sign-out") for user in (lane.user, "nobody-here")
        ]
        assert await client.closed() == (4401, "revoked")
    assert [(each.status_code, each.content) for each in answers] == [(204, b"")] * 2


# ---- over sockets --------------------------------------------------------------------------------


async def test_read_only_socket_follows_and_does_not_run(lane: Lane) -> None:
    async with lane.connect() as writer, reader_of(lane) as client:
        log = await client.subscribe("t")
        await writer.run("t", "r-1", HOLD)
        await client.until_true(lambda: "TEXT_MESSAGE_CONTENT" in log.types)
        for frame in (run_frame("t", "r-2", "hello"), {"type": "abort", "runId": "r-1"}):
            await client.send(frame)
            error = await client.until_type("error")
            assert (error["code"], error["runId"]) == ("forbidden", frame["runId"])
            assert error["message"].endswith(f"with the scope {WRITE}")
        await writer.abort("r-1")
        await client.until_true(lambda: log.has_ended("r-1"))
        assert log.of_run("r-2") == []
    query = "?runId=r-1&offset=-1"
    async with connect(
        lane.server.websocket_url() + query, mint(lane.user, scope=READ), hello=False
    ) as replay:
        frames, _ = await read_to_close(replay)
    assert is_terminal(frames[-1])


def reader_of(lane: Lane) -> AbstractAsyncContextManager[Client]:
    return connect(lane.server.websocket_url(), mint(lane.user, scope=READ))


async def test_abort_that_was_refused_is_not_remembered(lane: Lane) -> None:
    async with reader_of(lane) as client, lane.connect() as writer:
        await client.abort("r-1")
        assert (await client.until_type("error"))["code"] == "forbidden"
        end = await lane.finish(writer, "t", "r-1", "hello")
    assert end["chunk"]["outcome"] == {"type": "success"}


@pytest.mark.parametrize(
    "scope, agent, needed",
    [("admin", None, READ), ("admin", "script", READ), (f"{READ} {WRITE}", "check", "check")],
)
async def test_socket_that_may_nothing_is_refused(
    lane: Lane, scope: str, agent: str | None, needed: str
) -> None:
    token = mint(lane.user, scope=scope)
    async with connect(lane.server.websocket_url(agent), token, hello=False) as client:
        (error,), close = await read_to_close(client)
    assert (error["code"], close) == ("forbidden", (4403, "forbidden"))
    assert error["message"].endswith(f"with the scope {needed}")


async def test_check_runs_its_own_agent_and_no_other(lane: Lane) -> None:
    token = mint(lane.user, scope="check")
    async with connect(lane.server.websocket_url(), token) as client:
        await client.run("t", "r-1", "hello")
        assert (await client.until_type("error"))["code"] == "forbidden"
    async with connect(lane.server.websocket_url("check"), token) as client:
        log = await client.subscribe("t")
        await client.run("t", "r-2", steps(["say", "checked "]))
        await client.until_end("r-2")
        assert (log.of_run("r-1"), log.text) == ([], "checked ")


async def test_renewal_brings_the_scopes_of_the_newer_token(lane: Lane) -> None:
    async with lane.connect() as client:
        await client.send({"type": "auth", "token": mint(lane.user, scope=READ)})
        await client.until_type("auth_ok")
        await client.run("t", "r-1", "hello")
        assert (await client.until_type("error"))["code"] == "forbidden"
        await client.send({"type": "auth", "token": mint(lane.user)})
        await client.until_type("auth_ok")
        end = await lane.finish(client, "t", "r-2", "hello")
        assert end["chunk"]["outcome"] == {"type": "success"}


async def test_renewal_that_may_not_read_is_refused_and_changes_nothing(lane: Lane) -> None:
    async with lane.connect() as client:
        await client.send({"type": "auth", "token": mint(lane.user, scope="admin")})
        assert (await client.until_type("error"))["code"] == "forbidden"
        await client.run("t", "r-1", "go on")
        assert (await client.until_end("r-1"))["chunk"]["type"] == "RUN_FINISHED"


# ---- accounts ------------------------------------------------------------------------------------


@pytest.mark.parametrize("buy", [False, True], ids=["session", "its ticket"])
async def test_session_has_the_scopes_of_its_account(server: Server, *, buy: bool) -> None:
    person = await new_person(server, scopes={READ})
    async with person.sign_in() as browser:
        is_refused(await browser.http.post("/api/threads", json={}), (WRITE,))
        opening = browser.redeem(await browser.buy_ticket()) if buy else browser.connect()
        async with opening as client:
            await client.subscribe("t")
            await client.run("t", "r-1", "hello")
            assert (await client.until_type("error"))["code"] == "forbidden"


async def test_admin_of_an_account_is_no_more_than_an_admin(server: Server) -> None:
    person = await new_person(server, scopes={"admin"})
    async with person.sign_in() as browser:
        assert await browser.who() == (200, None)
        is_refused(await browser.http.get("/api/threads"), (READ,))
        answer = await browser.http.post("/api/users/nobody-here/sign-out")
        assert answer.status_code == 204
