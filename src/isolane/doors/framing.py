"""How an event stream over HTTP is cut into events: server-sent events, or JSON lines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final

import msgspec
from starlette.requests import Request

from isolane.context import EventId
from isolane.doors.answers import PIECE_BYTES
from isolane.events.event import one_line


@dataclass(frozen=True, slots=True)
class Framing:
    """Makes bytes of events."""

    media_type: str
    beat: bytes
    """Shows on a quiet line that it is alive; readers skip it."""
    frame: Callable[[EventId | None, bytes], bytes]
    """Returns the bytes of an event, given its JSON, and its id where it is of a log."""


def _as_event(event_id: EventId | None, payload: bytes) -> bytes:
    data = b"data: %b\n\n" % one_line(payload)
    return data if event_id is None else b"id: %b\n%b" % (str(event_id).encode(), data)


def _as_line(event_id: EventId | None, payload: bytes) -> bytes:
    data = one_line(payload)
    if event_id is None:
        return data + b"\n"
    return b'{"id":"%b","chunk":%b}\n' % (str(event_id).encode(), data)


SERVER_SENT: Final = Framing("text/event-stream", b": ping\n\n", _as_event)
JSON_LINES: Final = Framing("application/x-ndjson", b"\n", _as_line)


def in_pieces(framed: Iterable[bytes]) -> Iterator[bytes]:
    """Yield framed events joined to pieces of 64 KiB; one that has more is a piece of its own.

    Each piece takes a pass of the server, which costs more than to make an event.
    """
    waiting: list[bytes] = []
    size = 0
    for each in framed:
        if waiting and size + len(each) > PIECE_BYTES:
            yield b"".join(waiting)
            waiting, size = [], 0
        waiting.append(each)
        size += len(each)
    if size:
        yield b"".join(waiting)


def framing_of(request: Request) -> Framing:
    """Return what the reader asks for in `Accept`: JSON lines where it names only those."""
    ranges = ",".join(request.headers.getlist("accept")).lower().split(",")
    named = {each.partition(";")[0].strip() for each in ranges}
    wants_lines = JSON_LINES.media_type in named and SERVER_SENT.media_type not in named
    return JSON_LINES if wants_lines else SERVER_SENT


class _Type(msgspec.Struct):
    """As much of an event as tells what it is."""

    type: str


class _Rebuilding:
    """Makes bytes of a run's events for a client that builds its answer anew.

    TanStack AI's (0.33.2) takes the message that stands last for the beginning of that answer, and
    drops it with the first event of `_REBUILD`. A thought is none of these: the client begins the
    answer with it, and then drops that, so that no word of the run is ever shown. An empty word
    before the first thought makes it drop what it means to.
    """

    def __init__(self, frame: Callable[[EventId | None, bytes], bytes]) -> None:
        self._frame = frame
        self._is_rebuilt = False

    def __call__(self, event_id: EventId | None, payload: bytes) -> bytes:
        """Return the bytes of an event, behind those of an empty word where it needs one."""
        framed = self._frame(event_id, payload)
        if self._is_rebuilt:
            return framed
        kind = msgspec.json.decode(payload, type=_Type).type
        self._is_rebuilt = kind in _REBUILD or kind in _THOUGHTS
        return self._frame(None, _EMPTY_WORD) + framed if kind in _THOUGHTS else framed


_REBUILD: Final = frozenset(
    {"TEXT_MESSAGE_START", "TEXT_MESSAGE_CONTENT", "TOOL_CALL_START", "MESSAGES_SNAPSHOT"}
)
_THOUGHTS: Final = frozenset({"REASONING_MESSAGE_CONTENT", "REASONING_ENCRYPTED_VALUE"})
_EMPTY_WORD: Final = b'{"type":"TEXT_MESSAGE_CONTENT","messageId":"thought","delta":""}'
"""The client gives the message that it opens the id of what is said in it first."""


def rebuilding(framing: Framing) -> Framing:
    """Return a framing for one stream that begins with the first event of its run."""
    return replace(framing, frame=_Rebuilding(framing.frame))
