"""Streams that an agent might yield, drawn by a seeded dice: legal ones, broken ones, anything.

Ids come from a tiny space, so that things meet; the legal ones are judged by the second writing
of the client's rules in `tests/unit/verifier.py`, never by the grammar that is under test.
"""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from random import Random
from typing import Any, Final

from tests.unit.verifier import Event, IllegalStreamError, Verifier

SEED: Final = int(os.environ.get("ISOLANE_FUZZ_SEED", "20260115"))
"""The same in every run of the suite; another one is for who looks for more."""
EVENT_BYTES: Final = 16 * 1024
"""The limit under which the broken ones are run; what is too large need not be large."""
OWN_THREAD: Final = "its thread"
OWN_RUN: Final = "its run"
"""Stand for the ids of the run that a stream is given to."""
QUESTION: Final[Event] = {"id": "q", "role": "user", "content": "q"}
OWNERS: Final = (None, None, None, None, "s", "u")
IDS: Final = ("a", "b", "ü-ñ", "__proto__", "a:b")
WORDS: Final = (
    "", "x", "two words ", "é", "e\u0301", "😀", "\u0000", "\u2028", "\ufeff", "\u202e",
    "</script>", "\\u0041", '"', "data: x\n\n", "\uffff", "\U0010ffff",
)  # fmt: skip
VALUES: Final[Sequence[object]] = (
    None,
    True,
    0,
    -1,
    1.5,
    10**20,
    "",
    "é",
    [],
    {},
    [None, {"deep": [1, "x"]}],
    {"": 0},
)
CONTENT: Final[Event] = {"n": 1, "l": [1, "two", 3], "d": {"x": {"y": True}}, "a/b~c": None}
POINTERS: Final = (
    "/n", "/l", "/l/0", "/l/2", "/l/3", "/l/9", "/l/-", "/l/x", "/d", "/d/x", "/d/x/y", "/d/new",
    "/a~1b~0c", "/gone/deep", "/n/under", "/", "/__proto__/x",
)  # fmt: skip


def new_random() -> Random:
    """Return the dice of this run, and say how to throw the same again: pytest shows it."""
    print(f"ISOLANE_FUZZ_SEED={SEED}")  # noqa: T201
    return Random(SEED)  # noqa: S311 - dice, no secret


# --- one event -----------------------------------------------------------------------------------


class Dice:
    """Draws events."""

    def __init__(self, random: Random) -> None:
        """Throw what `random` says."""
        self.random = random

    def one_of(self, *values: Any) -> Any:  # noqa: ANN401 - whatever it is given
        """Draw one value."""
        return self.random.choice(values)

    def maybe(self, **fields: object) -> Event:
        """Draw each field, or not."""
        return {name: value for name, value in fields.items() if self.random.random() < 0.2}

    def is_heads(self) -> bool:
        """Throw a coin."""
        return self.random.random() < 0.5

    def tag(self) -> Event:
        """Draw whose an event is."""
        owner = self.one_of(*OWNERS)
        return {} if owner is None else {"subagentRunId": owner}

    def event(self, *, chunks: bool = False) -> Event:
        """Draw any event that the schemas take."""
        draws = [self.text, self.text, self.call, self.call, self.reasoning, self.step,
                 self.subagent, self.result, self.activity, self.encrypted, self.state]  # fmt: skip
        event = self.one_of(*draws, *([self.chunk] * 8 if chunks else []))()
        metadata = {self.one_of("usage", "trace"): self.one_of(*VALUES)}
        extra = self.maybe(metadata=metadata, timestamp=1, rawEvent={"from": "afar"})
        return {**event, **extra}

    def text(self) -> Event:
        act = self.one_of("START", "CONTENT", "CONTENT", "END")
        event = {"type": f"TEXT_MESSAGE_{act}", "messageId": self.one_of(*IDS), **self.tag()}
        if act == "CONTENT":
            event["delta"] = self.one_of(*WORDS)
        if act == "START":
            event |= self.maybe(role=self.one_of("assistant", "user", "system"), name="Ann")
        return event

    def call(self) -> Event:
        act = self.one_of("START", "ARGS", "ARGS", "END")
        event = {"type": f"TOOL_CALL_{act}", "toolCallId": self.one_of(*IDS), **self.tag()}
        if act == "ARGS":
            event["delta"] = self.one_of('{"a":', "1", "}", "")
        if act == "START":
            event["toolCallName"] = self.one_of("look", "think")
            event |= {"parentMessageId": self.one_of(*IDS)} if self.is_heads() else {}
        return event

    def reasoning(self) -> Event:
        act = self.one_of("START", "END", "MESSAGE_START", "MESSAGE_CONTENT", "MESSAGE_END")
        event = {"type": f"REASONING_{act}", "messageId": self.one_of(*IDS), **self.tag()}
        if act == "MESSAGE_CONTENT":
            event["delta"] = self.one_of(*WORDS)
        return event | ({"role": "reasoning"} if act == "MESSAGE_START" else {})

    def step(self) -> Event:
        act = self.one_of("STARTED", "FINISHED")
        return {"type": f"STEP_{act}", "stepName": self.one_of(*IDS), **self.tag()}

    def subagent(self) -> Event:
        act = self.one_of("STARTED", "STARTED", "FINISHED", "ERROR")
        event = {"type": f"SUBAGENT_{act}", "subagentRunId": self.one_of("s", "u")}
        if act == "STARTED":
            return event | {"name": "n"} | self.maybe(parentSubagentRunId=self.one_of("s", "u"))
        if act == "ERROR":
            return event | {"message": "m"} | self.maybe(code="c")
        return event | self.maybe(outcome={"type": self.one_of("success", "suspended")})

    def result(self) -> Event:
        parts = [{"type": "text", "text": "part"}]
        return {
            "type": "TOOL_CALL_RESULT",
            "messageId": self.one_of(*IDS, "r1", "r2"),
            "toolCallId": self.one_of(*IDS),
            "content": self.one_of("", "4", "é", parts),
            **self.tag(),
        }

    def activity(self) -> Event:
        event = {"messageId": self.one_of(*IDS, "plan"), "activityType": self.one_of("p", "q")}
        if self.is_heads():
            snapshot = {"type": "ACTIVITY_SNAPSHOT", **event, "content": deepcopy(CONTENT)}
            return snapshot | self.maybe(replace=self.is_heads()) | self.tag()
        patch = [self.change() for _ in range(self.random.randint(0, 3))]
        return {"type": "ACTIVITY_DELTA", **event, "patch": patch, **self.tag()}

    def change(self) -> Event:
        """Draw a step of a JSON patch, which may or may not fit."""
        kind, path = self.one_of("add", "replace", "remove", "move", "copy", "test"), POINTERS
        step = {"op": kind, "path": self.one_of(*path)}
        if kind in {"add", "replace", "test"}:
            step["value"] = self.one_of(*VALUES, *CONTENT.values())
        return step | ({"from": self.one_of(*path)} if kind in {"move", "copy"} else {})

    def encrypted(self) -> Event:
        subtype = self.one_of("message", "tool-call")
        event = {"entityId": self.one_of(*IDS), "subtype": subtype, "encryptedValue": "sealed"}
        return {"type": "REASONING_ENCRYPTED_VALUE", **event, **self.tag()}

    def state(self) -> Event:
        value = self.one_of(*VALUES)
        return deepcopy(self.one_of(
            {"type": "STATE_SNAPSHOT", "snapshot": value, **self.tag()},
            {"type": "STATE_DELTA", "delta": [self.change()], **self.tag()},
            {"type": "CUSTOM", "name": self.one_of("", "own"), "value": value, **self.tag()},
            {"type": "RAW", "event": value, "source": "afar", **self.tag()},
            {"type": "MESSAGES_SNAPSHOT", "messages": [QUESTION, *self.messages()]},
        ))  # fmt: skip

    def messages(self) -> Iterator[Event]:
        """Draw some of the messages that a conversation may hold; each id once."""
        for message_id in self.random.sample(IDS, self.random.randint(0, 3)):
            call = {"name": "look", "arguments": "{"}
            calls = [{"id": self.one_of(*IDS), "type": "function", "function": call}]
            yield deepcopy({"id": message_id, **self.one_of(
                {"role": "assistant", "content": "said", **self.maybe(toolCalls=calls)},
                {"role": "assistant", "toolCalls": calls},
                {"role": "user", "content": [{"type": "text", "text": "part"}]},
                {"role": "tool", "toolCallId": "a", "content": "4"},
                {"role": "reasoning", "content": "hm"},
                {"role": "activity", "activityType": "p", "content": CONTENT},
            ), **self.tag()})  # fmt: skip

    def chunk(self) -> Event:
        """Draw one of the shorthands, which may leave its id away."""
        kind = self.one_of("TEXT_MESSAGE", "TEXT_MESSAGE", "TOOL_CALL", "REASONING_MESSAGE")
        event = {"type": f"{kind}_CHUNK", **self.tag()}
        key = "toolCallId" if kind == "TOOL_CALL" else "messageId"
        event |= {key: self.one_of(*IDS)} if self.random.random() < 0.6 else {}
        event |= {"delta": self.one_of(*WORDS)} if self.random.random() < 0.8 else {}
        if kind == "TOOL_CALL" and key in event:
            event |= {"toolCallName": "look"} | self.maybe(parentMessageId=self.one_of(*IDS))
        return event | (self.maybe(role="user", name="Ann") if kind == "TEXT_MESSAGE" else {})


# --- whole streams -------------------------------------------------------------------------------


def legal_stream(random: Random, *, most: int = 24) -> list[Event]:
    """Return events that the client's rules allow, in an order that they allow."""
    dice, verifier, stream = Dice(random), Verifier(), list[Event]()
    for _ in range(random.randint(0, most * 3)):
        event = dice.event()
        try:
            verifier.take(event)
        except IllegalStreamError:
            continue
        stream.append(event)
        if len(stream) == most:
            break
    return stream


def stream_that(
    is_fine: Callable[[Sequence[Event]], bool], random: Random, *, most: int = 14
) -> list[Event]:
    """Return a stream, shorthand included, that `is_fine` after each of its events."""
    dice, stream = Dice(random), list[Event]()
    for _ in range(most * 3):
        event = dice.event(chunks=True)
        if len(stream) < most and is_fine([*stream, event]):
            stream.append(event)
    return stream


def any_stream(random: Random, *, most: int = 6) -> list[Event]:
    """Return events that each are fine, in an order that may be anything."""
    dice = Dice(random)
    return [dice.event(chunks=True) for _ in range(random.randint(1, most))]


# --- what breaks a stream ------------------------------------------------------------------------

Fault = Callable[[Random], tuple[Sequence[object], object]]
"""Draws what is still fine, and the value that is not."""

_REQUIRED: Final[dict[str, Event]] = {
    "TEXT_MESSAGE_START": {"messageId": "new"},
    "TEXT_MESSAGE_CONTENT": {"messageId": "new", "delta": "x"},
    "TEXT_MESSAGE_END": {"messageId": "new"},
    "TOOL_CALL_START": {"toolCallId": "new", "toolCallName": "look"},
    "TOOL_CALL_ARGS": {"toolCallId": "new", "delta": "x"},
    "TOOL_CALL_END": {"toolCallId": "new"},
    "TOOL_CALL_RESULT": {"messageId": "new", "toolCallId": "new", "content": "4"},
    "STATE_DELTA": {"delta": []},
    "MESSAGES_SNAPSHOT": {"messages": []},
    "ACTIVITY_SNAPSHOT": {"messageId": "new", "activityType": "p", "content": {}},
    "ACTIVITY_DELTA": {"messageId": "new", "activityType": "p", "patch": []},
    "CUSTOM": {"name": "own", "value": 1},
    "RAW": {"event": 1},
    "STEP_STARTED": {"stepName": "new"},
    "STEP_FINISHED": {"stepName": "new"},
    "REASONING_START": {"messageId": "new"},
    "REASONING_MESSAGE_START": {"messageId": "new", "role": "reasoning"},
    "REASONING_MESSAGE_CONTENT": {"messageId": "new", "delta": "x"},
    "REASONING_MESSAGE_END": {"messageId": "new"},
    "REASONING_END": {"messageId": "new"},
    "REASONING_ENCRYPTED_VALUE": {"entityId": "a", "subtype": "message", "encryptedValue": "x"},
    "SUBAGENT_STARTED": {"subagentRunId": "new", "name": "n"},
    "SUBAGENT_FINISHED": {"subagentRunId": "new"},
    "SUBAGENT_ERROR": {"subagentRunId": "new", "message": "m"},
    "RUN_FINISHED": {"threadId": OWN_THREAD, "runId": OWN_RUN},
    "RUN_ERROR": {"message": "m"},
}
_SPANS: Final = (
    ("TEXT_MESSAGE_START", "TEXT_MESSAGE_CONTENT", "TEXT_MESSAGE_END"),
    ("TOOL_CALL_START", "TOOL_CALL_ARGS", "TOOL_CALL_END"),
    ("REASONING_START", "REASONING_END", "REASONING_END"),
    ("REASONING_MESSAGE_START", "REASONING_MESSAGE_CONTENT", "REASONING_MESSAGE_END"),
    ("STEP_STARTED", "STEP_FINISHED", "STEP_FINISHED"),
    ("SUBAGENT_STARTED", "SUBAGENT_FINISHED", "SUBAGENT_ERROR"),
)
_NO_TEXT: Final[Sequence[object]] = (None, 5, True, [], {}, b"x", ["x"])


def _event(kind: str, **more: object) -> Event:
    return {"type": kind, **deepcopy(_REQUIRED.get(kind, {})), **more}


def nothing_was_opened(random: Random) -> tuple[Sequence[object], object]:
    _, fill, end = random.choice(_SPANS)
    return [], _event(random.choice([fill, end]))


def opened_twice(random: Random) -> tuple[Sequence[object], object]:
    start, _, _ = random.choice(_SPANS)
    return [_event(start)], _event(start)


def after_its_end(random: Random) -> tuple[Sequence[object], object]:
    start, fill, end = random.choice(_SPANS)
    return [_event(start), _event(end)], _event(random.choice([fill, end]))


def another_owner(random: Random) -> tuple[Sequence[object], object]:
    start, fill, end = random.choice(_SPANS[:-1])  # not of a subagent, which is its own
    owner = random.choice([{}, {"subagentRunId": "s"}])
    return [_event(start, **owner)], _event(random.choice([fill, end]), subagentRunId="other")


def spent_subagent(random: Random) -> tuple[Sequence[object], object]:
    end = random.choice(["SUBAGENT_FINISHED", "SUBAGENT_ERROR"])
    return [_event("SUBAGENT_STARTED"), _event(end)], _event("SUBAGENT_STARTED")


def unknown_parent(random: Random) -> tuple[Sequence[object], object]:
    parent = random.choice(["nobody", "new"])
    return [], _event("SUBAGENT_STARTED", parentSubagentRunId=parent)


def chunk_of_nothing(random: Random) -> tuple[Sequence[object], object]:
    kind = random.choice(["TEXT_MESSAGE", "TOOL_CALL", "REASONING_MESSAGE"])
    if kind == "TOOL_CALL" and random.random() < 0.5:
        return [], {"type": "TOOL_CALL_CHUNK", "toolCallId": "new", "delta": "x"}
    return [], {"type": f"{kind}_CHUNK", "delta": "x"}


def chunk_that_contradicts(random: Random) -> tuple[Sequence[object], object]:
    first: Event = {"type": "TEXT_MESSAGE_CHUNK", "messageId": "new", "delta": "x"}
    call: Event = {"type": "TOOL_CALL_CHUNK", "toolCallId": "new", "toolCallName": "look"}
    wrong = [(first, {"role": "user"}), (first, {"name": "Ann"}), (first, {"subagentRunId": "s"}),
             (call, {"toolCallName": "think"}), (call, {"parentMessageId": "a"})]  # fmt: skip
    begun, contradiction = random.choice(wrong)
    return [begun], begun | contradiction


def another_run(random: Random) -> tuple[Sequence[object], object]:
    name = random.choice(["threadId", "runId"])
    kind = random.choice(["RUN_STARTED", "RUN_FINISHED", "CUSTOM", "STATE_SNAPSHOT"])
    own: Event = {"threadId": OWN_THREAD, "runId": OWN_RUN} if kind.startswith("RUN") else {}
    return [], _event(kind, snapshot=1, **own | {name: random.choice(["foreign", ""])})


def no_type_that_may_come(random: Random) -> tuple[Sequence[object], object]:
    kind: object = random.choice([
        "THINKING_TEXT_MESSAGE_CONTENT", "THINKING_TEXT_MESSAGE_END", "THINKING_END",
        None, 5, [], {},
    ])  # fmt: skip
    return [], {"type": kind, "messageId": "new", "delta": "x"}


def field_missing(random: Random) -> tuple[Sequence[object], object]:
    kind = random.choice([kind for kind in _REQUIRED if kind != "REASONING_MESSAGE_START"])
    event = _event(kind)
    del event[random.choice(list(_REQUIRED[kind]))]
    if random.random() < 0.1:
        del event["type"]
    return [], event


def field_of_another_type(random: Random) -> tuple[Sequence[object], object]:
    kind = random.choice([kind for kind in _REQUIRED if kind != "RAW"])
    names = [name for name in _REQUIRED[kind] if (kind, name) != ("CUSTOM", "value")]
    name = random.choice(names)
    right = type(_REQUIRED[kind][name])
    also = {list} if (kind, name) == ("TOOL_CALL_RESULT", "content") else set()
    wrong = [value for value in _NO_TEXT if type(value) not in {right, *also}]
    if right is str:  # bytes of text are text to pydantic, and the log has text
        wrong.remove(b"x")
    return [], _event(kind) | {name: random.choice(wrong)}


def option_of_another_type(random: Random) -> tuple[Sequence[object], object]:
    wrong = random.choice([
        _event("TEXT_MESSAGE_START", role="tool"), _event("TEXT_MESSAGE_START", name=5),
        _event("TEXT_MESSAGE_START", metadata=[]), _event("TEXT_MESSAGE_START", timestamp="soon"),
        _event("TEXT_MESSAGE_START", timestamp=2**60), _event("TOOL_CALL_START", parentMessageId=5),
        _event("CUSTOM", subagentRunId=5), _event("ACTIVITY_SNAPSHOT", replace="perhaps"),
        _event("REASONING_ENCRYPTED_VALUE", subtype="other"),
        _event("STATE_DELTA", delta=[{"op": "add", "path": "n", "value": 1}]),
        _event("MESSAGES_SNAPSHOT", messages=[{"id": "a", "role": "user"}]),
        _event("SUBAGENT_FINISHED", outcome={"type": "other"}),
    ])  # fmt: skip
    return [], wrong


def no_event(random: Random) -> tuple[Sequence[object], object]:
    return [], random.choice([None, 5, b"x", ["x"], ("x",), object(), ValueError("x"), True, 1.5])


def _endless() -> object:
    endless: list[object] = []
    endless.append(endless)
    return endless


def _deep(depth: int) -> object:
    value: object = 1
    for _ in range(depth):
        value = [value]
    return value


def _no_json(random: Random) -> object:
    return random.choice([
        float("nan"), float("inf"), {1, 2}, b"x", object(), {("a", "b"): 1},
        dt.datetime(2024, 1, 1, tzinfo=dt.UTC), 1j, _endless(), _deep(5000),
        10**5000, range(3), ValueError("x"),
    ])  # fmt: skip


def what_json_cannot_say(random: Random) -> tuple[Sequence[object], object]:
    """Draw it where it opens something, too: what was never written has no end to be written."""
    kinds = [kind for kind in _REQUIRED if kind != "RUN_ERROR"]  # its text never leaves the process
    value, kind = _no_json(random), random.choice([*kinds, "TEXT_MESSAGE_CHUNK"])
    before = {act: start for start, *acts in _SPANS for act in acts}
    prefix = [_event(before[kind])] if kind in before else []
    if kind in {"CUSTOM", "RAW"} and random.random() < 0.5:
        return [], _event(kind) | {"value" if kind == "CUSTOM" else "event": value}
    if kind == "TEXT_MESSAGE_CHUNK":
        return [], {"type": kind, "messageId": "new", "metadata": {"x": value}}
    return prefix, _event(kind, metadata={"x": value})


def half_an_id(random: Random) -> tuple[Sequence[object], object]:
    event = random.choice([
        _event("TEXT_MESSAGE_START", messageId="\udc00"),
        _event("SUBAGENT_STARTED", subagentRunId="\ud800"),
        _event("TOOL_CALL_RESULT", toolCallId="c\ud83d"),
        {"type": "TEXT_MESSAGE_CHUNK", "messageId": "new\ud800", "delta": "x"},
    ])  # fmt: skip
    return [], event


def too_large(random: Random) -> tuple[Sequence[object], object]:
    much = "x" * EVENT_BYTES
    event = random.choice([
        _event("CUSTOM", value=much), _event("TEXT_MESSAGE_START", messageId=much),
        _event("STEP_STARTED", stepName=much), _event("RAW", event=much),
        _event("TOOL_CALL_START", toolCallName=much),
        _event("STATE_SNAPSHOT", snapshot=["é" * (EVENT_BYTES // 2)]),
    ])  # fmt: skip
    return [], event


FAULTS: Final[dict[str, Fault]] = {
    fault.__name__.replace("_", " "): fault
    for fault in (
        nothing_was_opened, opened_twice, after_its_end, another_owner, spent_subagent,
        unknown_parent, chunk_of_nothing, chunk_that_contradicts, another_run,
        no_type_that_may_come, field_missing, field_of_another_type, option_of_another_type,
        no_event, what_json_cannot_say, half_an_id, too_large,
    )
}  # fmt: skip
