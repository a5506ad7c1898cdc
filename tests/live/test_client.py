"""The recorder of the live tests: what it doesn't notice, no live test does."""

from __future__ import annotations

import pytest
from tests.live.client import Follower, Frame


def envelope(event_id: str, **chunk: str) -> Frame:
    return {"id": event_id, "chunk": {"type": "CUSTOM", **chunk}, "threadId": "t", "runId": "r"}


def test_follower_keeps_what_comes_in_order() -> None:
    follower = Follower("t", "a-0")
    for event_id in ("a-1", "a-2", "a-3"):
        follower.apply(envelope(event_id))
    assert follower.cursor == "a-3"


@pytest.mark.parametrize(
    "event_id",
    [
        pytest.param("a-7", id="gap"),
        pytest.param("a-5", id="doubled"),
        pytest.param("a-4", id="reordered"),
        pytest.param("b-6", id="another epoch"),
    ],
)
def test_follower_fails_at_an_id_that_is_not_the_next(event_id: str) -> None:
    follower = Follower("t", "a-4")
    follower.apply(envelope("a-5"))
    with pytest.raises(AssertionError):
        follower.apply(envelope(event_id))


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param({"id": 1}, id="number as id"),
        pytest.param({"threadId": "other"}, id="another thread"),
        pytest.param({"type": "x"}, id="envelope with a type"),
    ],
)
def test_follower_fails_at_an_envelope_that_is_none(broken: Frame) -> None:
    with pytest.raises(AssertionError):
        Follower("t", "a-0").apply(envelope("a-1") | broken)


def test_follower_joins_the_text_of_each_message() -> None:
    follower = Follower("t", "a-0")
    for number, (message_id, delta) in enumerate([("m", "1 "), ("n", "x "), ("m", "2 ")], 1):
        word = {"type": "TEXT_MESSAGE_CONTENT", "messageId": message_id, "delta": delta}
        follower.apply(envelope(f"a-{number}", **word))
    assert follower.texts == {"m": "1 2 ", "n": "x "}
