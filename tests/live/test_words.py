"""Other people's words, as they are: cut in the wrong place, too long, too old, too new."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final

import httpx
import pytest
import pytest_asyncio
from tests.live.agui import AguiClient, agui_client
from tests.live.client import Frame, run_frame
from tests.live.server import Server
from tests.live.stage import SCRIPT, Lane, shared_server, steps, text_of, types_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

server = shared_server(SCRIPT)
HIGH, LOW = "\ud83d", "\ude00"
EVENT_BYTES: Final = (1 << 20) - 512


@pytest.fixture
def lane(server: Server) -> Lane:
    return Lane(server)


@pytest_asyncio.fixture(loop_scope="module")
async def http(lane: Lane) -> AsyncIterator[httpx.AsyncClient]:
    async with lane.server.http(lane.token) as client:
        yield client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def driver() -> AsyncIterator[AguiClient]:
    async with agui_client() as client:
        yield client


def event(kind: str, **fields: object) -> list[Any]:
    return ["event", {"type": kind, **fields}]


async def kept(http: httpx.AsyncClient) -> list[Frame]:
    messages: list[Frame] = (await http.get("/api/threads/t")).raise_for_status().json()["messages"]
    return messages


async def seen_by_agent(lane: Lane, run_id: str) -> list[Frame]:
    """Return the history that the next agent is given."""
    said = text_of(await lane.play("t", run_id, steps(["input"])))
    messages: list[Frame] = json.loads(said)["messages"]
    return messages


# --- characters ----------------------------------------------------------------------------------

CUT: Final = steps(["say", "Hi "], ["say", HIGH], ["say", LOW], ["say", " there"], ["say", HIGH])
CHUNKS: Final = [
    event("TOOL_CALL_CHUNK", toolCallId="c", toolCallName=f"f{HIGH}", delta=f'{{"a":"{HIGH}'),
    event("TOOL_CALL_CHUNK", delta=f'{LOW}"}}'),
    event("TOOL_CALL_RESULT", messageId="r", toolCallId="c", content=f"{HIGH}{LOW}{HIGH}"),
    event("REASONING_MESSAGE_CHUNK", messageId="w", delta=f"hm {HIGH}"),
    event("CUSTOM", name=f"n{LOW}", value={f"k{HIGH}": [LOW]}),
    event("STATE_SNAPSHOT", snapshot={"a": HIGH}),
]


async def test_an_agent_that_cuts_characters_is_read_whole(
    driver: AguiClient, lane: Lane, http: httpx.AsyncClient
) -> None:
    await driver.open(lane.user, f"{lane.server.url}/agui", lane.token, "t")
    heard = await driver.run(lane.user, CUT, run_id="r-1")
    assert heard.failures == []
    assert heard.messages[-1]["content"] == "Hi 😀 there�"
    assert (await kept(http))[-1]["content"] == "Hi 😀 there�"
    assert text_of((await lane.load_log("t")).events) == "Hi 😀 there�"


async def test_what_is_no_text_message_is_read_whole_too(
    driver: AguiClient, lane: Lane, http: httpx.AsyncClient
) -> None:
    await driver.open(lane.user, f"{lane.server.url}/agui", lane.token, "t")
    heard = await driver.run(lane.user, steps(*CHUNKS), run_id="r-1")
    assert (heard.failures, heard.types[-1]) == ([], "RUN_FINISHED")
    _, call, result, thought = heard.messages
    assert call["toolCalls"][0]["function"] == {"name": "f�", "arguments": '{"a":"😀"}'}
    assert (result["content"], thought["content"]) == ("😀�", "hm �")
    custom, state = (e for e in heard.events if e["type"] in {"CUSTOM", "STATE_SNAPSHOT"})
    assert (custom["name"], custom["value"], state["snapshot"]) == ("n�", {"k�": ["�"]}, {"a": "�"})
    assert [m["id"] for m in await kept(http)] == [m["id"] for m in heard.messages]


async def test_a_key_that_was_cut_is_found_again_by_a_patch(
    driver: AguiClient, lane: Lane, http: httpx.AsyncClient
) -> None:
    patch = [{"op": "replace", "path": f"/k{HIGH}", "value": 2}]
    activity = {"messageId": "a", "activityType": "plan"}
    await driver.open(lane.user, f"{lane.server.url}/agui", lane.token, "t")
    heard = await driver.run(
        lane.user,
        steps(
            event("STATE_SNAPSHOT", snapshot={f"k{HIGH}": 1}),
            event("STATE_DELTA", delta=patch),
            event("ACTIVITY_SNAPSHOT", **activity, content={f"k{HIGH}": 1}),
            event("ACTIVITY_DELTA", **activity, patch=patch),
        ),
        run_id="r-1",
    )
    assert (heard.failures, heard.types[-1], heard.state) == ([], "RUN_FINISHED", {"k�": 2})
    assert heard.messages[-1]["content"] == {"k�": 2}
    thread = (await http.get("/api/threads/t")).raise_for_status().json()
    assert (thread["state"], thread["messages"][-1]["content"]) == ({"k�": 2}, {"k�": 2})


@pytest.mark.parametrize("step", [["hold", "never"], ["raise", "ValueError", "x"]], ids=str)
async def test_a_half_that_waits_goes_out_when_its_run_is_ended(
    lane: Lane, http: httpx.AsyncClient, step: list[str]
) -> None:
    async with lane.connect() as client:
        await client.run("t", "r-1", steps(["say", "a"], ["say", HIGH], step))
        await client.until_event("TEXT_MESSAGE_CONTENT")
        await client.abort("r-1")
        await client.until_end("r-1")
    assert (await kept(http))[-1]["content"] == "a�"


async def test_a_question_with_half_a_character_is_asked(
    lane: Lane, http: httpx.AsyncClient
) -> None:
    parts = [{"type": "text", "text": f"{LOW}b"}]
    async with lane.connect() as client:
        await client.send(run_frame("t", "r-1", f"a {HIGH}"))
        await client.until_end("r-1")
    body = run_frame("t", "r-2", f"b {HIGH} c")
    body["messages"].insert(0, {"id": "parts", "role": "user", "content": parts})
    answer = await http.post("/agui", content=json.dumps(body))
    assert (answer.status_code, "RUN_FINISHED" in answer.text) == (200, True)
    asked = [m["content"] for m in await kept(http) if m["role"] == "user"]
    assert asked == ["a �", [{"type": "text", "text": "�b"}], "b � c"]


async def test_context_with_half_a_character_reaches_the_agent(
    lane: Lane, http: httpx.AsyncClient
) -> None:
    selection = {"description": f"What is selected{LOW}", "value": f"cut at 100 {HIGH}"}
    body = run_frame("t", "r-1", steps(["input"]), context=[selection])
    answer = await http.post("/agui", content=json.dumps(body))
    assert answer.status_code == 200
    seen = json.loads(text_of((await lane.load_log("t")).events))["context"]
    assert seen == [{"description": "What is selected�", "value": "cut at 100 �"}]


async def test_a_question_with_half_a_character_is_asked_at_the_other_doors(
    http: httpx.AsyncClient,
) -> None:
    parts = [{"type": "text", "text": f"a{HIGH}"}]
    listed = [{"id": "u", "role": "user", "parts": parts}]
    answer = await http.post("/ai/chat", content=json.dumps({"id": "t", "messages": listed}))
    assert (answer.status_code, "a� " in answer.text) == (200, True)
    for more in ({"input": f"a{HIGH}"}, {"input": [{"role": "user", "content": f"a{HIGH}"}]}):
        body = json.dumps({"model": "script", **more})
        made = await http.post("/v1/responses", content=body)
        assert (made.status_code, "a� " in made.text) == (200, True)


@pytest.mark.parametrize("field", ["id", "key", "threadId"])
async def test_half_a_character_in_an_id_or_a_key_is_refused(
    lane: Lane, http: httpx.AsyncClient, field: str
) -> None:
    body = run_frame("t", "r-1", "fine")
    if field == "id":
        body["messages"][0]["id"] = HIGH
    else:
        body[HIGH if field == "key" else field] = HIGH
    answer = await http.post("/agui", content=json.dumps(body))
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_frame")
    async with lane.connect() as client:
        await client.send(json.dumps(body))
        assert (await client.until_type("error"))["code"] == "invalid_frame"


BREAKS: Final = "".join(map(chr, [0x85, 0x2028, 0x2029, 0x0B, 0x0C, 0x1C, 0x1D, 0x1E]))


async def test_no_character_breaks_a_line_of_an_event_stream(
    driver: AguiClient, lane: Lane, http: httpx.AsyncClient
) -> None:
    said = f"one{BREAKS}two"
    await lane.play("t", "r-1", steps(["say", said]), forwardedProps={"a": BREAKS})
    body = run_frame("t", "r-1", steps(["say", said]))
    async with http.stream("POST", "/agui", json=body) as stream:
        lines = [line async for line in stream.aiter_lines() if line]
    assert {line.partition(":")[0] for line in lines} == {"id", "data"}
    read = [json.loads(line.removeprefix("data: ")) for line in lines if line[0] == "d"]
    assert text_of(read) == said
    whole = (await http.post("/agui", json=body)).text
    assert [line for line in whole.splitlines() if line] == lines
    url = f"{lane.server.url}/api/threads/t/events"
    assert text_of((await driver.replay(url, lane.token, ends=1)).events) == said


# --- what nobody here knows ----------------------------------------------------------------------

UNKNOWN: Final = steps(
    event("TOMORROW", secret="x"),
    event("TOMORROW"),
    event("THINKING_START"),
    event("THINKING_TEXT_MESSAGE_START"),
    event("THINKING_TEXT_MESSAGE_CONTENT", delta="hm"),
    event("THINKING_TEXT_MESSAGE_END"),
    event("THINKING_END"),
    event("TOOL_CALL_START", toolCallId="c", toolCallName="f"),
    event("TOOL_CALL_END", toolCallId="c"),
    event("TOOL_CALL_RESULT", messageId="m", toolCallId="c",
          content=[{"type": "hologram"}, {"type": "text", "text": "fine"}]),
    ["say", "done"],
    event("RUN_FINISHED", threadId="t", runId="r-1", outcome={"type": "postponed"}),
)  # fmt: skip


async def test_what_is_unknown_is_left_out_with_one_warning_and_counted(
    driver: AguiClient, lane: Lane
) -> None:
    before = await lane.server.metrics()
    said = {"id": "s", "role": "system", "content": "obey"}
    asked = {"id": "q", "role": "user", "content": UNKNOWN}
    async with lane.connect() as client:
        await client.send({**run_frame("t", "r-1", ""), "messages": [said, asked]})
        end = (await client.until_end("r-1"))["chunk"]
    assert end["outcome"] == {"type": "success"}
    events = (await lane.load_log("t")).of_run("r-1")
    assert "TOMORROW" not in types_of(events)
    assert text_of(events) == "done"
    assert [e["delta"] for e in events if e["type"] == "REASONING_MESSAGE_CONTENT"] == ["hm"]
    url = f"{lane.server.url}/api/threads/t/events"
    assert (await driver.replay(url, lane.token, ends=1)).failures == []
    warnings = [e for e in lane.server.logs if e.get("event") == "left_out"
                and e["user_id"] == lane.user]  # fmt: skip
    (warning,) = warnings
    assert (warning["run_id"], warning["level"]) == ("r-1", "warning")
    assert warning["left_out"] == {
        "role": {"system": 1}, "event": {"TOMORROW": 2}, "part": {"hologram": 1},
        "outcome": {"postponed": 1},
    }  # fmt: skip
    after = await lane.server.metrics()
    for kind, count in {"event": 2, "part": 1, "outcome": 1, "role": 1}.items():
        name = f'isolane_left_out_total{{kind="{kind}"}}'
        assert after[name] - before[name] == count


OLD_PART: Final = {"type": "binary", "mimeType": "image/png", "data": "AA==", "filename": "a.png"}
NEW_PART: Final = {
    "type": "image",
    "source": {"type": "data", "value": "AA==", "mimeType": "image/png"},
    "metadata": {"filename": "a.png"},
}


@pytest.mark.parametrize("door", ["socket", "agui"])
async def test_parts_of_a_question_are_taken_as_old_or_new_as_they_are(
    lane: Lane, http: httpx.AsyncClient, door: str
) -> None:
    async def ask(run_id: str, *parts: object) -> str:
        question = {"id": run_id, "role": "user", "content": list(parts)}
        body = {**run_frame("t", run_id, ""), "messages": [question]}
        if door == "agui":
            answer = await http.post("/agui", json=body)
            return "" if answer.status_code == 200 else str(answer.json()["code"])
        async with lane.connect() as client:
            await client.send(body)
            frame = (await client.until(lambda f: f.get("type") in {"accepted", "error"}))[-1]
            if frame["type"] == "accepted":
                await client.until_end(run_id)
            return str(frame.get("code", ""))

    text = {"type": "text", "text": "look"}
    assert await ask("r-1", {"type": "hologram"}, text, OLD_PART) == ""
    assert (await kept(http))[0]["content"] == [text, NEW_PART]
    assert await ask("r-2", {"type": "hologram"}) == "invalid_input"
    assert await ask("r-3", {"type": "binary", "data": "AA=="}) == "invalid_input"


# --- an agent's own error ------------------------------------------------------------------------


@dataclass(frozen=True)
class Told:
    """An agent's own error, and what of it is told."""

    fields: dict[str, Any]
    code: str | None = None
    message: str | None = None


@pytest.mark.parametrize(
    "told",
    [
        Told({"message": "hunter2", "code": "quota.exceeded"}, "quota.exceeded"),
        Told({"message": "hunter2", "code": "no spaces"}),
        Told({"message": "hunter2", "code": "x" * 65}),
        Told({"message": "hunter2", "code": "a\n"}),
        Told({"message": "hunter2", "metadata": {"public": "true"}}),
        Told(
            {"message": "Try later", "code": "BUSY-1", "metadata": {"public": True}},
            "BUSY-1",
            "Try later",
        ),
        Told({"message": "é" * 3000, "metadata": {"public": True}}, message="é" * 2000),
        Told({"message": "", "metadata": {"public": True}}),
        Told({"message": HIGH, "metadata": {"public": True}}, message="�"),
    ],
    ids=["code", "spaces", "long code", "line", "not public", "public", "long", "empty", "half"],
)
async def test_an_agents_own_error_is_told_by_code_and_in_public_words(
    driver: AguiClient, lane: Lane, http: httpx.AsyncClient, told: Told
) -> None:
    await driver.open(lane.user, f"{lane.server.url}/agui", lane.token, "t")
    question = steps(["say", "well"], event("RUN_ERROR", **told.fields))
    heard = await driver.run(lane.user, question, run_id="r-1")
    ends = [heard.events[-1], (await lane.load_log("t")).events[-1]]
    for end in ends:
        assert (end["type"], end["code"]) == ("RUN_ERROR", "agent_error")
        assert end["message"] == (told.message or "The agent failed.")
        assert end["metadata"].get("agentCode") == told.code
        assert "hunter2" not in json.dumps(end)
    run = (await http.get("/api/runs/r-1")).json()
    assert (run["outcome"], run["agentCode"]) == ("agent_error", told.code)
    assert run["agentMessage"] == (told.message or None)
    assert run["errorId"] == ends[0]["metadata"]["errorId"]


@pytest.mark.parametrize(
    "told",
    [
        Told({"message": "hunter2", "code": "quota.exceeded"}, "quota.exceeded"),
        Told({"message": "hunter2", "code": "no hunter2", "rawEvent": {"error": "hunter2"}}),
        Told({"message": "hunter2", "metadata": {"public": "true"}}),
        Told({"message": "Later", "code": "B-1", "metadata": {"public": True}}, "B-1", "Later"),
        Told({"message": "é" * 3000, "metadata": {"public": True}}, message="é" * 2000),
    ],
    ids=["code", "raw", "not public", "public", "long"],
)
async def test_error_of_a_subagent_is_told_as_that_of_its_agent(
    driver: AguiClient, lane: Lane, told: Told
) -> None:
    await driver.open(lane.user, f"{lane.server.url}/agui", lane.token, "t")
    begun = event("SUBAGENT_STARTED", subagentRunId="s-1", name="helper")
    failed = event("SUBAGENT_ERROR", subagentRunId="s-1", **told.fields)
    heard = await driver.run(lane.user, steps(begun, failed, ["say", "well"]), run_id="r-1")
    for events in (heard.events, (await lane.load_log("t")).events):
        (error,) = [each for each in events if each["type"] == "SUBAGENT_ERROR"]
        assert error["message"] == (told.message or "The agent failed.")
        assert error.get("code") == told.code
        assert error["metadata"]["errorId"].startswith("err_")
        assert "hunter2" not in json.dumps(error)
        assert events[-1]["type"] == "RUN_FINISHED"


# --- too much at once ----------------------------------------------------------------------------


CALL: Final = [
    event("TOOL_CALL_START", toolCallId="c", toolCallName="f"),
    event("TOOL_CALL_ARGS", toolCallId="c", delta="{}"),
    event("TOOL_CALL_END", toolCallId="c"),
]


async def test_a_tool_that_returns_megabytes_ends_no_run(
    driver: AguiClient, lane: Lane, http: httpx.AsyncClient
) -> None:
    await driver.open(lane.user, f"{lane.server.url}/agui", lane.token, "t")
    heard = await driver.run(
        lane.user, steps(*CALL, ["long", "result", 500_000], ["say", "done"]), run_id="r-1"
    )
    assert (heard.failures, heard.types[-1]) == ([], "RUN_FINISHED")
    (result,) = [m for m in heard.messages if m["role"] == "tool"]
    said = result["content"]
    assert set(said) == {"é"}
    assert result["metadata"] == {"truncatedBytes": 2_000_000 - len(said.encode())}
    assert len(said.encode()) > EVENT_BYTES - 1000
    assert [m for m in await kept(http) if m["role"] == "tool"] == [result]
    (again,) = [m for m in await seen_by_agent(lane, "r-2") if m["role"] == "tool"]
    assert again["content"] == said


async def test_long_text_and_long_arguments_are_split_without_loss(
    driver: AguiClient, lane: Lane
) -> None:
    await driver.open(lane.user, f"{lane.server.url}/agui", lane.token, "t")
    told = steps(["long", "text", 350_000], ["long", "arguments", 350_000])
    heard = await driver.run(lane.user, told, run_id="r-1")
    assert (heard.failures, heard.types[-1]) == ([], "RUN_FINISHED")
    assert text_of(heard.events) == "a😀" * 350_000
    assert heard.types.count("TEXT_MESSAGE_CONTENT") > 1
    (call,) = [m["toolCalls"][0] for m in heard.messages if "toolCalls" in m]
    assert json.loads(call["function"]["arguments"]) == {"text": '"😀' * 350_000}


@pytest.mark.parametrize(
    "last", [["hold", "never"], ["raise", "ValueError", "x"], event("RUN_ERROR", message="x")],
    ids=["abort", "raise", "own error"],
)  # fmt: skip
async def test_no_call_stays_without_a_result_in_the_history(lane: Lane, last: list[Any]) -> None:
    started = event("TOOL_CALL_START", toolCallId="c", toolCallName="f", parentMessageId="m")
    arguments = event("TOOL_CALL_ARGS", toolCallId="c", delta='{"city": "De')
    async with lane.connect() as client:
        await client.run("t", "r-1", steps(started, arguments, last))
        await client.until_event("TOOL_CALL_ARGS")
        await client.abort("r-1")
        await client.until_end("r-1")
    _, call, result, question = await seen_by_agent(lane, "r-2")
    assert call["toolCalls"][0]["function"]["arguments"] == "{}"
    assert (result["role"], result["toolCallId"]) == ("tool", "c")
    assert (
        result["error"]
        == result["content"]
        == ("There is no result: the run ended before this call was answered.")
    )
    assert question["role"] == "user"


async def test_a_call_that_waits_for_a_person_or_a_page_stays_open_for_them(lane: Lane) -> None:
    call = event("TOOL_CALL_START", toolCallId="c", toolCallName="f")
    await lane.play("t", "page", steps(call))
    given = {"id": "given", "role": "tool", "toolCallId": "c", "content": "done"}
    question = {"id": "more", "role": "user", "content": steps(["input"])}
    async with lane.connect(hello=False) as client:
        await client.send({**run_frame("t", "after", ""), "messages": [given, question]})
        await client.until_end("after")
    seen = (await lane.load_log("t")).of_run("after")
    roles = [m["role"] for m in json.loads(text_of(seen))["messages"]]
    assert roles == ["user", "assistant", "tool", "user"]
    outcome = {"type": "interrupt", "interrupts": [{"id": "i", "reason": "approval"}]}
    asks = event("RUN_FINISHED", threadId="u", runId="asks", outcome=outcome)
    await lane.play("u", "asks", steps(call, asks))
    resume = [{"interruptId": "i", "status": "resolved"}]
    text = text_of(await lane.play("u", "goes-on", steps(["input"]), resume=resume))
    assert [m["role"] for m in json.loads(text)["messages"]] == ["user", "assistant", "user"]
