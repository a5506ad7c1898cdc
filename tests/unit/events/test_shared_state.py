"""The shared state of a thread: what is kept is what the published client shows."""

from __future__ import annotations

from typing import Any

import pytest

from isolane.errors import EventTooLarge
from isolane.events.shared_state import SharedState, decode_state, encode_state, is_sent

MANY = 10**6


def snapshot(value: object) -> dict[str, Any]:
    return {"type": "STATE_SNAPSHOT", "snapshot": value}


def delta(*steps: tuple[str, str, object]) -> dict[str, Any]:
    key = {"copy": "from", "move": "from"}
    return {
        "type": "STATE_DELTA",
        "delta": [{"op": op, "path": path, key.get(op, "value"): it} for op, path, it in steps],
    }


def folded(state: SharedState, *events: dict[str, Any], max_bytes: int = MANY) -> SharedState:
    for event in events:
        state = state.after(event, size=len(encode_state(event)), max_bytes=max_bytes)
    return state


def begin(sent: object = None, *, kept: object = None) -> SharedState:
    return SharedState.of(sent, kept=kept)


@pytest.mark.parametrize("sent", [None, {}])
def test_state_that_clients_always_send_is_none(sent: object) -> None:
    assert not is_sent(sent)
    assert begin(sent, kept={"n": 1}).value == {"n": 1}
    assert begin(sent).value == {}


@pytest.mark.parametrize("sent", [{"n": None}, [], 0, "", False])
def test_state_that_is_sent_replaces_what_is_kept(sent: object) -> None:
    state = begin(sent, kept={"n": 1})
    assert state.value == sent
    assert state.to_payload() == encode_state(sent)


def test_run_that_says_nothing_of_the_state_leaves_it() -> None:
    text = {"type": "TEXT_MESSAGE_CONTENT", "messageId": "m", "delta": "hi"}
    assert folded(begin(kept={"n": 1}), text).to_payload() is None


def test_snapshot_and_deltas_make_the_state() -> None:
    state = folded(
        begin(kept={"old": 1}),
        snapshot({"n": 1, "list": []}),
        delta(("replace", "/n", 2), ("add", "/list/-", {"é": None})),
        delta(("remove", "/n", None)),
    )
    payload = state.to_payload()
    assert payload is not None
    assert decode_state(payload) == {"list": [{"é": None}]}


@pytest.mark.parametrize(
    "step", [("replace", "/no", 1), ("test", "/n", 5), ("remove", "/list/7", None)]
)
def test_delta_that_does_not_fit_changes_nothing(step: tuple[str, str, object]) -> None:
    before = folded(begin(), snapshot({"n": 1, "list": []}))
    assert folded(before, delta(("replace", "/n", 2), step)).value == {"n": 1, "list": []}


def test_state_of_deltas_alone_begins_with_what_is_kept() -> None:
    assert folded(begin(kept={"n": 1}), delta(("replace", "/n", 2))).value == {"n": 2}
    assert folded(begin(), delta(("add", "/n", 2))).value == {"n": 2}


def test_deltas_make_a_state_of_the_allowed_size_and_none_larger() -> None:
    state = folded(begin(), snapshot({"a": ""}), max_bytes=100)
    state = folded(state, delta(("replace", "/a", "x" * 92)), max_bytes=100)
    assert len(encode_state(state.value)) == 100
    for _ in range(20):
        state = folded(state, delta(("replace", "/a", "y" * 92)), max_bytes=100)
    with pytest.raises(EventTooLarge, match="the state after STATE_DELTA has 101 bytes"):
        folded(state, delta(("replace", "/a", "x" * 93)), max_bytes=100)


def test_copies_that_double_the_state_end_before_they_fill_the_memory() -> None:
    doubling = [
        delta(("copy", "/b", "/a"), ("copy", f"/a/{number}", "/b"), ("remove", "/b", None))
        for number in range(60)
    ]
    bomb = delta(*(("copy", f"/a/{number}", "/a") for number in range(60)))
    with pytest.raises(EventTooLarge):
        folded(begin(), snapshot({"a": {"x": 1}}), bomb, max_bytes=10_000)
    with pytest.raises(EventTooLarge):
        folded(begin(), snapshot({"a": {}}), *doubling, max_bytes=10_000)


def test_copies_within_the_bounds_are_fine() -> None:
    steps = [("copy", "/b", "/a"), ("remove", "/b", None)] * 40
    state = folded(begin(), snapshot({"a": "x" * 100}), delta(*steps[:16]), max_bytes=1000)
    assert state.value == {"a": "x" * 100}


def test_state_that_nobody_could_read_is_not_kept() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    assert SharedState(deep, 0, is_changed=True).to_payload() is None


def test_snapshot_tells_a_state_that_the_client_does_not_know() -> None:
    assert begin(kept={"n": 1}).is_untold
    assert begin(kept={"n": 1}).to_snapshot() == snapshot({"n": 1})
    assert not begin({"n": 2}, kept={"n": 1}).is_untold
    assert not begin().is_untold
    assert not folded(begin(kept={"n": 1}), delta(("add", "/m", 1))).is_untold
