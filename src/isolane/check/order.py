"""Checks that envelopes are a whole run in order. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from isolane.check.finding import Broken

Frame = dict[str, Any]
TERMINAL: Final = frozenset({"RUN_FINISHED", "RUN_ERROR"})
_PAIRS: Final[Mapping[str, tuple[str, str]]] = {
    "TEXT_MESSAGE_START": ("TEXT_MESSAGE_END", "messageId"),
    "TOOL_CALL_START": ("TOOL_CALL_END", "toolCallId"),
    "REASONING_START": ("REASONING_END", "messageId"),
    "REASONING_MESSAGE_START": ("REASONING_MESSAGE_END", "messageId"),
    "STEP_STARTED": ("STEP_FINISHED", "stepName"),
}
_CLOSERS: Final = dict(_PAIRS.values())


def is_envelope(frame: Frame) -> bool:
    """Say whether a frame carries an event of a log."""
    return isinstance(frame.get("chunk"), dict)


def is_end_of(frame: Frame, run_id: str) -> bool:
    """Say whether a frame is the envelope of that run's end event."""
    is_its_own = is_envelope(frame) and frame.get("runId") == run_id
    return is_its_own and frame["chunk"].get("type") in TERMINAL


def text_of(envelopes: Sequence[Frame]) -> str:
    """Return the text of the messages in the envelopes."""
    chunks = [frame["chunk"] for frame in envelopes]
    return "".join(c["delta"] for c in chunks if c["type"] == "TEXT_MESSAGE_CONTENT")


def check_run(envelopes: Sequence[Frame], *, thread_id: str, run_id: str, after: str) -> None:
    """Check that the envelopes are all events of one run, the first of them right after `after`.

    Raises:
        Broken: They are not.
    """
    check_owner(envelopes, thread_id=thread_id, run_id=run_id)
    check_sequence([frame["id"] for frame in envelopes], after=after)
    check_life([frame["chunk"] for frame in envelopes])


def check_owner(envelopes: Sequence[Frame], *, thread_id: str, run_id: str) -> None:
    """Check that each envelope belongs to that thread and that run.

    Raises:
        Broken: One does not.
    """
    for frame in envelopes:
        if frame.keys() != {"id", "chunk", "threadId", "runId"}:
            raise Broken(
                "an envelope has other fields",
                came=frame,
                expected="id, chunk, threadId and runId, and nothing else",
            )
        if (frame["threadId"], frame["runId"]) != (thread_id, run_id):
            raise Broken(
                "an envelope of another thread or run came",
                came=frame,
                expected=f"thread {thread_id}, run {run_id}",
            )


def check_sequence(ids: Sequence[str], *, after: str) -> None:
    """Check that each id is the one after the id before it.

    Raises:
        Broken: An id is missing, doubled or out of order.
    """
    last = after
    for event_id in ids:
        # The position before the first entry is the same in every epoch.
        is_next = event_id == _next_of(last) or (_seq_of(last) == 0 and _seq_of(event_id) == 1)
        if not is_next:
            came = f"{event_id} after {last}"
            raise Broken(_misplaced(last, event_id), came=came, expected=_next_of(last))
        last = event_id


def _next_of(event_id: str) -> str:
    return f"{event_id.rpartition('-')[0]}-{_seq_of(event_id) + 1}"


def _seq_of(event_id: str) -> int:
    _, _, seq = event_id.rpartition("-")
    if not seq.isdecimal():
        raise Broken("an id is malformed", came=event_id, expected="<epoch>-<seq>")
    return int(seq)


def _misplaced(last: str, event_id: str) -> str:
    if _seq_of(event_id) <= _seq_of(last):
        return "an event came doubled, or out of order"
    if _seq_of(event_id) > _seq_of(last) + 1:
        return "an event is missing"
    return "the numbering changed within a run"


def check_life(events: Sequence[Frame]) -> None:
    """Check that events begin once, end once, and leave nothing open.

    Raises:
        Broken: They do not.
    """
    types = [event["type"] for event in events]
    if types[:1] != ["RUN_STARTED"] or types.count("RUN_STARTED") != 1:
        raise Broken("a run doesn't begin with its start", came=types, expected="RUN_STARTED first")
    if [kind for kind in types if kind in TERMINAL] != types[-1:]:
        raise Broken(
            "a run doesn't end in one terminal event", came=types, expected="one, as the last event"
        )
    _check_pairs(events)


def _check_pairs(events: Sequence[Frame]) -> None:
    opened: set[tuple[str, str]] = set()
    for event in events:
        kind = event["type"]
        if kind in _PAIRS:
            end, key = _PAIRS[kind]
            opened.add((end, event[key]))
        elif kind in _CLOSERS:
            place = (kind, event[_CLOSERS[kind]])
            if place not in opened:
                raise Broken("something is closed that is not open", came=event)
            opened.remove(place)
    if opened:
        raise Broken(
            "a run ended with something open",
            came=[event["type"] for event in events],
            expected=f"before the end: {sorted(opened)}",
        )
