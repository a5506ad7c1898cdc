"""The ids of a run on both sides: its client's own, and those that its agent is given. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from isolane.context import RunIds
from isolane.errors import AgentProtocolError
from isolane.events.event import Event

_FIELDS: Final = ("threadId", "runId", "parentRunId")
"""The fields that name a run in an event, in the order of `RunIds`."""
_OWN: Final = frozenset({"threadId", "runId"})
"""The fields in which an event may name its own run only."""
_TOUCHED: Final = frozenset({*_FIELDS, "rawEvent", "event"})
"""Without any of these an event is as it was: nearly all of a stream is."""


@dataclass(frozen=True, slots=True)
class Naming:
    """By which ids a client and an agent know one run."""

    client: RunIds
    agent: RunIds
    """The same as the client's where the agent asked for those."""

    def to_client(self, event: Event) -> Event:
        """Return an agent's event with the client's ids, whichever of both it named.

        Exchanged are the fields that name a run, and ids within what a framework said itself:
        `rawEvent`, and the `event` of a RAW. All else stays as it is, for a client may send it back
        and the agent looks for its own words then: texts, states, values, and the ids of messages,
        calls and interrupts.

        Raises `AgentProtocolError` when the event names another thread or run.
        """
        if _TOUCHED.isdisjoint(event):
            return event
        changed: Event = {}
        for field, own, given in zip(_FIELDS, self.client, self.agent, strict=True):
            if field not in event:
                continue
            if event[field] == given:
                changed[field] = own
            elif field in _OWN and event[field] != own:
                raise AgentProtocolError(f"{event['type']} names another {field}")
        for field in ("rawEvent", "event") if event["type"] == "RAW" else ("rawEvent",):
            if event.get(field) is not None:
                changed[field] = _exchanged(event[field], self._pairs())
        return {**event, **changed} if changed else event

    def _pairs(self) -> list[tuple[str, str]]:
        """Return each id that the agent was given, and the client's for it."""
        both = zip(self.agent, self.client, strict=True)
        return [(given, own) for given, own in both if given and own and given != own]


def _exchanged(said: Any, pairs: Sequence[tuple[str, str]]) -> Any:  # noqa: ANN401 - any JSON
    """Return `said` with ids exchanged wherever they stand, as the JSON that a log would hold."""
    if not pairs or not _may_hold(said, pairs):
        return said
    try:
        text = json.dumps(said, allow_nan=False, ensure_ascii=False)
        for given, own in pairs:
            text = text.replace(given, json.dumps(own)[1:-1])
        return json.loads(text)
    except (TypeError, ValueError, RecursionError):  # no JSON: refused where it is encoded
        return said


def _may_hold(said: object, pairs: Sequence[tuple[str, str]]) -> bool:
    """Say whether an id may stand in `said`. A framework says much, and seldom an id."""
    try:
        encoded = msgspec.json.encode(said)
    except (TypeError, ValueError, RecursionError, OverflowError):  # the slower encoder says more
        return True
    return any(given.encode() in encoded for given, _ in pairs)
