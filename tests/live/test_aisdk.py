"""AI SDK over HTTP, driven by the chat of the published package `ai`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from tests.live.aisdk import AIPage, ChatState, ai_page
from tests.live.openai_lane import asking, calling
from tests.live.server import Looks, Server
from tests.live.stage import SCRIPT, Lane, own_server, shared_server, steps

pytestmark = pytest.mark.asyncio(loop_scope="module")

HELPER = "helper=chat_agents:helper"
MARK = "providerExecuted"
server = shared_server(SCRIPT, HELPER)


@dataclass(frozen=True)
class Door:
    """A user before the door of one agent."""

    lane: Lane
    page: AIPage
    kind: str = "http"
    """`http` or `socket`."""
    agent: str = ""

    @property
    def path(self) -> str:
        """The path of the door."""
        return f"/ai/{self.agent}/chat" if self.agent else "/ai/chat"

    async def open(self, chat: str = "t", **options: object) -> None:
        """Open a chat, or reload it."""
        url, token = f"{self.lane.server.url}{self.path}", self.lane.token
        await self.page.order("open", chat, kind=self.kind, url=url, token=token, **options)

    async def reload(self, chat: str = "t") -> list[dict[str, Any]]:
        """Open a chat as a page does that was loaded anew; return what the gateway has of it."""
        if self.kind == "socket":
            await self.page.order("cut")  # as a page does that goes, without a word
        messages = await self.load(chat)
        await self.open(chat, messages=messages)
        return messages

    async def load(self, chat: str = "t", **query: str) -> list[dict[str, Any]]:
        """Return the chat's messages."""
        async with self.lane.server.http(self.lane.token) as http:
            answer = await http.get(f"{self.path}/{chat}/messages", params=query)
        messages: list[dict[str, Any]] = answer.raise_for_status().json()
        return messages

    async def ask(self, text: str, chat: str = "t", **more: object) -> ChatState:
        """Send a message and wait for the end of its answer."""
        before = len(self.page.events)
        await self.page.send(text, chat, **more)
        return await self.page.idle(chat, after=before)

    async def stop(self, chat: str = "t") -> list[str]:
        """Call the stop route."""
        async with self.lane.server.http(self.lane.token) as http:
            answer = await http.post(f"{self.path}/{chat}/stop")
        assert answer.status_code == 202, answer.text
        stopped: list[str] = answer.json()["runIds"]
        return stopped


@pytest_asyncio.fixture(loop_scope="module")
async def page() -> AsyncIterator[AIPage]:
    async with ai_page() as opened:
        yield opened


@pytest.fixture
def lane(server: Server) -> Lane:
    return Lane(server)


@pytest.fixture(params=["http", "socket"])
def door(request: pytest.FixtureRequest, lane: Lane, page: AIPage) -> Door:
    return Door(lane, page, request.param)


@pytest.fixture(params=["http", "socket"])
def helper(request: pytest.FixtureRequest, lane: Lane, page: AIPage) -> Door:
    return Door(lane, page, request.param, "helper")


@pytest.fixture
def http_door(lane: Lane, page: AIPage) -> Door:
    return Door(lane, page)


@pytest.fixture
def socket_door(lane: Lane, page: AIPage) -> Door:
    return Door(lane, page, "socket")


def held(door: Door, *words: str) -> str:
    """Return a script that says the first word, and the others once the gate is open."""
    first, *rest = words
    hold = ["hold", f"{door.lane.user} go"]
    return steps(["say", first], hold, *(["say", word] for word in rest))


async def stored_is_seen(door: Door, state: ChatState, chat: str = "t") -> None:
    """Assert that who loads the chat sees what the page shows."""
    assert without_marks(await door.load(chat)) == without_marks(state.messages)


def without_marks(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return messages without what only a replay says: that a call has its answer already."""
    return [
        {**one, "parts": [{n: part[n] for n in part if n != MARK} for part in one["parts"]]}
        for one in messages
    ]


async def test_turns_one_after_the_other(door: Door) -> None:
    await door.open()
    assert (await door.ask("one two")).answer == "one two "
    state = await door.ask("three")
    assert state.outline == [
        ("user", "one two"), ("assistant", "one two "), ("user", "three"), ("assistant", "three "),
    ]  # fmt: skip
    assert state.messages[-1]["metadata"]["outcome"] == "success"
    await stored_is_seen(door, state)


async def test_a_reload_in_mid_answer_shows_every_word_once(door: Door) -> None:
    await door.open()
    await door.page.send(held(door, "one ", "two"))
    await door.page.until(lambda state: state.answer == "one ")
    loaded = await door.reload()
    assert [part["text"] for part in loaded[-1]["parts"] if part["type"] == "text"] == ["one "]
    before = len(door.page.events)
    await door.page.order("resume")
    await door.page.until(lambda state: state.status == "streaming")
    await door.lane.open_gate(f"{door.lane.user} go")
    state = await door.page.idle(after=before)
    assert [role for role, _ in state.outline] == ["user", "assistant"]
    assert state.answer == "one two"
    await stored_is_seen(door, state)


async def test_a_resume_after_the_end_tells_the_answer_again(door: Door) -> None:
    await door.open()
    state = await door.ask("one two")
    asked = state.messages[:1]
    await door.open(messages=asked)  # its line was lost before the answer came
    before = len(door.page.events)
    await door.page.order("resume")
    again = await door.page.idle(after=before)
    assert again.messages == state.messages


async def test_nothing_to_resume(door: Door) -> None:
    async with door.lane.server.http(door.lane.token) as http:
        assert (await http.get("/ai/chat/unknown/stream")).status_code == 204
        assert (await http.get("/ai/chat/unknown/messages")).status_code == 404


async def test_hanging_up_stops_nothing_and_the_stop_route_does(http_door: Door) -> None:
    door = http_door
    await door.open()
    await door.page.send(held(door, "one ", "two"))
    await door.page.until(lambda state: state.answer == "one ")
    await door.page.order("stop")
    await door.reload()
    before = len(door.page.events)
    await door.page.order("resume")
    await door.page.until(lambda state: state.status == "streaming")
    assert len(await door.stop()) == 1
    state = await door.page.idle(after=before)
    assert (state.answer, state.messages[-1]["metadata"]["outcome"]) == ("one ", "cancelled")
    assert await door.stop() == []
    assert await door.stop("unknown") == []
    await stored_is_seen(door, state)


async def test_hanging_up_stops_where_that_is_asked_for(http_door: Door) -> None:
    door = http_door
    await door.open()
    stops = {"X-Isolane-On-Disconnect": "stop"}
    await door.page.send(held(door, "one ", "two"), headers=stops)
    await door.page.until(lambda state: state.answer == "one ")
    await door.page.order("stop")
    async for _ in Looks(15):
        if (await door.load())[-1]["metadata"].get("outcome") == "cancelled":
            return
    pytest.fail("the run went on")


async def is_cancelled(door: Door) -> None:
    """Wait until the chat's last answer says that it was stopped."""
    async for _ in Looks(15):
        if (await door.load())[-1]["metadata"].get("outcome") == "cancelled":
            return
    pytest.fail("the run went on")


async def test_stop_on_a_socket_stops(socket_door: Door) -> None:
    await socket_door.open()
    await socket_door.page.send(held(socket_door, "one ", "two"))
    await socket_door.page.until(lambda state: state.answer == "one ")
    await socket_door.page.order("stop")
    await is_cancelled(socket_door)
    assert (await socket_door.ask("next")).answer == "next "


async def test_stop_of_a_resume_stops(socket_door: Door) -> None:
    await socket_door.open()
    await socket_door.page.send(held(socket_door, "one ", "two"))
    await socket_door.page.until(lambda state: state.answer == "one ")
    await socket_door.reload()
    await socket_door.page.order("resume")
    await socket_door.page.until(lambda state: state.status == "streaming")
    await socket_door.page.order("stop")
    await is_cancelled(socket_door)


async def test_regenerate_takes_the_answer_back(door: Door) -> None:
    await door.open()
    first = await door.ask(steps(["ids"]))
    before = len(door.page.events)
    await door.page.order("regenerate")
    second = await door.page.idle(after=before)
    assert len(second.messages) == 2
    assert first.answer != second.answer  # another run
    await stored_is_seen(door, second)


async def test_regenerate_of_an_earlier_answer(door: Door) -> None:
    await door.open()
    first = await door.ask("one")
    await door.ask("two")
    before = len(door.page.events)
    await door.page.order("regenerate", options={"messageId": first.messages[1]["id"]})
    state = await door.page.idle(after=before)
    assert state.outline == [("user", "one"), ("assistant", "one ")]
    assert state.messages[1]["id"] != first.messages[1]["id"]
    await stored_is_seen(door, state)


async def test_regenerate_in_mid_answer(door: Door) -> None:
    await door.open()
    await door.page.send(held(door, "one ", "two"))
    await door.page.until(lambda state: state.answer == "one ")
    await door.page.order("stop")
    await door.lane.open_gate(f"{door.lane.user} go")
    before = len(door.page.events)
    await door.page.order("regenerate")
    state = await door.page.idle(after=before)
    assert (len(state.messages), state.answer) == (2, "one two")
    await stored_is_seen(door, state)


async def test_an_edit_takes_back_what_followed(door: Door) -> None:
    await door.open()
    await door.ask("one")
    state = await door.ask("two")
    before = len(door.page.events)
    own = state.messages[0]["id"]
    await door.page.order("send", message={"text": "uno", "messageId": own})
    edited = await door.page.idle(after=before)
    assert edited.outline == [("user", "uno"), ("assistant", "uno ")]
    await stored_is_seen(door, edited)


async def test_a_repeated_send_attaches(door: Door) -> None:
    await door.open()
    await door.page.send(held(door, "one ", "two"))
    state = await door.page.until(lambda state: state.answer == "one ")
    body = {"id": "t", "trigger": "submit-message", "messages": state.messages[:1]}
    async with (
        door.lane.server.http(door.lane.token) as http,
        http.stream("POST", "/ai/chat", json=body) as again,
    ):
        assert again.status_code == 200
        await door.lane.open_gate(f"{door.lane.user} go")
        text = "".join([part async for part in again.aiter_text()])
    chunks = chunks_of(text)
    assert "".join(one["delta"] for one in chunks if one["type"] == "text-delta") == "one two"
    assert len(await door.load()) == 2


def chunks_of(text: str) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in text.split("\n") if line.startswith("data: ")]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


async def test_a_tool_of_the_page_goes_on_by_itself(helper: Door) -> None:
    await helper.open()
    state = await helper.ask("weather")
    (call,) = state.calls
    assert (call["toolName"], call["input"]) == ("weather", {"city": "Bonn"})
    before = len(helper.page.events)
    output = {"tool": "weather", "toolCallId": call["toolCallId"], "output": "sunny"}
    await helper.page.order("output", **output)
    done = await helper.page.idle(after=before)
    assert (len(done.messages), done.answer) == (2, "Let me weather. It is sunny.")
    assert len(done.calls) == 1
    await stored_is_seen(helper, done)
    # Who reloads and resumes is told the call again, and its page doesn't run the tool again.
    await helper.open(messages=done.messages[:1])
    before = len(helper.page.events)
    await helper.page.order("resume")
    again = await helper.page.idle(after=before)
    assert (again.messages[-1]["id"], again.answer) == (done.messages[-1]["id"], done.answer)
    assert again.calls == []


async def test_a_call_of_an_id_that_was_answered_before_waits_for_its_own_answer(
    lane: Lane,
) -> None:
    asked = {"role": "user", "parts": [{"type": "text", "text": "time"}]}
    async with lane.server.http(lane.token) as http:

        async def post(message: dict[str, Any]) -> str:
            answer = await http.post("/ai/helper/chat", json={"id": "t", "messages": [message]})
            assert answer.status_code == 200, answer.text
            return "".join(one.get("delta", "") for one in chunks_of(answer.text))

        for number in range(3):
            await post({**asked, "id": f"u-{number}"})
            for _ in range(2):  # the second time it is asked again, and calls again
                message = (await http.get("/ai/chat/t/messages")).json()[-1]
                (part,) = [one for one in message["parts"] if one["type"] == "tool-time"]
                assert part["state"] == "input-available"
                part |= {"state": "output-available", "output": f"{number} o'clock"}
                assert await post(message) == f"It is {number} o'clock."
                await http.post("/ai/helper/chat", json={
                    "id": "t", "trigger": "regenerate-message",
                    "messages": [{**asked, "id": f"u-{number}"}],
                })  # fmt: skip


async def test_of_devices_that_run_a_tool_at_the_same_time_one_goes_on(lane: Lane) -> None:
    asked = {"id": "u", "role": "user", "parts": [{"type": "text", "text": "weather"}]}
    async with lane.server.http(lane.token) as http:
        await http.post("/ai/helper/chat", json={"id": "t", "messages": [asked]})
        message = (await http.get("/ai/chat/t/messages")).json()[-1]
        (part,) = [one for one in message["parts"] if one["type"] == "tool-weather"]
        part |= {"state": "output-available", "output": "sunny"}
        body = {"id": "t", "messages": [message]}
        answers = await asyncio.gather(*(http.post("/ai/helper/chat", json=body) for _ in range(4)))
        assert sorted(answer.status_code for answer in answers) == [200, 409, 409, 409]
    log = await lane.load_log("t")
    assert [one["type"] for one in log.events].count("RUN_STARTED") == 2


async def test_a_failed_tool_of_the_page(helper: Door) -> None:
    await helper.open()
    state = await helper.ask("weather")
    before = len(helper.page.events)
    error = {"tool": "weather", "state": "output-error", "errorText": "no line"}
    await helper.page.order("output", toolCallId=state.calls[0]["toolCallId"], **error)
    done = await helper.page.idle(after=before)
    assert done.answer == "Let me weather. It is no line."
    await stored_is_seen(helper, done)


async def test_an_output_that_goes_along_with_the_next_question(helper: Door) -> None:
    await helper.open(goesOn=False)
    state = await helper.ask("weather")
    output = {"tool": "weather", "toolCallId": state.calls[0]["toolCallId"], "output": "sunny"}
    await helper.page.order("output", **output)
    await helper.page.until(
        lambda state: state.part("tool-weather").get("state") == "output-available"
    )
    state = await helper.ask("search")
    assert [words for _, words in state.outline] == [
        "weather", "Let me weather. ", "search", "Let me search. Found.",
    ]  # fmt: skip
    await stored_is_seen(helper, state)


async def test_the_agents_own_tool_does_not_send_again(helper: Door) -> None:
    await helper.open()
    state = await helper.ask("search")
    assert state.answer == "Let me search. Found."
    assert state.part("tool-search")["output"] == {"found": 1}
    await stored_is_seen(helper, state)
    assert (await helper.ask("search")).outline[-1][1] == "Let me search. Found."


@pytest.mark.parametrize("approved", [True, False])
async def test_an_approval(helper: Door, *, approved: bool) -> None:
    await helper.open()
    await helper.ask("delete")
    await helper.reload()
    state = await helper.page.state()
    part = state.part("tool-delete")
    assert part["state"] == "approval-requested"
    before = len(helper.page.events)
    answer: dict[str, Any] = {"approved": approved, "reason": "because"}
    await helper.page.order("approve", approvalId=part["approval"]["id"], **answer)
    done = await helper.page.idle(after=before)
    assert done.answer.endswith(f"You said {json.dumps(answer)}.")
    await stored_is_seen(helper, done)


async def test_who_approves_half_and_says_something_else_goes_on(door: Door) -> None:
    questions: list[dict[str, object]] = [
        {"id": f"q-{n}", "reason": "delete", "toolCallId": f"c-{n}"} for n in (1, 2)
    ]
    calls = [*calling("c-1", "f", "{}"), *calling("c-2", "f", "{}")]
    await door.open()
    await door.ask(steps(*calls, asking(*questions)))
    await door.page.order("approve", approvalId="q-1", approved=True)
    state = await door.ask(steps(["input"]))
    assert state.status == "ready"
    assert json.loads(state.answer)["resume"] == [
        {"interruptId": "q-1", "status": "resolved", "payload": {"approved": True}},
        {"interruptId": "q-2", "status": "cancelled"},
    ]


async def test_of_two_devices_that_approve_the_first_counts(helper: Door) -> None:
    async with ai_page() as other_page:
        other = Door(helper.lane, other_page, helper.kind, "helper")
        await helper.open()
        state = await helper.ask("delete")
        await other.open(messages=state.messages)
        own = state.part("tool-delete")["approval"]["id"]
        before = len(helper.page.events)
        await helper.page.order("approve", approvalId=own, approved=True)
        done = await helper.page.idle(after=before)
        await other_page.order("approve", approvalId=own, approved=False)
        late = await other_page.until(lambda state: state.status == "error")
        assert "run_conflict" in str(late.error)
        await stored_is_seen(helper, done)


async def test_a_question_without_a_tool(helper: Door) -> None:
    await helper.open()
    state = await helper.ask("age")
    part = state.part("dynamic-tool")
    assert (part["toolName"], part["state"]) == ("interrupt", "input-available")
    before = len(helper.page.events)
    await helper.page.order("output", tool="interrupt", toolCallId=part["toolCallId"], output=7)
    done = await helper.page.idle(after=before)
    assert done.answer == "You said 7."
    await stored_is_seen(helper, done)


async def test_an_error_is_told_with_its_code(door: Door) -> None:
    await door.open()
    state = await door.ask(steps(["say", "one "], ["raise", "ValueError", "a secret"]))
    assert state.status == "error"
    assert state.error is not None
    assert state.error.startswith("The agent failed. (agent_error, err_")
    assert "secret" not in json.dumps([state.error, state.messages[1:]])
    before = len(door.page.events)
    await door.page.order("regenerate")
    assert (await door.page.idle(after=before)).status == "error"


async def test_an_answer_whose_thread_is_deleted_is_not_whole(door: Door) -> None:
    await door.open()
    await door.page.send(held(door, "one ", "two"))
    await door.page.until(lambda state: state.answer == "one ")
    async with door.lane.server.http(door.lane.token) as http:
        assert (await http.delete("/api/threads/t")).status_code == 204
    state = await door.page.idle()
    assert state.status == "error"
    assert "not_found" in str(state.error)


async def test_two_devices_see_the_same(door: Door) -> None:
    async with ai_page() as other_page:
        other = Door(door.lane, other_page)
        await door.open()
        await door.page.send(held(door, "one ", "two"))
        await door.page.until(lambda state: state.answer == "one ")
        await other.reload()
        await other_page.order("resume")
        await other_page.until(lambda state: state.status == "streaming")
        await door.lane.open_gate(f"{door.lane.user} go")
        mine, theirs = await asyncio.gather(door.page.idle(), other_page.idle())
        assert mine.messages == theirs.messages


async def test_data_parts(door: Door) -> None:
    custom = {"type": "CUSTOM", "name": "weather", "value": {"c": 21}}
    source = {"type": "CUSTOM", "name": "source", "value": {"url": "https://a.example"}}
    state_event = {"type": "STATE_SNAPSHOT", "snapshot": {"n": 1}}
    await door.open()
    state = await door.ask(steps(["event", custom], ["event", source], ["event", state_event]))
    kinds = [part["type"] for part in state.messages[-1]["parts"]]
    assert kinds == ["step-start", "data-weather", "source-url", "data-state"]
    await stored_is_seen(door, state)


async def test_a_file_of_the_user(helper: Door) -> None:
    await helper.open()
    url = "data:image/png;base64,iVBORw0KGgo="
    file = {"type": "file", "mediaType": "image/png", "url": url, "filename": "a.png"}
    before = len(helper.page.events)
    parts = [{"type": "text", "text": "look"}, file]
    await helper.page.order("send", message={"role": "user", "parts": parts})
    assert (await helper.page.idle(after=before)).status == "ready"
    assert (await helper.load())[0]["parts"] == parts


@pytest.mark.parametrize(
    "change, field",
    [
        ({"id": "no/id"}, "id"),
        ({"messages": []}, "messages"),
        ({"trigger": "other"}, "trigger"),
        ({"messages": [{"id": "s", "role": "system", "parts": []}]}, "messages.0.role"),
        ({"messages": [{"id": "u", "role": "user"}]}, "messages.0.parts"),
        ({"messages": [{"id": "u", "role": "user", "parts": []}]}, "messages.0.parts"),
        ({"messages": [{"id": 1, "role": "user", "parts": [{"type": "text", "text": "x"}]}]},
         "messages.0.id"),
        ({"messages": [{"id": "u", "role": "user", "parts": [{"type": "text"}]}]},
         "messages.0.parts.0.text"),
        ({"messages": [{"id": "u", "role": "user", "parts": [
            {"type": "file", "mediaType": "image/png", "url": "file:///etc/passwd"}]}]},
         "messages.0.parts.0.url"),
        ({"trigger": "regenerate-message",
          "messages": [{"id": "a", "role": "assistant", "parts": []}]}, "messages"),
        ({"runId": "no/id"}, "runId"),
        ({"policy": "perhaps"}, "forwardedProps.policy"),
        ({"forwardedProps": 1}, "forwardedProps"),
    ],
)  # fmt: skip
async def test_bad_requests_name_the_field(lane: Lane, change: dict[str, Any], field: str) -> None:
    message = {"id": "u", "role": "user", "parts": [{"type": "text", "text": "x"}]}
    body = {"id": "t", "messages": [message], **change}
    async with lane.server.http(lane.token) as http:
        answer = await http.post("/ai/chat", json=body)
    assert (answer.status_code, answer.json()["field"]) == (422, field), answer.text


async def test_invented_answers_are_none(lane: Lane) -> None:
    """A list may say what nobody asked; what the thread doesn't wait for is left out."""
    part = {"type": "tool-f", "toolCallId": "c", "state": "output-available", "output": 1}
    assistant = {"id": "a", "role": "assistant", "parts": [part]}
    async with lane.server.http(lane.token) as http:
        answer = await http.post("/ai/chat", json={"id": "t", "messages": [assistant]})
        assert (answer.status_code, answer.json()["code"]) == (409, "run_conflict")
        asked = {"id": "u", "role": "user", "parts": [{"type": "text", "text": steps(["input"])}]}
        answer = await http.post("/ai/chat", json={"id": "t", "messages": [assistant, asked]})
    said = "".join(one.get("delta", "") for one in chunks_of(answer.text))
    assert [message["role"] for message in json.loads(said)["messages"]] == ["user"]


async def test_chunks_are_numbered_and_go_on_after_a_number(lane: Lane) -> None:
    message = {"id": "u", "role": "user", "parts": [{"type": "text", "text": "one two"}]}
    async with lane.server.http(lane.token) as http:
        first = await http.post("/ai/chat", json={"id": "t", "messages": [message]})
        assert first.headers["x-vercel-ai-ui-message-stream"] == "v1"
        assert first.headers["x-isolane-thread"] == "t"
        whole = await http.get("/ai/chat/t/stream")
        rest = await http.get("/ai/chat/t/stream", params={"after": 3})
        last = await http.get("/ai/chat/t/stream", headers={"Last-Event-ID": "3"})
        wrong = await http.get("/ai/chat/t/stream", headers={"Last-Event-ID": "1:3"})
    assert chunks_of(first.text) == chunks_of(whole.text)
    assert chunks_of(rest.text) == chunks_of(whole.text)[4:] == chunks_of(last.text)
    assert (wrong.status_code, wrong.json()["field"]) == (422, "Last-Event-ID")


async def test_another_user_sees_and_stops_nothing(door: Door) -> None:
    await door.open()
    await door.page.send(held(door, "one ", "two"))
    await door.page.until(lambda state: state.answer == "one ")
    stranger = Lane(door.lane.server)
    async with stranger.server.http(stranger.token) as http:
        assert (await http.get("/ai/chat/t/messages")).status_code == 404
        assert (await http.get("/ai/chat/t/stream")).status_code == 204
        assert (await http.post("/ai/chat/t/stop")).json() == {"runIds": []}
    await door.lane.open_gate(f"{door.lane.user} go")
    assert (await door.page.idle()).answer == "one two"


async def test_a_killed_server_ends_the_answer_and_the_chat_goes_on(tmp_path: Path) -> None:
    async with own_server(tmp_path, SCRIPT) as server, ai_page() as page:
        door = Door(Lane(server), page)
        await door.open()
        await page.send(steps(["say", "one "], ["hold", "never"]))
        await page.until(lambda state: state.answer == "one ")
        await server.kill()
        await page.idle()
        await server.start()
        await door.reload()
        before = len(page.events)
        await page.order("resume")
        state = await page.idle(after=before)
        assert (state.status, state.answer) == ("error", "one ")
        assert "agent_lost" in str(state.error)
        assert (await door.ask("two")).answer == "two "


@pytest.mark.parametrize("kind", ["http", "socket"])
async def test_a_question_in_line_when_the_gateway_closes_is_not_answered(
    tmp_path: Path, kind: str
) -> None:
    async with own_server(tmp_path, SCRIPT) as server, ai_page() as page:
        door = Door(Lane(server), page, kind)
        await door.open()
        async with door.lane.connect() as client, server.http(door.lane.token) as http:
            await client.run("t", "first", held(door, "one ", "two"))
            await client.until_event("TEXT_MESSAGE_CONTENT")
            await page.send("three", body={"runId": "second"})
            async for _ in Looks(15):
                if (await http.get("/api/runs/second")).status_code == 200:
                    break
            await server.stop()
        state = await page.idle()
        assert (state.status, len(state.messages)) == ("error", 1)
        await server.start()


async def test_a_conversation_longer_than_a_frame_goes_on(http_door: Door) -> None:
    long = steps(["blobs", 4, 400_000], ["say", "long"])
    await http_door.open()
    await http_door.ask(long)
    await http_door.ask("two")
    state = await http_door.ask("three")
    assert len(json.dumps(state.messages)) > 3 << 19
    assert (state.status, state.answer) == ("ready", "three ")
    before = len(http_door.page.events)
    await http_door.page.order("regenerate")
    assert (await http_door.page.idle(after=before)).outline == state.outline


async def test_what_is_new_of_a_long_list_is_bounded(lane: Lane) -> None:
    texts = [{"type": "text", "text": "x" * 700_000}]
    messages = [{"id": f"u-{n}", "role": "user", "parts": texts} for n in range(2)]
    async with lane.server.http(lane.token) as http:
        answer = await http.post("/ai/chat", json={"id": "t", "messages": messages})
        assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
        assert (await http.get("/ai/chat/t/messages")).status_code == 404
        answer = await http.post("/ai/chat", json={"id": "no/id", "messages": messages[:1]})
        assert (answer.status_code, answer.json()["field"]) == (422, "id")


async def test_pages_of_turns(door: Door) -> None:
    await door.open()
    await door.ask("one")
    await door.ask("two")
    state = await door.ask("three")
    newest = await door.load(limit="2")
    assert newest == state.messages[2:]
    older = await door.load(limit="2", before=newest[0]["id"])
    assert [message["id"] for message in older] == [one["id"] for one in state.messages[:2]]
    with pytest.raises(httpx.HTTPStatusError) as refused:
        await door.load(before="nobody's")
    assert refused.value.response.json()["code"] == "invalid_cursor"
