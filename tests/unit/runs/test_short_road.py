"""Plain pieces of a message take a short road, on which all is as on the long one."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from itertools import chain
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.house import key_of

from isolane.context import EventId
from isolane.contracts import BatchSource, RunLease
from isolane.errors import IsolaneError
from isolane.events.event import Event, Record, decode_event
from isolane.runs.writer import RunWriter
from isolane.tasks import TaskOwner

KEY = key_of()
LEASE = RunLease(KEY, "r", "epoch", 1, 1, 1)
EVENT_MAX_BYTES = 600
IDS = st.sampled_from(("m", "n"))
TEXTS = st.one_of(
    st.sampled_from(("", "a", "word ", "\ud83d", "\ude00", "\U0001f600", "é", "\x00", '"\\')),
    st.integers(1, 400).map("x".__mul__),
)
"""Texts, some of which end in half a character or don't fit into one event."""
KINDS = {
    "TEXT_MESSAGE_CONTENT": "messageId",
    "REASONING_MESSAGE_CONTENT": "messageId",
    "TOOL_CALL_ARGS": "toolCallId",
}


def event(kind: str, **fields: object) -> Event:
    return {"type": kind, **fields}


def piece(kind: str, thing_id: str, text: str, **more: object) -> Event:
    return event(kind, **{KINDS[kind]: thing_id}, delta=text, **more)


def say(kind: str, thing_id: str, texts: list[str]) -> list[Event]:
    return [piece(kind, thing_id, text) for text in texts]


OPENED = [
    event("TEXT_MESSAGE_START", messageId="m", role="assistant"),
    event("TOOL_CALL_START", toolCallId="m", toolCallName="f"),
    event("REASONING_MESSAGE_START", messageId="n", role="reasoning"),
]
PIECES = st.builds(
    say,
    st.sampled_from(("TEXT_MESSAGE_CONTENT", "TEXT_MESSAGE_CONTENT", *KINDS)),
    st.sampled_from(("m", "m", "n")),
    st.lists(TEXTS, min_size=2, max_size=5),
)
OTHERS = st.one_of(
    st.builds(piece, st.sampled_from(tuple(KINDS)), IDS, TEXTS, metadata=st.just({"a": 1})),
    st.builds(piece, st.sampled_from(tuple(KINDS)), IDS, TEXTS, subagentRunId=st.just("s")),
    IDS.map(lambda one: event("TEXT_MESSAGE_START", messageId=one, role="assistant")),
    IDS.map(lambda one: event("TEXT_MESSAGE_END", messageId=one)),
    IDS.map(lambda one: event("REASONING_MESSAGE_START", messageId=one, role="reasoning")),
    IDS.map(lambda one: event("REASONING_MESSAGE_END", messageId=one)),
    IDS.map(lambda one: event("TOOL_CALL_START", toolCallId=one, toolCallName="f")),
    IDS.map(lambda one: event("TOOL_CALL_END", toolCallId=one)),
    st.builds(lambda i, t: event("TEXT_MESSAGE_CHUNK", messageId=i, delta=t), IDS, TEXTS),
    IDS.map(
        lambda one: event(
            "ACTIVITY_SNAPSHOT", messageId=one, activityType="a", content={}, replace=True
        )
    ),
    IDS.map(
        lambda one: event(
            "MESSAGES_SNAPSHOT", messages=[{"id": one, "role": "assistant", "content": "said"}]
        )
    ),
    st.just(event("CUSTOM", name="n", value=1)),
)
SCRIPTS = st.lists(st.one_of(PIECES, PIECES, OTHERS.map(lambda one: [one])), max_size=15).map(
    lambda parts: [*OPENED, *chain.from_iterable(parts)]
)


class Ledger:
    """A feed whose log commits at once."""

    def __init__(self) -> None:
        self.payloads: list[bytes] = []

    def commit_soon(self, source: BatchSource) -> None:
        batch = source.take_batch()
        assert batch is not None
        first = len(self.payloads) + 1
        self.payloads += batch.payloads
        source.settle(
            [
                Record(KEY, EventId("epoch", number), "r", payload)
                for number, payload in enumerate(batch.payloads, first)
            ]
        )

    def announce(self, *_: object) -> None:
        """Nobody follows."""


def complete(work: Coroutine[Any, Any, None]) -> None:
    """Run what never has to wait."""
    try:
        work.send(None)
    except StopIteration:
        return
    raise AssertionError("it waits")


def play(script: Sequence[Event], *, is_short: bool) -> tuple[object, int]:
    """Write a script; return all that came of it, and how many pieces took the short road."""
    ledger, taken = Ledger(), 0
    feed: Any = ledger
    writer = RunWriter(
        feed,
        KEY,
        "r",
        lease=LEASE,
        known_ids=[],
        event_max_bytes=EVENT_MAX_BYTES,
        tasks=TaskOwner(),
        clock=lambda: 0,
    )
    short = writer.write_piece

    def write_piece(kind: str, thing_id: str, text: str) -> bool:
        nonlocal taken
        is_taken = is_short and short(kind, thing_id, text)
        taken += is_taken
        return is_taken

    hidden: Any = writer
    hidden.write_piece = write_piece
    refused: list[str | None] = []
    for each in script:
        try:
            complete(writer.write(each))
        except IsolaneError as error:
            refused.append(str(error))
        else:
            refused.append(None)
    writer._close_open()
    events = [decode_event(payload) for payload in ledger.payloads]
    return (refused, events, writer._transcript.messages()), taken


@settings(max_examples=500)
@given(SCRIPTS)
def test_whatever_comes_is_written_as_on_the_long_road(script: list[Event]) -> None:
    assert play(script, is_short=True)[0] == play(script, is_short=False)[0]


def test_the_second_of_plain_pieces_takes_the_short_road() -> None:
    for kind, start in (
        ("TEXT_MESSAGE_CONTENT", event("TEXT_MESSAGE_START", messageId="m", role="assistant")),
        ("TOOL_CALL_ARGS", event("TOOL_CALL_START", toolCallId="m", toolCallName="f")),
    ):
        script = [start, *(piece(kind, "m", text) for text in ("a", "é", "\U0001f600"))]
        assert play(script, is_short=True)[1] == len(script) - 2


def test_the_road_ends_where_anything_else_is_written() -> None:
    start = event("TEXT_MESSAGE_START", messageId="m", role="assistant")
    plain = piece("TEXT_MESSAGE_CONTENT", "m", "a")
    other = event("CUSTOM", name="n", value=1)
    assert play([start, plain, plain, other, plain, plain], is_short=True)[1] == 2
