"""The published `HttpAgent` of @ag-ui/client against the server; its verifier judges all of it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import pytest_asyncio
from tests.live.agui import AguiClient, Heard, agui_client
from tests.live.assistant import FORECAST
from tests.live.client import Client
from tests.live.server import Server
from tests.live.stage import SCRIPT, Lane, own_server, shared_server, steps, text_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

server = shared_server(
    SCRIPT, "assistant=assistant:agent", "slow=agents:slow", "crash=agents:crash"
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def driver() -> AsyncIterator[AguiClient]:
    async with agui_client() as client:
        yield client


@pytest.fixture
def lane(server: Server) -> Lane:
    return Lane(server)


@pytest_asyncio.fixture(loop_scope="module")
async def http(lane: Lane) -> AsyncIterator[httpx.AsyncClient]:
    async with lane.server.http(lane.token) as client:
        yield client


class Chat:
    """One user's `HttpAgent` on one thread."""

    def __init__(self, driver: AguiClient, lane: Lane, agent: str | None = None) -> None:
        self.driver, self.lane = driver, lane
        self.url = f"{lane.server.url}/agui" + (f"/{agent}" if agent else "")

    async def open(self, thread_id: str = "t", *, is_old: bool = False) -> Chat:
        user, token = self.lane.user, self.lane.token
        await self.driver.open(user, self.url, token, thread_id, is_old=is_old)
        return self

    async def run(self, text: str | None, run_id: str, **more: object) -> Heard:
        return await self.driver.run(self.lane.user, text, run_id=run_id, **more)  # type: ignore[arg-type]


def assert_accepted(heard: Heard) -> None:
    """Fail when the client found anything to complain about."""
    assert heard.failures == []
    assert complaints_of(heard) == []


def complaints_of(heard: Heard) -> list[str]:
    """Return what the client complained about, but for the ids that other clients need."""
    known = [f"Removed unrecognised material at '/{name}' on RUN_ERROR" for name in NAMES]
    return [c for c in heard.complaints if not any(words in c for words in known)]


NAMES: Final = ("threadId", "runId")


async def test_run_is_verified_and_becomes_a_message(driver: AguiClient, lane: Lane) -> None:
    chat = await Chat(driver, lane).open()
    heard = await chat.run("one two", "r-1")
    assert_accepted(heard)
    assert (heard.types[0], heard.types[-1]) == ("RUN_STARTED", "RUN_FINISHED")
    assert [(m["role"], m["content"]) for m in heard.new_messages] == [("assistant", "one two ")]
    assert heard.outline == [("user", "one two"), ("assistant", "one two ")]


async def test_second_turn_sends_the_history_and_doubles_nothing(
    driver: AguiClient, lane: Lane, http: httpx.AsyncClient
) -> None:
    chat = await Chat(driver, lane).open()
    await chat.run("first", "r-1")
    heard = await chat.run(steps(["input"]), "r-2")
    assert_accepted(heard)
    seen = json.loads(text_of(heard.events))
    assert [m["content"] for m in seen["messages"]] == ["first", "first ", steps(["input"])]
    assert [role for role, _ in heard.outline] == ["user", "assistant"] * 2
    kept = (await http.get("/api/threads/t")).json()["messages"]
    assert [m["id"] for m in kept] == [m["id"] for m in heard.messages]
    assert [m["content"] for m in kept] == [m["content"] for m in heard.messages]


async def test_tool_call_is_shown_and_stays_in_the_history(
    driver: AguiClient, lane: Lane, http: httpx.AsyncClient
) -> None:
    chat = await Chat(driver, lane, "assistant").open()
    heard = await chat.run("what is the weather?", "r-1")
    assert_accepted(heard)
    roles = [message["role"] for message in heard.messages]
    assert roles == ["user", "assistant", "tool", "assistant"]
    (call,) = heard.messages[1]["toolCalls"]
    assert call["function"] == {"name": "lookup", "arguments": '{"city": "Delft"}'}
    assert (heard.messages[2]["toolCallId"], heard.messages[2]["content"]) == (call["id"], FORECAST)
    assert heard.messages[3]["content"] == f"The forecast is {FORECAST} "
    again = await chat.run("and now?", "r-2")
    assert_accepted(again)
    assert [m["role"] for m in again.messages] == roles * 2
    kept = (await http.get("/api/threads/t")).json()["messages"]
    assert [m["role"] for m in kept] == roles * 2


@pytest.mark.parametrize("is_old", [False, True], ids=["AG-UI 1.0", "AG-UI 0.0.x"])
async def test_run_that_is_stopped_ends_cancelled(
    driver: AguiClient, lane: Lane, http: httpx.AsyncClient, *, is_old: bool
) -> None:
    chat = await Chat(driver, lane, "slow").open(is_old=is_old)
    async with lane.connect() as client:
        await client.subscribe("t")
        run = asyncio.create_task(chat.run("count 500 every 20ms", "r-1"))
        await client.until_event("TEXT_MESSAGE_CONTENT")
        await http.post("/api/runs/r-1/abort")
        heard = await run
    assert_accepted(heard)
    assert heard.events[-1]["type"] == "RUN_FINISHED"
    assert heard.events[-1].get("outcome") == (None if is_old else {"type": "cancelled"})
    again = await chat.run("count 2 every 1ms", "r-2")
    assert_accepted(again)
    assert again.messages[-1]["content"] == "1 2 "


PICTURE: Final = {
    "type": "image",
    "source": {"type": "data", "value": "AA==", "mimeType": "image/png"},
}
SEEN: Final = [{"type": "text", "text": "a cat"}, PICTURE, {"type": "text", "text": "a hat"}]


@pytest.mark.parametrize("is_old", [False, True], ids=["AG-UI 1.0", "AG-UI 0.0.x"])
async def test_tools_result_of_several_parts_is_read(
    driver: AguiClient, lane: Lane, http: httpx.AsyncClient, *, is_old: bool
) -> None:
    chat = await Chat(driver, lane).open(is_old=is_old)
    call = {"toolCallId": "c"}
    text = steps(
        ["event", {"type": "TOOL_CALL_START", "toolCallName": "look", **call}],
        ["event", {"type": "TOOL_CALL_END", **call}],
        ["event", {"type": "TOOL_CALL_RESULT", "messageId": "m", "content": SEEN, **call}],
        ["say", "done"],
    )
    heard = await chat.run(text, "r-1")
    assert_accepted(heard)
    assert heard.types[-1] == "RUN_FINISHED"
    told = [m["content"] for m in heard.messages if m["role"] == "tool"]
    assert told == ["a cat\na hat" if is_old else SEEN]
    kept = (await http.get("/api/threads/t")).json()["messages"]
    assert [m["content"] for m in kept if m["role"] == "tool"] == [SEEN]


async def test_file_that_a_client_of_before_1_0_names_is_asked_about(
    driver: AguiClient, lane: Lane, http: httpx.AsyncClient
) -> None:
    chat = await Chat(driver, lane).open(is_old=True)
    parts = [{"type": "text", "text": "hello"}, {"type": "binary", "mimeType": "a/b", "id": "f"}]
    await driver.set(lane.user, messages=[{"id": "q", "role": "user", "content": parts}])
    heard = await chat.run(None, "r-1")
    assert_accepted(heard)
    asked = (await http.get("/api/threads/t")).json()["messages"][0]["content"]
    file = {"type": "file", "value": "f", "mimeType": "a/b"}
    assert asked == [parts[0], {"type": "document", "source": file}]


async def test_client_that_stops_listening_stops_nothing(driver: AguiClient, lane: Lane) -> None:
    chat, gate = await Chat(driver, lane).open(), f"{lane.user} go"
    text = steps(["say", "1 "], ["hold", gate], ["say", "2 "])
    async with lane.connect() as client:
        follower = await client.subscribe("t")
        run = asyncio.create_task(chat.run(text, "r-1"))
        await client.until_event("TEXT_MESSAGE_CONTENT")
        await driver.abort(lane.user)
        heard = await run
        await lane.open_gate(gate)
        end = await client.until_end("r-1")
    assert end["chunk"]["outcome"] == {"type": "success"}
    assert "RUN_FINISHED" not in heard.types
    assert follower.text == "1 2 "


@pytest.mark.parametrize("is_old", [False, True], ids=["AG-UI 1.0", "AG-UI 0.0.x"])
async def test_client_that_stops_listening_stops_its_run_where_that_was_asked_for(
    driver: AguiClient, lane: Lane, http: httpx.AsyncClient, *, is_old: bool
) -> None:
    """`abortRun()` only hangs up; CopilotKit's and assistant-ui's stop is that of AG-UI 0.0.x."""
    chat = await Chat(driver, lane).open(is_old=is_old)
    text, props = steps(["say", "1 "], ["hold", "never"]), {"onDisconnect": "stop"}
    async with lane.connect() as client:
        run = asyncio.create_task(chat.run(text, "r-1", forwardedProps=props))
        await until_it_speaks(client, http, "r-1")
        await driver.abort(lane.user)
        await run
        await until_ended(client, http, "r-1")
    assert (await load_run(http, "r-1"))["outcome"] == "cancelled"


@pytest.mark.parametrize("is_old", [False, True], ids=["AG-UI 1.0", "AG-UI 0.0.x"])
async def test_next_question_of_a_client_that_stopped_listening_is_answered_at_once(
    driver: AguiClient, lane: Lane, http: httpx.AsyncClient, *, is_old: bool
) -> None:
    chat = await Chat(driver, lane).open(is_old=is_old)
    async with lane.connect() as client:
        run = asyncio.create_task(chat.run(steps(["say", "1 "], ["hold", "never"]), "r-1"))
        await until_it_speaks(client, http, "r-1")
        await driver.abort(lane.user)
        await run
    heard = await chat.run("next", "r-2")
    assert_accepted(heard)
    assert heard.messages[-1]["content"] == "next "
    assert (await load_run(http, "r-1"))["outcome"] == "cancelled"


async def load_run(http: httpx.AsyncClient, run_id: str) -> dict[str, Any]:
    run: dict[str, Any] = (await http.get(f"/api/runs/{run_id}")).json()
    return run


async def until_it_speaks(client: Client, http: httpx.AsyncClient, run_id: str) -> None:
    """Return once a run is under way; nobody counts as its reader meanwhile."""
    while (await load_run(http, run_id)).get("state") != "running":
        await client.until_type("thread")


async def until_ended(client: Client, http: httpx.AsyncClient, run_id: str) -> None:
    while (await load_run(http, run_id))["state"] != "ended":
        await client.until_type("thread")


async def test_agents_error_is_an_end_that_tells_nothing(driver: AguiClient, lane: Lane) -> None:
    chat = await Chat(driver, lane, "crash").open()
    heard = await chat.run("hello", "r-1")
    assert heard.types[-1] == "RUN_ERROR"
    error = heard.events[-1]
    assert (error["code"], error["message"]) == ("agent_error", "The agent failed.")
    assert error["metadata"]["errorId"].startswith("err_")
    assert "secret-text" not in json.dumps([heard.events, heard.failures, heard.complaints])
    assert not [failure for failure in heard.failures if "AGUIError" in failure]
    again = await Chat(driver, lane).open()
    assert_accepted(await again.run("better", "r-2"))


async def test_human_in_the_loop_answers_the_interrupt(driver: AguiClient, lane: Lane) -> None:
    chat = await Chat(driver, lane).open()
    ask = {"type": "interrupt", "interrupts": [{"id": "i-1", "reason": "approval"}]}
    event = {"type": "RUN_FINISHED", "threadId": "t", "runId": "r-1", "outcome": ask}
    heard = await chat.run(steps(["say", "may I? "], ["event", event]), "r-1")
    assert_accepted(heard)
    assert heard.events[-1]["outcome"] == ask
    resume = [{"interruptId": "i-1", "status": "resolved", "payload": {"approved": True}}]
    answered = await chat.run(steps(["say", "thanks "], ["input"]), "r-2", resume=resume)
    assert_accepted(answered)
    assert json.loads(text_of(answered.events).removeprefix("thanks "))["resume"] == resume


async def test_refused_run_fails_with_its_status(driver: AguiClient, lane: Lane) -> None:
    await driver.open("stranger", f"{lane.server.url}/agui", "nonsense", "t")
    heard = await driver.run("stranger", "hello", run_id="r-1")
    assert heard.events == []
    assert any("401" in failure for failure in heard.failures)


MESSAGE: Final = {"messageId": "m-1", "role": "assistant"}
CALL: Final = {"toolCallId": "c-1"}
SCRIPTS: Final[dict[str, list[dict[str, Any]]]] = {
    "chunks": [
        {"type": "TEXT_MESSAGE_CHUNK", **MESSAGE, "delta": "one "},
        {"type": "TEXT_MESSAGE_CHUNK", "messageId": "m-1", "delta": "two"},
        {"type": "TOOL_CALL_CHUNK", **CALL, "toolCallName": "look", "delta": "{}"},
    ],
    "left open": [
        {"type": "STEP_STARTED", "stepName": "s"},
        {"type": "TEXT_MESSAGE_START", **MESSAGE},
        {"type": "TOOL_CALL_START", **CALL, "toolCallName": "look"},
    ],
    "reasoning": [
        {"type": "REASONING_START", "messageId": "m-0"},
        {"type": "REASONING_MESSAGE_START", "messageId": "m-0", "role": "reasoning"},
        {"type": "REASONING_MESSAGE_CONTENT", "messageId": "m-0", "delta": "hm"},
        {"type": "REASONING_MESSAGE_END", "messageId": "m-0"},
        {"type": "REASONING_END", "messageId": "m-0"},
    ],
    "state": [
        {"type": "STATE_SNAPSHOT", "snapshot": {"n": 1}},
        {"type": "STATE_DELTA", "delta": [{"op": "replace", "path": "/n", "value": 2}]},
        {"type": "CUSTOM", "name": "own", "value": {"deep": [None, 1.5, "é"]}},
        {"type": "RAW", "event": {"any": "thing"}, "source": "somewhere"},
    ],
    "tool": [
        {"type": "TOOL_CALL_START", **CALL, "toolCallName": "look"},
        {"type": "TOOL_CALL_ARGS", **CALL, "delta": "{}"},
        {"type": "TOOL_CALL_END", **CALL},
        {"type": "TOOL_CALL_RESULT", **CALL, "messageId": "m-2", "content": "rain"},
    ],
    "activity": [
        {
            "type": "ACTIVITY_SNAPSHOT",
            "messageId": "m-3",
            "activityType": "plan",
            "content": {"steps": []},
        },
    ],
    "its own start and end": [
        {"type": "RUN_STARTED", "threadId": "t", "runId": "r"},
        {"type": "RUN_FINISHED", "threadId": "t", "runId": "r"},
    ],
}


def scripted(events: list[dict[str, Any]], run_id: str) -> list[list[Any]]:
    """Return the steps of a run that yields these events, those of its run under its name."""
    return [["event", e | ({"runId": run_id} if "runId" in e else {})] for e in events]


@pytest.mark.parametrize("kind", SCRIPTS)
async def test_what_agents_yield_passes_the_verifier(
    driver: AguiClient, lane: Lane, kind: str
) -> None:
    chat = await Chat(driver, lane).open()
    run_id = f"r-{lane.user}"
    heard = await chat.run(steps(*scripted(SCRIPTS[kind], run_id)), run_id)
    assert_accepted(heard)
    assert heard.types[-1] == "RUN_FINISHED"
    assert heard.events[-1].get("outcome", {"type": "success"}) == {"type": "success"}
    again = await chat.run("and on", f"{run_id}-2")
    assert_accepted(again)


@pytest.mark.parametrize(
    "ending",
    [
        ["raise", "ValueError", "x"],
        ["nonsense", "content without message"],
        ["nonsense", "unknown type"],
        ["raise", "SystemExit", "x"],
    ],
    ids=["raises", "out of place", "unknown", "leaves"],
)
async def test_failed_run_passes_the_verifier_with_all_that_it_left_open(
    driver: AguiClient, lane: Lane, ending: list[str]
) -> None:
    chat = await Chat(driver, lane).open()
    opened = [["event", event] for event in SCRIPTS["left open"]]
    heard = await chat.run(steps(*opened, ending), "r-1")
    assert heard.types[-1] == "RUN_ERROR"
    assert not [failure for failure in heard.failures if "Cannot" in failure]
    assert complaints_of(heard) == []


async def test_log_of_all_agents_passes_the_verifier(driver: AguiClient, lane: Lane) -> None:
    """One thread's log, written by several agents over WebSockets and HTTP, read from its start."""
    for number, (kind, events) in enumerate(SCRIPTS.items()):
        run_id = f"r-{kind.replace(' ', '-')}"
        named = json.loads(re.sub(r'"([mc])-', rf'"\1-{number}-', json.dumps(events)))
        await lane.play("t", run_id, steps(*scripted(named, run_id)))
    await lane.play("t", "r-weather", "what is the weather?", agent="assistant")
    await lane.play("t", "r-slow", "count 3 every 1ms", agent="slow")
    async with lane.connect() as client:
        await client.run("t", "r-stopped", steps(["say", "x "], ["hold", "never"]))
        await client.until_event("TEXT_MESSAGE_CONTENT")
        await client.abort("r-stopped")
        await client.until_end("r-stopped")
    url = f"{lane.server.url}/api/threads/t/events"
    ends = len(SCRIPTS) + 3
    heard = await driver.replay(url, lane.token, ends=ends)
    assert_accepted(heard)
    log = await lane.load_log("t")
    assert heard.types == log.types
    assert text_of(heard.events) == log.text


async def test_killed_run_passes_the_verifier(tmp_path: Path, driver: AguiClient) -> None:
    async with own_server(tmp_path, SCRIPT) as server:
        lane = Lane(server)
        async with lane.connect() as client:
            events = [["event", event] for event in SCRIPTS["left open"]]
            await client.run("t", "r-1", steps(*events, ["say", "x "], ["hold", "never"]))
            await client.until_event("TEXT_MESSAGE_CONTENT")
            await server.kill()
        await server.start()
        url = f"{server.url}/api/threads/t/events"
        heard = await driver.replay(url, lane.token, ends=1)
        assert_accepted(heard)
        assert heard.events[-1]["code"] == "agent_lost"
        assert heard.types == (await lane.load_log("t")).types
