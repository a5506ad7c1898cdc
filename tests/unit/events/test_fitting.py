"""What agents cut in the wrong place, or not at all, fits into the log."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isolane.errors import EventTooLarge
from isolane.events.event import Event, encode_event
from isolane.events.fitting import Fitting, split_text

HIGH, LOW = "\ud83d", "\ude00"
SPANS = {
    "TEXT_MESSAGE": ("messageId", "TEXT_MESSAGE_CONTENT"),
    "TOOL_CALL": ("toolCallId", "TOOL_CALL_ARGS"),
    "REASONING_MESSAGE": ("messageId", "REASONING_MESSAGE_CONTENT"),
}
ANY_SPAN = pytest.mark.parametrize("span", SPANS)


def content(span: str, delta: str, thing: str = "m", **more: object) -> Event:
    key, kind = SPANS[span]
    return {"type": kind, key: thing, "delta": delta, **more}


def end(span: str, thing: str = "m") -> Event:
    return {"type": f"{span}_END", SPANS[span][0]: thing}


def fitted(*events: Event, max_bytes: int = 1 << 20) -> list[Event]:
    fitting = Fitting(max_bytes)
    made = [one for event in events for one in fitting.fit(event)]
    for one in made:
        encode_event(one, max_bytes=max_bytes)
    return made


def deltas(events: list[Event]) -> list[str]:
    return [event["delta"] for event in events if "delta" in event]


# --- halves --------------------------------------------------------------------------------------


@ANY_SPAN
@pytest.mark.parametrize(
    "cut, whole",
    [
        (["Hi ", HIGH, LOW, " there"], ["Hi ", "😀", " there"]),
        (["Hi " + HIGH, LOW + " there"], ["Hi ", "😀 there"]),
        ([HIGH, "", LOW], ["😀"]),
        ([HIGH, " there"], ["� there"]),
        ([HIGH, HIGH, LOW], ["�", "😀"]),
        ([LOW], ["�"]),
        ([HIGH], ["�"]),
        (["a" + HIGH], ["a", "�"]),
        ([HIGH + LOW], ["😀"]),
        ([""], [""]),
    ],
)
def test_halves_find_each_other_or_stand_as_one_character(
    span: str, cut: list[str], whole: list[str]
) -> None:
    made = fitted(*(content(span, delta) for delta in cut), end(span))
    assert deltas(made) == whole
    assert made[-1] == end(span)


@ANY_SPAN
def test_a_half_waits_for_its_own_message(span: str) -> None:
    made = fitted(
        content(span, HIGH, "a"), content(span, LOW, "b"), content(span, HIGH, "b"),
        content(span, LOW, "a"), end(span, "b"), end(span, "a"),
    )  # fmt: skip
    key = SPANS[span][0]
    assert [(one[key], one.get("delta")) for one in made] == [
        ("b", "�"), ("a", "😀"), ("b", "�"), ("b", None), ("a", None),
    ]  # fmt: skip


def test_a_half_goes_out_under_its_subagent() -> None:
    made = fitted(content("TEXT_MESSAGE", HIGH, subagentRunId="s"), end("TEXT_MESSAGE"))
    assert made[0] == {**content("TEXT_MESSAGE", "�"), "subagentRunId": "s"}


def test_what_comes_along_with_a_half_is_not_lost() -> None:
    (made,) = fitted(content("TEXT_MESSAGE", HIGH, metadata={"a": 1}))
    assert made == content("TEXT_MESSAGE", "", metadata={"a": 1})


@given(st.lists(st.text(max_size=5), max_size=6), st.data())
def test_text_cut_at_any_half_comes_out_whole(texts: list[str], data: st.DataObject) -> None:
    units = "".join(texts).encode("utf-16-le")
    places = sorted(data.draw(st.lists(st.integers(0, len(units) // 2), max_size=5)))
    bounds = [0, *(2 * place for place in places), len(units)]
    pieces = [
        units[begin:stop].decode("utf-16-le", "surrogatepass") for begin, stop in pairwise(bounds)
    ]
    made = fitted(*(content("TOOL_CALL", piece) for piece in pieces), end("TOOL_CALL"))
    assert "".join(deltas(made)) == "".join(texts)


# --- long deltas ---------------------------------------------------------------------------------

LONG = ["x" * 5000, "é" * 3000, "😀" * 2000, "\x00" * 900, '"\\' * 2000, "a" * 1000 + "😀" * 1000]


@ANY_SPAN
@pytest.mark.parametrize("text", LONG, ids=["ascii", "é", "emoji", "control", "escaped", "mixed"])
def test_a_long_delta_is_split_and_says_the_same(span: str, text: str) -> None:
    made = fitted(content(span, text), max_bytes=1000)
    assert "".join(deltas(made)) == text
    size = len(json.dumps(text, ensure_ascii=False).encode())
    assert len(made) <= 2 * size // 900 + 2


@given(st.text(max_size=300), st.integers(6, 60))
def test_pieces_are_whole_characters_within_their_bytes(text: str, most: int) -> None:
    pieces = list(split_text(text, most))
    assert "".join(pieces) == text
    assert all(len(json.dumps(piece, ensure_ascii=False).encode()) - 2 <= most for piece in pieces)
    assert all(pieces) or not text


def test_arguments_that_were_split_are_the_same_json() -> None:
    arguments = json.dumps({"text": 'é"\\\n😀' * 400}, ensure_ascii=False)
    made = fitted(content("TOOL_CALL", arguments), max_bytes=700)
    assert len(made) > 3
    assert json.loads("".join(deltas(made))) == json.loads(arguments)


def test_what_a_split_delta_brings_along_stands_on_its_first_piece() -> None:
    more: dict[str, Any] = {"metadata": {"model": "m"}, "subagentRunId": "s"}
    made = fitted(content("TEXT_MESSAGE", "x" * 3000, rawEvent={"a": "y" * 3000}, **more),
                  max_bytes=1000)  # fmt: skip
    assert made[0]["metadata"] == {"model": "m"}
    assert all("metadata" not in one and "rawEvent" not in one for one in made[1:])
    assert all(one["subagentRunId"] == "s" for one in made)
    assert "".join(deltas(made)) == "x" * 3000


def test_an_emoji_between_two_long_deltas_is_not_split() -> None:
    made = fitted(content("TEXT_MESSAGE", "x" * 995 + HIGH), content("TEXT_MESSAGE", LOW * 1),
                  max_bytes=1000)  # fmt: skip
    assert "".join(deltas(made)) == "x" * 995 + "😀"


def test_what_cannot_be_split_is_left_for_its_encoder_to_refuse() -> None:
    huge = content("TEXT_MESSAGE", "x", metadata={"a": "y" * 2000})
    with pytest.raises(EventTooLarge):
        fitted(huge, max_bytes=1000)


# --- results -------------------------------------------------------------------------------------


def result(said: object, **more: object) -> Event:
    head = {"type": "TOOL_CALL_RESULT", "messageId": "r", "toolCallId": "c"}
    return {**head, "content": said, **more}


@pytest.mark.parametrize("text", LONG, ids=["ascii", "é", "emoji", "control", "escaped", "mixed"])
def test_a_long_result_is_cut_at_a_character_and_says_by_how_much(text: str) -> None:
    (made,) = fitted(result(text, metadata={"own": 1}), max_bytes=1000)
    kept = made["content"]
    assert kept
    assert text.startswith(kept)
    assert made["metadata"]["own"] == 1
    assert made["metadata"]["truncatedBytes"] == len(text.encode()) - len(kept.encode())
    assert len(encode_event(made, max_bytes=1000)) > 700


def test_a_result_that_fits_stays_as_it_is() -> None:
    for event in (result("x" * 850), result([]), result([{"type": "text", "text": "x" * 800}])):
        assert fitted(event, max_bytes=1000) == [event]


def test_of_parts_the_text_is_cut_and_what_else_has_no_room_is_left_out() -> None:
    image: dict[str, Any] = {
        "type": "image",
        "source": {"type": "data", "value": "B" * 2000, "mimeType": "image/png"},
    }
    small = {**image, "source": {**image["source"], "value": "B"}}
    parts = [{"type": "text", "text": "a" * 300}, image, small, {"type": "text", "text": "é" * 999}]
    (made,) = fitted(result(parts), max_bytes=1000)
    kept = made["content"]
    assert [part["type"] for part in kept] == ["text", "image", "text"]
    assert kept[:2] == [parts[0], small]
    lost = 2000 + 2 * (999 - len(kept[2]["text"]))
    assert made["metadata"] == {"truncatedBytes": lost}


def test_the_providers_own_event_goes_before_a_word_of_the_result() -> None:
    (made,) = fitted(result("x" * 600, rawEvent={"same": "x" * 600}), max_bytes=1000)
    assert made == result("x" * 600)


def test_a_result_of_halves_is_cut_as_it_will_be_written() -> None:
    (made,) = fitted(result((HIGH + LOW + HIGH) * 500), max_bytes=1000)
    whole = "😀�" * 500
    lost = made["metadata"]["truncatedBytes"]
    assert whole.startswith(made["content"])
    assert lost == len(whole.encode()) - len(made["content"].encode())


@pytest.mark.parametrize("kind", ["STATE_SNAPSHOT", "MESSAGES_SNAPSHOT", "CUSTOM", "RAW"])
def test_whatever_else_is_too_large_is_left_for_its_encoder_to_refuse(kind: str) -> None:
    with pytest.raises(EventTooLarge):
        fitted({"type": kind, "value": "x" * 2000}, max_bytes=1000)
