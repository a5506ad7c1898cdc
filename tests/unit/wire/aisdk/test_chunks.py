"""The fold of a turn into AI SDK's chunks, row by row."""

from __future__ import annotations

from typing import Any

import pytest

from isolane.wire.aisdk.chunks import Chunk, UIChunks

Event = dict[str, Any]
NAMES = {"threadId": "t", "runId": "r"}
START: Chunk = {"type": "start", "messageId": "ai_turn", "messageMetadata": NAMES}
STEP = [{"type": "finish-step"}, {"type": "start-step"}]


def text(act: str, message_id: str = "m", **more: object) -> Event:
    return {"type": f"TEXT_MESSAGE_{act}", "messageId": message_id, **more}


def call(act: str, call_id: str = "c", **more: object) -> Event:
    return {"type": f"TOOL_CALL_{act}", "toolCallId": call_id, **more}


def started(*messages: Event, resume: tuple[Event, ...] = ()) -> Event:
    return {"type": "RUN_STARTED", **NAMES, "input": {"messages": [*messages], "resume": [*resume]}}


def finished(kind: str = "success", **more: object) -> Event:
    return {"type": "RUN_FINISHED", **NAMES, "outcome": {"type": kind, **more}}


def asked(*questions: Event) -> Event:
    return finished("interrupt", interrupts=[*questions])


def told(*events: Event, is_replay: bool = False) -> list[Chunk]:
    fold = UIChunks("turn")
    if is_replay:
        fold.look_ahead(events)
    return [chunk for event in events for chunk in fold.add(event)]


def after_start(*events: Event) -> list[Chunk]:
    chunks = told(started(), *events)
    assert chunks[:2] == [START, {"type": "start-step"}]
    return chunks[2:]


LOOK = [call("START", toolCallName="look"), call("ARGS", delta='{"a":1}'), call("END")]
LOOK_CHUNKS: list[Chunk] = [
    {"type": "tool-input-start", "toolCallId": "c", "toolName": "look"},
    {"type": "tool-input-delta", "toolCallId": "c", "inputTextDelta": '{"a":1}'},
    {"type": "tool-input-available", "toolCallId": "c", "toolName": "look", "input": {"a": 1}},
]


def end(reason: str, outcome: str = "success") -> list[Chunk]:
    about = {"runId": "r", "outcome": outcome}
    finish = {"type": "finish", "finishReason": reason, "messageMetadata": about}
    return [{"type": "finish-step"}, finish]


def test_words_begin_with_the_first_and_end_with_their_message() -> None:
    chunks = after_start(text("START"), text("CONTENT", delta=""), text("CONTENT", delta="Hi"),
                         text("END"), text("START", "n"), text("END", "n"), finished())  # fmt: skip
    assert chunks == [
        {"type": "text-start", "id": "m"},
        {"type": "text-delta", "id": "m", "delta": "Hi"},
        {"type": "text-end", "id": "m"},
        *end("stop"),
    ]


def test_a_message_that_goes_on_behind_a_call_is_another_part() -> None:
    chunks = after_start(text("CONTENT", delta="a"), *LOOK, text("CONTENT", delta="b"))
    assert [one.get("id") for one in chunks if one["type"] == "text-start"] == ["m", "m#1"]
    assert chunks.index({"type": "text-end", "id": "m"}) < chunks.index(LOOK_CHUNKS[0])


def test_only_what_the_assistant_says_is_told() -> None:
    assert after_start(text("START", role="user"), text("CONTENT", delta="x"), text("END")) == []


def test_a_result_makes_a_new_step_when_something_follows() -> None:
    result = call("RESULT", messageId="x", content='{"b": 2}')
    output = {"type": "tool-output-available", "toolCallId": "c", "output": {"b": 2},
              "providerExecuted": True}  # fmt: skip
    assert after_start(*LOOK, result, finished()) == [*LOOK_CHUNKS, output, *end("stop")]
    said = after_start(*LOOK, result, text("CONTENT", delta="x"))
    assert said[4:6] == STEP
    assert said[6]["type"] == "text-start"


def test_a_step_does_not_break_where_arguments_still_grow() -> None:
    result, grows = call("RESULT", messageId="x", content="1"), call("START", "d", toolCallName="f")
    words = [text("CONTENT", delta="x"), call("END", "d"), text("CONTENT", delta="y")]
    chunks = after_start(*LOOK, grows, result, *words)
    kinds = [one["type"] for one in chunks]
    assert kinds.index("finish-step") > kinds.index("tool-input-available", 3)


def test_a_call_without_an_answer_ends_with_tool_calls() -> None:
    assert after_start(*LOOK, finished())[-1]["finishReason"] == "tool-calls"


@pytest.mark.parametrize("arguments", ["", "  "])
def test_no_arguments_are_an_empty_object(arguments: str) -> None:
    chunks = after_start(
        call("START", toolCallName="f"), call("ARGS", delta=arguments), call("END")
    )
    assert chunks[-1]["input"] == {}


@pytest.mark.parametrize("arguments", ["{", "NaN", '"\\ud800"', "[" * 5000, "1e999", "{} {}"])
def test_arguments_that_are_no_json_are_told_as_text(arguments: str) -> None:
    chunks = after_start(
        call("START", toolCallName="f"), call("ARGS", delta=arguments), call("END")
    )
    assert chunks[-1] == {
        "type": "tool-input-error", "toolCallId": "c", "toolName": "f", "input": arguments,
        "errorText": "The arguments are not JSON.",
    }  # fmt: skip


def test_results_of_unknown_calls_say_nothing_and_break_nothing() -> None:
    result = call("RESULT", "gone", messageId="x", content="1")
    chunks = after_start(result, text("CONTENT", delta="x"))
    assert [one["type"] for one in chunks] == ["text-start", "text-delta"]


def test_a_replay_marks_the_calls_that_the_log_answers() -> None:
    answer = started({"role": "tool", "id": "x", "toolCallId": "c", "content": "1"})
    log = [started(), *LOOK, finished(), answer]
    chunks = told(*log, is_replay=True)
    assert chunks[4] == {**LOOK_CHUNKS[2], "providerExecuted": True}


def test_a_look_from_a_later_place_counts_the_calls_before_it() -> None:
    answer = started({"role": "tool", "id": "x", "toolCallId": "c", "content": "1"})
    before, after = [started(), *LOOK, finished(), answer, LOOK[0]], [*LOOK[1:], finished(), answer]
    fold = UIChunks("turn")
    for event in before:
        fold.add(event)
    fold.look_ahead(after)
    chunks = [chunk for event in after for chunk in fold.add(event)]
    (made,) = [one for one in chunks if one["type"] == "tool-input-available"]
    assert made["providerExecuted"] is True


def test_a_replay_does_not_mark_a_later_call_of_an_answered_id() -> None:
    answer = started({"role": "tool", "id": "x", "toolCallId": "c", "content": "1"})
    log = [started(), *LOOK, finished(), answer, *LOOK, finished()]
    chunks = told(*log, is_replay=True)
    calls = [one for one in chunks if one["type"] == "tool-input-available"]
    assert ["providerExecuted" in one for one in calls] == [True, False]
    assert chunks[-1]["finishReason"] == "tool-calls"


def test_what_clients_answer_is_told_where_it_is_known() -> None:
    good = {"role": "tool", "id": "x", "toolCallId": "c", "content": "fine"}
    bad = {"role": "tool", "id": "y", "toolCallId": "d", "content": "no", "error": "no"}
    unknown = {**good, "toolCallId": "z"}
    other = [call("START", "d", toolCallName="f"), call("END", "d")]
    chunks = told(started(), *LOOK, *other, finished(), started(good, bad, unknown), finished())
    follow_up = chunks[chunks.index(START, 1) :]
    assert follow_up == [
        START,
        {"type": "tool-output-available", "toolCallId": "c", "output": "fine"},
        {"type": "tool-output-error", "toolCallId": "d", "errorText": "no"},
        {"type": "start-step"},
        *end("stop"),
    ]


@pytest.mark.parametrize(
    "status, payload, approved, reason",
    [
        ("resolved", {"approved": True}, True, None),
        ("resolved", {"approved": False, "reason": "no"}, False, "no"),
        ("resolved", "yes", True, None),
        ("cancelled", None, False, None),
    ],
)
def test_approvals(status: str, payload: object, reason: str | None, *, approved: bool) -> None:
    question = {"id": "q", "reason": "tool_call", "toolCallId": "c", "message": "May I?"}
    answer = {"interruptId": "q", "status": status, "payload": payload}
    chunks = told(started(), *LOOK, asked(question), started(resume=(answer,)))
    request = {"type": "tool-approval-request", "approvalId": "q", "toolCallId": "c"}
    assert {**request, "reason": "May I?"} in chunks
    said = {"type": "tool-approval-response", "approvalId": "q", "approved": approved}
    because = {} if reason is None else {"reason": reason}
    denied = [] if approved else [{"type": "tool-output-denied", "toolCallId": "c"}]
    assert chunks[-2 - len(denied) : -1] == [{**said, **because}, *denied]


def test_a_question_about_nothing_is_a_tool_of_its_own() -> None:
    question = {"id": "q", "reason": "age", "message": "How old?"}
    answers: list[Event] = [{"interruptId": "q", "status": "resolved", "payload": 7},
               {"interruptId": "q", "status": "cancelled"}]  # fmt: skip
    made = {"type": "tool-input-available", "toolCallId": "q", "toolName": "interrupt",
            "dynamic": True, "input": question}  # fmt: skip
    ends: list[Chunk] = [
        {"type": "tool-output-available", "toolCallId": "q", "output": 7},
        {"type": "tool-output-error", "toolCallId": "q", "errorText": "cancelled"},
    ]
    for answer, said in zip(answers, ends, strict=True):
        chunks = told(started(), asked(question), started(resume=(answer,)))
        assert chunks[2:5] == [made, *end("tool-calls", "interrupt")]
        assert chunks[6] == said


def test_a_second_question_about_a_call_is_a_tool_of_its_own() -> None:
    chunks = after_start(
        *LOOK, asked({"id": "p", "toolCallId": "c"}, {"id": "q", "toolCallId": "c"})
    )
    assert [one["type"] for one in chunks[3:5]] == ["tool-approval-request", "tool-input-available"]


def test_a_stop_keeps_devices_from_going_on() -> None:
    chunks = after_start(text("CONTENT", delta="x"), finished("cancelled"))
    assert chunks[2:] == [
        {"type": "text-end", "id": "m"},
        {"type": "abort", "reason": "stopped"},
        *end("interrupted", "cancelled"),
    ]


def test_an_error_says_code_and_id_and_ends_the_stream() -> None:
    error = {"type": "RUN_ERROR", "message": "The agent failed.", "code": "agent_error",
             "metadata": {"errorId": "err_1"}}  # fmt: skip
    about = {"outcome": "error", "error": {"code": "agent_error", "errorId": "err_1"}}
    assert after_start(error) == [
        {"type": "message-metadata", "messageMetadata": about},
        {"type": "error", "errorText": "The agent failed. (agent_error, err_1)"},
    ]


def test_state_is_told_whole_where_it_is_known() -> None:
    delta = [{"op": "add", "path": "/b", "value": 2}]
    change = {"type": "STATE_DELTA", "delta": delta}
    assert after_start(change) == [{"type": "data-state-delta", "data": delta, "transient": True}]
    misfit = {"type": "STATE_DELTA", "delta": [{"op": "remove", "path": "/x"}]}
    chunks = after_start({"type": "STATE_SNAPSHOT", "snapshot": {"a": 1}}, change, misfit)
    assert [one["data"] for one in chunks] == [{"a": 1}, {"a": 1, "b": 2}]


def test_steps_subagents_and_activities_are_data() -> None:
    events: list[Event] = [
        {"type": "STEP_STARTED", "stepName": "plan"},
        {"type": "SUBAGENT_STARTED", "subagentRunId": "s", "name": "helper"},
        {"type": "SUBAGENT_ERROR", "subagentRunId": "s", "message": "no"},
        {"type": "ACTIVITY_SNAPSHOT", "messageId": "a", "activityType": "p", "content": {"n": 1}},
        {"type": "ACTIVITY_DELTA", "messageId": "a", "activityType": "p",
         "patch": [{"op": "replace", "path": "/n", "value": 2}]},
    ]  # fmt: skip
    activity = {"activityType": "p", "content": {"n": 2}}
    chunks = after_start(*events)
    assert [(one["type"], one["id"], one["data"]) for one in chunks if one != chunks[3]] == [
        ("data-step", "plan", {"name": "plan", "status": "running"}),
        ("data-subagent", "s", {"name": "helper", "status": "running"}),
        ("data-subagent", "s", {"name": "helper", "status": "error"}),
        ("data-activity", "a", activity),
    ]


@pytest.mark.parametrize(
    "custom, chunk",
    [
        ({"name": "source", "value": {"url": "u", "title": "T"}},
         {"type": "source-url", "sourceId": "u", "url": "u", "title": "T"}),
        ({"name": "source", "value": {"mediaType": "m", "title": "T", "id": "i"}},
         {"type": "source-document", "sourceId": "i", "mediaType": "m", "title": "T"}),
        ({"name": "source", "value": {"url": 1}},
         {"type": "data-custom", "data": {"name": "source", "value": {"url": 1}}}),
        ({"name": "file", "value": {"url": "u", "mediaType": "m"}},
         {"type": "file", "url": "u", "mediaType": "m"}),
        ({"name": "w", "value": None, "metadata": {"id": "i", "transient": True}},
         {"type": "data-w", "id": "i", "transient": True, "data": None}),
        ({"name": "w", "value": 1, "metadata": {"id": 1, "transient": "x"}},
         {"type": "data-w", "data": 1}),
        ({"name": "state", "value": 1},
         {"type": "data-custom", "data": {"name": "state", "value": 1}}),
        ({"name": "two words", "value": 1},
         {"type": "data-custom", "data": {"name": "two words", "value": 1}}),
    ],
)  # fmt: skip
def test_custom_events(custom: Event, chunk: Chunk) -> None:
    assert after_start({"type": "CUSTOM", **custom}) == [chunk]


def test_a_subagent_is_named_where_its_words_begin() -> None:
    chunks = after_start(text("CONTENT", delta="x", subagentRunId="s"))
    assert chunks[0]["providerMetadata"] == {"agui": {"subagentRunId": "s"}}


@pytest.mark.parametrize("kind", ["MESSAGES_SNAPSHOT", "RAW", "REASONING_ENCRYPTED_VALUE",
                                  "REASONING_START", "REASONING_END"])  # fmt: skip
def test_what_says_nothing(kind: str) -> None:
    assert after_start({"type": kind, "messageId": "m", "messages": []}) == []
