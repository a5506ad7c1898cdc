"""TanStack AI's published chat client, unmodified, against a real server.

Cuts are made by what the server says: after the n-th time that it names an event type, so that the
client is left with half a frame, and has applied all that came before it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from tests.live import assistant
from tests.live.agents import SECRET, numbered
from tests.live.node_page import JsonObject
from tests.live.proxy import Proxy, proxy_to
from tests.live.server import Server
from tests.live.stage import Lane, shared_server
from tests.live.stopwatch import stopwatch
from tests.live.tanstack import TanStackPage, tanstack_page

pytestmark = pytest.mark.asyncio(loop_scope="module")

WORD = b'"TEXT_MESSAGE_CONTENT"'
COUNT_30 = "count 30 every 20ms"

server = shared_server(
    "slow=agents:slow", "echo=agents:echo", "crash=agents:crash", "assistant=assistant:agent"
)


@pytest.fixture
def lane(server: Server) -> Lane:
    return Lane(server)


@pytest_asyncio.fixture(loop_scope="module")
async def proxy(server: Server) -> AsyncIterator[Proxy]:
    """A line to the server that the test may break."""
    async with proxy_to(server.port) as line:
        yield line


@pytest_asyncio.fixture(loop_scope="module")
async def page() -> AsyncIterator[TanStackPage]:
    """A chat page that isn't open yet."""
    async with tanstack_page() as blank:
        yield blank


async def open_page(
    page: TanStackPage,
    lane: Lane,
    *,
    agent: str | None = None,
    proxy: Proxy | None = None,
    resume: str | None = None,
) -> None:
    """Open the page on the user's thread t-1, through a proxy where one is given."""
    url = lane.server.websocket_url(agent, address=None if proxy is None else proxy.address)
    await page.open(url, "t-1", token=lane.token, resume=resume)


def is_word(event: JsonObject, number: int) -> bool:
    """Tell whether an event is the chunk with that number of the counting agent."""
    return bool(event["event"] == "chunk" and event["chunk"].get("delta") == f"{number} ")


def types_of_answer(*, words: int) -> list[str]:
    """Return the types of all events of a run that says so many words in one message."""
    message = ["TEXT_MESSAGE_START", *["TEXT_MESSAGE_CONTENT"] * words, "TEXT_MESSAGE_END"]
    return ["RUN_STARTED", *message, "RUN_FINISHED"]


async def test_answer_streams_and_leaves_the_page_idle(lane: Lane, page: TanStackPage) -> None:
    await open_page(page, lane, agent="echo")
    run_id = await page.send("these are four words")
    state = await page.idle()
    assert state.outline == [
        ("user", "these are four words"),
        ("assistant", "these are four words "),
    ]
    assert (state.status, state.error) == ("ready", None)
    assert [chunk["type"] for chunk in page.chunks] == types_of_answer(words=4)
    assert page.chunks[0]["runId"] == page.chunks[-1]["runId"] == run_id
    assert [socket["protocol"] for socket in page.sockets("open")] == ["agui.v1"]


async def test_turns_share_one_socket_and_one_history(lane: Lane, page: TanStackPage) -> None:
    await open_page(page, lane, agent="echo")
    await page.send("first")
    await page.idle()
    await page.send("second")
    state = await page.idle()
    assert state.outline == [
        ("user", "first"),
        ("assistant", "first "),
        ("user", "second"),
        ("assistant", "second "),
    ]
    assert len(page.sockets("connecting")) == 1


@pytest.mark.parametrize(
    "needle, times",
    [
        pytest.param(b'"TEXT_MESSAGE_START"', (1,), id="before the message"),
        pytest.param(WORD, (1,), id="before the first word"),
        pytest.param(WORD, (2,), id="after the first word"),
        pytest.param(WORD, (15,), id="in the middle"),
        pytest.param(b'"TEXT_MESSAGE_END"', (1,), id="after the last word"),
        pytest.param(b'"RUN_FINISHED"', (1,), id="before the end"),
        pytest.param(WORD, (5, 5), id="twice"),
        pytest.param(WORD, (3, 1, 2, 9), id="four times, once without progress"),
    ],
)
async def test_cut_answer_is_resumed_without_loss_or_doubling(
    lane: Lane,
    proxy: Proxy,
    page: TanStackPage,
    needle: bytes,
    times: tuple[int, ...],
) -> None:
    await open_page(page, lane, proxy=proxy)
    proxy.cut_after(needle, *times)
    run_id = await page.send(COUNT_30)
    state = await page.idle()
    assert state.answer == numbered(30)
    assert (state.status, state.error) == ("ready", None)
    assert [chunk["type"] for chunk in page.chunks] == types_of_answer(words=30)
    assert proxy.cuts == len(times)
    resumes = page.sockets("connecting")[1:]
    assert [socket["runId"] for socket in resumes] == [run_id] * len(times)
    assert all(socket["offset"] for socket in resumes)


async def test_turn_after_a_resumed_one_works(lane: Lane, proxy: Proxy, page: TanStackPage) -> None:
    await open_page(page, lane, proxy=proxy)
    proxy.cut_after(WORD, 10)
    await page.send(COUNT_30)
    assert (await page.idle()).answer == numbered(30)
    await page.send("count 3 every 1ms")
    state = await page.idle()
    assert state.outline[1:] == [
        ("assistant", numbered(30)),
        ("user", "count 3 every 1ms"),
        ("assistant", numbered(3)),
    ]
    assert proxy.cuts == 1


async def test_stop_ends_the_turn_and_the_next_one_works(lane: Lane, page: TanStackPage) -> None:
    await open_page(page, lane)
    run_id = await page.send("count 1000 every 20ms")
    await page.wait_for(lambda event: is_word(event, 5))
    with stopwatch(lane.server.pid, page.process.pid) as watch:
        await page.stop()
        end = await page.wait_for_chunk("RUN_FINISHED", run_id=run_id)
        assert watch.took_s < 2.0
    assert end["outcome"] == {"type": "cancelled"}
    assert not any(is_word(event, 1000) for event in page.events)
    await page.send("count 3 every 1ms")
    state = await page.idle()
    assert state.answer == numbered(3)
    assert (state.status, state.error) == ("ready", None)


async def test_turn_sent_at_once_after_stop_is_answered(lane: Lane, page: TanStackPage) -> None:
    """The old run's end reaches the client in the new turn; the new answer has to come through."""
    await open_page(page, lane)
    await page.send("count 1000 every 20ms")
    await page.wait_for(lambda event: is_word(event, 5))
    await page.stop()
    run_id = await page.send("count 3 every 1ms")
    end = await page.wait_for_chunk("RUN_FINISHED", run_id=run_id)
    assert end["outcome"] == {"type": "success"}
    assert (await page.idle()).answer == numbered(3)


async def test_finished_run_is_joined_from_its_start(lane: Lane, page: TanStackPage) -> None:
    await open_page(page, lane)
    run_id = await page.send(COUNT_30)
    await page.idle()
    joined = await page.join(run_id)
    assert joined.error is None
    assert joined.text == numbered(30)
    assert joined.chunks == page.chunks
    assert page.sockets("closed")[-1]["code"] == 1000


async def test_running_answer_is_joined_to_its_end(lane: Lane, page: TanStackPage) -> None:
    await open_page(page, lane)
    run_id = await page.send(COUNT_30)
    await page.wait_for(lambda event: is_word(event, 5))
    joined = await page.join(run_id)
    assert joined.error is None
    assert joined.text == numbered(30)


async def test_unknown_and_foreign_runs_cannot_be_joined(lane: Lane, page: TanStackPage) -> None:
    await open_page(page, lane, agent="echo")
    run_id = await page.send("mine alone")
    await page.idle()
    await open_page(page, Lane(lane.server), agent="echo")
    foreign = await page.join(run_id)
    unknown = await page.join("run-that-never-was")
    assert foreign == unknown
    assert unknown.chunks == []
    assert unknown.error is not None
    assert "1008: unknown run" in unknown.error


async def test_reloaded_page_rejoins_the_running_answer(lane: Lane, page: TanStackPage) -> None:
    await open_page(page, lane)
    run_id = await page.send(COUNT_30)
    await page.wait_for(lambda event: is_word(event, 5))
    await open_page(page, lane, resume=run_id)
    state = await page.idle()
    assert state.outline == [("assistant", numbered(30))]
    assert (state.status, state.error) == ("ready", None)
    assert [frame for frame in page.frames if "type" in frame] == []


async def test_tool_call_is_shown_and_stays_in_the_history(lane: Lane, page: TanStackPage) -> None:
    await open_page(page, lane, agent="assistant")
    for question in ("what is the weather?", "and now?"):
        await page.send(question)
        assert (await page.idle()).error is None
    state = await page.state()
    # The client sends the tool's results back; a server that took them for new ones would have
    # the model answer before it asks.
    answer = f"The forecast is {assistant.FORECAST} "
    assert [text for role, text in state.outline if role == "assistant" and text] == [answer] * 2
    calls = [chunk for chunk in page.chunks if chunk["type"] == "TOOL_CALL_START"]
    assert [call["toolCallName"] for call in calls] == ["lookup", "lookup"]
    results = [chunk for chunk in page.chunks if chunk["type"] == "TOOL_CALL_RESULT"]
    assert [result["content"] for result in results] == [assistant.FORECAST] * 2
    parts = [part for message in state.messages for part in message["parts"]]
    shown = [part for part in parts if part["type"] == "tool-call"]
    assert [(part["name"], part["arguments"]) for part in shown] == [
        ("lookup", f'{{"city": "{assistant.CITY}"}}')
    ] * 2


async def test_ticket_signs_in_each_socket(lane: Lane, proxy: Proxy, page: TanStackPage) -> None:
    tickets = await lane.server.tickets(lane.token, 2)
    url = lane.server.websocket_url(address=proxy.address)
    await page.open(url, "t-1", tickets=tickets)
    proxy.cut_after(WORD, 10)
    await page.send(COUNT_30)
    state = await page.idle()
    assert state.answer == numbered(30)
    assert proxy.cuts == 1


async def test_failed_agent_ends_the_turn_in_an_error_that_tells_nothing(
    lane: Lane, page: TanStackPage
) -> None:
    await open_page(page, lane, agent="crash")
    run_id = await page.send("go")
    state = await page.idle()
    end = await page.wait_for_chunk("RUN_ERROR", run_id=run_id)
    assert (state.status, end["code"]) == ("error", "agent_error")
    assert end["metadata"]["errorId"]
    assert SECRET not in str(page.events)


async def test_refused_credential_ends_the_turn_in_an_error(lane: Lane, page: TanStackPage) -> None:
    expired = await lane.server.token(lane.user, expires=-60)
    await page.open(lane.server.websocket_url(), "t-1", token=expired)
    await page.send("let me in")
    state = await page.idle()
    assert state.status == "error"
    assert [socket["code"] for socket in page.sockets("closed")] == [4401]
