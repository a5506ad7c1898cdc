"""TanStack AI's published client on `/agui`: over server-sent events, and over JSON lines."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio
from tests.live.client import run_frame
from tests.live.server import Server
from tests.live.stage import SCRIPT, Lane, shared_server, steps
from tests.live.tanstack import TanStackPage, tanstack_page

pytestmark = pytest.mark.asyncio(loop_scope="module")

server = shared_server(SCRIPT, env={"ISOLANE_HEARTBEAT_S": "0.2"})


@pytest.fixture(params=["events", "lines"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def lane(server: Server) -> Lane:
    return Lane(server)


@pytest_asyncio.fixture(loop_scope="module")
async def http(lane: Lane) -> AsyncIterator[httpx.AsyncClient]:
    async with lane.server.http(lane.token) as client:
        yield client


@pytest_asyncio.fixture(loop_scope="module")
async def page(lane: Lane, kind: str) -> AsyncIterator[TanStackPage]:
    async with tanstack_page() as opened:
        await opened.open_http(f"{lane.server.url}/agui", "t", token=lane.token, kind=kind)
        yield opened


async def until_ended(lane: Lane, http: httpx.AsyncClient, run_id: str) -> str:
    """Return the outcome of a run; nobody counts as its reader meanwhile."""
    async with lane.connect() as client:
        while (run := (await http.get(f"/api/runs/{run_id}")).json())["state"] != "ended":
            await client.until_type("thread")
    return str(run["outcome"])


async def test_answers_come_and_are_kept(page: TanStackPage, http: httpx.AsyncClient) -> None:
    for question in ("one two", "h\u00e9 \u2028 there"):
        await page.send(question)
        state = await page.idle()
        assert (state.error, state.answer.split()) == (None, question.split())
    kept = (await http.get("/api/threads/t")).json()["messages"]
    shown = (await page.state()).outline
    assert [(m["role"], m["content"]) for m in kept] == shown


async def test_stop_only_hangs_up_and_the_next_question_is_answered_at_once(
    page: TanStackPage, lane: Lane, http: httpx.AsyncClient
) -> None:
    run_id = await page.send(steps(["say", "1 "], ["hold", "never"]))
    await page.wait_for_chunk("TEXT_MESSAGE_CONTENT")
    await page.stop()
    await page.idle()
    await page.send("next")
    assert (await page.idle()).answer == "next "
    assert await until_ended(lane, http, run_id) == "cancelled"


async def test_stop_ends_the_run_where_that_was_asked_for(
    page: TanStackPage, lane: Lane, http: httpx.AsyncClient
) -> None:
    run_id = await page.send(steps(["say", "1 "], ["hold", "never"]), onDisconnect="stop")
    await page.wait_for_chunk("TEXT_MESSAGE_CONTENT")
    await page.stop()
    assert await until_ended(lane, http, run_id) == "cancelled"


async def test_json_lines_are_the_log_with_its_ids_and_empty_ones_on_a_quiet_line(
    lane: Lane, http: httpx.AsyncClient
) -> None:
    gate = f"{lane.user} go"
    frame = run_frame("t", "r-1", steps(["say", "a "], ["hold", gate], ["say", "b\u2028"]))
    asks = {"accept": "application/x-ndjson"}
    lines: list[str] = []
    async with http.stream("POST", "/agui", json=frame, headers=asks) as answer:
        assert answer.headers["content-type"].startswith("application/x-ndjson")
        async for line in answer.aiter_lines():
            lines.append(line)
            if lines.count("") == 1 and not line:
                await lane.open_gate(gate)
    entries = [json.loads(line) for line in lines if line]
    log = await lane.load_log("t")
    known = [{"id": e["id"], "chunk": e["chunk"]} for e in log.envelopes]
    assert entries == known


@pytest.mark.parametrize(
    "accept",
    ["*/*", "text/event-stream", "text/event-stream, application/x-ndjson", "application/json"],
)
async def test_others_get_server_sent_events(http: httpx.AsyncClient, accept: str) -> None:
    frame = run_frame("t", "r-1", "word")
    answer = await http.post("/agui", json=frame, headers={"accept": accept})
    assert answer.headers["content-type"].startswith("text/event-stream")
