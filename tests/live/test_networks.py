"""What lies between a browser and the gateway: other origins, frames, `HEAD`, slashes, sizes.

Real browsers of another origin are in `tests/browser/test_origins.py`, proxies in `test_proxy.py`.
"""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import AsyncIterator
from typing import Any, Final

import httpx
import pytest
import pytest_asyncio
from tests.live.client import connect, run_frame
from tests.live.people import PASSWORD, new_person, signed_in, ticket_socket
from tests.live.server import LOOPBACK, Looks, Server
from tests.live.stage import SCRIPT, Lane, shared_server
from tests.live.test_connecting import AGUI, socket, user_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

FRIEND: Final = "https://friend.example"
LOCAL_FRIEND: Final = "http://127.0.0.1:5173"
APP: Final = "capacitor://localhost"
"""What a web view on a phone sends, whose page comes with the app."""
STRANGERS: Final = (
    "https://evil.example",
    "https://friend.example.evil.example",
    "http://friend.example",
    "https://friend.example:8443",
    "https://friend.example/path",
    "null",
    "",
)
FRAME_BYTES: Final = 20_000
CREDENTIALS: Final = "access-control-allow-credentials"
ALLOWED: Final = "access-control-allow-origin"

server = shared_server(
    SCRIPT,
    "crash=agents:crash",
    env={
        "ISOLANE_ALLOWED_ORIGINS": f"{FRIEND}, {LOCAL_FRIEND}, {APP}",
        "ISOLANE_LIMIT_FRAME_BYTES": str(FRAME_BYTES),
        "ISOLANE_LIMIT_REQUEST_BYTES": str(FRAME_BYTES),
        "ISOLANE_LIMIT_CONNECTIONS_PER_USER": "2",
        "ISOLANE_FRAME_ANCESTORS": "self, https://*.portal.example, https://b.example:8443",
        "ISOLANE_COOKIE_NAME": "chat.of-8001",
    },
)
COOKIE: Final = "chat.of-8001"
FRAMES: Final = "frame-ancestors 'self' https://*.portal.example https://b.example:8443"


@pytest.fixture
def lane(server: Server) -> Lane:
    return Lane(server)


@pytest_asyncio.fixture(loop_scope="module")
async def http_of(lane: Lane) -> AsyncIterator[httpx.AsyncClient]:
    """Give a client as a page of another origin has it: with a token of its user."""
    async with lane.server.http(lane.token) as one:
        yield one


def assert_open(answer: httpx.Response, origin: str = FRIEND) -> None:
    """Fail unless a page of that origin may read the answer, without its cookies."""
    assert answer.headers[ALLOWED] == origin
    assert "Origin" in answer.headers["vary"].split(", ")
    exposed = answer.headers["access-control-expose-headers"].lower().split(", ")
    assert {"retry-after", "x-request-id", "www-authenticate"} <= set(exposed)
    assert CREDENTIALS not in answer.headers


def assert_shut(answer: httpx.Response) -> None:
    """Fail if a page of another origin may read the answer."""
    assert not [name for name in answer.headers if name.startswith("access-control-")]


# ---- pages of other origins ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    ["/agui", "/agui/script", "/agui/", "/api/me", "/api/threads/t", "/v1/chat/completions"],
)
async def test_preflight_of_a_listed_page_is_answered(server: Server, path: str) -> None:
    asked = {
        "Origin": FRIEND,
        "Access-Control-Request-Method": "PATCH",
        "Access-Control-Request-Headers": "authorization,content-type,x-anything",
    }
    async with server.http() as http:
        answer = await http.options(path, headers=asked)
    assert (answer.status_code, answer.content) == (204, b"")
    assert_open(answer)
    methods = answer.headers["access-control-allow-methods"].split(", ")
    assert {"GET", "HEAD", "POST", "PATCH", "DELETE"} <= set(methods)
    assert answer.headers["access-control-allow-headers"] == asked["Access-Control-Request-Headers"]
    assert int(answer.headers["access-control-max-age"]) > 0
    assert "Access-Control-Request-Headers" in answer.headers["vary"]


async def test_page_of_an_app_reads_and_a_browsers_other_spelling_is_the_same(
    http_of: httpx.AsyncClient,
) -> None:
    assert_open(await http_of.get("/api/me", headers={"Origin": APP}), APP)
    assert_shut(await http_of.get("/api/me", headers={"Origin": "capacitor://elsewhere"}))
    assert_open(await http_of.get("/api/me", headers={"Origin": FRIEND.upper() + ":443"}))


async def test_preflight_that_names_no_header_is_answered(server: Server) -> None:
    async with server.http() as http:
        asked = {"Origin": LOCAL_FRIEND, "Access-Control-Request-Method": "GET"}
        answer = await http.options("/api/threads", headers=asked)
        assert_open(answer, LOCAL_FRIEND)
        assert "access-control-allow-headers" not in answer.headers
        odd = {**asked, "Access-Control-Request-Headers": "x" * 5000}
        assert (
            "access-control-allow-headers"
            not in (await http.options("/api/threads", headers=odd)).headers
        )
        plain = await http.options("/api/threads", headers={"Origin": LOCAL_FRIEND})
        assert plain.status_code == 405  # which is no preflight


@pytest.mark.parametrize("origin", STRANGERS)
async def test_page_that_is_not_listed_reads_nothing(
    server: Server, lane: Lane, origin: str
) -> None:
    asked = {"Origin": origin, "Access-Control-Request-Method": "GET"}
    async with server.http(lane.token) as http:
        assert_shut(await http.options("/api/threads", headers=asked))
        answer = await http.get("/api/threads", headers={"Origin": origin})
        assert_shut(answer)
        assert answer.headers["vary"] == "Origin"  # or a cache would give it to others
        twice = [("Origin", FRIEND), ("Origin", FRIEND)]
        assert_shut(await http.get("/api/threads", headers=twice))


async def test_each_kind_of_answer_is_for_a_listed_page(
    http_of: httpx.AsyncClient,
) -> None:
    origin = {"Origin": FRIEND}
    thread = {"threadId": "t", "title": "mine"}
    too_large = run_frame("t", "r-2", "x" * FRAME_BYTES)
    wrong: dict[str, Any] = {"Authorization": "Bearer nonsense"}
    asks: list[tuple[str, str, dict[str, Any], int]] = [
        ("POST", "/api/threads", {"json": thread}, 201),
        ("GET", "/api/threads/t", {}, 200),
        ("HEAD", "/api/threads/t", {}, 200),
        ("PATCH", "/api/threads/t", {"json": {"title": "new"}}, 200),
        ("POST", "/agui", {"json": run_frame("t", "r-1", "hello")}, 200),
        ("GET", "/agui?threadId=t", {}, 200),
        ("GET", "/agui/script?runId=r-1", {}, 200),
        ("GET", "/agui?runId=nowhere", {}, 404),
        ("GET", "/agui?threadId=", {}, 422),
        ("GET", "/api/threads/nowhere/events", {}, 404),
        ("GET", "/api/threads/t/events?after=odd", {}, 422),
        ("POST", "/agui", {"content": b"{"}, 400),
        ("POST", "/agui", {"json": too_large}, 413),
        ("POST", "/api/threads", {"json": {"title": "x" * 70_000}}, 413),
        ("GET", "/api/me", {"headers": wrong}, 401),
        ("POST", "/agui", {"headers": wrong, "json": run_frame("t", "r-3", "hello")}, 401),
        ("PUT", "/api/threads", {}, 405),
        ("GET", "/api/nowhere", {}, 404),
        ("DELETE", "/api/threads/t", {}, 204),
    ]
    for method, path, how, status in asks:
        headers = {**origin, **how.pop("headers", {})}
        answer = await http_of.request(method, path, headers=headers, **how)
        assert answer.status_code == status, (method, path, answer.text)
        assert_open(answer)


async def test_refusal_for_a_limit_tells_a_listed_page_when_to_come_back(
    http_of: httpx.AsyncClient,
) -> None:
    answers = [await http_of.post("/api/tickets", headers={"Origin": FRIEND}) for _ in range(101)]
    assert answers[-1].status_code == 429
    assert int(answers[-1].headers["retry-after"]) > 0
    for answer in answers:
        assert_open(answer)


async def test_event_stream_is_open_to_a_listed_page(
    lane: Lane, http_of: httpx.AsyncClient
) -> None:
    await lane.play("t", "r-1", "hello")
    async with http_of.stream("GET", "/api/threads/t/events", headers={"Origin": FRIEND}) as answer:
        assert_open(answer)
        assert (await anext(answer.aiter_text())).startswith("id: ")


async def test_ticket_of_a_listed_page_opens_a_socket_of_that_page_only(lane: Lane) -> None:
    async with lane.server.http(lane.token) as http:
        mine, other = [
            (await http.post("/api/tickets", headers={"Origin": FRIEND})).json()["ticket"]
            for _ in range(2)
        ]
    async with ticket_socket(lane.server, mine, origin=FRIEND) as client:
        assert client.welcome is not None
        assert client.welcome["userId"] == lane.user
    async with ticket_socket(lane.server, other, origin=LOCAL_FRIEND, hello=False) as client:
        assert await client.closed() == (4401, "invalid")


async def test_no_answer_invites_cookies_and_none_else_is_open(server: Server) -> None:
    person = await new_person(server)
    async with signed_in(server, person.name) as http:
        answer = await http.get("/api/me", headers={"Origin": FRIEND})
        assert answer.status_code == 200
        assert_open(answer)  # a browser that sent cookies doesn't show this to the page
        for path in ("/", "/healthz", "/readyz", "/metrics", "/openapi.json", "/signin?code=x"):
            assert_shut(await http.get(path, headers={"Origin": FRIEND}))


# ---- what every answer says to browsers ----------------------------------------------------------

EVERY_KIND: Final = (
    ("GET", "/", 200),
    ("GET", "/assets/nothing.js", 404),
    ("GET", "/healthz", 200),
    ("GET", "/metrics", 200),
    ("GET", "/openapi.json", 200),
    ("GET", "/docs", 404),
    ("GET", "/redoc", 404),
    ("GET", "/nowhere", 404),
    ("GET", "/api/me", 401),
    ("PUT", "/api/me", 405),
    ("GET", "/signin/nobody", 404),
    ("POST", "/agui", 401),
    ("OPTIONS", "/api/me", 405),
)


@pytest.mark.parametrize("method, path, status", EVERY_KIND)
async def test_every_answer_is_what_it_says_and_is_framed_by_listed_pages_only(
    server: Server, method: str, path: str, status: int
) -> None:
    async with server.http() as http:
        answer = await http.request(method, path)
    assert answer.status_code == status
    assert_ruled(answer.headers)


def assert_ruled(headers: Any) -> None:  # noqa: ANN401 - of httpx, or of http.client
    """Fail unless an answer has what every answer has, once."""
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"].split("; ")[-1] == FRAMES
    assert "x-frame-options" not in headers


async def test_answers_out_of_order_have_the_rules_too(server: Server, lane: Lane) -> None:
    async with server.http(lane.token) as http:
        page = await http.get("/")
        asset = page.text.partition("./assets/")[2].partition('"')[0]
        for answer in (
            page,
            await http.get(f"/assets/{asset}"),
            await http.get("/signin?code=used", headers={"Accept": "text/html"}),
            await http.post("/agui", json=run_frame("t", "r-1", "hello")),
            await http.get("/ws"),
        ):
            assert_ruled(answer.headers)
    assert "script-src 'self'" in page.headers["content-security-policy"]
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    keyed = {**upgrade, "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
    async with server.http() as http:
        refused = await http.get("/ws", headers=keyed)
        assert refused.status_code == 401
        assert_ruled(refused.headers)


async def test_refusal_of_the_server_itself_has_the_rules_too(server: Server) -> None:
    reader, writer = await asyncio.open_connection(LOOPBACK, server.port)
    writer.write(b"GET / HTTP/1.1\r\nX: " + b"x" * 100_000)
    said = await asyncio.wait_for(reader.read(), 15)
    writer.close()
    assert said.startswith(b"HTTP/1.1 431 ")
    assert b"\r\nX-Content-Type-Options: nosniff\r\n" in said
    assert b"frame-ancestors 'none'" in said


@pytest.mark.parametrize(
    "path, version, status", [("/nowhere", 13, 403), ("/api/me", 13, 403), ("/ws", 8, 400)]
)
async def test_refused_upgrade_has_the_rules_too(
    server: Server, path: str, version: int, status: int
) -> None:
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade"}
    keyed = {**upgrade, "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}
    async with server.http() as http:
        answer = await http.get(path, headers={**keyed, "Sec-WebSocket-Version": str(version)})
    assert answer.status_code == status
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"] == "frame-ancestors 'none'"


async def test_nothing_is_loaded_from_elsewhere_to_describe_the_api(server: Server) -> None:
    async with server.http() as http:
        described = (await http.get("/openapi.json")).json()
        assert (await http.get("/docs/oauth2-redirect")).status_code == 404
    schemes = described["components"]["securitySchemes"]
    assert schemes["bearer"] == {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}
    named = {key: schemes["session"][key] for key in ("type", "in", "name")}
    assert named == {"type": "apiKey", "in": "cookie", "name": COOKIE}
    either: list[dict[str, list[str]]] = [{"bearer": []}, {"session": []}]
    paths = described["paths"]
    for path, method in (("/api/threads", "get"), ("/agui", "post"), ("/api/tickets", "post")):
        assert paths[path][method]["security"] == either
    assert paths["/metrics"]["get"]["security"] == [{"metrics": []}]
    for path, method in (("/healthz", "get"), ("/api/signin", "get"), ("/api/session", "post")):
        assert "security" not in paths[path][method]


async def test_session_cookie_has_the_name_that_is_set(server: Server) -> None:
    person = await new_person(server)
    async with server.http() as http:
        body = {"username": person.name, "password": PASSWORD}
        answer = await http.post("/api/session", json=body)
        assert list(answer.cookies) == [COOKIE]
        assert (await http.get("/api/me")).json()["userId"] == person.name
        many = "; ".join(f"of-others-{number}={'x' * 1000}" for number in range(15))
        headers = {"Cookie": f"{many}; {COOKIE}={http.cookies[COOKIE]}", "Origin": server.url}
        async with socket(server.websocket_url(), offered=(AGUI,), headers=headers) as client:
            assert await user_of(client) == person.name
        other = {"Cookie": f"isolane_session={http.cookies[COOKIE]}"}
        async with server.http() as stranger:
            assert (await stranger.get("/api/me", headers=other)).status_code == 401
        signed_out = await http.delete("/api/session", headers={"Origin": server.url})
        assert COOKIE in signed_out.headers["set-cookie"]
        assert not http.cookies


# ---- HEAD, and a slash at the end ----------------------------------------------------------------


async def test_head_is_answered_wherever_get_is(lane: Lane, http_of: httpx.AsyncClient) -> None:
    await lane.play("t", "r-1", "hello")
    described = (await http_of.get("/openapi.json")).json()["paths"]
    reads = [path for path, methods in described.items() if "get" in methods]
    fixed = {"{thread_id}": "t", "{run_id}": "r-1", "{agent}": "script", "{user_id}": lane.user}
    for path in [*reads, "/", "/openapi.json", "/docs", "/nowhere", "/signin/nobody"]:
        for name, value in fixed.items():
            path = path.replace(name, value)  # noqa: PLW2901 - the same path, filled in
        head = await asyncio.wait_for(http_of.head(path), 5)
        assert head.content == b""
        async with http_of.stream("GET", path) as got:
            assert head.status_code == got.status_code, path
            kind = "content-type"
            assert head.headers.get(kind) == got.headers.get(kind), path
    assert (await http_of.head("/agui?threadId=t")).status_code == 200
    assert (await http_of.head("/agui?runId=r-1")).status_code == 200
    assert (await http_of.head("/api/session")).status_code == 405
    async for _ in Looks(5):  # until the streams, of which nobody read more than the head, ended
        if (await lane.server.gauges())["isolane_followers"] == 0:
            return
    pytest.fail("the head of an event stream is followed for ever")


@pytest.mark.parametrize("path", ["/api/threads/", "/api/me/", "/healthz/", "/metrics/"])
async def test_slash_at_the_end_of_a_path_changes_nothing(
    http_of: httpx.AsyncClient, path: str
) -> None:
    answer = await http_of.get(path, headers={"Host": "evil.example"})
    assert answer.status_code == 200
    assert "evil.example" not in str(answer.headers)
    assert (await http_of.get(f"{path}/")).status_code == 404


async def test_runs_are_asked_with_a_slash_too(lane: Lane, http_of: httpx.AsyncClient) -> None:
    for number, path in enumerate(("/agui/", "/agui/script/")):
        answer = await http_of.post(path, json=run_frame("t", f"r-{number}", "hello"))
        assert (answer.status_code, "RUN_FINISHED" in answer.text) == (200, True)
    large = await http_of.post("/agui/", content=b" " * (FRAME_BYTES + 1))
    assert large.status_code == 413
    for path in ("/ws/", "/ws/script/"):
        url = f"ws://{lane.server.address}{path}"
        async with connect(url, lane.token) as client:
            await client.run("t", f"r{path}".replace("/", "-"), "hello")
            await client.until_end(f"r{path}".replace("/", "-"))


# ---- a body that is too large --------------------------------------------------------------------


def post_large(server: Server, token: str, size: int, *, chunked: bool) -> http.client.HTTPResponse:
    """Send a whole body and then read, as simple clients do."""
    line = http.client.HTTPConnection(LOOPBACK, server.port, timeout=15)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    body: Any = (b" " * 1000 for _ in range(size // 1000)) if chunked else b" " * size
    line.request("POST", "/agui", body, headers, encode_chunked=chunked)
    answer = line.getresponse()
    answer.read()
    return answer


@pytest.mark.parametrize("chunked", [False, True], ids=["announced", "in chunks"])
@pytest.mark.parametrize("size", [FRAME_BYTES + 5_000, 900_000])
async def test_body_that_is_too_large_ends_the_connection_and_its_sender_reads_why(
    lane: Lane, size: int, *, chunked: bool
) -> None:
    answer = await asyncio.to_thread(post_large, lane.server, lane.token, size, chunked=chunked)
    assert answer.status == 413
    assert answer.getheader("connection") == "close"
    assert_ruled(answer.headers)


async def test_connection_is_closed_behind_a_413(lane: Lane) -> None:
    reader, writer = await asyncio.open_connection(LOOPBACK, lane.server.port)
    head = f"POST /agui HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {lane.token}\r\n"
    writer.write(f"{head}Content-Length: {FRAME_BYTES + 1}\r\n\r\n".encode())
    said = await asyncio.wait_for(reader.read(), 5)  # to its end, though the body never came
    writer.close()
    assert said.startswith(b"HTTP/1.1 413 ")
    assert json.loads(said.partition(b"\r\n\r\n")[2])["code"] == "too_large"


async def test_other_answers_keep_the_connection(http_of: httpx.AsyncClient) -> None:
    answer = await http_of.get("/api/threads/nowhere")
    assert (answer.status_code, answer.headers.get("connection")) == (404, None)
