"""What the check takes for a run that is whole and in order."""

from __future__ import annotations

from typing import Any

import pytest

from isolane.check.finding import Broken
from isolane.check.order import check_life, check_owner, check_run, check_sequence, text_of

Frame = dict[str, Any]
START: Frame = {"type": "RUN_STARTED"}
END: Frame = {"type": "RUN_FINISHED"}
ERROR: Frame = {"type": "RUN_ERROR"}


def opened(message_id: str = "m") -> Frame:
    return {"type": "TEXT_MESSAGE_START", "messageId": message_id}


def closed(message_id: str = "m") -> Frame:
    return {"type": "TEXT_MESSAGE_END", "messageId": message_id}


def said(text: str) -> Frame:
    return {"type": "TEXT_MESSAGE_CONTENT", "messageId": "m", "delta": text}


def envelope(event_id: str, chunk: Frame, **fields: object) -> Frame:
    return {"id": event_id, "chunk": chunk, "threadId": "t", "runId": "r", **fields}


def test_a_whole_run_holds_and_its_text_is_read() -> None:
    events = [START, opened(), said("a "), said("b"), closed(), END]
    envelopes = [envelope(f"e-{number}", event) for number, event in enumerate(events, 4)]
    check_run(envelopes, thread_id="t", run_id="r", after="e-3")
    assert text_of(envelopes) == "a b"


@pytest.mark.parametrize(
    "ids,after",
    [(["e-1", "e-2"], "e-0"), (["e-8"], "e-7"), (["new-1"], "old-0"), ([], "e-3")],
    ids=["from the start", "from within", "zero is the start of any numbering", "nothing yet"],
)
def test_ids_that_follow_one_another_hold(ids: list[str], after: str) -> None:
    check_sequence(ids, after=after)


@pytest.mark.parametrize(
    "ids,after,what",
    [
        (["e-3", "e-3"], "e-2", "doubled"),
        (["e-2"], "e-2", "doubled"),
        (["e-3", "e-5"], "e-2", "missing"),
        (["e-2"], "e-0", "missing"),
        (["e-4", "e-3"], "e-3", "out of order"),
        (["f-3"], "e-2", "numbering changed"),
        (["e-x"], "e-2", "malformed"),
    ],
)
def test_the_first_id_that_is_not_the_next_one_is_named(
    ids: list[str], after: str, what: str
) -> None:
    with pytest.raises(Broken, match=what):
        check_sequence(ids, after=after)


@pytest.mark.parametrize(
    "events,what",
    [
        ([], "begin"),
        ([END], "begin"),
        ([START, START, END], "begin"),
        ([START], "terminal"),
        ([START, END, ERROR], "terminal"),
        ([START, END, said("late")], "terminal"),
        ([START, opened(), END], "open"),
        ([START, opened("m"), opened("n"), closed("m"), END], "open"),
        ([START, closed(), END], "not open"),
        ([START, {"type": "TOOL_CALL_START", "toolCallId": "c"}, END], "open"),
        ([START, {"type": "STEP_STARTED", "stepName": "s"}, END], "open"),
    ],
)
def test_a_life_that_is_not_whole_is_refused(events: list[Frame], what: str) -> None:
    with pytest.raises(Broken, match=what):
        check_life(events)


def test_a_run_that_failed_ends_once_too() -> None:
    check_life([START, ERROR])


@pytest.mark.parametrize(
    "fields", [{"threadId": "of-another"}, {"runId": "of-another"}, {"type": "envelope"}]
)
def test_an_envelope_of_anything_else_is_refused(fields: Frame) -> None:
    with pytest.raises(Broken):
        check_owner([envelope("e-1", START, **fields)], thread_id="t", run_id="r")
