"""Halves of characters: joined where both came, U+FFFD where one didn't."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isolane.events.surrogates import (
    begins_pair,
    has_half,
    mend_event,
    mend_id,
    mend_names,
    mend_text,
    mend_value,
)

HIGH, LOW = "\ud83d", "\ude00"
UNITS = st.text(st.sampled_from(["a", "é", "😀", HIGH, LOW, "\udbff", "\udc00", "\ud800"]))


@pytest.mark.parametrize(
    "text, mended",
    [
        ("", ""), ("plain", "plain"), ("é 😀", "é 😀"), (HIGH + LOW, "😀"), (HIGH, "�"), (LOW, "�"),
        (LOW + HIGH, "��"), (HIGH + HIGH + LOW, "�😀"), (HIGH + LOW + LOW, "😀�"),
        (f"a{HIGH}b", "a�b"), (f"😀{HIGH}é", "😀�é"), ("\udc80", "�"),
    ],
)  # fmt: skip
def test_text_is_mended_half_by_half(text: str, mended: str) -> None:
    assert mend_text(text) == mended
    assert has_half(text) == (text != mended)


@given(UNITS)
def test_what_is_mended_is_whole_and_keeps_its_length_in_halves(text: str) -> None:
    mended = mend_text(text)
    mended.encode()
    units = len(text.encode("utf-16-le", "surrogatepass"))
    assert len(mended.encode("utf-16-le")) == units
    assert mend_text(mended) == mended


@given(st.text(), st.integers(0, 400))
def test_text_that_was_cut_anywhere_comes_back(text: str, place: int) -> None:
    units = text.encode("utf-16-le")
    cut = min(2 * place, len(units))
    halves = [part.decode("utf-16-le", "surrogatepass") for part in (units[:cut], units[cut:])]
    assert mend_text("".join(halves)) == text


def test_only_a_first_half_at_the_end_may_go_on() -> None:
    assert begins_pair(f"a{HIGH}")
    assert not any(map(begins_pair, ["", "a", "😀", LOW, HIGH + LOW, f"{HIGH}a"]))


def test_ids_are_joined_but_never_mended() -> None:
    assert mend_id("messageId", f"m{HIGH}{LOW}") == "m😀"
    with pytest.raises(ValueError, match="messageId holds half a surrogate pair"):
        mend_id("messageId", f"m{HIGH}")


def test_values_are_mended_wherever_they_stand() -> None:
    value = {"a": [HIGH, {"b": (LOW, 1, None, True, 0.5)}], f"k{HIGH}": HIGH + LOW, 3: LOW}
    assert mend_value(value) == {"a": ["�", {"b": ["�", 1, None, True, 0.5]}], "k�": "😀", 3: "�"}


def test_two_keys_never_become_one() -> None:
    with pytest.raises(ValueError, match="two keys differ only"):
        mend_value({f"k{HIGH}": 1, f"k{LOW}": 2})


SNAPSHOT: dict[str, Any] = {
    "type": "MESSAGES_SNAPSHOT",
    "messages": [{"id": "m", "role": "user", "content": HIGH}],
}


def test_an_events_own_ids_are_refused_and_an_agents_data_has_none() -> None:
    assert mend_event(SNAPSHOT)["messages"][0]["content"] == "�"
    assert mend_event({"type": "CUSTOM", "name": HIGH, "value": {"id": LOW}}) == {
        "type": "CUSTOM",
        "name": "�",
        "value": {"id": "�"},
    }
    for broken in (
        {"type": "TOOL_CALL_RESULT", "messageId": "m", "toolCallId": HIGH, "content": ""},
        {"type": "MESSAGES_SNAPSHOT", "messages": [{"id": LOW, "role": "user", "content": ""}]},
    ):
        with pytest.raises(ValueError, match="no id may"):
            mend_event(broken)


def test_names_are_mended_and_a_delta_waits() -> None:
    step = {"type": "STEP_STARTED", "stepName": f"s{HIGH}"}
    assert mend_names(step)["stepName"] == "s�"
    content = {"type": "TEXT_MESSAGE_CHUNK", "messageId": "m", "delta": HIGH}
    assert mend_names(content) is content
    named = {"type": "TEXT_MESSAGE_CHUNK", "messageId": "m", "name": LOW, "delta": HIGH}
    assert mend_names(named) == {**named, "name": "�"}
    with pytest.raises(ValueError, match="no id may"):
        mend_names({"type": "TEXT_MESSAGE_CONTENT", "messageId": HIGH, "delta": "x"})
