"""The messages in the store are those that `@ag-ui/client` makes of the same stream."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Sequence
from random import Random
from typing import Final

import pytest
from tests.house import ask, context_of, open_house
from tests.live.fuzz import CONTENT, QUESTION, Dice, legal_stream, new_random
from tests.live.judge import Event, Message, Recording, judge
from tests.live.test_grammar_judge import END, spoken

from isolane.context import UserExecutionContext
from isolane.events.transcript import Transcript

PATCHES, THREADS, RUNS = 1500, 20, 3
STARTED: Final[Event] = {
    "type": "RUN_STARTED", "threadId": "t", "runId": "r",
    "input": {"threadId": "t", "runId": "r", "messages": [QUESTION]},
}  # fmt: skip


def text(act: str, message_id: str = "m", **more: object) -> Event:
    return {"type": f"TEXT_MESSAGE_{act}", "messageId": message_id, **more}


def said(act: str, message_id: str = "m", **more: object) -> Event:
    role = {"role": "reasoning"} if act == "START" else {}
    return {"type": f"REASONING_MESSAGE_{act}", "messageId": message_id, **role, **more}


def call(act: str, call_id: str = "c", **more: object) -> Event:
    named = {"toolCallName": "look"} if act == "START" else {}
    return {"type": f"TOOL_CALL_{act}", "toolCallId": call_id, **named, **more}


def result(message_id: str = "r", call_id: str = "c", **more: object) -> Event:
    about = {"messageId": message_id, "toolCallId": call_id, "content": "4", **more}
    return {"type": "TOOL_CALL_RESULT", **about}


def sealed(entity: str, subtype: str) -> Event:
    about = {"entityId": entity, "subtype": subtype, "encryptedValue": "sealed"}
    return {"type": "REASONING_ENCRYPTED_VALUE", **about}


def activity(message_id: str = "a", **more: object) -> Event:
    about = {"messageId": message_id, "activityType": "plan", "content": CONTENT, **more}
    return {"type": "ACTIVITY_SNAPSHOT", **about}


def patch(*steps: Event, message_id: str = "a", **more: object) -> Event:
    about = {"messageId": message_id, "activityType": "plan", "patch": list(steps), **more}
    return {"type": "ACTIVITY_DELTA", **about}


def snapshot(*messages: Event) -> Event:
    return {"type": "MESSAGES_SNAPSHOT", "messages": [QUESTION, *messages]}


ASSISTANT: Final[Event] = {"id": "m", "role": "assistant", "content": "Hel"}
CALLER: Final[Event] = {
    "id": "m", "role": "assistant",
    "toolCalls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{"}}],
}  # fmt: skip
ADD_ONE: Final[Event] = {"op": "add", "path": "/l/-", "value": 1}

STREAMS: Final[dict[str, list[Event]]] = {
    "text": [text("START"), text("CONTENT", delta="He"), text("CONTENT", delta="llo"), text("END")],
    "text of a user": [text("START", role="user", name="Ann"), text("END")],
    "text of a subagent": [text("START", subagentRunId="s"), text("CONTENT", delta="x")],
    "two texts at once": [text("START", "a"), text("START", "b"), text("CONTENT", "b", delta="2"),
                          text("CONTENT", "a", delta="1")],
    "text that opens again": [text("START"), text("CONTENT", delta="a"), text("END"),
                              text("START", name="Ann"), text("CONTENT", delta="b")],
    "metadata of all a text's events": [
        text("START", metadata={"a": 1}), text("CONTENT", delta="x", metadata={"a": 2, "b": None}),
        text("END", metadata={"usage": [3]}),
    ],
    "reasoning": [said("START"), said("CONTENT", delta="hm"),
                  said("END", metadata={"a": 1})],
    "reasoning that says nothing": [said("START"), said("END")],
    "reasoning within a text's id": [text("START"), said("START"), said("CONTENT", delta="x")],
    "call": [call("START"), call("ARGS", delta='{"a"'), call("ARGS", delta=":1}"), call("END")],
    "call of a message": [text("START"), text("CONTENT", delta="x"),
                          call("START", parentMessageId="m"), call("ARGS", delta="{}")],
    "call of a message to come": [call("START", parentMessageId="m", subagentRunId="s"),
                                  text("START"), text("CONTENT", delta="x")],
    "call of what is no assistant": [text("START", role="user"), text("CONTENT", delta="x"),
                                     call("START", parentMessageId="m")],
    "call of a nameless message": [text("START", ""), text("CONTENT", "", delta="x"),
                                   call("START", parentMessageId="")],
    "call that opens again under another name": [
        call("START"), call("ARGS", delta="{"), call("END"), call("START", toolCallName="think"),
        call("ARGS", delta="}"),
    ],
    "metadata of all a call's events": [
        call("START", metadata={"a": 1}), call("ARGS", delta="x", metadata={"b": 2}),
        call("END", metadata={"a": 3}),
    ],
    "call under a taken id": [text("START", "c", role="user"), text("CONTENT", "c", delta="x"),
                              call("START", subagentRunId="s"), call("ARGS", delta="{}")],
    "result": [call("START"), call("END"), result(), text("START"), text("CONTENT", delta="x")],
    "result after the answer": [call("START"), call("END"), text("START"),
                                text("CONTENT", delta="x"), result()],
    "results of two calls": [call("START", "c", parentMessageId="m"), text("START", "n"),
                             text("CONTENT", "n", delta="x"), result("r1"),
                             call("START", "d", parentMessageId="m"), result("r2", "d")],
    "result without a call": [text("START"), text("CONTENT", delta="x"), result()],
    "result in parts": [result(content=[{"type": "text", "text": "4"}], metadata={"a": 1},
                               subagentRunId="s")],
    "result under a taken id": [text("START", "r"), text("CONTENT", "r", delta="x"), result(),
                                text("CONTENT", "r", delta="y")],
    "text in a result": [result(), text("START", "r"), text("CONTENT", "r", delta="2")],
    "sealed message": [text("START"), text("CONTENT", delta="x"), sealed("m", "message")],
    "sealed silence": [text("START"), text("END"), sealed("m", "message")],
    "sealed reasoning": [said("START"), said("END"), sealed("m", "message")],
    "sealed call": [call("START"), call("END"), sealed("c", "tool-call")],
    "sealed activity, which has none": [activity(), sealed("a", "message")],
    "sealed nobody": [sealed("x", "message"), sealed("x", "tool-call"), result()],
    "activity": [activity(subagentRunId="s", metadata={"a": 1})],
    "activity again": [activity(subagentRunId="s", metadata={"a": 1}),
                       activity(activityType="todo", content={"n": 2}, metadata={"b": 2})],
    "activity that leaves what stands": [activity(), activity(content={}, replace=False,
                                                              metadata={"b": 2})],
    "activity in a text's place": [call("START"), activity("c"), call("ARGS", delta="x"),
                                   result("r")],
    "activity that leaves a text": [text("START", "a"), text("CONTENT", "a", delta="x"),
                                    activity(replace=False, metadata={"b": 2})],
    "text in an activity's place": [activity(), text("START", "a", metadata={"b": 2}),
                                    text("CONTENT", "a", delta="x"), text("END", "a")],
    "reasoning in an activity's place": [activity(), said("START", "a"),
                                         said("CONTENT", "a", delta="x"), said("END", "a")],
    "patched activity": [activity(), patch(ADD_ONE, {"op": "remove", "path": "/n"},
                                           activityType="todo", metadata={"a": 1})],
    "patches on patches": [activity(), *[patch(ADD_ONE)] * 5],
    "patch that does not fit": [activity(), patch(ADD_ONE, {"op": "remove", "path": "/gone"},
                                                  activityType="todo", metadata={"a": 1})],
    "patch of everything": [activity(), patch({"op": "replace", "path": "", "value": {"all": 1}})],
    "patch of nothing": [patch(ADD_ONE), text("START"), text("CONTENT", delta="x")],
    "patch of a text": [text("START", "a"), text("CONTENT", "a", delta="x"), patch(ADD_ONE)],
    "snapshot": [text("START"), text("CONTENT", delta="x"), snapshot({**ASSISTANT, "id": "n"})],
    "snapshot of what goes on": [text("START"), text("CONTENT", delta="x"), snapshot(ASSISTANT),
                                 text("CONTENT", delta="lo")],
    "snapshot of a call that goes on": [call("START", parentMessageId="m"), snapshot(CALLER),
                                        call("ARGS", delta="}"), sealed("c", "tool-call"),
                                        call("END", metadata={"a": 1}), result()],
    "snapshot without what goes on": [text("START"), text("CONTENT", delta="x"), snapshot(),
                                      text("CONTENT", delta="lo"), result()],
    "snapshot in another order": [
        text("START", "a"), text("CONTENT", "a", delta="1"), text("START"),
        text("CONTENT", delta="x"),
        snapshot({**ASSISTANT, "id": "n"}, ASSISTANT, {**ASSISTANT, "id": "a"}),
    ],
    "snapshot that is silent on reasoning": [said("START", "t"), said("CONTENT", "t", delta="hm"),
                                             activity(), snapshot(ASSISTANT)],
    "snapshot with reasoning": [said("START", "t"), said("CONTENT", "t", delta="hm"), activity(),
                                snapshot({"id": "u", "role": "reasoning", "content": "hm"})],
    "snapshot with activities": [
        said("START", "t"), said("CONTENT", "t", delta="hm"), activity(),
        snapshot({"id": "b", "role": "activity", "activityType": "plan", "content": {}}),
    ],
}  # fmt: skip


def folded(events: Sequence[Event]) -> list[Message]:
    """Return the question, and what the store adds to it."""
    transcript = Transcript(known_ids=[str(QUESTION["id"])])
    for event in json.loads(json.dumps(events)):
        transcript.add(event)
    return [QUESTION, *transcript.messages()]


def test_each_event_makes_what_the_client_makes_of_it() -> None:
    verdicts = judge(Recording.of([STARTED, *stream]) for stream in STREAMS.values())
    for (name, stream), verdict in zip(STREAMS.items(), verdicts, strict=True):
        assert (name, verdict.failure, verdict.malformed) == (name, None, [])
        assert (name, folded(stream)) == (name, spoken(verdict.messages))
        assert (name, len(verdict.messages) > 1) == (name, True)


def test_each_part_of_a_stream_makes_what_the_client_makes_of_it() -> None:
    """Whoever reads the thread of a run that was cut short sees what those saw who watched."""
    parts = [stream[:most] for stream in STREAMS.values() for most in range(len(stream))]
    verdicts = judge(Recording.of([STARTED, *part]) for part in parts)
    for part, verdict in zip(parts, verdicts, strict=True):
        assert (part, verdict.failure) == (part, None)
        assert (part, folded(part)) == (part, spoken(verdict.messages))


def patch_streams() -> Iterator[list[Event]]:
    """Yield patches of one, two or three steps; of the longer ones few fit."""
    dice = Dice(new_random())
    for number in range(PATCHES):
        yield [activity(), patch(*(dice.change() for _ in range(number % 3 + 1)))]


def test_patch_does_what_it_does_in_the_client() -> None:
    streams = list(patch_streams())
    verdicts = judge(Recording.of([STARTED, *stream]) for stream in streams)
    changed = 0
    for stream, verdict in zip(streams, verdicts, strict=True):
        assert verdict.failure is None
        assert (stream[1]["patch"], folded(stream)) == (stream[1]["patch"], verdict.messages)
        changed += verdict.messages[1]["content"] != CONTENT
    assert changed > PATCHES / 8


async def test_thread_of_many_runs_holds_what_the_client_holds() -> None:
    random = new_random()
    scripts: dict[str, list[Event]] = {}

    async def agent(_: object, context: UserExecutionContext) -> AsyncIterator[object]:
        for event in scripts[f"{context.thread_id}.{context.run_id}"]:
            yield event

    recordings: list[Recording] = []
    async with open_house({"default": agent}) as house:
        for thread in range(THREADS):
            payloads: list[bytes] = []
            for run in range(RUNS):
                context = context_of(f"r-{thread}-{run}", thread_id=f"t-{thread}")
                scripts[f"{context.thread_id}.{context.run_id}"] = own_stream(random, f"{run}-")
                await house.service.start(context, ask(context, f"question {run}"))
                payloads += [record.payload for record in await house.records(context)]
            stored = await house.ground.store.load_snapshot(
                context_of(thread_id=f"t-{thread}").thread_key
            )
            assert stored is not None
            recordings.append(Recording(payloads, [*map(json.loads, stored.messages)]))
    for recording, verdict in zip(recordings, judge(recordings), strict=True):
        assert (verdict.failure, verdict.malformed) == (None, [])
        assert recording.messages == spoken(verdict.messages)
        assert sum(message["role"] == "user" for message in recording.messages) >= RUNS


def own_stream(random: Random, prefix: str) -> list[Event]:
    """Return a legal stream whose ids no other run uses, without snapshots of the whole thread."""
    stream = legal_stream(random)
    while any(event["type"] == "MESSAGES_SNAPSHOT" for event in stream):
        stream = legal_stream(random)
    ids = ("messageId", "toolCallId", "parentMessageId", "entityId")
    return [
        {name: f"{prefix}{value}" if name in ids else value for name, value in event.items()}
        for event in stream
    ]


# --- where the store must differ -----------------------------------------------------------------


@pytest.mark.parametrize("value", [5, None, "x", [], True])
def test_patch_never_makes_an_activity_what_no_agent_could_be_given(value: object) -> None:
    """The client shows it; in the history it would fail every later run of the thread."""
    stream = [activity(), patch({"op": "replace", "path": "", "value": value})]
    (verdict,) = judge([Recording.of([STARTED, *stream])])
    assert verdict.messages[1]["content"] == value
    assert folded(stream)[1]["content"] == CONTENT


def test_snapshot_changes_nothing_of_earlier_runs() -> None:
    """The client forgets and rewrites what it is told to; the server keeps the history."""
    other = {"type": "MESSAGES_SNAPSHOT", "messages": [{**QUESTION, "content": "never said"}]}
    none = {"type": "MESSAGES_SNAPSHOT", "messages": [ASSISTANT]}
    told, forgot = judge([Recording.of([STARTED, other, END]), Recording.of([STARTED, none, END])])
    assert [message["content"] for message in told.messages] == ["never said"]
    assert forgot.messages == [ASSISTANT]
    assert folded([other]) == [QUESTION]
    assert folded([none]) == [QUESTION, ASSISTANT]
