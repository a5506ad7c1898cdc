"""Models of a run frame: each is validated once, and what is kept of it is dumped once."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable
from copy import copy
from typing import Any

import pytest
from pydantic import TypeAdapter

from isolane.runs.draft import to_offer
from isolane.wire import frames
from isolane.wire.frames import Run as RunFrame
from isolane.wire.frames import decode_frame, to_run_input

VALIDATED = "validate_python"
DUMPED = "to_python"


def read(body: dict[str, Any]) -> None:
    frame = decode_frame(json.dumps(body))
    assert isinstance(frame, RunFrame)
    to_offer(to_run_input(frame), "default")


def count_models(work: Callable[[], object]) -> Counter[str]:
    """Count validations and dumps, by the name of pydantic's own function and of the model."""
    seen: Counter[str] = Counter()

    def watch(_frame: object, event: str, called: Any) -> None:  # noqa: ANN401 - any C function
        if event == "c_call" and called.__name__ in {VALIDATED, DUMPED}:
            title = getattr(called.__self__, "title", None)
            seen[f"{called.__name__} {title}" if title else called.__name__] += 1

    before = sys.getprofile()
    sys.setprofile(watch)
    try:
        work()
    finally:
        sys.setprofile(before)
    return seen


def test_models_of_a_frame_are_made_once() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    frame = {
        "threadId": "t",
        "runId": "r",
        "messages": [
            {"id": "1", "role": "user", "content": parts},
            {"id": "2", "role": "assistant", "content": "not read"},
            {"id": "3", "role": "user", "content": "question"},
        ],
        "tools": [{"name": "look", "description": "", "parameters": {}}] * 3,
    }
    seen = count_models(lambda: read(frame))
    validated = sum(count for name, count in seen.items() if name.startswith(VALIDATED))
    assert validated == 2 + 2 + 1 + 1, f"two parts, two messages, the tools, the input: {seen}"
    assert seen[DUMPED] == 2 + 1, f"two messages, and the rest of the input: {seen}"


def test_a_message_more_costs_one_validation_and_one_dump() -> None:
    def cost(count: int) -> Counter[str]:
        messages = [{"id": str(n), "role": "user", "content": "hi"} for n in range(count)]
        frame = {"threadId": "t", "runId": "r", "messages": messages}
        return count_models(lambda: read(frame))

    more = cost(30)
    more.subtract(cost(20))
    assert sorted(count for count in more.values() if count) == [10, 10]


class Watched:
    """A type adapter that keeps what it was given."""

    def __init__(self, adapter: TypeAdapter[Any]) -> None:
        self.adapter = adapter
        self.seen: list[Any] = []

    def validate_python(self, value: Any) -> Any:  # noqa: ANN401 - as pydantic has it
        self.seen.append(copy(value))
        return self.adapter.validate_python(value)


def test_input_is_validated_without_its_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pydantic looks at each message of a list again, although it is a model already."""
    watched = Watched(frames._INPUT)
    monkeypatch.setattr(frames, "_INPUT", watched)
    messages = [{"id": str(n), "role": "user", "content": "hi"} for n in range(3)]
    frame = decode_frame(json.dumps({"threadId": "t", "runId": "r", "messages": messages}))
    assert isinstance(frame, RunFrame)
    made = to_run_input(frame)
    assert [message.id for message in made.messages] == ["0", "1", "2"]
    assert [given["messages"] for given in watched.seen] == [[]]
