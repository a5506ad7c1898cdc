"""How an event stream over HTTP is cut into events: server-sent events, or JSON lines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from starlette.requests import Request

from isolane.context import EventId
from isolane.events import one_line


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


def framing_of(request: Request) -> Framing:
    """Return what the reader asks for in `Accept`: JSON lines where it names only those."""
    ranges = ",".join(request.headers.getlist("accept")).lower().split(",")
    named = {each.partition(";")[0].strip() for each in ranges}
    wants_lines = JSON_LINES.media_type in named and SERVER_SENT.media_type not in named
    return JSON_LINES if wants_lines else SERVER_SENT
