"""The HTTP routes one by one: what they answer, and how they refuse."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, Final

import httpx
import pytest
import pytest_asyncio
from tests.live.client import RECV_TIMEOUT_S, run_frame
from tests.live.server import Server
from tests.live.stage import SCRIPT, Lane, mint, shared_server, steps
from tests.live.stopwatch import stopwatch
from websockets.asyncio.client import connect as open_websocket

pytestmark = pytest.mark.asyncio(loop_scope="module")

BODY_BYTES: Final = 20_000

server = shared_server(
    SCRIPT,
    "crash=agents:crash",
    env={
        "ISOLANE_LIMIT_FRAME_BYTES": str(BODY_BYTES),
        "ISOLANE_LIMIT_REQUEST_BYTES": str(BODY_BYTES),
    },
)


@pytest.fixture
def lane(server: Server) -> Lane:
    return Lane(server)


@pytest_asyncio.fixture(loop_scope="module")
async def http(lane: Lane) -> AsyncIterator[httpx.AsyncClient]:
    async with lane.server.http(lane.token) as client:
        yield client


def routes() -> list[tuple[str, str, Any]]:
    """Return every route that needs a credential, with a body that fits."""
    return [
        ("GET", "/api/me", None),
        ("POST", "/api/tickets", None),
        ("GET", "/api/threads", None),
        ("POST", "/api/threads", {}),
        ("GET", "/api/threads/t", None),
        ("PATCH", "/api/threads/t", {"title": "x"}),
        ("DELETE", "/api/threads/t", None),
        ("GET", "/api/threads/t/events", None),
        ("POST", "/agui", run_frame("t", "r-1", "hello")),
        ("POST", "/agui/script", run_frame("t", "r-1", "hello")),
        ("GET", "/agui/script/capabilities", None),
        ("GET", "/api/runs/r-1", None),
        ("POST", "/api/runs/r-1/abort", None),
    ]


def assert_problem(answer: httpx.Response, status: int, code: str, **more: object) -> None:
    """Fail unless the answer is a problem (RFC 9457) that says this."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert {"type", "title", "status", "detail", "code", "errorId", "retryable"} <= problem.keys()
    assert problem["status"] == status
    assert problem["code"] == code
    assert problem["errorId"].startswith("err_")
    assert {name: problem.get(name) for name in more} == more


# ---- who asks --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "authorization, reason",
    [
        (None, "missing"),
        ("Bearer nonsense", "invalid"),
        ("Basic YTpi", "invalid"),
        (f"Bearer {mint('ann', expires_s=-60)}", "expired"),
        (f"Bearer {mint('ann', key='another key of thirty-two bytes or more')}", "invalid"),
    ],
)
async def test_every_route_needs_a_credential(
    server: Server, authorization: str | None, reason: str
) -> None:
    async with server.http() as client:
        headers = {} if authorization is None else {"Authorization": authorization}
        for method, path, body in routes():
            answer = await client.request(method, path, json=body, headers=headers)
            assert_problem(answer, 401, "unauthenticated", reason=reason)
            assert answer.headers["www-authenticate"] == "Bearer"
            assert authorization is None or authorization.split()[1] not in answer.text


async def test_token_in_the_query_is_no_credential(server: Server, lane: Lane) -> None:
    async with server.http() as client:
        for name in ("token", "access_token", "ticket"):
            answer = await client.get("/api/me", params={name: lane.token})
            assert_problem(answer, 401, "unauthenticated", reason="missing")


async def test_me_is_whom_the_token_speaks_for(lane: Lane, http: httpx.AsyncClient) -> None:
    answer = await http.get("/api/me", params={"userId": "else"}, headers={"X-User-Id": "else"})
    me = answer.json()
    assert (answer.status_code, me["userId"]) == (200, lane.user)
    assert isinstance(me["expiresAt"], int)
    assert me["expiresAt"] > 1_000_000_000_000


# ---- tickets ---------------------------------------------------------------------------------


async def test_ticket_opens_one_socket_for_its_user(lane: Lane, http: httpx.AsyncClient) -> None:
    answer = await http.post("/api/tickets")
    assert answer.json().keys() == {"ticket", "expiresAt"}
    url = f"{lane.server.websocket_url()}?ticket={answer.json()['ticket']}"
    async with open_websocket(url, subprotocols=None, proxy=None) as socket:
        await socket.send('{"type":"hello","v":1}')
        assert json.loads(await socket.recv())["userId"] == lane.user


async def test_tickets_that_a_user_holds_are_limited(http: httpx.AsyncClient) -> None:
    tickets = set()
    for _ in range(100):
        answer = await http.post("/api/tickets")
        tickets.add(answer.json()["ticket"])
    assert len(tickets) == 100
    refused = await http.post("/api/tickets")
    assert_problem(refused, 429, "limit_exceeded", retryable=True)
    assert "100" in refused.json()["detail"]
    assert int(refused.headers["retry-after"]) * 1000 >= refused.json()["retryAfterMs"] > 0


# ---- threads ---------------------------------------------------------------------------------


async def test_thread_is_made_named_and_found(http: httpx.AsyncClient) -> None:
    made = await http.post("/api/threads", json={"threadId": "t", "title": "first"})
    assert made.status_code == 201
    thread = made.json()
    assert thread.keys() == {"threadId", "title", "createdAt", "updatedAt", "activeRunId"}
    assert (thread["threadId"], thread["title"], thread["activeRunId"]) == ("t", "first", None)
    again = await http.post("/api/threads", json={"threadId": "t", "title": "second"})
    assert again.json() == thread
    renamed = (await http.patch("/api/threads/t", json={"title": "third ✓"})).json()
    assert renamed["title"] == "third ✓"
    assert renamed["updatedAt"] >= thread["updatedAt"]
    assert renamed["createdAt"] == thread["createdAt"]
    whole = (await http.get("/api/threads/t")).json()
    more = {"messages": [], "before": None, "interrupts": [], "state": {}, "head": whole["head"]}
    assert whole == renamed | more
    assert whole["head"].endswith("-0")


async def test_thread_without_an_id_gets_one(http: httpx.AsyncClient) -> None:
    ids = {(await http.post("/api/threads", json={})).json()["threadId"] for _ in range(3)}
    assert len(ids) == 3
    listed = (await http.get("/api/threads")).json()["threads"]
    assert {thread["threadId"] for thread in listed} == ids


async def test_thread_has_messages_and_head_of_its_runs(
    lane: Lane, http: httpx.AsyncClient
) -> None:
    await lane.play("t", "r-1", "hello there")
    log = await lane.load_log("t")
    thread = (await http.get("/api/threads/t")).json()
    assert thread["head"] == log.cursor
    assert thread["title"] == "hello there"
    said = [(message["role"], message["content"]) for message in thread["messages"]]
    assert said == [("user", "hello there"), ("assistant", "hello there ")]
    assert thread["messages"][0]["id"] == "r-1-question"
    assert thread["messages"][1]["id"] == next(iter(log.texts))


async def test_list_is_paged_by_cursor_the_newest_change_first(http: httpx.AsyncClient) -> None:
    for number in range(7):
        await http.post("/api/threads", json={"threadId": f"t-{number}"})
    await http.patch("/api/threads/t-2", json={"title": "changed"})
    whole = (await http.get("/api/threads")).json()
    assert whole["nextCursor"] is None
    assert whole["threads"][0]["threadId"] == "t-2"
    times = [thread["updatedAt"] for thread in whole["threads"]]
    assert times == sorted(times, reverse=True)
    found: list[dict[str, Any]] = []
    cursor = None
    for size in (3, 3, 1):
        params: dict[str, Any] = {"limit": 3} | ({} if cursor is None else {"cursor": cursor})
        page = (await http.get("/api/threads", params=params)).json()
        assert len(page["threads"]) == size
        found += page["threads"]
        cursor = page["nextCursor"]
    assert cursor is None
    assert found == whole["threads"]


@pytest.mark.parametrize(
    "params, code, field",
    [
        ({"limit": "0"}, "invalid_input", "limit"),
        ({"limit": "201"}, "invalid_input", "limit"),
        ({"limit": "many"}, "invalid_input", "limit"),
        ({"cursor": ""}, "invalid_cursor", None),
        ({"cursor": "none"}, "invalid_cursor", None),
        ({"cursor": f"{'9' * 400}~t"}, "invalid_cursor", None),
        ({"cursor": "1~t' OR 1=1"}, None, None),
    ],
)
async def test_wrong_page_is_refused(
    http: httpx.AsyncClient, params: dict[str, str], code: str | None, field: str | None
) -> None:
    answer = await http.get("/api/threads", params=params)
    if code is None:
        assert answer.json() == {"threads": [], "nextCursor": None}
    else:
        assert_problem(answer, 422, code, field=field)


# ---- runs ------------------------------------------------------------------------------------


async def test_run_has_a_state_times_and_an_outcome(lane: Lane, http: httpx.AsyncClient) -> None:
    gate = f"{lane.user} go"
    async with lane.connect() as client:
        await client.run("t", "r-1", steps(["say", "x"], ["hold", gate]))
        await client.until_event("TEXT_MESSAGE_CONTENT")
        await client.run("t", "r-2", "next")
        await client.until(lambda frame: frame.get("disposition") == "queued")
        running = (await http.get("/api/runs/r-1")).json()
        queued = (await http.get("/api/runs/r-2")).json()
        thread = (await http.get("/api/threads/t")).json()
        await lane.open_gate(gate)
        await client.until_end("r-2")
    names = ("runId", "threadId", "agent", "state", "outcome", "endedAt", "errorId")
    assert [running[name] for name in names] == ["r-1", "t", "script", "running", None, None, None]
    assert (queued["state"], queued["startedAt"]) == ("queued", None)
    assert thread["activeRunId"] == "r-1"
    ended = (await http.get("/api/runs/r-1")).json()
    assert ended.keys() == running.keys()
    assert (ended["state"], ended["outcome"]) == ("ended", "success")
    assert ended["createdAt"] <= ended["startedAt"] <= ended["endedAt"]
    later = (await http.get("/api/runs/r-2")).json()
    assert later["startedAt"] >= ended["endedAt"]
    assert (await http.get("/api/threads/t")).json()["activeRunId"] is None


async def test_failed_run_tells_its_code_and_the_error_in_the_log(
    lane: Lane, http: httpx.AsyncClient
) -> None:
    events = await lane.play("t", "r-1", "hello", agent="crash")
    run = (await http.get("/api/runs/r-1")).json()
    assert (run["agent"], run["state"], run["outcome"]) == ("crash", "ended", "agent_error")
    assert run["errorId"] == events[-1]["metadata"]["errorId"]
    entries = [entry for entry in lane.server.logs if entry.get("error_id") == run["errorId"]]
    assert len(entries) == 1


async def test_abort_stops_a_run_and_leaves_an_ended_one(
    lane: Lane, http: httpx.AsyncClient
) -> None:
    async with lane.connect() as client:
        await client.run("t", "r-1", steps(["say", "x"], ["hold", "never"]))
        await client.until_event("TEXT_MESSAGE_CONTENT")
        with stopwatch(lane.server.pid) as watch:
            answer = await http.post("/api/runs/r-1/abort")
            stopping = {"runId": "r-1", "status": "stopping"}
            assert (answer.status_code, answer.json()) == (202, stopping)
            end = await client.until_end("r-1")
            assert watch.took_s < 2
        assert end["chunk"]["outcome"] == {"type": "cancelled"}
    ended = (await http.get("/api/runs/r-1")).json()
    assert (ended["state"], ended["outcome"]) == ("ended", "cancelled")
    assert (await http.post("/api/runs/r-1/abort")).status_code == 202
    assert (await http.get("/api/runs/r-1")).json() == ended


async def test_capabilities_are_those_of_the_welcome(lane: Lane, http: httpx.AsyncClient) -> None:
    answer = (await http.get("/agui/crash/capabilities")).json()
    async with lane.connect() as client:
        assert client.welcome is not None
        transport = client.welcome["capabilities"]["transport"]
    assert answer["transport"] == transport
    assert transport == {"streaming": True, "websocket": True, "resumable": True}
    assert_problem(await http.get("/agui/nobody/capabilities"), 404, "not_found")


# ---- how it refuses --------------------------------------------------------------------------


async def test_each_refusal_is_logged_once_under_its_id(
    server: Server, http: httpx.AsyncClient
) -> None:
    refused = [
        await http.get("/api/threads/unknown"),
        await http.get("/api/runs/unknown"),
        await http.get("/api/threads", params={"limit": "0"}),
        await http.post("/api/threads", content=b"{"),
        await http.get("/no/such/route"),
        await http.put("/api/threads"),
        await http.post("/agui", json={"messages": []}),
        await http.get("/api/me", headers={"Authorization": "Bearer nonsense"}),
    ]
    ids = [answer.json()["errorId"] for answer in refused]
    assert len(set(ids)) == len(ids)
    for answer, error_id in zip(refused, ids, strict=True):
        entry = await server.wait_for_log(lambda e, wanted=error_id: e.get("error_id") == wanted)  # type: ignore[misc]
        assert entry["code"] == answer.json()["code"]
        assert sum(error_id in line for line in server.lines) == 1


@pytest.mark.parametrize(
    "path",
    ["/nope", "/api", "/api/nope", "/agui/a/b", "/assets/nope.js", "/assets/../../pyproject.toml"],
)
async def test_unknown_address_is_a_problem(http: httpx.AsyncClient, path: str) -> None:
    assert_problem(await http.get(path), 404, "not_found", retryable=False)


@pytest.mark.parametrize(
    "method, path, allowed",
    [
        ("PUT", "/agui", {"POST"}),
        ("PUT", "/api/me", {"GET"}),
        ("DELETE", "/api/tickets", {"POST"}),
        ("POST", "/healthz", {"GET"}),
    ],
)
async def test_wrong_method_is_a_problem_that_says_what_is_allowed(
    http: httpx.AsyncClient, method: str, path: str, allowed: set[str]
) -> None:
    answer = await http.request(method, path)
    assert_problem(answer, 405, "not_found")
    assert allowed <= {name.strip() for name in answer.headers["allow"].split(",")}


NO_JSON: Final = {
    "nothing": b"",
    "half an object": b'{"threadId": "t"',
    "words": b"threadId=t",
    "no UTF-8": b'{"threadId": "\xff\xfe"}',
    "deep": b"[" * 9_000 + b"]" * 9_000,
}
NO_OBJECT: Final = {"list": b"[]", "null": b"null", "text": b'"text"', "number": b"7"}


@pytest.mark.parametrize("path", ["/api/threads", "/agui"])
@pytest.mark.parametrize("what", [*NO_JSON, *NO_OBJECT])
async def test_body_that_is_no_json_object_is_refused(
    http: httpx.AsyncClient, path: str, what: str
) -> None:
    body = (NO_JSON | NO_OBJECT)[what]
    answer = await http.post(path, content=body, headers={"Content-Type": "application/json"})
    assert_problem(answer, 400, "invalid_frame", retryable=False)
    assert "route" not in answer.json()["detail"]


@pytest.mark.parametrize(
    "method, path, body, field",
    [
        ("POST", "/api/threads", {"threadId": 7}, "threadId"),
        ("POST", "/api/threads", {"threadId": "a/b"}, "threadId"),
        ("POST", "/api/threads", {"threadId": "x" * 129}, "threadId"),
        ("POST", "/api/threads", {"threadId": "t\u00e9"}, "threadId"),
        ("POST", "/api/threads", {"title": ["x"]}, "title"),
        ("POST", "/api/threads", {"title": "x" * 201}, "title"),
        ("PATCH", "/api/threads/t", {}, "title"),
        ("PATCH", "/api/threads/t", {"title": None}, "title"),
        ("GET", f"/api/threads/{'x' * 129}", None, "threadId"),
        ("GET", "/api/threads/a%20b", None, "threadId"),
        ("GET", f"/api/runs/{'x' * 129}", None, "runId"),
        ("POST", "/api/runs/a%20b/abort", None, "runId"),
        ("POST", "/agui", run_frame("t", "r 1", "hello"), "runId"),
        ("POST", "/agui", run_frame("../t", "r-1", "hello"), "threadId"),
        ("POST", "/agui", {"threadId": "t", "runId": "r-1"}, "messages"),
        ("POST", "/agui", run_frame("t", "r-1", "x", tools="none"), "tools"),
    ],
)
async def test_wrong_field_is_named(
    http: httpx.AsyncClient, method: str, path: str, body: object, field: str
) -> None:
    answer = await http.request(method, path, json=body)
    assert_problem(answer, 422, "invalid_input", field=field)
    assert field in answer.json()["detail"]


@pytest.mark.parametrize("path", ["/agui", "/api/threads", "/api/session"])
@pytest.mark.parametrize("is_chunked", [False, True])
async def test_body_above_its_limit_is_too_large(
    server: Server, lane: Lane, path: str, *, is_chunked: bool
) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(BODY_BYTES // 1000 + 1):
            yield b" " * 1000

    content = pieces() if is_chunked else b" " * (BODY_BYTES + 1)
    headers = {"Content-Type": "application/json"}
    async with server.http(None if path == "/api/session" else lane.token) as client:
        answer = await client.post(path, content=content, headers=headers)
        assert_problem(answer, 413, "too_large", retryable=False)
        assert str(BODY_BYTES) in answer.json()["detail"]


async def test_body_that_breaks_off_is_a_client_that_left(lane: Lane, server: Server) -> None:
    before = len(server.lines)
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    head = [
        "POST /agui HTTP/1.1",
        f"Host: {server.address}",
        f"Authorization: Bearer {lane.token}",
        "Content-Length: 1000",
    ]
    writer.write("\r\n".join([*head, "", '{"half":']).encode())
    await writer.drain()
    writer.transport.abort()
    async with asyncio.timeout(RECV_TIMEOUT_S):
        while not any('"client_left"' in line for line in server.lines[before:]):  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # between two looks
    assert not [line for line in server.lines[before:] if '"error"' in line or "ASGI" in line]


async def test_body_of_just_the_limit_is_fine(http: httpx.AsyncClient) -> None:
    body = json.dumps(run_frame("t", "r-1", "hello")).encode()
    answer = await http.post("/agui", content=body + b" " * (BODY_BYTES - len(body)))
    assert answer.status_code == 200
    assert "RUN_FINISHED" in answer.text


async def test_api_is_described(server: Server) -> None:
    async with server.http() as client:
        described = (await client.get("/openapi.json")).json()["paths"]
    for method, path, _ in routes():
        known = path.replace("/t", "/{thread_id}") if "/threads/" in path else path
        known = known.replace("/{thread_id}hreads", "/threads").replace("r-1", "{run_id}")
        known = known.replace("/script", "/{agent}")
        assert method.lower() in described[known], (method, known)
