"""Event streams over HTTP, cut into events."""

from __future__ import annotations

import json

from isolane.context import EventId
from isolane.doors.answers import PIECE_BYTES
from isolane.doors.framing import JSON_LINES, SERVER_SENT, Framing, in_pieces, rebuilding

EMPTY_WORD = "TEXT_MESSAGE_CONTENT"


def framed(framing: Framing, *kinds: str) -> list[bytes]:
    frame = rebuilding(framing).frame
    return [
        frame(EventId("e", number), b'{"type":"%b"}' % kind.encode())
        for number, kind in enumerate(kinds, start=1)
    ]


def types_of(frames: list[bytes]) -> list[tuple[str | None, str]]:
    lines = [json.loads(line) for line in b"".join(frames).splitlines()]
    return [(line.get("id"), line.get("chunk", line)["type"]) for line in lines]


def test_an_empty_word_comes_before_the_first_thought() -> None:
    thought = "REASONING_MESSAGE_CONTENT"
    frames = framed(JSON_LINES, "RUN_STARTED", thought, thought)
    kinds = [("e-1", "RUN_STARTED"), (None, EMPTY_WORD), ("e-2", thought), ("e-3", thought)]
    assert types_of(frames) == kinds
    assert framed(SERVER_SENT, thought)[0].startswith(b'data: {"type":"TEXT_MESSAGE_CONTENT"')


def test_words_and_calls_need_no_empty_word() -> None:
    for first in ("TEXT_MESSAGE_START", "TOOL_CALL_START", "MESSAGES_SNAPSHOT"):
        kinds = [first, "REASONING_MESSAGE_CONTENT"]
        assert [kind for _, kind in types_of(framed(JSON_LINES, *kinds))] == kinds


def test_events_are_joined_to_pieces() -> None:
    large, half = b"x" * (PIECE_BYTES + 1), b"y" * (PIECE_BYTES // 2)
    assert list(in_pieces([b"a", b"", b"b"])) == [b"ab"]
    assert list(in_pieces([b"a", large, b"b"])) == [b"a", large, b"b"]
    assert list(in_pieces([half] * 3)) == [half * 2, half]
    assert list(in_pieces([])) == list(in_pieces([b""])) == []
