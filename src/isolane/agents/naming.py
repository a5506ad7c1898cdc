"""The two sets of ids of a run, the client's and the agent's, and the exchange between them."""

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
"""The fields of an event that name a run, in the order of `RunIds`."""
_OWN: Final = frozenset({"threadId", "runId"})
"""Fields in which an event may name only its own thread and run."""
_TOUCHED: Final = frozenset({*_FIELDS, "rawEvent", "event"})
"""Fields that may hold an id. Most events have none of them and stay unchanged."""


@dataclass(frozen=True, slots=True)
class Naming:
    """The ids by which the client and the agent know one run."""

    client: RunIds
    agent: RunIds
    """The agent's ids; equal to the client's when the agent asked for those."""

    def to_client(self, event: Event) -> Event:
        """Return an agent's event with the client's ids; the event may use either set.

        Ids are exchanged in the fields that name a run, and inside data of the framework:
        `rawEvent`, and the `event` of a RAW event. Everything else stays: texts, states, values,
        and the ids of messages, calls and interrupts. A client may send them back, and the agent
        then looks for its own words.

        Raises:
            AgentProtocolError: The event names another thread or run.
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
        """Return pairs of an agent's id and the client's id for it."""
        both = zip(self.agent, self.client, strict=True)
        return [(given, own) for given, own in both if given and own and given != own]


def _exchanged(said: Any, pairs: Sequence[tuple[str, str]]) -> Any:  # noqa: ANN401 - any JSON value
    """Return `said` with every id exchanged, as the JSON value that the log would hold."""
    if not pairs or not _may_hold(said, pairs):
        return said
    try:
        text = json.dumps(said, allow_nan=False, ensure_ascii=False)
        for given, own in pairs:
            text = text.replace(given, json.dumps(own)[1:-1])
        return json.loads(text)
    # a value that is no JSON is refused later, where it is encoded
    except (TypeError, ValueError, RecursionError):
        return said


def _may_hold(said: object, pairs: Sequence[tuple[str, str]]) -> bool:
    """Say whether `said` may contain an id; most data of frameworks has none."""
    try:
        encoded = msgspec.json.encode(said)
    # the slower encoder decides about such values
    except (TypeError, ValueError, RecursionError, OverflowError):
        return True
    return any(given.encode() in encoded for given, _ in pairs)
