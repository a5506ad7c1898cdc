"""Responses with OpenAI's own Python package."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from typing import Any

import openai
import pytest
import pytest_asyncio
from openai import AsyncOpenAI
from openai.types.responses import Response
from tests.live.openai_lane import (
    TOOLS,
    asking,
    calling,
    event,
    finishing,
    held,
    open_gate,
    openai_of,
)
from tests.live.server import Server
from tests.live.stage import SCRIPT, Lane, shared_server, steps

pytestmark = pytest.mark.asyncio(loop_scope="module")

server = shared_server(SCRIPT, "crash=agents:crash", "slow=agents:slow")


@pytest.fixture
def lane(server: Server) -> Lane:
    return Lane(server)


@pytest_asyncio.fixture(loop_scope="module")
async def client(lane: Lane) -> AsyncIterator[AsyncOpenAI]:
    async with openai_of(lane) as made:
        yield made


async def ask(client: AsyncOpenAI, text: object, **more: object) -> Response:
    create: Any = client.responses.create
    made: Response = await create(model="script", input=text, **more)
    return made


async def events_of(stream: AsyncIterable[object]) -> list[Any]:
    return [each async for each in stream]


def calls_of(client: AsyncOpenAI) -> list[Callable[[str], Awaitable[object]]]:
    """Return what may be asked of a response."""
    of = client.responses
    return [of.retrieve, of.input_items.list, of.cancel, of.delete]


# --- answers -------------------------------------------------------------------------------------


async def test_a_response_comes_whole(client: AsyncOpenAI) -> None:
    made = await ask(client, "one two")
    assert (made.status, made.output_text, made.model) == ("completed", "one two ", "script")
    assert (await client.responses.retrieve(made.id)).output == made.output


async def test_a_response_comes_in_events(client: AsyncOpenAI) -> None:
    async with client.responses.stream(model="script", input="one two") as stream:
        events = await events_of(stream)
        final = await stream.get_final_response()
    assert [each.sequence_number for each in events] == list(range(len(events)))
    assert [each.type for each in events[:2]] == ["response.created", "response.in_progress"]
    assert final.output_text == "one two "
    kept = await client.responses.retrieve(final.id)
    assert kept.to_dict() == {**events[0].response.to_dict(), **kept.to_dict()}
    assert kept.output_text == final.output_text


async def test_reasoning_usage_and_tools_of_the_caller_are_told(client: AsyncOpenAI) -> None:
    thought = {"messageId": "th"}
    text = steps(
        event("REASONING_MESSAGE_START", role="reasoning", **thought),
        event("REASONING_MESSAGE_CONTENT", delta="Hm", **thought),
        *calling("a", "theirs", "{}"),
        ["say", "Look."],
        *calling("b", "mine", '{"x": 1}'),
        finishing(usage=[{"inputTokens": 3, "outputTokens": 4}]),
    )
    made = await ask(client, text, tools=TOOLS)
    assert [item.type for item in made.output] == ["reasoning", "message", "function_call"]
    call = made.output[2]
    assert call.type == "function_call"
    assert (call.call_id, call.name, call.arguments) == ("b", "mine", '{"x": 1}')
    assert made.usage is not None
    assert made.usage.total_tokens == 7


async def test_tool_answers_go_on_where_the_response_ended(client: AsyncOpenAI) -> None:
    first = await ask(client, steps(*calling("b", "mine", "{}")), tools=TOOLS)
    output = {"type": "function_call_output", "call_id": "b", "output": "42"}
    second = await ask(
        client,
        [output, {"role": "user", "content": steps(["input"])}],
        previous_response_id=first.id,
    )
    messages = json.loads(second.output_text)["messages"]
    assert [one["role"] for one in messages] == ["user", "assistant", "tool", "user"]
    assert messages[2]["content"] == "42"


async def test_a_call_id_that_comes_again_has_an_answer_of_its_own(client: AsyncOpenAI) -> None:
    made = await ask(client, steps(*calling("b", "mine", "{}")), tools=TOOLS)
    for said, then in (("42", calling("b", "mine", "{}")), ("43", [["input"]])):
        output = {"type": "function_call_output", "call_id": "b", "output": said}
        asked = {"role": "user", "content": steps(*then)}
        made = await ask(client, [output, asked], previous_response_id=made.id, tools=TOOLS)
    messages = json.loads(made.output_text)["messages"]
    assert [one["content"] for one in messages if one["role"] == "tool"] == ["42", "43"]


async def test_instructions_are_for_one_run(client: AsyncOpenAI) -> None:
    first = await ask(client, steps(["input"]), instructions="Be brief.")
    told = json.loads(first.output_text)
    assert told["messages"][0]["role"] == "system"
    assert told["messages"][0]["content"] == "Be brief."
    assert "instructions" not in told
    second = await ask(client, steps(["input"]), previous_response_id=first.id)
    roles = [one["role"] for one in json.loads(second.output_text)["messages"]]
    assert roles == ["user", "assistant", "user"]


async def test_questions_are_approvals(client: AsyncOpenAI) -> None:
    question: dict[str, object] = {"id": "q", "reason": "delete", "message": "Really?"}
    first = await ask(client, steps(asking(question)))
    request = first.output[-1]
    assert request.type == "mcp_approval_request"
    assert (request.id, request.name, request.arguments) == ("q", "delete", "Really?")
    answer = {"type": "mcp_approval_response", "approval_request_id": "q", "approve": True}
    more = {"role": "user", "content": steps(["input"])}
    second = await ask(client, [answer, more], previous_response_id=first.id)
    given = json.loads(second.output_text)
    assert given["resume"] == [
        {"interruptId": "q", "status": "resolved", "payload": {"approved": True}}
    ]
    alone = await ask(client, steps(asking(question)))
    assert (await ask(client, [answer], previous_response_id=alone.id)).status == "completed"
    with pytest.raises(openai.ConflictError) as late:
        await ask(client, [answer], previous_response_id=second.id)
    assert late.value.code == "run_conflict"


# --- threads -------------------------------------------------------------------------------------


async def test_a_conversation_is_a_thread(lane: Lane, client: AsyncOpenAI) -> None:
    await ask(client, "one", conversation="talk")
    second = await ask(client, steps(["recall"]), conversation={"id": "talk"})
    assert second.output_text.startswith("one[")
    assert (await lane.load_log("talk")).text.startswith("one one[")


async def test_a_response_that_is_not_the_last_begins_a_branch(client: AsyncOpenAI) -> None:
    first = await ask(client, "one")
    second = await ask(client, "two", previous_response_id=first.id)
    branch = await ask(client, steps(["recall"]), previous_response_id=first.id)
    trunk = await ask(client, steps(["recall"]), previous_response_id=second.id)
    assert branch.output_text.startswith("one[")
    assert trunk.output_text.startswith("onetwo[")


async def test_items_of_earlier_responses_may_be_named_by_their_ids(
    lane: Lane, client: AsyncOpenAI
) -> None:
    first = await ask(client, steps(["say", "Look."], *calling("b", "mine", "{}")), tools=TOOLS)
    ids = [str(item.id) for item in first.output]
    named = [{"type": "item_reference", "id": item_id} for item_id in ids]
    output = {"type": "function_call_output", "call_id": "b", "output": "42"}
    question = {"role": "user", "content": steps(["input"])}
    second = await ask(client, [{"role": "user", "content": "x"}, *named, output, question])
    told = json.loads(second.output_text)["messages"]
    assert [one["role"] for one in told] == ["user", "assistant", "tool", "user"]
    assert (told[1]["content"], told[1]["toolCalls"][0]["id"]) == ("Look.", "b")
    gone = await ask(client, "one", store=False)
    stranger = openai_of(Lane(lane.server))
    for whose, item_id in (
        (stranger, ids[0]),
        (client, gone.output[0].id),
        (client, ids[0][:-1] + "7"),
        (client, "msg_1"),
        (client, 7),
    ):
        with pytest.raises(openai.BadRequestError) as refused:
            await ask(whose, [{"type": "item_reference", "id": item_id}, question])
        assert (refused.value.code, refused.value.param) == ("invalid_input", "input.0.id")
    await stranger.close()


async def test_a_previous_response_must_be_known(lane: Lane, client: AsyncOpenAI) -> None:
    mine = await ask(client, "one")
    async with openai_of(Lane(lane.server)) as other:
        for foreign in (mine.id, "resp_nobody", "nonsense", "resp_" + "x" * 200):
            with pytest.raises(openai.NotFoundError) as refused:
                await ask(other, "x", previous_response_id=foreign)
            assert refused.value.code == "previous_response_not_found"


async def test_a_conversation_that_is_new_begins_with_what_was_said_before(
    lane: Lane, client: AsyncOpenAI
) -> None:
    said = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "x"},
        {"role": "user", "content": steps(["recall"])},
    ]
    async with lane.server.http(lane.token) as http:
        await http.post("/api/threads", json={"threadId": "made"})
    for conversation in ("new", "made"):
        made = await ask(client, said, conversation=conversation)
        assert made.output_text.startswith("one[")


async def test_a_repeated_request_stays_where_it_began(lane: Lane, client: AsyncOpenAI) -> None:
    first = await ask(client, "one")
    before = [{"role": "assistant", "content": "x"}, {"role": "user", "content": "two"}]
    ways: list[dict[str, object]] = [
        {"previous_response_id": first.id},
        {"conversation": "new"},
        {"background": True},
    ]
    for number, more in enumerate(ways):
        key = {"Idempotency-Key": f"{lane.user} {number}"}
        made = await ask(client, before, extra_headers=key, **more)
        again = await ask(client, before, extra_headers=key, **more)
        assert again.id == made.id
        with pytest.raises(openai.ConflictError):
            await ask(client, "three", extra_headers=key, **more)
    after = await ask(client, steps(["recall"]), conversation="new")
    assert after.output_text.startswith("two[")


# --- in the background ---------------------------------------------------------------------------


async def test_a_response_in_the_background_is_answered_at_once(
    lane: Lane, client: AsyncOpenAI
) -> None:
    begun = await ask(client, steps(*held(lane)), background=True)
    assert begun.status == "in_progress"
    waiting = await ask(client, "b", background=True, conversation="c")
    assert waiting.status in {"in_progress", "completed"}
    stream = await client.responses.retrieve(begun.id, stream=True)
    await open_gate(lane)
    events = await events_of(stream)
    assert events[-1].type == "response.completed"
    assert events[-1].response.output_text == "a b "


async def test_a_response_that_waits_is_queued(lane: Lane, client: AsyncOpenAI) -> None:
    first = await ask(client, steps(*held(lane)), background=True, conversation="c")
    second = await ask(client, "x", background=True, conversation="c")
    assert second.status == "queued"
    assert (await client.responses.retrieve(second.id)).status == "queued"
    stream = await client.responses.retrieve(second.id, stream=True)
    await open_gate(lane)
    assert (await events_of(stream))[-1].response.output_text == "x "
    assert (await client.responses.retrieve(first.id)).output_text == "a b "


async def test_a_stream_goes_on_after_any_event(lane: Lane, client: AsyncOpenAI) -> None:
    stream = await client.responses.create(
        model="script", input=steps(*held(lane)), background=True, stream=True
    )
    first: list[Any] = []
    async for each in stream:
        first.append(each)
        if each.type == "response.output_text.delta":
            break
    await stream.close()
    rest = await client.responses.retrieve(
        first[0].response.id, stream=True, starting_after=first[-1].sequence_number
    )
    await open_gate(lane)
    events = [*first, *await events_of(rest)]
    assert [each.sequence_number for each in events] == list(range(len(events)))
    whole = await client.responses.retrieve(first[0].response.id, stream=True)
    assert await events_of(whole) == events
    for place in range(len(events)):
        tail = await client.responses.retrieve(
            first[0].response.id, stream=True, starting_after=place
        )
        assert await events_of(tail) == events[place + 1 :]


async def test_a_response_can_be_cancelled(lane: Lane, client: AsyncOpenAI) -> None:
    begun = await ask(client, steps(*held(lane)), background=True)
    ended = await client.responses.cancel(begun.id)
    assert ended.status == "cancelled"
    assert await client.responses.cancel(begun.id) == ended
    stream = await client.responses.retrieve(begun.id, stream=True)
    assert (await events_of(stream))[-1].type == "response.incomplete"


async def test_a_deleted_response_is_unknown(lane: Lane, client: AsyncOpenAI) -> None:
    begun = await ask(client, steps(*held(lane)), background=True)
    await client.responses.delete(begun.id)
    for call in calls_of(client):
        with pytest.raises(openai.NotFoundError):
            await call(begun.id)
    with pytest.raises(openai.NotFoundError):
        await ask(client, "x", previous_response_id=begun.id)


async def test_a_response_that_is_not_stored_is_unknown_once_it_has_ended(
    lane: Lane, client: AsyncOpenAI
) -> None:
    first = await ask(client, "one")
    stream = await client.responses.create(
        model="script", input=steps(*held(lane)), store=False, stream=True
    )
    begun = (await anext(aiter(stream))).response  # type: ignore[union-attr]
    assert (await client.responses.retrieve(begun.id)).status == "in_progress"
    await open_gate(lane)
    assert (await events_of(stream))[-1].response.output_text == "a b "
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(begun.id)
    beside = await ask(client, steps(["recall"]), previous_response_id=first.id, store=False)
    after = await ask(client, steps(["recall"]), previous_response_id=first.id)
    assert beside.output_text.startswith("one[")
    assert after.output_text.startswith("one[")  # what wasn't stored left nothing behind
    with pytest.raises(openai.NotFoundError):
        await ask(client, "x", previous_response_id=beside.id)


async def test_what_a_response_was_asked_is_listed(lane: Lane, client: AsyncOpenAI) -> None:
    asked: list[dict[str, Any]] = [
        {"type": "function_call_output", "call_id": "b", "output": "42"},
        {"role": "user", "content": "one"},
        {"role": "user", "content": steps(*held(lane))},
    ]
    first = await ask(client, steps(*calling("b", "mine", "{}")), tools=TOOLS)
    begun = await ask(client, asked, previous_response_id=first.id, background=True)

    async def load(**more: Any) -> list[Any]:  # noqa: ANN401 - the package's parameters
        return [each async for each in client.responses.input_items.list(begun.id, **more)]

    live = await load(order="asc")
    assert [each.type for each in live] == ["function_call_output", "message", "message"]
    assert (live[0].call_id, live[0].output) == ("b", "42")
    assert [each.content[0].text for each in live[1:]] == [one["content"] for one in asked[1:]]
    await open_gate(lane)
    await events_of(await client.responses.retrieve(begun.id, stream=True))
    assert await load(order="asc") == await load(limit=1, order="asc") == live
    assert await load() == await load(limit=2) == live[::-1]
    assert await load(order="asc", after=live[0].id) == live[1:]
    with pytest.raises(openai.BadRequestError, match="after"):
        await load(after="nobody")


async def test_an_approval_is_among_what_was_asked(client: AsyncOpenAI) -> None:
    first = await ask(client, steps(asking({"id": "q", "reason": "delete"})))
    answer = {"type": "mcp_approval_response", "approval_request_id": "q", "approve": True}
    second = await ask(client, [answer], previous_response_id=first.id)
    page = await client.responses.input_items.list(second.id)
    assert page.data[0].to_dict() == {**answer, "id": "mcpr_q"}


# --- ends and refusals ---------------------------------------------------------------------------


async def test_a_failed_run_is_a_failed_response(client: AsyncOpenAI) -> None:
    made = await client.responses.create(model="crash", input="x")
    assert made.status == "failed"
    assert made.error is not None
    assert "agent_error, err_" in made.error.message
    assert (await client.responses.retrieve(made.id)).error == made.error


async def test_anothers_response_is_an_unknown_one(lane: Lane, client: AsyncOpenAI) -> None:
    mine = await ask(client, "one")
    async with openai_of(Lane(lane.server)) as other:
        for call in calls_of(other):
            said = []
            for name in (mine.id, "resp_" + "x" * (len(mine.id) - 5), "nonsense"):
                with pytest.raises(openai.NotFoundError) as refused:
                    await call(name)
                said.append((refused.value.code, str(refused.value.message).split("err_")[0]))
            assert len(set(said)) == 1


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_a_run_that_is_deleted_is_no_answer(
    lane: Lane, client: AsyncOpenAI, *, is_streamed: bool
) -> None:
    text = steps(*held(lane))

    async def read() -> None:
        made = await ask(client, text, conversation="c", stream=is_streamed)
        if is_streamed:
            await events_of(made)  # type: ignore[arg-type]

    async with lane.connect() as watcher, lane.server.http(lane.token) as http:
        reading = asyncio.ensure_future(read())
        await watcher.until_type("thread")
        await http.delete("/api/threads/c")
        with pytest.raises(openai.APIError) as gone:
            await reading
    assert gone.value.code == "not_found"
