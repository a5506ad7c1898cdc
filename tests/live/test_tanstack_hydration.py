"""TanStack AI's published client comes back to a thread: over server-sent events and JSON lines."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from tests.live import assistant
from tests.live.client import run_frame
from tests.live.node_page import JsonObject, PageError
from tests.live.proxy import proxy_to
from tests.live.server import Server
from tests.live.stage import SCRIPT, Lane, kept_events, own_server, shared_server, steps
from tests.live.tanstack import PageState, TanStackPage, tanstack_page

pytestmark = pytest.mark.asyncio(loop_scope="module")

server = shared_server(SCRIPT, "echo=agents:echo", "assistant=assistant:agent")

JOIN = "/agui?runId=r-1&offset=-1"
CONNECTIONS = 20
"""What a user may have open."""


def call(act: str, call_id: str = "c-1", **more: object) -> list[Any]:
    return ["event", {"type": f"TOOL_CALL_{act}", "toolCallId": call_id, **more}]


def thought(act: str, message_id: str, **more: object) -> list[Any]:
    named = {"messageId": message_id, **more}
    return ["event", {"type": f"REASONING_MESSAGE_{act}", **named}]


def said(act: str, message_id: str, **more: object) -> list[Any]:
    return ["event", {"type": f"TEXT_MESSAGE_{act}", "messageId": message_id, **more}]


def saying(message_id: str, text: str) -> list[list[Any]]:
    return [
        said("START", message_id, role="assistant"),
        said("CONTENT", message_id, delta=text),
        said("END", message_id),
    ]


def thinking(message_id: str, text: str) -> list[list[Any]]:
    return [
        thought("START", message_id, role="reasoning"),
        thought("CONTENT", message_id, delta=text),
        thought("END", message_id),
    ]


def calling(call_id: str = "c-1", result: str | None = "[1, 2]", **more: object) -> list[list[Any]]:
    begun = [
        call("START", call_id, toolCallName="look", **more),
        call("ARGS", call_id, delta='{"where": "here"}'),
        call("END", call_id),
    ]
    if result is None:
        return begun
    return [*begun, call("RESULT", call_id, messageId=f"{call_id}-result", content=result)]


ANSWERS: dict[str, list[list[Any]]] = {
    "words": [["say", "one "], ["say", "two"]],
    "two messages": [*saying("m-1", "one"), *saying("m-2", "two")],
    "thought, then words": [*thinking("r-1", "hm"), *saying("m-1", "one")],
    "thoughts between words": [
        *thinking("r-1", "a"),
        *saying("m-1", "one"),
        *thinking("r-2", "b"),
        *saying("m-2", "two"),
    ],
    "words, a call, words": [
        *saying("m-1", "one"),
        *calling(parentMessageId="m-1"),
        *saying("m-2", "two"),
    ],
    "a call of no message, words": [*calling(), *saying("m-1", "two")],
    "a call of a message to come, words": [
        *calling(parentMessageId="m-0"),
        *saying("m-1", "two"),
    ],
    "a thought and calls, words": [
        *thinking("r-1", "hm"),
        *calling("c-1"),
        *thinking("r-2", "well"),
        *calling("c-2", "plain words"),
        *saying("m-1", "two"),
    ],
    "a message without a word, a call, words": [
        said("START", "m-1", role="assistant"),
        *calling(parentMessageId="m-1"),
        said("END", "m-1"),
        *saying("m-2", "two"),
    ],
    "calls side by side": [
        *calling("c-1", None, parentMessageId="m-0"),
        *calling("c-2", None, parentMessageId="m-0"),
        call("RESULT", "c-2", messageId="c-2-result", content="null"),
        call("RESULT", "c-1", messageId="c-1-result", content='{"a": 1}'),
        *saying("m-1", "two"),
    ],
    "a call without a result": [*saying("m-1", "one"), *calling(result=None)],
    "arguments that are no JSON": [
        call("START", toolCallName="look"),
        call("ARGS", delta='{"a": '),
        call("END"),
        *saying("m-1", "two"),
    ],
    "an error after words": [*saying("m-1", "one"), ["raise", "ValueError", "no"]],
    "marks beside words": [
        said("START", "m-1", role="assistant", metadata={"mark": 1}),
        said("CONTENT", "m-1", delta="one"),
        said("END", "m-1"),
    ],
}


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
async def page() -> AsyncIterator[TanStackPage]:
    async with tanstack_page() as opened:
        yield opened


async def open_page(
    page: TanStackPage, lane: Lane, kind: str, *, path: str = "/agui", **options: object
) -> None:
    """Open the page on the user's thread `t`, or load it anew."""
    page.events.clear()
    url = f"{lane.server.url}{path}"
    await page.open_http(url, "t", token=lane.token, kind=kind, persistence=True, **options)


async def shown(page: TanStackPage) -> PageState:
    """Return what a page shows that was loaded anew, once it has asked for the thread."""
    await page.wait_for(lambda event: event["event"] == "messages")
    return await page.state()


def bare(messages: list[JsonObject]) -> list[JsonObject]:
    """Return messages without what a client makes up: times, and ids where nothing was said."""
    found = []
    for message in messages:
        parts = [{n: v for n, v in part.items() if n != "stepId"} for part in message["parts"]]
        has_words = any(part["type"] == "text" for part in parts)
        kept = {"role": message["role"], "parts": parts, "id": message["id"] if has_words else ""}
        if message["role"] == "assistant" and "metadata" in message:
            kept["metadata"] = message["metadata"]
        found.append(kept)
    return [message for message in found if message["parts"]]


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
async def test_page_that_is_loaded_anew_shows_what_it_showed(
    page: TanStackPage, lane: Lane, answer: list[list[Any]]
) -> None:
    await open_page(page, lane, "events")
    await page.send(steps(*answer))
    seen = bare((await page.idle()).messages)
    await page.send("and more")
    seen_later = bare((await page.idle()).messages)
    await open_page(page, lane, "events")
    stored = bare((await shown(page)).messages)
    assert stored[: len(seen)] == seen
    assert stored == seen_later


async def test_page_shows_what_a_real_agent_did(page: TanStackPage, lane: Lane, kind: str) -> None:
    await open_page(page, lane, kind, path="/agui/assistant")
    await page.send("What is the weather?")
    seen = await page.idle()
    assert assistant.FORECAST in seen.answer
    await open_page(page, lane, kind, path="/agui/assistant")
    assert bare((await shown(page)).messages) == bare(seen.messages)


async def test_conversation_goes_on_after_a_reload(
    page: TanStackPage, lane: Lane, kind: str, http: httpx.AsyncClient
) -> None:
    await open_page(page, lane, kind)
    for question in ("one", "two"):
        await page.send(question)
        await page.idle()
    await open_page(page, lane, kind)
    await shown(page)
    await page.send("three")
    state = await page.idle()
    assert state.error is None
    assert [text for _, text in state.outline] == ["one", "one ", "two", "two ", "three", "three "]
    kept = (await http.get("/api/threads/t")).json()["messages"]
    assert [(m["role"], m["content"]) for m in kept] == state.outline


async def test_reload_in_mid_answer_shows_every_word_once(
    page: TanStackPage, lane: Lane, kind: str
) -> None:
    gate = f"{lane.user} go"
    await open_page(page, lane, kind)
    await page.send("before")
    await page.idle()
    question = steps(["say", "a "], ["say", "b "], ["hold", gate], ["say", "c "])
    run_id = await page.send(question)
    await page.wait_for_chunk("TEXT_MESSAGE_CONTENT", nth=3)
    await open_page(page, lane, kind)
    await page.wait_for_chunk("TEXT_MESSAGE_CONTENT", nth=2)
    state = await page.state()
    assert (state.is_loading, state.run_id, state.answer) == (True, run_id, "a b ")
    await lane.open_gate(gate)
    state = await page.idle()
    assert state.outline == [
        ("user", "before"),
        ("assistant", "before "),
        ("user", question),
        ("assistant", "a b c "),
    ]
    await page.send("after")
    assert (await page.idle()).answer == "after "


async def test_run_that_the_page_remembers_is_joined_without_its_thread(
    page: TanStackPage, lane: Lane, kind: str
) -> None:
    gate = f"{lane.user} go"
    await open_page(page, lane, kind)
    run_id = await page.send(steps(["say", "a "], ["hold", gate], ["say", "b "]))
    await page.wait_for_chunk("TEXT_MESSAGE_CONTENT")
    page.events.clear()
    url = f"{lane.server.url}/agui"
    await page.open_http(url, "t", token=lane.token, kind=kind, resume=run_id)
    await page.wait_for_chunk("TEXT_MESSAGE_CONTENT")
    await lane.open_gate(gate)
    assert (await page.idle()).outline == [("assistant", "a b ")]


async def test_run_whose_events_are_gone_is_told_and_its_messages_stay(
    tmp_path: Path, page: TanStackPage, kind: str
) -> None:
    async with own_server(tmp_path / "data", SCRIPT, env=kept_events(20)) as server:
        lane = Lane(server)
        await lane.play("t", "r-1", steps(["count", 10]))
        await lane.play("t", "r-2", steps(["count", 15]))
        await open_page(page, lane, kind)
        assert [role for role, _ in (await shown(page)).outline] == ["user", "assistant"] * 2
        assert "410" in str((await page.join("r-1")).error)
        assert (await page.join("r-2")).error is None


async def test_reload_in_mid_answer_keeps_thoughts_and_words(
    page: TanStackPage, lane: Lane, kind: str
) -> None:
    gate = f"{lane.user} go"
    await open_page(page, lane, kind)
    answer = [*thinking("r-1", "hm"), ["hold", gate], *saying("m-1", "one")]
    await page.send(steps(*answer))
    await page.wait_for_chunk("REASONING_MESSAGE_CONTENT")
    await open_page(page, lane, kind)
    await page.wait_for_chunk("REASONING_MESSAGE_CONTENT")
    await lane.open_gate(gate)
    live = bare((await page.idle()).messages)
    await open_page(page, lane, kind)
    stored = bare((await shown(page)).messages)
    assert [message["role"] for message in stored] == ["user", "assistant"]
    assert live == stored


APPROVAL = {
    "id": "i-1",
    "reason": "approval_required",
    "message": "May I?",
    "toolCallId": "c-1",
    "metadata": {"kind": "approval", "toolName": "look", "input": {"where": "here"}},
}


async def test_what_is_asked_of_a_person_is_answered_after_a_reload(
    page: TanStackPage, lane: Lane, kind: str
) -> None:
    await open_page(page, lane, kind)
    run_id = await page.send(steps(*calling(result=None), ["ask", APPROVAL]))
    seen = bare((await page.idle()).messages)
    assert seen[-1]["parts"][0]["state"] == "approval-requested"
    await open_page(page, lane, kind)
    asked = await page.wait_for(lambda event: event["event"] == "interrupts" and event["ids"])
    assert asked["ids"] == [["i-1", True]]
    assert bare((await page.state()).messages) == seen
    hydrated = await page.hydrate("t")
    pending = {name: value for name, value in APPROVAL.items() if name != "metadata"}
    assert hydrated["interrupts"]["runId"] == run_id
    assert pending.items() <= hydrated["interrupts"]["pending"][0].items()
    await page.resolve({"approved": True})
    await page.wait_for_chunk("RUN_FINISHED")
    state = await page.idle()
    assert (state.error, state.answer) == (None, 'answered {"approved": true} ')
    assert (await page.hydrate("t"))["interrupts"] is None


async def test_reload_while_an_answer_is_continued_keeps_what_came_before_it(
    page: TanStackPage, lane: Lane, kind: str
) -> None:
    """A run that answers a question adds no message: what was called before it stands last."""
    gate = f"{lane.user} go"
    await open_page(page, lane, kind)
    asks = [*calling(result=None), ["ask", APPROVAL], ["hold", gate], ["say", "more"]]
    await page.send(steps(*asks))
    await page.idle()
    await page.resolve({"approved": True})
    await page.wait_for_chunk("TEXT_MESSAGE_CONTENT")
    await open_page(page, lane, kind)
    await page.wait_for_chunk("TEXT_MESSAGE_CONTENT")
    await lane.open_gate(gate)
    state = await page.idle()
    parts = [part["type"] for message in state.messages for part in message["parts"]]
    assert parts[:2] == ["text", "tool-call"]
    assert state.answer == 'answered {"approved": true} more'


async def test_reload_while_another_answer_is_given_shows_that_one_alone(
    page: TanStackPage, lane: Lane, kind: str
) -> None:
    gate = f"{lane.user} go"
    await open_page(page, lane, kind)
    question = steps(["say", "a "], ["hold", gate], ["say", "b "])
    await page.send(question)
    await page.wait_for_chunk("TEXT_MESSAGE_CONTENT")
    await page.stop()
    await page.idle()
    await page.reload()
    await page.wait_for_chunk("TEXT_MESSAGE_CONTENT", nth=2)
    await open_page(page, lane, kind)
    await page.wait_for_chunk("TEXT_MESSAGE_CONTENT")
    await lane.open_gate(gate)
    state = await page.idle()
    assert state.outline == [("user", question), ("assistant", "a b ")]


async def test_picture_is_shown_and_asked_about_again(
    page: TanStackPage, lane: Lane, http: httpx.AsyncClient
) -> None:
    source = {"type": "data", "value": "aGk=", "mimeType": "image/png"}
    content = [{"type": "text", "text": "what is it?"}, {"type": "image", "source": source}]
    message = {"id": "m-1", "role": "user", "content": content}
    await http.post("/agui/echo", json=run_frame("t", "r-1", "", messages=[message]))
    await open_page(page, lane, "events", path="/agui/echo")
    asked = (await shown(page)).messages[0]
    words = {"type": "text", "content": "what is it?"}
    assert asked["parts"] == [words, {"type": "image", "source": source}]
    run_id = await page.reload()
    assert (await page.idle()).error is None
    kept = (await http.get("/api/threads/t")).json()["messages"]
    assert [message["id"] for message in kept] == ["m-1"]
    assert (await http.get(f"/api/runs/{run_id}")).json()["outcome"] == "success"


async def test_older_messages_come_in_pages_of_whole_turns(
    page: TanStackPage, lane: Lane, kind: str
) -> None:
    turns = 5
    for number in range(turns):
        answer = [*calling(f"c-{number}"), *saying(f"m-{number}", f"a{number}")]
        await lane.play("t", f"r-{number}", steps(*answer))
    await open_page(page, lane, kind, pageSize=2)
    assert [role for role, _ in (await shown(page)).outline] == ["user", "assistant"]
    seen = 1
    while await page.load_older():
        seen += 1
        assert len((await page.state()).messages) == 2 * seen
    state = await page.state()
    assert len(state.messages) == 2 * turns
    assert [text for role, text in state.outline if role == "assistant"] == [
        f"a{number}" for number in range(turns)
    ]
    kinds = [[part["type"] for part in message["parts"]] for message in state.messages]
    assert kinds == [["text"], ["tool-call", "tool-result", "text"]] * turns
    await page.send("and now")
    assert (await page.idle()).answer == "and now "


async def test_thread_of_another_user_is_none(
    page: TanStackPage, lane: Lane, kind: str, server: Server
) -> None:
    await lane.play("t", "r-1", "mine")
    other = Lane(server)
    url = f"{server.url}/agui"
    await page.open_http(url, "t", token=other.token, kind=kind)
    for thread_id in ("t", "nobodys"):
        with pytest.raises(PageError, match="404"):
            await page.hydrate(thread_id)
    joined = await page.join("r-1")
    assert (joined.chunks, "404" in str(joined.error)) == ([], True)
    await other.play("t", "r-1", "theirs")
    assert [text_in(m) for m in (await page.hydrate("t"))["messages"]] == ["theirs", "theirs "]
    assert (await page.join("r-1")).text == "theirs "


def text_in(message: JsonObject) -> str:
    return "".join(part["content"] for part in message["parts"])


async def test_run_is_joined_from_its_start_also_when_it_is_over(
    page: TanStackPage, lane: Lane, kind: str
) -> None:
    await lane.play("t", "r-1", "one two")
    await open_page(page, lane, kind)
    joined = await page.join("r-1")
    assert (joined.text, joined.error) == ("one two ", None)
    assert [joined.chunks[0]["type"], joined.chunks[-1]["type"]] == ["RUN_STARTED", "RUN_FINISHED"]


async def test_cut_line_of_a_joined_run_is_taken_up_where_it_broke(
    page: TanStackPage, lane: Lane, kind: str
) -> None:
    gate = f"{lane.user} go"
    async with lane.connect(hello=False) as asker, proxy_to(lane.server.port) as line:
        await asker.run("t", "r-1", steps(["count", 5], ["hold", gate], ["say", "end "]))
        await asker.until_event("TEXT_MESSAGE_CONTENT", "r-1")
        url = f"http://{line.address}/agui"
        await page.open_http(url, "t", token=lane.token, kind=kind)
        joining = asyncio.create_task(page.join("r-1"))
        await page.wait_for(lambda e: e["event"] == "joined" and e["chunk"].get("delta") == "5 ")
        line.cut()
        await lane.open_gate(gate)
        assert (await joining).text == "1 2 3 4 5 end "


@pytest.mark.parametrize(
    "query, status, field",
    [
        ("", 422, "threadId"),
        ("threadId=t&limit=0", 422, "limit"),
        ("threadId=t&limit=ten", 422, "limit"),
        ("threadId=a b", 422, "threadId"),
        ("threadId=t&before=x", 422, None),
        ("runId=r%2F1&offset=-1", 422, "runId"),
        ("runId=r-1&offset=x", 422, None),
        ("threadId=t&runId=r-1", 422, "runId"),
        ("runId=nobodys&offset=-1", 404, None),
        ("threadId=nobodys", 404, None),
        ("threadId=t&limit=100000", 200, None),
        ("threadId=t&unknown=1", 200, None),
    ],
)
async def test_what_is_wrong_is_named(
    lane: Lane, http: httpx.AsyncClient, query: str, status: int, field: str | None
) -> None:
    await lane.play("t", "r-1", "hello")
    for path in ("/agui", "/agui/script"):
        answer = await http.get(f"{path}?{query}")
        assert (answer.status_code, answer.json().get("field")) == (status, field), answer.text


async def test_agent_of_the_address_is_one_that_is_served(http: httpx.AsyncClient) -> None:
    answer = await http.get("/agui/nobody?threadId=t")
    assert (answer.status_code, answer.json()["detail"]) == (404, "There is no such agent.")


async def test_events_come_strictly_after_what_the_reader_has(
    lane: Lane, http: httpx.AsyncClient
) -> None:
    await lane.play("t", "r-1", "one two")
    log = await lane.load_log("t")
    ids = [entry["id"] for entry in log.envelopes]
    asks = {"accept": "application/x-ndjson"}
    ways: list[tuple[str, dict[str, str]]] = [
        (f"offset={ids[2]}", {}),
        ("offset=-1", {"Last-Event-ID": ids[2]}),
    ]
    for query, headers in ways:
        answer = await http.get(f"/agui?runId=r-1&{query}", headers={**asks, **headers})
        assert [json.loads(line)["id"] for line in answer.text.splitlines()] == ids[3:]
    whole = await http.get("/agui?runId=r-1", headers=asks)
    assert [json.loads(line)["id"] for line in whole.text.splitlines()] == ids


async def test_outcome_that_old_clients_refuse_is_left_out_of_a_joined_run(
    lane: Lane, http: httpx.AsyncClient
) -> None:
    async with lane.connect(hello=False) as client:
        await client.run("t", "r-1", steps(["say", "1 "], ["hold", "never"]))
        await client.until_event("TEXT_MESSAGE_CONTENT", "r-1")
        await client.abort("r-1")
        end = await client.until_end("r-1")
    assert end["chunk"]["outcome"] == {"type": "cancelled"}
    assert "cancelled" not in (await http.get("/agui?runId=r-1")).text


async def test_joined_run_counts_as_a_connection(lane: Lane, http: httpx.AsyncClient) -> None:
    async with lane.connect() as client, AsyncExitStack() as streams:
        await client.run("t", "r-1", steps(["say", "1 "], ["hold", "never"]))
        await client.until_event("TEXT_MESSAGE_CONTENT", "r-1")
        for _ in range(CONNECTIONS - 1):
            stream = await streams.enter_async_context(http.stream("GET", JOIN))
            assert stream.headers["content-type"].startswith("text/event-stream")
        one_too_many = await http.get(JOIN)
        assert (one_too_many.status_code, one_too_many.json()["code"]) == (429, "limit_exceeded")
        assert (await http.get("/agui?threadId=t")).json()["activeRun"] == {"runId": "r-1"}
        await client.abort("r-1")
        await client.until_end("r-1")
