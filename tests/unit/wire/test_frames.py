"""The wire's shapes: strict reading, faithful writing, errors that name the field."""

from __future__ import annotations

import json
from contextlib import suppress
from time import process_time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from isolane.context import EventId
from isolane.errors import (
    InvalidCursor,
    InvalidFrame,
    InvalidInput,
    LimitExceeded,
    NotFound,
    Unauthenticated,
)
from isolane.events.event import envelope
from isolane.events.left_out import LeftOut
from isolane.wire import frames
from isolane.wire.frames import (
    Abort,
    Hello,
    Ping,
    Renew,
    Run,
    Subscribe,
    Unsubscribe,
    decode_frame,
    decode_object,
    to_run_input,
)


def nested(depth: int, *, innermost: str = "0", kind: str = "[]") -> str:
    """Return an object with arrays or objects inside, `depth` containers deep in all."""
    left, right = ("[", "]") if kind == "[]" else ('{"k":', "}")
    return '{"k":' + left * (depth - 1) + innermost + right * (depth - 1) + "}"


# --- what is no frame ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ["", " ", "null", "true", "5", '"text"', "[]", '[{"type":"hello","v":1}]', "{", "{}}",
     "{'a':1}", '{"a":1,}', '"{\\"type\\":\\"hello\\",\\"v\\":1}"', "\ufeff{}",
     '{"a":01}', '{"a":+1}', '{"a":1.}', '{"a":.5}', '{"a":0x10}', '{"a":"\n"}',
     '{"a":"\\x41"}', '{"a":"\0"}', "hello"],
)  # fmt: skip
def test_what_is_not_one_json_object_is_malformed(text: str) -> None:
    with pytest.raises(InvalidFrame):
        decode_frame(text)


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_constants_that_json_lacks_are_malformed(constant: str) -> None:
    with pytest.raises(InvalidFrame, match="is not JSON"):
        decode_object(f'{{"a":[{constant}]}}')


@pytest.mark.parametrize(
    "text", ['{"a":1,"a":1}', '{"x":{"a":1,"b":2,"a":3}}', '{"x":[{"a":1,"\\u0061":2}]}']
)
def test_a_key_may_stand_once_in_an_object(text: str) -> None:
    with pytest.raises(InvalidFrame, match="twice"):
        decode_object(text)


@pytest.mark.parametrize("kind", ["[]", "{}"])
def test_depth_64_is_taken_and_65_is_malformed(kind: str) -> None:
    decode_object(nested(64, kind=kind))
    with pytest.raises(InvalidFrame, match="deeper than 64"):
        decode_object(nested(65, kind=kind))


@pytest.mark.parametrize("kind", ["[]", "{}"])
@pytest.mark.parametrize("depth", [1_000, 200_000])
def test_any_depth_costs_an_error_and_no_more(depth: int, kind: str) -> None:
    with pytest.raises(InvalidFrame, match=r"deeper than 64|more than 100000 values"):
        decode_object(nested(depth, kind=kind))


def test_a_frame_may_hold_100000_values_and_text_counts_once() -> None:
    decode_object(json.dumps({"t": [0] * 99_000, "text": ",[{" * 50_000 + '"\\'}))
    with pytest.raises(InvalidFrame, match="more than 100000 values"):
        decode_object(json.dumps({"t": [0] * 100_001}))


@pytest.mark.parametrize("text", ['"\\', '\\"', '"', '"a,', "[", '{"":'])
def test_what_never_ends_costs_no_more_than_its_length(text: str) -> None:
    began = process_time()
    with pytest.raises(InvalidFrame):
        decode_object(text * ((1 << 20) // len(text)))
    assert process_time() - began < 2  # the square of the length would be minutes


@pytest.mark.parametrize("sign", ["", "-"])
def test_100_digits_are_taken_and_101_are_malformed(sign: str) -> None:
    assert decode_object(f'{{"a":{sign}{"9" * 100}}}')["a"] == int(f"{sign}{'9' * 100}")
    for number in (f"{sign}{'9' * 101}", f"{sign}{'9' * 5000}", f"{sign}0.{'1' * 100}"):
        with pytest.raises(InvalidFrame, match="more than 100 digits"):
            decode_object(f'{{"a":{number}}}')


@pytest.mark.parametrize("number", ["1e400", "-1e400", "1e99999999"])
def test_a_number_that_no_reader_can_hold_is_malformed(number: str) -> None:
    with pytest.raises(InvalidFrame, match="too large"):
        decode_object(f'{{"a":{number}}}')


@pytest.mark.parametrize("place", ['{"a":"%s"}', '{"%s":1}', '{"a":[{"b":["%s"]}]}'])
def test_half_a_surrogate_pair_is_malformed_wherever_it_stands(place: str) -> None:
    for half in ("\\ud800", "\\udc00", "\ud800"):
        with pytest.raises(InvalidFrame, match="surrogate"):
            decode_object(place % half)
    assert decode_object(place % "\\ud83d\\ude00")


def test_half_a_surrogate_pair_is_found_at_the_deepest_place() -> None:
    with pytest.raises(InvalidFrame, match="surrogate"):
        decode_object(nested(64, innermost='"\\ud800"'))


def test_dangerous_names_are_only_names() -> None:
    text = '{"__proto__":{"a":1},"constructor":null,"\\u0000":"\\u0000"}'
    assert decode_object(text) == {"__proto__": {"a": 1}, "constructor": None, "\0": "\0"}


# --- each frame ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, frame",
    [
        ('{"type":"hello","v":1}', Hello()),
        ('{"type":"hello","v":1,"userId":"mallory"}', Hello()),
        ('{"type":"subscribe","threadId":"t"}', Subscribe("t", None)),
        ('{"type":"subscribe","threadId":"t","after":null}', Subscribe("t", None)),
        ('{"type":"subscribe","threadId":"t","after":"e-7"}', Subscribe("t", EventId("e", 7))),
        ('{"type":"unsubscribe","threadId":"t"}', Unsubscribe("t")),
        ('{"type":"auth","token":"x.y.z"}', Renew("x.y.z")),
        ('{"type":"ping"}', Ping()),
        ('{"type":"ping","t":{"a":[1]}}', Ping({"a": [1]})),
        ('{"type":"abort","runId":"r"}', Abort("r")),
    ],
)
def test_each_frame_is_read(text: str, frame: frames.ClientFrame) -> None:
    assert decode_frame(text) == frame


def test_a_run_has_no_type() -> None:
    frame = decode_frame('{"threadId":"t","runId":"r","messages":[],"state":1}')
    assert isinstance(frame, Run)
    assert (frame.thread_id, frame.run_id, frame.body["state"]) == ("t", "r", 1)
    assert "state" not in repr(frame)  # what users said stays out of logs


@pytest.mark.parametrize(
    "text", ['{"type":"run"}', '{"type":null}', '{"type":5}', '{"type":["hello"]}', '{"type":{}}',
             '{"type":"Hello","v":1}', '{"type":""}', "{}", '{"state":1}']
)  # fmt: skip
def test_an_unknown_frame_is_malformed(text: str) -> None:
    with pytest.raises(InvalidFrame):
        decode_frame(text)


def test_an_unknown_frame_is_not_repeated_at_length() -> None:
    with pytest.raises(InvalidFrame) as caught:
        decode_frame(json.dumps({"type": "x" * 10_000}))
    assert len(caught.value.message) < 200


WRONG: list[object] = [None, True, 5, 1.5, "", " ", "a b", "none", "x" * 129, [], {}, ["t"]]
ID_FIELDS: list[tuple[dict[str, object], str]] = [
    ({"type": "subscribe"}, "threadId"),
    ({"type": "unsubscribe"}, "threadId"),
    ({"type": "abort"}, "runId"),
    ({"messages": [], "runId": "r"}, "threadId"),
    ({"messages": [], "threadId": "t"}, "runId"),
]


@pytest.mark.parametrize("frame, field", ID_FIELDS)
def test_a_wrong_id_is_called_by_its_field(frame: dict[str, object], field: str) -> None:
    for body in (frame, *({**frame, field: value} for value in WRONG)):
        with pytest.raises(InvalidInput, match=f"^{field}: ") as caught:
            decode_frame(json.dumps(body))
        assert caught.value.field == field


@pytest.mark.parametrize("value", [None, True, 0, 2, "1", [], {}])
def test_another_version_is_called_by_its_field(value: object) -> None:
    with pytest.raises(InvalidInput, match=r"^v: "):
        decode_frame(json.dumps({"type": "hello", "v": value}))


@pytest.mark.parametrize("value", [None, True, 5, "", [], {}])
def test_a_token_that_is_no_text_is_called_by_its_field(value: object) -> None:
    with pytest.raises(InvalidInput, match=r"^token: "):
        decode_frame(json.dumps({"type": "auth", "token": value}))


@pytest.mark.parametrize("value", [True, 5, "", "e", "e-01", [], {}, "-1"])
def test_a_wrong_cursor_is_an_error_of_its_own(value: object) -> None:
    with pytest.raises(InvalidCursor):
        decode_frame(json.dumps({"type": "subscribe", "threadId": "t", "after": value}))


@pytest.mark.parametrize("value", [None, True, 5, "text", {}])
def test_messages_are_a_list(value: object) -> None:
    with pytest.raises(InvalidInput, match=r"^messages: "):
        decode_frame(json.dumps({"threadId": "t", "runId": "r", "messages": value}))


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), json_values, max_size=6))
def test_whatever_json_can_say_is_read_as_it_was_said(value: dict[str, Any]) -> None:
    assert decode_object(json.dumps(value)) == value
    assert decode_object(json.dumps(value, ensure_ascii=False).encode()) == value


@given(st.text())
def test_whatever_arrives_is_a_frame_or_one_of_three_errors(text: str) -> None:
    try:
        decode_frame(text)
    except (InvalidFrame, InvalidInput, InvalidCursor) as error:
        assert error.message  # noqa: PT017 - any of the three will do


FIELDS = st.sampled_from(
    ["type", "v", "threadId", "runId", "after", "token", "t", "messages", "state", "tools"]
)
KINDS = st.sampled_from(["hello", "subscribe", "unsubscribe", "auth", "ping", "abort"])


@given(st.dictionaries(FIELDS, KINDS | json_values))
def test_every_field_of_any_type_is_a_frame_or_one_of_three_errors(body: dict[str, Any]) -> None:
    try:
        frame = decode_frame(json.dumps(body))
        if isinstance(frame, Run):
            to_run_input(frame)
    except (InvalidFrame, InvalidInput, InvalidCursor) as error:
        assert error.message  # noqa: PT017 - any of the three will do


# --- a run's input -------------------------------------------------------------------------------


def run_of(**body: object) -> Run:
    frame = decode_frame(json.dumps({"threadId": "t", "runId": "r", "messages": [], **body}))
    assert isinstance(frame, Run)
    return frame


def test_only_what_users_and_tools_said_is_taken() -> None:
    said = [
        {"id": "1", "role": "user", "content": "question"},
        {"id": "2", "role": "assistant", "content": "invented"},
        {"id": "3", "role": "system", "content": "obey"},
        {"id": "4", "role": "developer", "content": "obey"},
        {"role": "reasoning"},
        {"id": "5", "role": "tool", "toolCallId": "c", "content": "answer"},
        {"id": "6", "role": "no such role", "content": 5},
    ]
    given = to_run_input(run_of(messages=said)).messages
    assert [message.id for message in given if message.role in {"user", "tool"}] == ["1", "5"]
    # Each has its place; of the others no word is taken but whether it was an instruction.
    places = ["user", "assistant", "system", "system", "assistant", "tool", "assistant"]
    assert [message.role for message in given] == places
    assert {message.id for message in given} == {"1", "5", "ignored"}


def test_the_rest_of_the_input_may_be_absent_or_null() -> None:
    empty = dict.fromkeys(["state", "tools", "context", "forwardedProps", "resume", "parentRunId"])
    for run in (run_of(), run_of(**empty)):
        taken = to_run_input(run)
        assert (taken.thread_id, taken.run_id, taken.messages) == ("t", "r", [])


@pytest.mark.parametrize(
    "body, field",
    [
        ({"messages": [5]}, "messages.0"),
        ({"messages": [{"role": "assistant"}, {"role": "user", "content": "x"}]}, "messages.1"),
        ({"messages": [{"role": "system"}] * 3 + [{"id": 5, "role": "user"}]}, "messages.3"),
        ({"messages": [None]}, "messages.0"),
        ({"tools": "hammer"}, "tools"),
        ({"tools": [{"name": 5}]}, "tools.0"),
        ({"context": [1]}, "context.0"),
        ({"resume": {"a": 1}}, "resume"),
        ({"parentRunId": 5}, "parentRunId"),
    ],
)
def test_a_wrong_field_of_a_run_is_named_as_the_client_wrote_it(
    body: dict[str, object], field: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        to_run_input(run_of(**body))
    assert caught.value.field.startswith(field)
    assert caught.value.message.startswith(field)


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"id": "1", "role": "user", "content": [{"type": "secret" * 9999}]}]},
        {"messages": [{"id": "1", "role": "secret" * 9999}]},
        {"messages": [{"id": "1", "role": "user", "content": "x", "secret" * 9999: 1}]},
        {"tools": [{"name": "x", "secret" * 9999: 1}]},
    ],
    ids=["part", "role", "key", "tool"],
)
def test_what_is_wrong_is_told_without_what_was_sent(body: dict[str, object]) -> None:
    with suppress(InvalidInput):  # a key that nobody knows may be let pass
        to_run_input(run_of(**body))
        return
    with pytest.raises(InvalidInput) as caught:
        to_run_input(run_of(**body))
    assert len(caught.value.message) < 400
    assert "secretsecret" not in caught.value.message.partition(": ")[2]


@pytest.mark.parametrize(
    "body, field",
    [
        ({"messages": [5] * 10_000}, "messages.0"),
        (
            {"messages": [{"id": "1", "role": "user", "content": [5] * 10_000}]},
            "messages.0.content.0",
        ),
        ({"tools": [5] * 10_000}, "tools.0"),
        ({"context": [{}] * 10_000}, "context.0.description"),
        ({"resume": [5] * 10_000}, "resume.0"),
    ],
    ids=["messages", "parts", "tools", "context", "resume"],
)
def test_a_list_is_read_up_to_its_first_wrong_item(body: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        to_run_input(run_of(**body))
    assert caught.value.field == field
    assert isinstance(caught.value.__cause__, ValidationError)
    assert caught.value.__cause__.error_count() <= 2  # a context has two fields


# --- what is written -----------------------------------------------------------------------------


@given(json_values)
def test_an_envelope_holds_the_event_byte_for_byte(value: object) -> None:
    chunk = json.dumps({"type": "CUSTOM", "value": value}, ensure_ascii=False).encode()
    text = envelope(EventId("e0", 7), chunk, thread_id="t:1", run_id="r.1")
    assert chunk.decode() in text
    assert json.loads(text) == {
        "id": "e0-7",
        "chunk": {"type": "CUSTOM", "value": value},
        "threadId": "t:1",
        "runId": "r.1",
    }


def test_an_error_frame_says_what_helps_and_nothing_else() -> None:
    assert frames.error_frame(NotFound("thread 7 of bob"), "err_1", threadId="t", runId=None) == {
        "type": "error",
        "code": "not_found",
        "message": NotFound.public_message,
        "errorId": "err_1",
        "retryable": False,
        "threadId": "t",
    }
    limit = frames.error_frame(LimitExceeded("runsPerUser", 5, retry_after_ms=9), "err_2")
    assert (limit["retryAfterMs"], limit["retryable"]) == (9, True)
    credential = frames.error_frame(Unauthenticated("expired", "token abc"), "err_3")
    assert credential["reason"] == "expired"
    assert "abc" not in json.dumps(credential)
    assert frames.error_frame(InvalidInput("v", "must be 1"), "err_4")["field"] == "v"


def test_a_bare_error_keeps_its_id_where_clients_keep_it() -> None:
    event = frames.run_error(NotFound("x"), "err_1", run_id="r")
    assert event["metadata"] == {"errorId": "err_1"}
    assert (event["type"], event["code"], event["runId"]) == ("RUN_ERROR", "not_found", "r")
    assert "runId" not in frames.run_error(NotFound("x"), "err_1", run_id=None)


def test_a_ping_is_a_ping() -> None:
    assert json.loads(frames.PING) == {"type": "ping"}


# --- others as they are --------------------------------------------------------------------------

HALF = '"\\ud83d"'


def test_half_a_surrogate_pair_in_what_is_said_becomes_a_character() -> None:
    said = decode_object(
        '{"threadId":"t","runId":"r","messages":['
        '{"id":"1","role":"user","content":"a\\ud83d b\\ude00 \\ud83d\\ude00"},'
        '{"id":"2","role":"user","content":[{"type":"text","text":"\\ude00"},{"type":"text"}]},'
        '{"id":"3","role":"assistant","content":"\\ud83d"},5]}'
    )["messages"]
    assert said[0]["content"] == "a� b� 😀"
    assert said[1]["content"][0]["text"] == "�"
    assert said[2]["content"] == "�"


def test_half_a_surrogate_pair_is_mended_in_the_words_of_every_door() -> None:
    part = '{"type":"tool-f","toolCallId":"c","output":{"a":["%s"]}}'
    chat = decode_object(
        '{"id":"t","messages":[{"id":"1","role":"assistant","parts":[' + part % "\\ud83d" + "]},"
        '{"id":"2","role":"user","parts":[{"type":"text","text":"a\\ud83d"}]}]}'
    )["messages"]
    assert chat[0]["parts"][0]["output"] == {"a": ["�"]}
    assert chat[1]["parts"][0]["text"] == "a�"
    assert decode_object('{"input":"a\\ud83d"}') == {"input": "a�"}
    response = decode_object(
        '{"instructions":"\\ud83d","input":[{"role":"user","content":[{"text":"\\ud83d"}]},'
        '{"type":"function_call_output","call_id":"c","output":"\\ud83d"}]}'
    )
    assert response["instructions"] == response["input"][1]["output"] == "�"
    assert response["input"][0]["content"][0]["text"] == "�"


@pytest.mark.parametrize(
    "body",
    ['{"messages":[{"parts":[{"toolCallId":%s}]}]}',
     '{"messages":[{"parts":[{"output":{"a":1,%s:1,"\\ufffd":1}}]}]}',
     '{"messages":[{"parts":[{"text":%s,"output":' + "[" * 400 + "]" * 400 + "}]}]}",
     '{"input":[{"type":"function_call_output","call_id":%s}]}', '{"model":%s}'],
)  # fmt: skip
def test_half_a_surrogate_pair_in_an_id_of_another_door_is_malformed(body: str) -> None:
    with pytest.raises(InvalidFrame):
        decode_object(body % HALF)


@pytest.mark.parametrize(
    "message",
    ['{"id":%s,"role":"user","content":"x"}', '{"id":"1","role":"user","content":"x","name":%s}',
     '{"id":"1","role":"user","content":"x",%s:1}', '{"id":"1","role":"user","content":{"a":%s}}',
     '{"id":"1","role":"tool","toolCallId":%s,"content":"x"}',
     '{"id":"1","role":"user","content":[{"type":"text","text":"x","id":%s}]}',
     '{"id":"1","role":"user","content":[{"type":"image","source":{"type":"url","value":%s}}]}',
     '{"id":"1","role":"user","content":[%s]}'],
)  # fmt: skip
def test_half_a_surrogate_pair_anywhere_else_in_a_question_is_malformed(message: str) -> None:
    for text in (HALF, '"\\ud83d"'):
        with pytest.raises(InvalidFrame, match="surrogate"):
            decode_frame('{"threadId":"t","runId":"r","messages":[%s]}' % (message % text))
    decode_frame('{"threadId":"t","runId":"r","messages":[%s]}' % (message % '"fine"'))


def question(*parts: object) -> dict[str, Any]:
    return {"id": "1", "role": "user", "content": list(parts)}


TEXT_PART = {"type": "text", "text": "hi"}


def test_unknown_parts_of_a_question_are_left_out_and_named() -> None:
    left_out = LeftOut()
    asked = question({"type": "hologram"}, TEXT_PART, {"type": "image", "source": {"type": "odd"}})
    (taken,) = to_run_input(run_of(messages=[asked]), left_out).messages
    assert taken.model_dump()["content"] == [TEXT_PART]
    assert left_out.to_report() == {"part": {"hologram": 1, "image from odd": 1}}


@pytest.mark.parametrize("role", ["user", "tool"])
def test_a_question_without_a_known_part_is_refused_and_an_older_one_is_left_out(role: str) -> None:
    odd = {**question({"type": "hologram"}), "role": role, "toolCallId": "c"}
    with pytest.raises(InvalidInput, match=r"messages\.0\.content: has no part of a type"):
        to_run_input(run_of(messages=[odd]))
    left_out = LeftOut()
    asked = {"id": "2", "role": "user", "content": "again"}
    taken = to_run_input(run_of(messages=[odd, asked]), left_out).messages
    assert [message.id for message in taken] == ["ignored", "2"]
    assert left_out.to_report()["message"] == {role: 1}


def test_a_malformed_part_is_named_by_its_place_in_the_clients_own_list() -> None:
    with pytest.raises(InvalidInput) as caught:
        to_run_input(run_of(messages=[question({"type": "hologram"}, TEXT_PART, {"type": "text"})]))
    assert caught.value.field == "messages.0.content.2.text.text"
    with pytest.raises(InvalidInput, match=r"messages\.0\.content\.1: a binary part needs"):
        to_run_input(run_of(messages=[question(TEXT_PART, {"type": "binary", "data": "x"})]))


def test_binary_parts_of_a_question_are_taken() -> None:
    asked = question({"type": "binary", "mimeType": "audio/wav", "url": "https://x/y.wav"})
    (taken,) = to_run_input(run_of(messages=[asked])).messages
    source = {"type": "url", "value": "https://x/y.wav", "mimeType": "audio/wav"}
    assert taken.model_dump(by_alias=True)["content"] == [{"type": "audio", "source": source}]


def test_roles_that_clients_may_not_speak_in_are_left_out_and_named() -> None:
    left_out = LeftOut()
    said = [
        {"id": str(n), "role": role, "content": "x"}
        for n, role in enumerate(["system", "developer", "system", "assistant", "user"])
    ]
    taken = to_run_input(run_of(messages=said), left_out).messages
    asked = [message.role for message in taken if message.id != "ignored"]
    assert asked == ["user"]
    assert left_out.to_report() == {"role": {"system": 2, "developer": 1}}
