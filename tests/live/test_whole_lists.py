"""Clients that send the whole conversation with each question, longer than a frame may be.

Driven by the published clients where they do such a thing; body by body where another might.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, Final

import httpx
import pytest
import pytest_asyncio
from tests.live.agui import AguiClient, Heard, agui_client
from tests.live.client import Frame, run_frame
from tests.live.server import LOOPBACK, Server
from tests.live.stage import SCRIPT, Lane, shared_server, steps, text_of
from tests.live.tanstack import TanStackPage, tanstack_page

from isolane.settings import Settings
from isolane.wire.frames import VALUES_MAX

pytestmark = pytest.mark.asyncio(loop_scope="module")

FRAME_BYTES: Final = Settings().limit_frame_bytes
REQUEST_BYTES: Final = Settings().limit_request_bytes
LOOK: Final = steps(["input"])
"""Makes the agent say what it was given."""
LONG: Final = "x" * (3 * FRAME_BYTES // 4)
"""One word; its answer is as long."""
SMALL: Final = 100_000

server = shared_server(SCRIPT)
small_server = shared_server(
    SCRIPT,
    env={
        "ISOLANE_LIMIT_FRAME_BYTES": str(SMALL),
        "ISOLANE_LIMIT_REQUEST_BYTES": str(10 * SMALL),
    },
)


@pytest.fixture
def lane(server: Server) -> Lane:
    return Lane(server)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def driver() -> AsyncIterator[AguiClient]:
    async with agui_client() as client:
        yield client


@pytest_asyncio.fixture(loop_scope="module")
async def http(lane: Lane) -> AsyncIterator[httpx.AsyncClient]:
    async with lane.server.http(lane.token) as client:
        client.timeout = httpx.Timeout(60)
        yield client


def user(message_id: str, text: str, **more: object) -> Frame:
    return {"id": message_id, "role": "user", "content": text, **more}


def frame_of(run_id: str, *messages: Frame, **more: object) -> Frame:
    return run_frame("t", run_id, "", messages=list(messages), **more)


async def load(http: httpx.AsyncClient) -> list[Frame]:
    """Return the newest messages of the thread, as many as a page has."""
    messages: list[Frame] = (await http.get("/api/threads/t")).json()["messages"]
    return messages


def ids_of(messages: list[Frame]) -> list[tuple[str, str]]:
    return [(message["role"], message["id"]) for message in messages]


def events_of(answer: httpx.Response) -> list[Frame]:
    assert answer.status_code == 200, answer.text[:300]
    lines = [line for line in answer.text.split("\n") if line.startswith("data: ")]
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def given_to(answer: httpx.Response) -> list[Frame]:
    """Return what the agent said it was given."""
    messages: list[Frame] = json.loads(text_of(events_of(answer)))["messages"]
    return messages


# --- HttpAgent -----------------------------------------------------------------------------------


async def assert_agree(http: httpx.AsyncClient, heard: Heard) -> None:
    """Say that client, thread and agent have one conversation; the agent has said what it got."""
    assert heard.failures == []
    given = ids_of(json.loads(text_of(heard.events))["messages"])
    assert given == ids_of(heard.messages)[:-1]
    kept = ids_of(await load(http))  # one page of it, for the messages are long
    assert kept == ids_of(heard.messages)[-len(kept) :]


async def test_http_agent_goes_on_behind_a_conversation_longer_than_a_frame(
    driver: AguiClient, lane: Lane, http: httpx.AsyncClient
) -> None:
    await driver.open(lane.user, f"{lane.server.url}/agui", lane.token, "t")
    for number in range(2):
        heard = await driver.run(lane.user, f"{LONG}{number}", run_id=f"long-{number}")
        assert heard.failures == []
    heard = await driver.run(lane.user, LOOK, run_id="plain")
    assert len(json.dumps(heard.messages)) > 4 * FRAME_BYTES
    await assert_agree(http, heard)
    await driver.set(lane.user, messages=heard.messages[:-1])
    again = await driver.run(lane.user, None, run_id="again")
    await assert_agree(http, again)
    assert ids_of(again.messages)[:-1] == ids_of(heard.messages)[:-1]
    await driver.set(lane.user, messages=again.messages[:2])
    edit = {"rewindTo": again.messages[2]["id"]}
    edited = await driver.run(lane.user, LOOK, run_id="edited", forwardedProps=edit)
    await assert_agree(http, edited)
    assert len(edited.messages) == 4


async def test_http_agent_goes_on_behind_more_values_than_a_frame_may_have(
    driver: AguiClient, lane: Lane, http: httpx.AsyncClient
) -> None:
    known = [user(f"m-{number}", "word") for number in range(VALUES_MAX // 4)]
    for start in range(0, len(known), 8000):  # as many as one frame may bring
        brought = known[start : start + 8000]
        events_of(await http.post("/agui", json=frame_of(f"r-{start}", *brought)))
    await driver.open(lane.user, f"{lane.server.url}/agui", lane.token, "t")
    await driver.set(lane.user, messages=known)
    heard = await driver.run(lane.user, "ten words", run_id="plain", timeout_s=60)
    assert heard.failures == []
    assert len(heard.messages) == len(known) + 2
    await driver.set(lane.user, messages=heard.messages[:-1])
    again = await driver.run(lane.user, None, run_id="again", timeout_s=60)
    assert again.failures == []
    assert ids_of(await load(http))[-2:] == ids_of(again.messages)[-2:]


# --- TanStack ------------------------------------------------------------------------------------


@pytest_asyncio.fixture(loop_scope="module")
async def page(lane: Lane) -> AsyncIterator[TanStackPage]:
    async with tanstack_page() as opened:
        await opened.open_http(f"{lane.server.url}/agui", "t", token=lane.token, kind="events")
        yield opened


async def test_tanstack_goes_on_behind_a_conversation_longer_than_a_frame(
    page: TanStackPage,
) -> None:
    for number in range(2):
        await page.send(f"{LONG}{number}")
        assert (await page.idle()).error is None
    await page.send(LOOK)
    state = await page.idle()
    assert state.error is None
    given = ids_of(json.loads(state.answer)["messages"])
    assert given == [(m["role"], m["id"]) for m in state.messages][:-1]
    await page.reload()
    again = await page.idle()
    assert again.error is None
    assert ids_of(json.loads(again.answer)["messages"]) == given
    question = state.messages[-2]["id"]
    await page.send(LOOK, rewindTo=question)
    edited = await page.idle()
    assert edited.error is None
    assert ids_of(json.loads(edited.answer)["messages"])[:-1] == given  # its list has it still


# --- what is new ---------------------------------------------------------------------------------


async def test_same_frame_once_more_attaches_also_behind_what_it_brought_itself(
    http: httpx.AsyncClient,
) -> None:
    """Of what the run brought nothing counts as known: it is compared."""
    old = [user(f"old-{number}", LONG) for number in range(3)]
    for number in range(3):
        events_of(await http.post("/agui", json=frame_of(f"r-{number}", *old[: number + 1])))
    asked = [user("a", "first"), user("b", "second")]
    first = events_of(await http.post("/agui", json=frame_of("r", *old, *asked)))
    again = events_of(await http.post("/agui", json=frame_of("r", *old, *asked)))
    assert again == first
    other = await http.post("/agui", json=frame_of("r", *old, user("a", "other"), asked[1]))
    assert (other.status_code, other.json()["code"]) == (409, "run_conflict")


async def test_results_under_ids_of_a_clients_own_are_known_by_their_calls(
    http: httpx.AsyncClient,
) -> None:
    def results(name: str) -> list[Frame]:
        return [
            {"id": f"{name}-{n}", "role": "tool", "toolCallId": f"c-{n}", "content": LONG}
            for n in range(2)
        ]

    for number, result in enumerate(results("first")):
        events_of(
            await http.post("/agui", json=frame_of(f"r-{number}", result, user(f"{number}", "w")))
        )
    answer = await http.post("/agui", json=frame_of("r", *results("own"), user("q", "word")))
    assert events_of(answer)[-1]["type"] == "RUN_FINISHED"


async def test_rewind_brings_messages_anew_under_their_ids(http: httpx.AsyncClient) -> None:
    old = [user(f"old-{number}", LONG) for number in range(3)]
    for number in range(3):
        events_of(await http.post("/agui", json=frame_of(f"r-{number}", *old[: number + 1])))
    last = user("old-2", LOOK)
    frame = frame_of("r", *old[:2], last, forwardedProps={"rewindTo": "old-2"})
    given = given_to(await http.post("/agui", json=frame))
    assert [m["id"] for m in given if m["role"] == "user"] == ["old-0", "old-1", "old-2"]
    assert given[-1]["content"] == LOOK
    frame = frame_of("s", *old, forwardedProps={"rewindTo": "old-1"})  # two of them come anew
    answer = await http.post("/agui", json=frame)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


@pytest.mark.parametrize("what", ["message", "two messages", "state", "values"])
async def test_too_much_that_is_new_is_refused_and_nothing_is_lost(
    http: httpx.AsyncClient, what: str
) -> None:
    old = [user("old", LONG)]
    events_of(await http.post("/agui", json=frame_of("r-0", *old)))
    events_of(await http.post("/agui", json=frame_of("r-1", *old, user("old-1", LONG))))
    before = await load(http)
    old.append(user("old-1", LONG))
    frame = {
        "message": frame_of("r", *old, user("new", LONG * 2)),
        "two messages": frame_of("r", *old, user("new", LONG), user("other", LONG)),
        "state": frame_of("r", *old, user("new", "word"), state={"a": LONG * 2}),
        "values": frame_of("r", *old, user("new", "word"), state={"a": [0] * VALUES_MAX}),
    }[what]
    answer = await http.post("/agui", json=frame)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert answer.headers["connection"] == "close"
    limit = str(VALUES_MAX) if what == "values" else f"frameBytes allows {FRAME_BYTES}"
    assert limit in answer.json()["detail"]
    assert await load(http) == before
    assert (await http.get("/api/runs/r")).status_code == 404
    events_of(await http.post("/agui", json=frame_of("s", *old, user("new", "word"))))


async def test_conversation_longer_than_a_frame_keeps_its_rules(http: httpx.AsyncClient) -> None:
    old = [user("a", LONG), user("b", LONG)]
    for number in (1, 2):
        events_of(await http.post("/agui", json=frame_of(f"r-{number}", *old[:number])))
    other = await http.post("/agui", json=frame_of("r", old[0], user("b", "other")))
    assert (other.status_code, other.json()["field"]) == (422, "messages.1.id")
    twice = await http.post("/agui", json=frame_of("r", *old, user("c", "one"), user("c", "two")))
    assert (twice.status_code, twice.json()["field"]) == (422, "messages.3.id")
    earlier = await http.post("/agui", json=frame_of("r", user("b", LONG), user("a", LONG)))
    assert (earlier.status_code, earlier.json()["code"]) == (409, "run_conflict")
    changed = [user("a", "other words"), *old[1:]]  # before the last one nothing is compared
    given = given_to(await http.post("/agui", json=frame_of("r", *changed, user("d", LOOK))))
    assert [m["content"] for m in given if m["role"] == "user"] == [LONG, LONG, LOOK]


async def test_frame_of_a_socket_stays_as_it_is(lane: Lane) -> None:
    async with lane.connect() as client:
        await client.run("t", "r", LONG)
        await client.until_end("r")
        whole = run_frame("t", "s", "", messages=[user("a", LONG), user("b", LONG)])
        await client.send(whole)
        assert await client.closed() == (1009, "too_large")


# --- what is hostile -----------------------------------------------------------------------------


async def head_of(lane: Lane, length: int | str) -> tuple[int, dict[str, str], Any]:
    """Send the head of a body that doesn't come; return status, headers and problem."""
    reader, writer = await asyncio.open_connection(LOOPBACK, lane.server.port)
    head = f"POST /agui HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {lane.token}\r\n"
    writer.write(f"{head}Content-Length: {length}\r\n\r\n".encode())
    said = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    top, _, body = said.decode().partition("\r\n\r\n")
    status, *lines = top.split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    return int(status.split()[1]), headers, json.loads(body)


async def test_body_above_request_bytes_is_refused_unread(lane: Lane) -> None:
    status, headers, problem = await head_of(lane, REQUEST_BYTES + 1)
    assert (status, problem["code"]) == (413, "too_large")
    assert headers["connection"] == "close"
    assert str(REQUEST_BYTES) in problem["detail"]


async def test_body_in_chunks_is_bounded_by_what_has_come(small_server: Server) -> None:
    async def pieces(size: int) -> AsyncIterator[bytes]:
        known = json.dumps(frame_of("r-3", *old, user("d", "word"))).encode()
        yield known[:-1] + b" " * (size - len(known))
        yield known[-1:]

    lane = Lane(small_server)
    async with small_server.http(lane.token) as http:
        old: list[Frame] = []
        for number in range(3):
            old.append(user(f"{number}", "x" * (SMALL // 2)))
            events_of(await http.post("/agui", json=frame_of(f"r-{number}", *old)))
        headers = {"content-type": "application/json"}
        large = await http.post("/agui", content=pieces(10 * SMALL + 1), headers=headers)
        assert (large.status_code, large.json()["code"]) == (413, "too_large")
        assert str(10 * SMALL) in large.json()["detail"]
        blank = await http.post("/agui", content=pieces(10 * SMALL), headers=headers)
        assert blank.status_code == 413  # blanks beside the messages are new, too
        text = json.dumps(frame_of("r-4", *old, user("e", "word"))).encode()

        async def chunks() -> AsyncIterator[bytes]:
            for start in range(0, len(text), 10_000):
                yield text[start : start + 10_000]

        assert len(text) > SMALL
        fits = await http.post("/agui", content=chunks(), headers=headers)
        assert events_of(fits)[-1]["type"] == "RUN_FINISHED"


BOMBS: Final = {
    "nesting": (b"[" * REQUEST_BYTES, 413),
    "nesting in a message": (b'{"messages":[' + b"[" * 7_000_000, 400),
    "lists": (b'{"messages":[{"id":"a","role":"assistant","a":[' + b"[]," * 21_000_000, 413),
    "messages": (b'{"messages":[' + b"{}," * 2_000_000 + b"{}]}", 413),
    "text": (b'{"messages":["' + b"x" * (REQUEST_BYTES - 20) + b'"]}', 422),
    "text beside": (b'{"messages":[],"state":"' + b"x" * (REQUEST_BYTES - 30) + b'"}', 413),
    "text without end": (b'{"messages":["' + b"x" * (REQUEST_BYTES - 20), 400),
    "escapes": (b'{"messages":["' + rb"\n" * (REQUEST_BYTES // 2 - 20), 413),
    "lines": (b'{"messages":["' + rb"a line\n" * (REQUEST_BYTES // 8 - 20), 413),
    "long lines": (b'{"messages":["' + rb"a longer line\n" * (REQUEST_BYTES // 15 - 20), 400),
    "halves": (rb'{"messages":["' + rb"half\ud800" * (REQUEST_BYTES // 10 - 20) + b'"]}', 422),
    "an id": (
        b'{"threadId":"t","runId":"r","messages":[{"role":"user","id":"'
        + b"x" * (REQUEST_BYTES - 90)
        + b'"}]}',
        413,
    ),
    "blanks": (b" " * (REQUEST_BYTES - 2) + b"{}", 422),
    "digits": (b'{"messages":[' + b"9" * (REQUEST_BYTES - 20) + b"]}", 422),
    "no UTF-8": (b'{"messages":["' + b"x" * (REQUEST_BYTES - 20) + b'\xff"]}', 400),
}


@pytest.mark.parametrize("kind", BOMBS)
async def test_bomb_of_the_largest_size_is_refused_and_the_next_one_comes_in(
    http: httpx.AsyncClient, kind: str
) -> None:
    body, status = BOMBS[kind]
    assert len(body) <= REQUEST_BYTES
    answer = await http.post("/agui", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == status, answer.text
    events_of(await http.post("/agui", json=frame_of("r", user("a", "word"))))


async def test_large_body_of_a_client_that_leaves_lets_the_next_one_in(
    lane: Lane, http: httpx.AsyncClient
) -> None:
    """One is read at a time: what a client leaves half sent must not keep the place."""
    for _ in range(3):
        _, writer = await asyncio.open_connection(LOOPBACK, lane.server.port)
        head = f"POST /agui HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {lane.token}\r\n"
        writer.write(f"{head}Content-Length: {REQUEST_BYTES}\r\n\r\n".encode())
        writer.write(b" " * (2 * FRAME_BYTES))
        await writer.drain()
        writer.close()
    known = [user("a", LONG), user("b", LONG)]
    events_of(await http.post("/agui", json=frame_of("r-1", known[0])))
    events_of(await http.post("/agui", json=frame_of("r-2", *known)))
    events_of(await http.post("/agui", json=frame_of("r-3", *known, user("c", "word"))))
