"""The short road of plain pieces: of one message or call, while nothing else is written."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from isolane.events.event import Event
from isolane.events.fitting import FILLS, Fitting
from isolane.events.transcript import Transcript


class Road(NamedTuple):
    """A road that is open. The checks of the first piece hold for all that follow."""

    kind: str
    id: str
    head: bytes
    """The event as JSON, up to its text."""
    characters_max: int
    """Characters that surely fit into an event."""
    add: Callable[[str], None]
    """Adds a text to what the run's messages add up to."""


def is_plain_piece(event: Event) -> bool:
    """Say whether an event has only its type, its message or call, and a text for that."""
    key = FILLS.get(event["type"])
    return key is not None and event.keys() == {"type", key, "delta"}


def open_road(kind: str, thing_id: str, transcript: Transcript, fitting: Fitting) -> Road | None:
    """Return the road of what a plain piece was written of; None where pieces need a look."""
    add = transcript.get_adder(kind, thing_id)
    characters_max = fitting.get_room(kind, thing_id)
    if add is None or characters_max < 1:
        return None
    empty = msgspec.json.encode({"type": kind, FILLS[kind]: thing_id, "delta": ""})
    return Road(kind, thing_id, empty.removesuffix(b'""}'), characters_max, add)
