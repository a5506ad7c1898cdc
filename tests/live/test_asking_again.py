"""Questions that a thread knows: asked again, sent again after a lost line, or in other words.

Driven by the published clients where they do such a thing; frame by frame where another might.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from tests.live.agui import AguiClient, Heard, agui_client
from tests.live.client import Frame, is_terminal, run_frame
from tests.live.server import Server
from tests.live.stage import (
    SCRIPT,
    Lane,
    caught_up,
    envelopes,
    own_server,
    read_to_close,
    shared_server,
    steps,
    text_of,
    types_of,
)
from tests.live.tanstack import TanStackPage, tanstack_page

pytestmark = pytest.mark.asyncio(loop_scope="module")

server = shared_server(SCRIPT)

LOOK = steps(["input"])
"""Makes the agent say what it was given."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def driver() -> AsyncIterator[AguiClient]:
    async with agui_client() as client:
        yield client


@pytest_asyncio.fixture(loop_scope="module")
async def page() -> AsyncIterator[TanStackPage]:
    async with tanstack_page() as opened:
        yield opened


@pytest.fixture
def lane(server: Server) -> Lane:
    return Lane(server)


@pytest_asyncio.fixture(loop_scope="module")
async def http(lane: Lane) -> AsyncIterator[httpx.AsyncClient]:
    async with lane.server.http(lane.token) as client:
        yield client


def user(message_id: str, text: str) -> Frame:
    return {"id": message_id, "role": "user", "content": text}


def held(lane: Lane, *words: str) -> str:
    """Return a script that says each word and waits for the lane's gate before the next one."""
    return steps(
        ["say", words[0]], *([["hold", f"{lane.user} go"]] + [["say", w] for w in words[1:]])
    )


def given_to(events: list[Frame]) -> list[tuple[str, str]]:
    """Return role and id of each message that the agent was given, which said so."""
    return [(m["role"], m["id"]) for m in json.loads(text_of(events))["messages"]]


def ids_of(messages: list[Frame]) -> list[tuple[str, str]]:
    return [(message["role"], message["id"]) for message in messages]


async def load(lane: Lane, thread_id: str = "t") -> dict[str, Any]:
    async with lane.server.http(lane.token) as http:
        thread: dict[str, Any] = (await http.get(f"/api/threads/{thread_id}")).json()
        return thread


async def load_run(lane: Lane, run_id: str) -> dict[str, Any]:
    async with lane.server.http(lane.token) as http:
        run: dict[str, Any] = (await http.get(f"/api/runs/{run_id}")).json()
        return run


async def ask(lane: Lane, run_id: str, *messages: Frame, **more: object) -> httpx.Response:
    """Send a run over HTTP and return the whole answer."""
    async with lane.server.http(lane.token) as http:
        return await http.post("/agui", json=run_frame("t", run_id, "", messages=messages, **more))


async def refusal(lane: Lane, door: str, frame: Frame) -> dict[str, Any]:
    """Send a run that is refused, and return code, field and message of the error."""
    if door == "http":
        async with lane.server.http(lane.token) as http:
            answer = await http.post("/agui", json=frame)
        problem = answer.json()
        assert answer.status_code == problem["status"], problem
        return {"status": answer.status_code, "message": problem["detail"], **problem}
    async with lane.connect() as client:
        await client.send(frame)
        found: dict[str, Any] = await client.until_type("error")
        return {"status": {"invalid_input": 422, "run_conflict": 409}.get(found["code"]), **found}


# --- HttpAgent -----------------------------------------------------------------------------------


class Chat:
    """One user's unmodified `HttpAgent` on the thread `t`."""

    def __init__(self, driver: AguiClient, lane: Lane) -> None:
        self.driver, self.lane = driver, lane
        self.messages: list[Frame] = []

    async def open(self) -> Chat:
        url = f"{self.lane.server.url}/agui"
        await self.driver.open(self.lane.user, url, self.lane.token, "t")
        return self

    async def run(self, text: str | None, run_id: str, **more: object) -> Heard:
        heard = await self.driver.run(self.lane.user, text, run_id=run_id, **more)  # type: ignore[arg-type]
        self.messages = heard.messages
        return heard

    async def set_messages(self, messages: list[Frame]) -> None:
        self.messages = messages
        await self.driver.set(self.lane.user, messages=messages)


@pytest_asyncio.fixture(loop_scope="module")
async def chat(driver: AguiClient, lane: Lane) -> Chat:
    return await Chat(driver, lane).open()


async def assert_agree(lane: Lane, heard: Heard) -> None:
    """Say that client, thread and agent have one conversation; the agent has said what it got."""
    kept = (await load(lane))["messages"]
    assert heard.failures == []
    assert ids_of(kept) == ids_of(heard.messages)
    assert [m["content"] for m in kept] == [m["content"] for m in heard.messages]
    assert given_to(heard.events) == ids_of(kept)[:-1]


async def test_answer_that_was_taken_out_of_the_list_is_given_anew(chat: Chat, lane: Lane) -> None:
    await chat.run("first", "r-1")
    old = await chat.run(LOOK, "r-2")
    await chat.set_messages(old.messages[:-1])
    new = await chat.run(None, "r-3")
    await assert_agree(lane, new)
    assert new.messages[-1]["id"] != old.messages[-1]["id"]
    assert [role for role, _ in ids_of(new.messages)] == ["user", "assistant"] * 2
    again = await chat.run(LOOK, "r-4")
    await assert_agree(lane, again)
    assert len(again.messages) == 6


async def test_each_answer_may_be_asked_for_again_and_again(chat: Chat, lane: Lane) -> None:
    heard = await chat.run(LOOK, "r-1")
    for number in range(2, 5):
        await chat.set_messages(heard.messages[:1])
        heard = await chat.run(None, f"r-{number}")
        await assert_agree(lane, heard)
        assert len(heard.messages) == 2


async def test_failed_run_is_tried_again_by_running_once_more(chat: Chat, lane: Lane) -> None:
    await chat.run(steps(["say", "half"], ["raise", "ValueError", "x"]), "r-1")
    assert len((await load(lane))["messages"]) == 2
    await chat.set_messages(chat.messages[:1])
    heard = await chat.run(None, "r-2")
    assert heard.types[-1] == "RUN_ERROR"
    assert ids_of((await load(lane))["messages"]) == ids_of(heard.messages)


async def test_question_after_a_lost_line_joins_the_run_that_answers_it(
    chat: Chat, lane: Lane
) -> None:
    async with lane.connect() as watcher:
        await watcher.subscribe("t")
        lost = asyncio.create_task(chat.run(held(lane, "1 ", "2 "), "r-1"))
        await watcher.until_event("TEXT_MESSAGE_CONTENT")
        await chat.driver.abort(lane.user)
        await chat.set_messages((await lost).messages[:1])
        once_more = asyncio.create_task(chat.run(None, "r-2"))
        await known_run(lane, "r-2")
        await lane.open_gate(f"{lane.user} go")
        heard = await once_more
    assert heard.failures == []
    assert {e["runId"] for e in heard.events if "runId" in e} == {"r-1"}
    assert text_of(heard.events) == "1 2 "
    assert ids_of((await load(lane))["messages"]) == ids_of(heard.messages)
    assert types_of((await lane.load_log("t")).events).count("RUN_STARTED") == 1


async def known_run(lane: Lane, run_id: str) -> None:
    """Return once the server knows the run."""
    async with asyncio.timeout(10), lane.server.http(lane.token) as http:
        while (await http.get(f"/api/runs/{run_id}")).status_code != 200:  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # no event tells that a frame has come


async def test_new_question_behind_an_older_list_is_appended(chat: Chat, lane: Lane) -> None:
    await chat.run("first", "r-1")
    await chat.run("second", "r-2")
    await chat.set_messages(chat.messages[:2])
    heard = await chat.run(LOOK, "r-3")
    assert heard.failures == []
    kept = (await load(lane))["messages"]
    assert given_to(heard.events) == ids_of(kept)[:-1]
    assert [m["content"] for m in kept if m["role"] == "user"] == ["first", "second", LOOK]


@pytest.mark.parametrize("rewound", [False, True], ids=["earlier", "taken back"])
async def test_earlier_question_is_a_conflict_for_the_published_client(
    chat: Chat, lane: Lane, *, rewound: bool
) -> None:
    await chat.run("first", "r-1")
    await chat.run("second", "r-2")
    if rewound:
        first = ids_of(chat.messages)[0][1]
        await lane.play("t", "edit", "edited", forwardedProps={"rewindTo": first})
    before = await load(lane)
    await chat.set_messages(chat.messages[:1])
    heard = await chat.run(None, "r-3")
    assert any("409" in failure for failure in heard.failures)
    assert await load(lane) == before
    await chat.set_messages([])
    edited = await chat.run(
        LOOK, "r-4", forwardedProps={"rewindTo": ids_of(before["messages"])[0][1]}
    )
    assert edited.failures == []
    assert len((await load(lane))["messages"]) == 2


async def test_question_in_other_words_under_its_id_is_refused_to_the_published_client(
    chat: Chat, lane: Lane
) -> None:
    await chat.run("first", "r-1")
    before = await load(lane)
    question = {**chat.messages[0], "content": "in other words"}
    await chat.set_messages([question])
    heard = await chat.run(None, "r-2")
    assert any("422" in failure and "messages.0.id" in failure for failure in heard.failures)
    assert await load(lane) == before


# --- TanStack ------------------------------------------------------------------------------------


async def open_page(page: TanStackPage, lane: Lane) -> None:
    await page.open(lane.server.websocket_url(), "t", token=lane.token)


async def test_reload_of_the_published_client_gives_another_answer(
    page: TanStackPage, lane: Lane
) -> None:
    await open_page(page, lane)
    await page.send("first")
    await page.idle()
    await page.send(LOOK)
    old = await page.idle()
    await page.reload()
    new = await page.idle()
    kept = (await load(lane))["messages"]
    assert [m["id"] for m in kept] == [m["id"] for m in new.messages]
    assert [(m["role"], m["content"]) for m in kept] == new.outline
    assert new.messages[-1]["id"] != old.messages[-1]["id"]
    assert [role for role, _ in new.outline] == ["user", "assistant"] * 2
    given = json.loads(new.answer)["messages"]
    assert ids_of(given) == ids_of(kept)[:-1]


async def test_reload_under_way_stops_the_old_answer(page: TanStackPage, lane: Lane) -> None:
    await open_page(page, lane)
    gate = f"{lane.user} go"
    run_id = await page.send(steps(["say", "old "], ["hold", gate], ["say", "new "]))
    await page.wait_for_chunk("TEXT_MESSAGE_CONTENT")
    again = await page.reload()
    await page.wait_for_chunk("RUN_FINISHED", run_id=run_id)
    await page.wait_for_chunk("RUN_STARTED", run_id=again)
    await lane.open_gate(gate)
    await page.wait_for_chunk("RUN_FINISHED", run_id=again)
    assert (await load_run(lane, run_id))["outcome"] == "cancelled"
    kept = (await load(lane))["messages"]
    assert [m["content"] for m in kept[1:]] == ["old new "]
    state = await page.idle()
    assert state.answer == "old new "


async def test_page_that_comes_back_joins_and_stops_by_its_own_run_id(
    page: TanStackPage, lane: Lane
) -> None:
    """A page whose line broke asks once more: what it sends by its new run id means the old run."""
    question = user("q", steps(["say", "1 "], ["hold", f"{lane.user} never"]))
    await ask_and_leave(lane, "r-1", question)
    async with lane.connect(hello=False) as client:
        await client.send(run_frame("t", "r-2", "", messages=[question]))
        first = await client.until_event("TEXT_MESSAGE_CONTENT")
        await client.abort("r-2")
        end = await client.until_end("r-1")
    assert end["chunk"]["outcome"] == {"type": "cancelled"}
    await open_page(page, lane)
    joined = await page.join("r-2")
    assert (joined.error, joined.text) == (None, "1 ")
    async with lane.replay("r-2", first["id"]) as socket:
        frames, close = await read_to_close(socket)
    assert [frame["runId"] for frame in envelopes(frames)] == ["r-1"] * 2
    assert close == (1000, "")
    run = await load_run(lane, "r-2")
    assert (run["runId"], run["outcome"]) == ("r-1", "cancelled")


async def ask_and_leave(lane: Lane, run_id: str, question: Frame) -> None:
    async with lane.connect(hello=False) as client:
        await client.send(run_frame("t", run_id, "", messages=[question]))
        await client.until_event("TEXT_MESSAGE_CONTENT")


# --- frame by frame ------------------------------------------------------------------------------


@pytest.mark.parametrize("door", ["http", "socket"])
@pytest.mark.parametrize(
    "messages, field",
    [
        ([user("q", "other")], "messages.0.id"),
        ([user("n", "new"), {"id": "a", "role": "assistant"}, user("q", "other")], "messages.2.id"),
        ([user("n", "one"), user("n", "two")], "messages.1.id"),
        ([user("q", "one"), user("q", "two")], "messages.1.id"),
        ([user("n", "one"), user("n", "two"), user("o", "three")], "messages.1.id"),
        ([user("q", "")], "messages.0.id"),
        ([user("q", "other"), {"id": "s", "role": "system", "content": "x"}], "messages.0.id"),
    ],
    ids=["alone", "behind a list", "two new", "twice", "two before", "empty", "before rules"],
)
async def test_known_id_with_other_content_is_refused(
    lane: Lane, door: str, messages: list[Frame], field: str
) -> None:
    await lane.play("t", "r-1", "", messages=[user("q", "one")])
    before = await load(lane)
    error = await refusal(lane, door, run_frame("t", "r-2", "", messages=messages))
    assert (error["status"], error["code"], error["field"]) == (422, "invalid_input", field)
    assert await load(lane) == before
    async with lane.server.http(lane.token) as http:
        assert (await http.get("/api/runs/r-2")).status_code == 404


@pytest.mark.parametrize("door", ["http", "socket"])
async def test_id_of_an_answer_is_refused_for_a_question(lane: Lane, door: str) -> None:
    answer = (await lane.play("t", "r-1", "one"))[1]["messageId"]
    frame = run_frame("t", "r-2", "", messages=[user(answer, "two")])
    error = await refusal(lane, door, frame)
    assert (error["code"], error["field"]) == ("invalid_input", "messages.0.id")


async def test_edit_keeps_its_id_where_it_says_what_it_takes_back(lane: Lane) -> None:
    await lane.play("t", "r-1", "", messages=[user("q", "one")])
    await lane.play("t", "r-2", "", messages=[user("p", "two")])
    edit = {"rewindTo": "q"}
    await lane.play("t", "r-3", "", messages=[user("q", "other words")], forwardedProps=edit)
    assert [m["content"] for m in (await load(lane))["messages"]] == ["other words", "other words "]
    # What stands before the place of a rewind can't be said in other words there.
    later = run_frame(
        "t", "r-5", "", messages=[user("q", "again")], forwardedProps={"rewindTo": "p"}
    )
    await lane.play("t", "r-4", "", messages=[user("p", "two")], forwardedProps={"rewindTo": "q"})
    await lane.play("t", "r-6", "", messages=[user("z", "three")])
    earlier = {**later, "messages": [user("p", "again")], "forwardedProps": {"rewindTo": "z"}}
    error = await refusal(lane, "socket", earlier)
    assert (error["code"], error["field"]) == ("invalid_input", "messages.0.id")


@pytest.mark.parametrize("door", ["http", "socket"])
@pytest.mark.parametrize("which", ["earlier", "taken back"])
async def test_earlier_question_is_a_conflict_that_names_the_way(
    lane: Lane, door: str, which: str
) -> None:
    await lane.play("t", "r-1", "", messages=[user("q", "one")])
    await lane.play("t", "r-2", "", messages=[user("p", "two")])
    if which == "taken back":
        edit = {"rewindTo": "q"}
        await lane.play("t", "edit", "", messages=[user("e", "three")], forwardedProps=edit)
    before = await load(lane)
    error = await refusal(lane, door, run_frame("t", "r-3", "", messages=[user("q", "one")]))
    assert (error["status"], error["code"], error["retryable"]) == (409, "run_conflict", False)
    assert "forwardedProps.rewindTo" in error["message"]
    assert await load(lane) == before


async def test_who_follows_sees_the_old_answer_taken_back(lane: Lane) -> None:
    await lane.play("t", "r-1", "", messages=[user("q", "one")])
    async with lane.connect() as watcher:
        await caught_up(watcher, "t")
        await lane.play("t", "r-2", "", messages=[user("q", "one")])
        started = (await watcher.until_event("RUN_STARTED", "r-2"))["chunk"]
    assert started["input"]["messages"] == [user("q", "one")]
    assert started["input"]["forwardedProps"] == {"rewindTo": "q"}


async def test_accepted_names_the_run_that_asks_the_question_already(lane: Lane) -> None:
    question = user("q", held(lane, "1 ", "2 "))
    await ask_and_leave(lane, "r-1", question)
    async with lane.connect() as client:
        for run_id in ("r-2", "r-2", "r-3"):
            await client.send(run_frame("t", run_id, "", messages=[question]))
            accepted = await client.until_type("accepted")
            assert (accepted["runId"], accepted["disposition"]) == (run_id, "attached")
            assert accepted["attachedTo"] == "r-1"
        await lane.open_gate(f"{lane.user} go")
        await client.until_end("r-1")
        await client.send(run_frame("t", "r-2", "", messages=[question]))
        assert (await client.until_type("accepted"))["attachedTo"] == "r-1"
        other = run_frame("t", "r-2", "", messages=[user("new", "word")])
        await client.send(other)
        assert (await client.until_type("error"))["code"] == "run_conflict"
    assert types_of((await lane.load_log("t")).events).count("RUN_STARTED") == 1


async def test_question_that_waits_is_joined_and_is_one_run(lane: Lane) -> None:
    question = user("p", "two")
    async with lane.connect() as client, lane.connect() as other:
        await client.run("t", "r-1", held(lane, "1 "))
        await client.until_event("TEXT_MESSAGE_CONTENT")
        await client.send(run_frame("t", "r-2", "", messages=[question]))
        assert (await client.until_type("accepted"))["disposition"] == "queued"
        await other.send(run_frame("t", "r-3", "", messages=[question]))
        accepted = await other.until_type("accepted")
        assert (accepted["disposition"], accepted["attachedTo"]) == ("attached", "r-2")
        changed = run_frame("t", "r-4", "", messages=[user("p", "other")])
        assert (await refusal(lane, "http", changed))["field"] == "messages.0.id"
        await lane.open_gate(f"{lane.user} go")
        assert (await other.until_end("r-2"))["runId"] == "r-2"
    assert [m["content"] for m in (await load(lane))["messages"]][2:] == ["two", "two "]


async def test_question_asked_twice_at_once_is_one_run(lane: Lane) -> None:
    question = user("q", held(lane, "1 "))
    async with lane.connect() as phone, lane.connect() as laptop:
        await asyncio.gather(
            *(
                device.send(run_frame("t", run_id, "", messages=[question]))
                for device, run_id in ((phone, "r-1"), (laptop, "r-2"))
            )
        )
        answers = [await device.until_type("accepted") for device in (phone, laptop)]
        assert sorted(answer["disposition"] for answer in answers) == ["attached", "started"]
        await lane.open_gate(f"{lane.user} go")
        for device in (phone, laptop):
            await device.until(is_terminal)
    assert len((await load(lane))["messages"]) == 2


async def test_two_tabs_that_ask_again_get_one_new_answer(lane: Lane) -> None:
    question = user("q", "one")
    await lane.play("t", "r-1", "", messages=[question])
    async with lane.connect() as phone, lane.connect() as laptop:
        await phone.send(run_frame("t", "r-2", "", messages=[question]))
        await laptop.send(run_frame("t", "r-3", "", messages=[question]))
        for device in (phone, laptop):
            await device.until(is_terminal)
    assert len((await load(lane))["messages"]) == 2


async def test_answer_of_a_tool_behind_a_known_question_asks_nothing_again(lane: Lane) -> None:
    call = {"type": "TOOL_CALL_START", "toolCallId": "c", "toolCallName": "pick"}
    question = user("q", steps(["event", call]))
    await lane.play("t", "r-1", "", messages=[question])
    tool = {"id": "x", "role": "tool", "toolCallId": "c", "content": "42"}
    await lane.play("t", "r-2", "", messages=[question, {"id": "a", "role": "assistant"}, tool])
    assert [m["role"] for m in (await load(lane))["messages"]][:3] == ["user", "assistant", "tool"]


async def test_other_users_question_of_the_same_id_is_none_of_mine(lane: Lane) -> None:
    stranger = Lane(lane.server)
    await lane.play("t", "r-1", "", messages=[user("q", "mine")])
    await stranger.play("t", "r-2", "", messages=[user("q", "another's")])
    await lane.play("u", "r-other", "", messages=[user("q", "on another thread")])
    assert [m["content"] for m in (await load(lane))["messages"]] == ["mine", "mine "]
    question = user("p", held(lane, "1 "))
    await ask_and_leave(lane, "r-3", question)
    async with stranger.connect() as client:
        await client.send(run_frame("t", "r-4", "", messages=[question]))
        assert (await client.until_type("accepted"))["disposition"] == "started"
        await lane.open_gate(f"{lane.user} go")
        await client.until_end("r-4")


async def test_attached_run_and_waiting_retry_outlive_a_restart(tmp_path: Path) -> None:
    async with own_server(tmp_path, SCRIPT) as server:
        lane = Lane(server)
        question = user("q", steps(["say", "1 "], ["hold", "never"]))
        await ask_and_leave(lane, "r-1", question)
        async with lane.connect() as client:
            await client.send(run_frame("t", "r-2", "", messages=[question]))
            await client.until_type("accepted")
        await server.kill()
        await server.start()
        async with lane.connect() as client:
            assert (await load_run(lane, "r-2"))["runId"] == "r-1"
            await client.send(run_frame("t", "r-2", "", messages=[question]))
            assert (await client.until_end("r-1"))["chunk"]["code"] == "agent_lost"
            # A new frame doesn't join what is lost: it asks anew, and takes the rest back.
            await client.send(run_frame("t", "r-3", "", messages=[question]))
            assert (await client.until_type("accepted"))["disposition"] == "started"
            await client.until_event("TEXT_MESSAGE_CONTENT", "r-3")
            await client.abort("r-3")
            await client.until_end("r-3")
        assert [m["content"] for m in (await load(lane))["messages"]][1:] == ["1 "]
        async with lane.server.http(lane.token) as http:
            await http.delete("/api/threads/t")
            assert (await http.get("/api/runs/r-2")).status_code == 404


# --- answers of tools ----------------------------------------------------------------------------


def found(message_id: str, call_id: str) -> Frame:
    return {"id": message_id, "role": "tool", "toolCallId": call_id, "content": "42"}


async def call_twice(lane: Lane) -> Frame:
    """Let the agent make the calls `c-1` and `c-2`, which nobody answers; return the question."""
    calls = [
        ["event", {"type": f"TOOL_CALL_{act}", "toolCallId": call_id, **more}]
        for call_id in ("c-1", "c-2")
        for act, more in (("START", {"toolCallName": "pick"}), ("END", {}))
    ]
    question = user("q", steps(*calls))
    await lane.play("t", "r-1", "", messages=[question])
    return question


@pytest.mark.parametrize("path", ["/agui", "/ws"])
async def test_answer_of_a_tool_under_the_id_of_another_message_is_refused(
    lane: Lane, http: httpx.AsyncClient, path: str
) -> None:
    question = await call_twice(lane)
    await lane.play("t", "r-2", "", messages=[question, found("x", "c-1")])
    wrong: list[tuple[list[Frame], str]] = [
        ([question, found("x", "c-1"), found("x", "c-2")], "messages.2.id"),
        ([question, found("q", "c-2")], "messages.1.id"),
        ([found("x", "c-2"), {"id": "s", "role": "system", "content": "be"}], "messages.0.id"),
        ([found("y", "c-2"), found("y", "c-3")], "messages.1.id"),
    ]
    for number, (messages, field) in enumerate(wrong):
        frame = run_frame("t", f"w-{number}", "", messages=messages)
        if path == "/agui":
            answer = await http.post(path, json=frame)
            assert (answer.status_code, answer.json()["field"]) == (422, field), answer.text
            continue
        async with lane.connect() as client:
            await client.send(frame)
            error = await client.until_type("error")
        assert (error["code"], error["field"]) == ("invalid_input", field)
    kept = (await load(lane))["messages"]
    assert [m["toolCallId"] for m in kept if m["role"] == "tool"] == ["c-1"]


async def test_answer_of_a_tool_that_is_known_is_taken_as_ever(
    lane: Lane, http: httpx.AsyncClient
) -> None:
    question = await call_twice(lane)
    lists = [
        [found("x", "c-1")],
        [found("x", "c-1")],
        [found("x", "c-1"), found("y", "c-2")],
        [found("of my own", "c-1"), found("x", "c-2")],  # both were answered: nothing is lost
    ]
    for number, messages in enumerate(lists):
        frame = run_frame("t", f"a-{number}", "", messages=[question, *messages])
        assert (await http.post("/agui", json=frame)).status_code == 200
    kept = (await load(lane))["messages"]
    assert [m["id"] for m in kept if m["role"] == "tool"] == ["x", "y"]
