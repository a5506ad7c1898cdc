"""Events: encoded once, to what JSON can say and no more."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from ag_ui.core import RunStartedEvent
from hypothesis import given
from hypothesis import strategies as st

from isolane.context import EventId, ThreadKey
from isolane.errors import AgentError, AgentFailed, AgentProtocolError, TooLarge
from isolane.events.event import (
    Record,
    check_question,
    decode_event,
    encode_event,
    encode_mended,
    one_line,
    run_failed,
    run_finished,
    run_started,
)

TEXT_ONLY = ["TEXT_MESSAGE_CONTENT", "TOOL_CALL_ARGS", "REASONING_MESSAGE_CONTENT"]
HALF = "\ud83d"
CANNOT_SAY = [
    float("nan"), float("inf"), -float("inf"), {1}, object, b"bytes", 1j,
]  # fmt: skip


def encode(event: dict[str, Any], *, max_bytes: int = 1 << 20) -> bytes:
    return encode_event(event, max_bytes=max_bytes)


@pytest.mark.parametrize("value", CANNOT_SAY, ids=repr)
@pytest.mark.parametrize("kind", ["CUSTOM", *TEXT_ONLY])
def test_what_json_cannot_say_is_the_agents_fault(kind: str, value: object) -> None:
    for event in ({"type": kind, "value": value}, {"type": kind, "value": {"in": [value]}}):
        with pytest.raises(AgentProtocolError, match=f"^{kind} holds what JSON can't say"):
            encode(event)


@pytest.mark.parametrize("kind", ["CUSTOM", *TEXT_ONLY])
def test_half_a_surrogate_pair_becomes_a_character_and_the_event_says_so(kind: str) -> None:
    event = {"type": kind, "messageId": "m", "delta": "a\ud83d", "value": {"k\ude00": ["\ud83d"]}}
    if kind != "CUSTOM":
        del event["value"]
    payload, written = encode_mended(event, max_bytes=1 << 20)
    assert decode_event(payload) == written
    assert written["delta"] == "a�"
    assert written.get("value", {"k�": ["�"]}) == {"k�": ["�"]}
    assert list(written)[0] == "type"  # noqa: RUF015 - the log looks for it at the start


@pytest.mark.parametrize(
    "more",
    [{"messageId": "m\ud83d"}, {"value": dict.fromkeys([f"k{HALF}", "k\ude00"])}],
    ids=["id", "keys"],
)
def test_half_a_surrogate_pair_is_refused_where_two_would_become_one(
    more: dict[str, object],
) -> None:
    with pytest.raises(AgentProtocolError, match="half a surrogate pair"):
        encode({"type": "CUSTOM", "name": "n", **more})


@given(st.text(st.sampled_from('a\x85\u2028\u2029\x0b\x0c\x1c\x1d\x1e\n\r\\"é😀'), max_size=20))
def test_one_line_is_one_line_to_every_reader_and_says_the_same(text: str) -> None:
    payload = encode({"type": "CUSTOM", "name": "n", "value": {text: [text]}})
    line = one_line(payload)
    assert len(line.decode().splitlines()) == len(line.splitlines()) == 1
    assert decode_event(line) == decode_event(payload)


def test_an_event_that_holds_itself_is_the_agents_fault() -> None:
    event: dict[str, Any] = {"type": "CUSTOM", "name": "loop"}
    event["value"] = event
    with pytest.raises(AgentProtocolError):
        encode(event)


@pytest.mark.parametrize("kind", ["CUSTOM", "TEXT_MESSAGE_CONTENT"])
def test_the_limit_counts_bytes_not_characters(kind: str) -> None:
    event = {"type": kind, "messageId": "m", "delta": "ä" * 100}
    size = len(encode(event))
    assert size > len(json.dumps(event, ensure_ascii=False, separators=(",", ":")))
    assert encode(event, max_bytes=size)
    with pytest.raises(
        AgentProtocolError, match=f"has {size} bytes, at most {size - 1} are allowed"
    ):
        encode(event, max_bytes=size - 1)


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(st.sampled_from(["CUSTOM", "STATE_SNAPSHOT"]), values)
def test_an_event_reads_back_as_it_was_written(kind: str, value: object) -> None:
    event = {"type": kind, "value": value}
    payload = encode(event)
    assert decode_event(payload) == event
    assert payload.startswith(b'{"type":')
    assert b"\n" not in payload


@given(st.sampled_from(TEXT_ONLY), st.text())
def test_both_roads_write_the_same_text(kind: str, delta: str) -> None:
    event = {"type": kind, "messageId": "m", "delta": delta}
    assert decode_event(encode(event)) == json.loads(json.dumps(event))


def test_null_is_a_value_and_stays() -> None:
    event = {"type": "TOOL_CALL_RESULT", "content": {"a": None, "b": [None]}}
    assert decode_event(encode(event)) == event


def record_of(event: dict[str, Any]) -> Record:
    return Record(ThreadKey("alice", "t"), EventId("e", 3), "r", encode(event))


def test_a_record_knows_whether_it_is_the_end() -> None:
    done = run_finished(thread_id="t", run_id="r", outcome={"type": "success"})
    failed = run_failed(AgentError("x"), "err_1", run_id="r")
    talk = {"type": "CUSTOM", "name": '{"type":"RUN_FINISHED"}', "value": {"type": "RUN_ERROR"}}
    assert record_of(done).is_end
    assert record_of(failed).is_end
    assert not record_of(talk).is_end


def test_a_record_prints_its_place_and_never_its_content() -> None:
    record = record_of({"type": "CUSTOM", "name": "whisper"})
    assert "whisper" not in repr(record)
    assert "e-3" in repr(record)


def test_all_followers_share_one_envelope() -> None:
    record = record_of({"type": "CUSTOM", "name": "x"})
    assert record.envelope is record.envelope
    assert json.loads(record.envelope)["id"] == "e-3"


def test_a_failure_tells_its_code_and_never_its_text() -> None:
    event = run_failed(AgentError("password is hunter2"), "err_1", run_id="r")
    assert (event["code"], event["runId"]) == ("agent_error", "r")
    assert event["metadata"] == {"errorId": "err_1"}
    assert "hunter2" not in str(event)


def test_an_error_of_the_agents_own_tells_its_code_and_what_it_made_public() -> None:
    failed = AgentFailed("secret", agent_code="quota.exceeded", agent_message=None)
    event = run_failed(failed, "err_1", run_id="r")
    assert event["metadata"] == {"errorId": "err_1", "agentCode": "quota.exceeded"}
    assert (event["code"], event["message"]) == ("agent_error", "The agent failed.")
    told = run_failed(AgentFailed("x", agent_code=None, agent_message="x"), "err_1", run_id="r")
    assert (told["message"], told["metadata"]) == ("x", {"errorId": "err_1"})


def test_a_start_shows_other_devices_the_question() -> None:
    event = run_started(
        thread_id="t", run_id="r", messages=[{"id": "m", "role": "user"}], rewind_to="m0"
    )
    assert event["protocolVersion"] == "1.0"
    assert event["input"]["messages"] == [{"id": "m", "role": "user"}]
    assert event["input"]["forwardedProps"] == {"rewindTo": "m0"}
    assert event["input"]["tools"] == []
    assert "resume" not in event["input"]


REQUEST = {
    "tools": [{"name": "lookup", "description": "long", "parameters": {"type": "object"}}],
    "resume": [
        {"interruptId": "i", "status": "resolved", "payload": [1, None], "metadata": None},
        {"interruptId": "j", "status": "cancelled", "payload": None},
    ],
}


def test_a_start_shows_answers_and_the_names_of_tools() -> None:
    event = run_started(thread_id="t", run_id="r", messages=[], rewind_to=None, request=REQUEST)
    assert event["input"]["tools"] == [{"name": "lookup", "description": "", "parameters": {}}]
    assert event["input"]["resume"] == [
        {"interruptId": "i", "status": "resolved", "payload": [1, None]},
        {"interruptId": "j", "status": "cancelled"},
    ]
    RunStartedEvent.model_validate(event)


@pytest.mark.parametrize(
    "request_of",
    [
        lambda size: {"tools": [{"name": "n" * size}]},
        lambda size: {"resume": [{"interruptId": "i", "payload": "p" * size}]},
    ],
    ids=["tools", "resume"],
)
def test_what_is_shown_beside_messages_counts_as_they_do(
    request_of: Callable[[int], dict[str, object]],
) -> None:
    def check(size: int) -> None:
        check_question(
            ThreadKey("u", "t"),
            "r",
            [],
            rewind_to=None,
            request=request_of(size),
            frame_max_bytes=4096,
        )

    check(2048)
    with pytest.raises(TooLarge, match="what the run brings"):
        check(4096)


def test_an_end_keeps_what_the_agents_own_end_carried() -> None:
    event = run_finished(
        thread_id="t", run_id="r", outcome={"type": "success"}, result={"a": None}, usage=None
    )
    assert event["result"] == {"a": None}
    assert "usage" not in event
