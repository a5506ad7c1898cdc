"""Formats of an event stream over HTTP: server-sent events, or JSON lines."""

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
    """A format that turns events into bytes."""

    media_type: str
    beat: bytes
    """Bytes that show on a quiet connection that it is alive; readers skip them."""
    frame: Callable[[EventId | None, bytes], bytes]
    """Returns the bytes of an event from its JSON, and from its id when it is in a log."""


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
    """Yield encoded events joined to pieces of 64 KiB; a larger event is a piece of its own.

    Each piece costs a pass of the server, which is more than encoding an event.
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
    """Return the format that the reader accepts: JSON lines when `Accept` names only those."""
    ranges = ",".join(request.headers.getlist("accept")).lower().split(",")
    named = {each.partition(";")[0].strip() for each in ranges}
    wants_lines = JSON_LINES.media_type in named and SERVER_SENT.media_type not in named
    return JSON_LINES if wants_lines else SERVER_SENT


class _Type(msgspec.Struct):
    """The one field that tells an event's type."""

    type: str


class _Rebuilding:
    """Encodes a run's events for a client that builds its answer anew.

    TanStack AI 0.33.2 takes the last message for the beginning of this answer. It drops that
    message at the first event of `_REBUILD`. A thought is no such event: the client begins its
    answer with the thought, and then drops the thought's message, so that no word of the run is
    ever shown. An empty word before the first thought makes it drop the old message first.
    """

    def __init__(self, frame: Callable[[EventId | None, bytes], bytes]) -> None:
        self._frame = frame
        self._is_rebuilt = False

    def __call__(self, event_id: EventId | None, payload: bytes) -> bytes:
        """Return the bytes of an event, after those of an empty word where one is needed."""
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
"""Event with an empty word. The client takes the first id of a text as the id of its message."""


def rebuilding(framing: Framing) -> Framing:
    """Return a framing for one stream that begins at the first event of its run."""
    return replace(framing, frame=_Rebuilding(framing.frame))
