"""Whole lists: what isn't new costs a look, and nothing is taken that the strict reader refuses."""

from __future__ import annotations

import json
from typing import Any, Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from isolane.errors import InvalidFrame, InvalidInput, IsolaneError, TooLarge
from isolane.events.left_out import LeftOut
from isolane.events.transcript import id_print
from isolane.wire import lists
from isolane.wire.frames import VALUES_MAX, decode_object, read_run, to_run_input
from isolane.wire.lists import MARKS_MAX, MESSAGES_MAX, STEP_BYTES, Known, WholeList

MOST: Final = 1 << 20
KNOWN: Final = Known(ids={"known", "last"}, calls={"answered"})
STAND_IN: Final = {"role": "assistant"}


def message(message_id: str, text: str = "hi", role: str = "user", **more: object) -> Any:  # noqa: ANN401 - JSON
    return {"id": message_id, "role": role, "content": text, **more}


def body_of(*messages: object, **more: object) -> bytes:
    return json.dumps({"threadId": "t", "runId": "r", **more, "messages": messages}).encode()


def read(body: bytes, known: Known = KNOWN, most: int = MOST) -> dict[str, Any]:
    return WholeList(body, max_bytes=most).pick(known).read()


def test_known_messages_and_those_of_assistants_are_stood_in_for() -> None:
    new = message("new")
    body = body_of(message("known"), message("a", role="assistant"), new, message("last"))
    assert read(body)["messages"] == [STAND_IN, STAND_IN, new, message("last")]


def test_fields_beside_the_messages_are_all_there_whatever_their_order() -> None:
    before = {"state": {"messages": [1, "]"], "a": '"messages":['}}
    behind: Any = {"tools": [{"b": []}]}
    text = json.dumps({**before, "messages": [message("known"), message("new")], **behind})
    whole = WholeList(text.encode(), max_bytes=MOST)
    assert whole.rest == {**before, "messages": [], **behind}
    read = whole.pick(KNOWN).read()
    assert read == {**before, "messages": [STAND_IN, message("new")], **behind}


def test_last_message_is_taken_though_it_is_known_and_instructions_are_behind_it() -> None:
    instruction = message("s", role="system")
    found = read(body_of(message("known"), message("last"), instruction))
    assert found["messages"] == [STAND_IN, message("last"), {"role": "system"}]


def test_result_of_a_call_that_was_answered_is_known_by_the_call() -> None:
    answered, open_call = (
        message(f"own-{call}", role="tool", toolCallId=call) for call in ("answered", "open")
    )
    whole = WholeList(body_of(answered, open_call, message("last")), max_bytes=MOST)
    assert whole.has_results
    assert whole.pick(KNOWN).read()["messages"] == [STAND_IN, open_call, message("last")]
    assert not WholeList(body_of(message("a")), max_bytes=MOST).has_results


def test_what_the_same_run_brought_before_is_taken_to_be_compared() -> None:
    known = Known(ids={"known", "asked"}, asked={id_print("asked")})
    found = read(body_of(message("known"), message("asked"), message("new")), known)
    assert found["messages"] == [STAND_IN, message("asked"), message("new")]


def test_only_what_is_new_counts() -> None:
    old = [message("known", "x" * 1000), message("a", "x" * 1000, role="assistant")]
    new, size = message("new", "y" * 100), len(body_of(message("new", "y" * 100)))
    assert read(body_of(*old, new), most=size)["messages"] == [STAND_IN, STAND_IN, new]
    with pytest.raises(TooLarge, match=f"frameBytes allows {size - 1}"):
        read(body_of(*old, new), most=size - 1)
    with pytest.raises(TooLarge, match="frameBytes"):
        read(body_of(*old, new, state="z" * size), most=size)


def test_values_count_where_they_are_new() -> None:
    old = [message("known", parts=[0] * 50) for _ in range(VALUES_MAX // 40)]
    assert read(body_of(*old, message("new")))["messages"][-1] == message("new")
    with pytest.raises(TooLarge, match=str(VALUES_MAX)):
        read(body_of(*old, message("new", parts=[0] * VALUES_MAX)))
    with pytest.raises(TooLarge, match=str(VALUES_MAX)):
        WholeList(body_of(state=[0] * VALUES_MAX), max_bytes=MOST)


def turn_of(message_id: str, role: str, *parts: object) -> dict[str, Any]:
    return {"id": message_id, "role": role, "parts": [*parts]}


def read_turn(*messages: object, most: int = MOST) -> list[Any]:
    whole = WholeList(json.dumps({"id": "t", "messages": messages}).encode(), max_bytes=most)
    found: list[Any] = whole.pick_turn(KNOWN).read()["messages"]
    return found


def test_calls_of_the_last_assistants_message_are_taken_and_nothing_else_of_it() -> None:
    answer = {"type": "tool-f", "toolCallId": "c", "state": "output-available", "output": 1}
    own = {**answer, "providerExecuted": True}
    words = {"type": "text", "text": "x" * MOST}
    odd = [{"type": 1}, 7, {"type": "tool-g", "providerExecuted": "yes"}]
    said = turn_of("a", "assistant", words, own, answer, *odd)
    asked = turn_of("new", "user", {"type": "text", "text": "hi"})
    taken = {"role": "assistant", "parts": [answer]}
    assert read_turn(turn_of("b", "assistant", answer), said, asked) == [
        {"role": "assistant", "parts": []}, taken, asked,
    ]  # fmt: skip
    assert read_turn(asked, said) == [asked, taken]
    assert read_turn({"role": "assistant", "parts": "no"}) == [{"role": "assistant", "parts": []}]


def test_a_known_message_of_a_turn_stands_in_without_parts_and_the_last_one_is_taken() -> None:
    known = turn_of(next(iter(KNOWN.ids)), "user", {"type": "text", "text": "x" * MOST})
    asked = turn_of("new", "user", {"type": "text", "text": "hi"})
    assert read_turn(known, asked) == [{"role": "assistant", "parts": []}, asked]
    with pytest.raises(TooLarge):
        read_turn(asked, known)
    assert read_turn(turn_of("s", "system"), asked)[0] == {"role": "system", "parts": []}


def test_each_message_keeps_its_place() -> None:
    wrong = message("new", role="tool")
    run = read_run(read(body_of(message("known"), message("a", role="assistant"), wrong)))
    with pytest.raises(InvalidInput) as refused:
        to_run_input(run)
    assert refused.value.field == "messages.2.tool.toolCallId"


def test_roles_that_nobody_may_speak_in_are_noted_as_ever() -> None:
    body = body_of(message("s", role="system"), message("d", role="developer"), message("new"))
    noted = []
    for found in (read(body), decode_object(body)):
        left_out = LeftOut()
        to_run_input(read_run(found), left_out)
        noted.append(left_out.to_report())
    assert noted[0] == noted[1] == {"role": {"system": 1, "developer": 1}}


def test_lists_are_bounded_by_count(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MESSAGES_MAX == 100_000
    monkeypatch.setattr(lists, "MESSAGES_MAX", 3)
    assert len(read(body_of(*[message("known")] * 3))["messages"]) == 3
    with pytest.raises(TooLarge, match="a list may have 3"):
        read(body_of(*[message("known")] * 4))


def test_body_of_nothing_but_marks_is_refused_at_a_look() -> None:
    with pytest.raises(TooLarge, match=str(MARKS_MAX)):
        read(b'{"messages":[' + b"[]," * MARKS_MAX)


# --- what must be refused ------------------------------------------------------------------------

TWICE: Final = "a key stands twice"


@pytest.mark.parametrize(
    "text, error",
    [
        ('{"messages":[],"messages":[]}', TWICE),
        ('{"messages":[{"id":"known","role":"user"}],"messages":[]}', TWICE),
        ('{"messages":[],"messages":[{"id":"known","role":"user"}]}', TWICE),
        ('{"messages":[1,2],"threadId":"t","messages":[]}', TWICE),
        (r'{"messages":[],"\u006dessages":[]}', TWICE),
        ('{"threadId":"t","messages":[],"threadId":"u"}', TWICE),
        ('{"messages":[],"forwardedProps":{"rewindTo":"a","rewindTo":"b"}}', TWICE),
        ('{"messages":[{"id":"known","id":"new","role":"user","content":""}]}', TWICE),
        ('{"messages":[{"id":"new","role":"assistant","role":"user"}]}', TWICE),
        ('{"messages":[{"id":"known","role":"user"}]', "not JSON"),
        ('{"messages":[{"id":"known","role":"user",}]}', "not JSON"),
        ('{"messages":[{"id":"known","role":"user" "a"},{}]}', "not JSON"),
        ('{"messages":[{"id":"known","role":"user","a":NaN},{}]}', "not JSON"),
        ('{"messages":[{"id":"known","role":"user","a":01},{}]}', "not JSON"),
        (r'{"messages":[{"id":"known","role":"user","a":"\x"},{}]}', "not JSON"),
        ('{"messages":[{"id":"known","role":"user"}]}}', "not JSON"),
        ('{"messages":[{"id":"known","role":"user"}]} {}', "not JSON"),
        ('[{"messages":[]}]', "one JSON object"),
        ('"messages"', "one JSON object"),
        ("", "not JSON"),
        ("[" * 5000, "one JSON object"),
        ('{"messages":[' + "[" * 5000, "nested"),
        ('{"messages":[{"id":"new","role":"user","a":' + "[" * 70 + "]" * 70 + "}]}", "nested"),
        (r'{"messages":[{"id":"\ud800","role":"user","content":""}]}', "half a surrogate pair"),
        (r'{"state":{"\ud800":0},"messages":[]}', "half a surrogate pair"),
    ],
)
def test_body_that_two_readers_might_take_in_two_ways_is_refused(text: str, error: str) -> None:
    with pytest.raises(InvalidFrame, match=error):
        read(text.encode())


@pytest.mark.parametrize("size", [0, STEP_BYTES - 20])
@pytest.mark.parametrize("wrong", [b"\xff", b"\xed\xa0\x80", b"\xc3"])
def test_what_is_not_utf8_is_refused_in_what_is_not_taken_too(wrong: bytes, size: int) -> None:
    known = b'{"id":"known","role":"user","content":"' + b"x" * size + wrong + b'"}'
    with pytest.raises(InvalidFrame, match="UTF-8"):
        read(b'{"messages":[' + known + b"," + json.dumps(message("new")).encode() + b"]}")


def test_characters_of_many_bytes_may_stand_where_a_step_ends() -> None:
    known = {"id": "known", "role": "user", "content": "€" * STEP_BYTES}
    text = json.dumps({"messages": [known, message("new")]}, ensure_ascii=False)
    assert read(text.encode())["messages"] == [STAND_IN, message("new")]


@pytest.mark.parametrize("wrong", [5, "text", None, [], [message("new")]])
def test_message_that_is_no_object_is_named(wrong: object) -> None:
    with pytest.raises(InvalidInput) as refused:
        read(body_of(message("known"), wrong))
    assert refused.value.field == "messages.1"


@pytest.mark.parametrize("wrong", [b"{}", b'{"messages":5}', b'{"messages":{}}'])
def test_body_without_a_list_is_told_so(wrong: bytes) -> None:
    with pytest.raises(InvalidInput) as refused:
        read(wrong)
    assert refused.value.field == "messages"


@pytest.mark.parametrize(
    "odd", [{}, {"id": 5, "role": "assistant"}, {"role": ["user"]}, {"id": "x", "role": "nobody"}]
)
def test_odd_message_that_nobody_reads_is_left_out_as_ever(odd: object) -> None:
    assert read(body_of(odd, message("new")))["messages"] == [STAND_IN, message("new")]


def test_half_a_surrogate_pair_in_what_is_said_is_mended_and_skipped_elsewhere() -> None:
    half = "\ud83d"
    emoji = message("known-\U0001f600", "\U0001f600")
    said = message("new", f"{half} \U0001f600")
    old = message("known", half * 3)
    body = body_of(emoji, old, said, state={"a": "\U0001f600"})  # all in escapes
    found = read(body, Known(ids={"known", "known-\U0001f600"}))
    assert found["state"] == {"a": "\U0001f600"}
    assert found["messages"][1:] == [STAND_IN, message("new", "\ufffd \U0001f600")]


def test_key_twice_in_what_is_not_taken_only_leaves_it_out() -> None:
    text = '{"messages":[{"id":"new","id":"known","role":"user"},' + json.dumps(message("a")) + "]}"
    assert read(text.encode())["messages"] == [STAND_IN, message("a")]


# --- both readers --------------------------------------------------------------------------------

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
ids = st.sampled_from(["known", "last", "new", "a b", "é", "\U0001f600"])
roles = st.sampled_from(["user", "tool", "assistant", "system", "developer", "activity"])
messages = st.builds(
    lambda head, more: {**more, **head},
    st.fixed_dictionaries({"id": ids, "role": roles}, optional={"toolCallId": ids}),
    st.dictionaries(st.sampled_from(["content", "a", "messages"]), values),
)
fields = st.dictionaries(st.sampled_from(["state", "tools", "\U0001f600", "x"]), values)


@given(
    listed=st.lists(messages, max_size=8),
    more=fields,
    ensure_ascii=st.booleans(),
    indent=st.sampled_from([None, 0, 2]),
    is_first=st.booleans(),
)
def test_whatever_is_taken_is_what_the_strict_reader_reads(
    listed: list[Any],
    more: dict[str, Any],
    indent: int | None,
    *,
    ensure_ascii: bool,
    is_first: bool,
) -> None:
    both = {"messages": listed, **more} if is_first else {**more, "messages": listed}
    body = json.dumps(both, ensure_ascii=ensure_ascii, indent=indent).encode()
    strict, found = decode_object(body), read(body)
    assert {**found, "messages": 0} == {**strict, "messages": 0}
    last = max((n for n, one in enumerate(listed) if one["role"] not in ("system", "developer")),
               default=0)  # fmt: skip
    for place, (mine, theirs) in enumerate(zip(found["messages"], strict["messages"], strict=True)):
        is_known = theirs["id"] in KNOWN.ids or theirs.get("toolCallId") in KNOWN.calls
        is_taken = theirs["role"] in ("user", "tool") and (place == last or not is_known)
        assert mine == theirs if is_taken else mine in (STAND_IN, {"role": theirs["role"]})


@given(
    text=st.binary(max_size=60)
    | st.lists(
        st.sampled_from(
            ['"messages"', '"id"', '"role"', '"user"', '"known"', '"x"', "[", "]", "{", "}", ":",
             ",", "1", " ", '"', "\\", "\\ud800", "\\u0041", "null", "NaN"]
        ),
        max_size=24,
    ).map(lambda parts: "".join(parts).encode())
)  # fmt: skip
@example(b'{"messages":[{"id":"x","role":"user"}]}')
@example(rb'{"\ud800":[],"messages":[]}')
def test_whatever_comes_is_refused_in_words_or_read_as_the_strict_reader_does(text: bytes) -> None:
    """With nothing known, so that whoever reads differently is found out."""
    try:
        found = read(text, Known())
    except IsolaneError:
        return
    strict = decode_object(text)
    assert found.keys() == strict.keys()
    for mine, theirs in zip(found["messages"], strict["messages"], strict=True):
        assert mine in (theirs, STAND_IN, {"role": theirs.get("role")})


def test_halves_are_found_wherever_a_step_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    body = body_of(message("new", "a\ud800b\\\\ud\\u")) + b" "
    wanted = decode_object(body)
    for step in range(3, 12):
        monkeypatch.setattr(lists, "STEP_BYTES", step)
        assert read(body) == wanted


@pytest.mark.parametrize("name", ["messages", "input"])
def test_all_of_a_clients_own_history_is_read(name: str) -> None:
    said = [
        {"role": "user", "content": "a\ud800, [{" if name == "messages" else "a, [{"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c"}]},
        {"role": "tool", "tool_call_id": "c", "content": "x"},
        {"role": "system", "content": "y"},
        {"type": "function_call", "call_id": "d"},
        {"type": "function_call_output", "call_id": "d", "output": "z"},
        {"type": "message", "role": "user", "content": "q"},
    ]
    for count in range(len(said) + 1):
        body = json.dumps({"model": "m", name: said[:count], "other": {name: 1}}).encode()
        assert WholeList(body, max_bytes=1000, name=name).read_all() == decode_object(body)


def test_only_the_end_of_a_history_is_new() -> None:
    old, new = "x" * 1000, "y" * 500
    said = [{"role": "user", "content": old}, {"role": "assistant", "content": old}]
    asked = [{"role": "tool", "content": new}, {"role": "user", "content": new}]
    fits = json.dumps({"messages": [*said, *asked[1:]]}).encode()
    assert len(WholeList(fits, max_bytes=900).read_all()["messages"]) == 3
    large = json.dumps({"messages": [*said, *asked]}).encode()
    with pytest.raises(TooLarge, match="what is new"):
        WholeList(large, max_bytes=900).read_all()
    values = json.dumps({"messages": [{**said[1], "a": [0] * VALUES_MAX}, *asked[1:]]}).encode()
    for most in (900, len(values)):
        with pytest.raises(TooLarge, match="more than 100000 values"):
            WholeList(values, max_bytes=most).read_all()
