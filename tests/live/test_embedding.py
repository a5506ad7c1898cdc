"""A host with users of its own: its word is who they are, at every door, and nobody else's."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from starlette.types import Receive, Scope, Send
from structlog.testing import capture_logs
from tests.live.client import Client, connect, run_frame
from tests.live.stage import mint, read_to_close
from tests.live.test_examples import EXAMPLES, running_app
from websockets.asyncio.client import connect as open_websocket
from websockets.typing import Subprotocol

from isolane import Identity, UserExecutionContext
from isolane.app import HostUsers, create_app
from isolane.auth.tokens import TOKEN_MAX_BYTES
from isolane.errors import ContractError, Unavailable
from isolane.ids import to_user_id
from isolane.settings import Settings

READ: Final = "threads:read"
FRIEND: Final = "https://friend.example"


# ---- the example, as its reader runs it ----------------------------------------------------------


@asynccontextmanager
async def example(tmp_path: Path) -> AsyncIterator[str]:
    """Serve `examples/users.py`; yield its address."""
    async with running_app(EXAMPLES, "users:app", {"ISOLANE_DATA": str(tmp_path)}) as address:
        yield address


@asynccontextmanager
async def signed_in(address: str, name: str, password: str) -> AsyncIterator[httpx.AsyncClient]:
    """Sign in to the host itself."""
    async with httpx.AsyncClient(base_url=f"http://{address}", trust_env=False) as http:
        answer = await http.post("/login", params={"name": name, "password": password})
        assert answer.json() == {"signed in": name}
        yield http


@asynccontextmanager
async def page_socket(address: str, cookie: str, origin: str) -> AsyncIterator[Client]:
    """Open a socket as a page of the host does."""
    headers = [("Cookie", f"session={cookie}"), ("Origin", origin)]
    async with open_websocket(
        f"ws://{address}/agent/ws",
        subprotocols=[Subprotocol("agui.v1")],
        additional_headers=headers,
        proxy=None,
        ping_interval=None,
    ) as socket:
        yield Client(socket)


async def test_users_of_the_host_have_a_lane_each(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        address = await stack.enter_async_context(example(tmp_path))
        ada = await stack.enter_async_context(signed_in(address, "ada", "countess"))
        grace = await stack.enter_async_context(signed_in(address, "grace", "admiral"))
        for http, name in ((ada, "ada"), (grace, "grace")):
            cookie = http.cookies["session"]
            async with page_socket(address, cookie, f"http://{address}") as client:
                await client.send({"type": "hello", "v": 1})
                assert (await client.until_type("welcome"))["userId"] == name
                log = await client.subscribe("t")
                await client.run("t", "r-1", "hello")
                await client.until_true(lambda log=log: log.has_ended("r-1"))  # type: ignore[misc]
                assert log.text == f"Hello {name}."
            threads = (await http.get("/agent/api/threads")).json()["threads"]
            assert [thread["threadId"] for thread in threads] == ["t"]


async def test_hosts_session_is_the_one_credential(tmp_path: Path) -> None:
    async with example(tmp_path) as address, signed_in(address, "ada", "countess") as http:
        session = http.cookies["session"]
        for token in (mint("ada"), "unknown", session[:-1], "x"):
            bearer = {"Authorization": f"Bearer {token}"}
            answer = await http.get("/agent/api/me", headers=bearer)
            assert (answer.status_code, answer.json()["reason"]) == (401, "invalid")
        bearer = {"Authorization": f"Bearer {session}"}
        assert (await http.get("/agent/api/me", headers=bearer)).json()["userId"] == "ada"
        async with connect(f"ws://{address}/agent/ws", session) as client:
            assert client.welcome is not None
            assert client.welcome["userId"] == "ada"
            await client.send({"type": "auth", "token": mint("ada")})
            assert (await client.until_type("error"))["reason"] == "invalid"


async def test_cookie_of_the_host_needs_the_hosts_page(tmp_path: Path) -> None:
    async with example(tmp_path) as address, signed_in(address, "ada", "countess") as http:
        own, evil = {"Origin": f"http://{address}"}, {"Origin": "https://evil.example"}
        for headers, status in ((own, 201), (evil, 403), ({}, 403)):
            answer = await http.post("/agent/api/threads", json={}, headers=headers)
            assert answer.status_code == status
        async with page_socket(address, http.cookies["session"], evil["Origin"]) as client:
            assert (await read_to_close(client))[1] == (4403, "forbidden")
        ticket = (await http.post("/agent/api/tickets", headers=own)).json()["ticket"]
        url = f"ws://{address}/agent/ws?ticket={ticket}"
        async with open_websocket(url, origin=own["Origin"], proxy=None) as socket:  # type: ignore[arg-type]
            await Client(socket).send({"type": "hello", "v": 1})
            assert (await Client(socket).recv())["userId"] == "ada"


async def test_nobody_signs_in_at_the_gateway_itself(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        address = await stack.enter_async_context(example(tmp_path))
        http = httpx.AsyncClient(base_url=f"http://{address}", trust_env=False)
        await stack.enter_async_context(http)
        body = {"username": "ada", "password": "countess"}
        answer = await http.post("/agent/api/session", json=body)
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
        assert not http.cookies
        ways = (await http.get("/agent/api/signin")).json()
        assert ways == {"password": False, "providers": []}
        assert (await http.get("/agent/api/me")).json()["reason"] == "missing"


# ---- whatever an authenticator does --------------------------------------------------------------


class Scripted:
    """An authenticator that returns, or raises, what the token names."""

    def __init__(self, answers: Mapping[str, Any]) -> None:
        self.answers = answers

    async def authenticate(self, token: str) -> Any:  # noqa: ANN401 - also what it shouldn't
        answer = self.answers[token]
        if isinstance(answer, Exception):
            raise answer
        return answer


async def echo(
    input: object,  # noqa: A002, ARG001 - AG-UI's word for it
    context: UserExecutionContext,
) -> AsyncIterator[str]:
    """Tell whom it answers."""
    yield json.dumps([context.issuer, context.subject])


@asynccontextmanager
async def gateway_of(answers: Mapping[str, Any]) -> AsyncIterator[httpx.AsyncClient]:
    """Open a gateway in this process whose users are the host's."""
    settings = Settings(database_url="sqlite://", allowed_origins=(FRIEND,))
    app = create_app(settings, {"default": echo}, users=HostUsers(Scripted(answers)))
    async with AsyncExitStack() as stack:
        stack.enter_context(capture_logs())  # with tracebacks, which nobody looks at here
        state = await stack.enter_async_context(app.router.lifespan_context(app))

        async def with_state(scope: Scope, receive: Receive, send: Send) -> None:
            scope["state"] = dict(state or {})
            await app(scope, receive, send)

        transport = httpx.ASGITransport(with_state, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://host") as http:
            yield http


async def ask(http: httpx.AsyncClient, token: str, path: str = "/api/me") -> tuple[int, str | None]:
    """Return the status, and the reason or code of a refusal."""
    answer = (await http.get(path, headers={"Authorization": f"Bearer {token}"})).json()
    return answer.get("status", 200), answer.get("reason") or answer.get("code")


async def test_who_is_nothing_is_denied_at_every_route() -> None:
    asks: list[tuple[str, str, Any]] = [
        ("GET", "/api/me", None),
        ("POST", "/api/tickets", None),
        ("GET", "/api/threads", None),
        ("POST", "/api/threads", {}),
        ("GET", "/api/threads/t/events", None),
        ("POST", "/agui", run_frame("t", "r-1", "hello")),
        ("DELETE", "/api/sessions", None),
        ("POST", "/api/users/ada/sign-out", None),
    ]
    async with gateway_of({"nobody": None}) as http:
        http.headers["Authorization"] = "Bearer nobody"
        for method, path, body in asks:
            answer = await http.request(method, path, json=body)
            assert (answer.status_code, answer.json()["reason"]) == (401, "invalid"), path


async def test_identity_has_the_scopes_that_the_host_gave_it() -> None:
    users = {"reader": Identity("ada", scopes=frozenset({READ})), "plain": Identity("ada")}
    async with gateway_of(users) as http:
        for token, status in (("reader", 403), ("plain", 201)):
            headers = {"Authorization": f"Bearer {token}"}
            assert (await http.get("/api/threads", headers=headers)).status_code == 200
            answer = await http.post("/api/threads", json={}, headers=headers)
            assert answer.status_code == status


async def test_what_cannot_be_found_out_is_unavailable() -> None:
    async with gateway_of({"x": Unavailable("the host's users can't be asked")}) as http:
        assert await ask(http, "x") == (503, "unavailable")


async def test_identity_that_has_expired_opens_nothing() -> None:
    now_ms = round(time.time() * 1000)
    users = {"old": Identity("ada", now_ms - 1000), "young": Identity("ada", now_ms + 60_000)}
    async with gateway_of(users) as http:
        for path in ("/api/me", "/api/threads"):
            assert await ask(http, "young", path) == (200, None)
            assert await ask(http, "old", path) == (401, "expired")


@pytest.mark.parametrize("answer", ["ada", 7, True, {"user_id": "ada"}, object(), Identity])
async def test_what_is_no_identity_opens_nothing(answer: object) -> None:
    async with gateway_of({"x": answer}) as http:
        for path in ("/api/me", "/api/threads"):
            assert await ask(http, "x", path) == (500, "internal")


@pytest.mark.parametrize("user_id", ["", " ", "none", "\ud800", "x" * 1025, "/" * 342, 7, None])
async def test_identity_of_nobody_opens_nothing(user_id: Any) -> None:  # noqa: ANN401 - also what it shouldn't
    async with gateway_of({"x": Identity(user_id)}) as http:
        for path in ("/api/me", "/api/threads"):
            assert (await ask(http, "x", path))[0] >= 400


@pytest.mark.parametrize("name", ["a b", "../x", "o'brien", "100%", "a%2Fb", "x" * 129, "😀"])
async def test_hosts_user_may_be_called_anything(name: str) -> None:
    async with gateway_of({"x": Identity(name)}) as http:
        http.headers["Authorization"] = "Bearer x"
        assert (await http.get("/api/me")).json()["userId"] == to_user_id("name", name)
        run = await http.post("/agui", json=run_frame("t", "r-1", "hello"))
        assert json.dumps(json.dumps([None, name])) in run.text


async def test_no_authenticator_is_asked_about_a_token_that_is_too_long() -> None:
    token = "x" * (TOKEN_MAX_BYTES + 1)
    async with gateway_of({token: Identity("ada"), token[1:]: Identity("ada")}) as http:
        assert await ask(http, token[1:]) == (200, None)
        assert await ask(http, token) == (401, "invalid")


async def test_answer_to_what_nobody_foresaw_says_to_browsers_what_all_say() -> None:
    async with gateway_of({"x": object()}) as http:
        answer = await http.get("/api/me", headers={"Authorization": "Bearer x", "Origin": FRIEND})
    assert answer.status_code == 500
    assert answer.headers["access-control-allow-origin"] == FRIEND
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"] == "frame-ancestors 'none'"


class Plain:
    """An authenticator that forgot its `async`."""

    def authenticate(self, token: str) -> Identity:
        return Identity(token)


class Renamed:
    """An authenticator that is called with a word it doesn't know."""

    async def authenticate(self, secret: str) -> Identity:
        return Identity(secret)


@pytest.mark.parametrize(
    "wrong, why",
    [(Plain(), "async def"), (Renamed(), "token"), (Scripted, "instance"), (object(), "has no")],
)
def test_wrong_authenticator_is_refused_where_it_enters(wrong: Any, why: str) -> None:  # noqa: ANN401
    with pytest.raises(ContractError, match=why) as caught:
        create_app(Settings(database_url="sqlite://"), {"default": echo}, users=HostUsers(wrong))
    assert "authenticate" in str(caught.value) or "Authenticator" in str(caught.value)
