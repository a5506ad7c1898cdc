"""The conversation of one connection, without a socket, a clock or a loop."""

from __future__ import annotations

import pytest

from isolane.errors import InvalidCursor, InvalidFrame, InvalidInput
from isolane.wire.dialogue import Command, Dialogue, HangUp, Refuse, Welcome
from isolane.wire.frames import Abort, Ping, Renew, Run, Subscribe, Unsubscribe

# As the protocol says it: twenty of them in ten seconds.
MALFORMED_MAX = 20
MALFORMED_WINDOW_MS = 10_000

HELLO = '{"type":"hello","v":1}'
RUN = '{"threadId":"t","runId":"r","messages":[]}'
CONTROL = {
    Subscribe: '{"type":"subscribe","threadId":"t"}',
    Unsubscribe: '{"type":"unsubscribe","threadId":"t"}',
    Renew: '{"type":"auth","token":"x"}',
    Ping: '{"type":"ping"}',
}


def kinds(commands: list[Command]) -> list[type]:
    return [type(command) for command in commands]


@pytest.mark.parametrize("text", CONTROL.values(), ids=lambda text: str(text)[9:15])
def test_control_frames_come_after_hello(text: str) -> None:
    dialogue = Dialogue()
    (refusal,) = dialogue.receive(text, now_ms=0, has_greeted=False)
    assert isinstance(refusal, Refuse)
    assert isinstance(refusal.error, InvalidFrame)
    assert "hello" in str(refusal.error)


def test_hello_unlocks_them() -> None:
    dialogue = Dialogue()
    assert dialogue.receive(HELLO, now_ms=0, has_greeted=False) == [Welcome()]
    for kind, text in CONTROL.items():
        assert kinds(dialogue.receive(text, now_ms=0, has_greeted=True)) == [kind]


def test_data_frames_need_no_hello() -> None:
    dialogue = Dialogue()
    assert kinds(dialogue.receive(RUN, now_ms=0, has_greeted=False)) == [Run]
    abort = '{"type":"abort","runId":"r"}'
    assert dialogue.receive(abort, now_ms=0, has_greeted=False) == [Abort("r")]


def test_a_second_hello_is_answered_like_the_first() -> None:
    dialogue = Dialogue()
    assert dialogue.receive(HELLO, now_ms=0, has_greeted=True) == [Welcome()]


def test_a_wrong_hello_unlocks_nothing() -> None:
    dialogue = Dialogue()
    wrong = '{"type":"hello","v":2}'
    (refusal,) = dialogue.receive(wrong, now_ms=0, has_greeted=False)
    assert isinstance(refusal, Refuse)
    assert isinstance(refusal.error, InvalidInput)


@pytest.mark.parametrize(
    "text, error",
    [
        ("nonsense", InvalidFrame),
        ('{"threadId":"t","runId":5,"messages":[]}', InvalidInput),
        ('{"type":"subscribe","threadId":"t","after":"?"}', InvalidCursor),
    ],
)
def test_a_malformed_frame_is_refused_and_the_talk_goes_on(
    text: str, error: type[Exception]
) -> None:
    dialogue = Dialogue()
    (refusal,) = dialogue.receive(text, now_ms=0, has_greeted=True)
    assert isinstance(refusal, Refuse)
    assert isinstance(refusal.error, error)
    assert kinds(dialogue.receive(RUN, now_ms=0, has_greeted=True)) == [Run]


def test_twenty_malformed_frames_in_ten_seconds_end_it() -> None:
    dialogue = Dialogue()
    for turn in range(MALFORMED_MAX - 1):
        assert kinds(dialogue.receive("x", now_ms=turn, has_greeted=True)) == [Refuse]
    refusal, end = dialogue.receive("x", now_ms=MALFORMED_WINDOW_MS, has_greeted=True)
    assert isinstance(refusal, Refuse)
    assert isinstance(end, HangUp)
    assert end.code == 1008


def test_twenty_malformed_frames_in_more_than_ten_seconds_do_not() -> None:
    dialogue = Dialogue()
    pace_ms = MALFORMED_WINDOW_MS // (MALFORMED_MAX - 1) + 1
    for turn in range(5 * MALFORMED_MAX):
        assert kinds(dialogue.receive("x", now_ms=turn * pace_ms, has_greeted=True)) == [Refuse]


def test_good_frames_between_do_not_wash_the_bad_ones_away() -> None:
    dialogue = Dialogue()
    for _ in range(MALFORMED_MAX - 1):
        dialogue.receive("x", now_ms=0, has_greeted=True)
        dialogue.receive(RUN, now_ms=0, has_greeted=True)
    assert kinds(dialogue.receive("x", now_ms=0, has_greeted=True)) == [Refuse, HangUp]


def test_what_the_door_finds_wrong_counts_too() -> None:
    dialogue = Dialogue()
    for _ in range(MALFORMED_MAX - 1):
        assert kinds(dialogue.blame(InvalidInput("tools", "x"), now_ms=0)) == [Refuse]
    refusal, _ = dialogue.blame(InvalidCursor("x"), now_ms=0, thread_id="t", run_id="r")
    assert isinstance(refusal, Refuse)
    assert (refusal.thread_id, refusal.run_id) == ("t", "r")
