"""The legal order of a run's events. Pure: no await, no clock.

The gateway writes RUN_STARTED and the end event. This module checks the agent's events between
them. A run may open messages, tool calls, reasoning, steps and subagents. Content goes to something
that is open. Everything that is still open at the run's end is closed. A subagent owns what it
began. Chunk events are written out, so that a log has only starts, contents and ends. The rules are
those of AG-UI 1.0 as `@ag-ui/client` enforces them.
"""

# Long because: one state machine, whose rules for texts and tools close one another.

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from isolane.errors import AgentProtocolError
from isolane.events.event import RUN_STARTED, TERMINAL, Event
from isolane.events.transcript import calls_of


class Span(NamedTuple):
    """A kind of thing that is opened, filled and closed."""

    kind: str
    key: str
    end: str
    realm: str
    """Space of its ids: a reasoning span and its message share one."""


_TEXT: Final = Span("text message", "messageId", "TEXT_MESSAGE_END", "message")
_CALL: Final = Span("tool call", "toolCallId", "TOOL_CALL_END", "toolCall")
_THOUGHT: Final = Span("reasoning span", "messageId", "REASONING_END", "reasoning")
_SAID: Final = Span("reasoning message", "messageId", "REASONING_MESSAGE_END", "reasoning")
_STEP: Final = Span("step", "stepName", "STEP_FINISHED", "step")
_SUBAGENT: Final = Span("subagent", "subagentRunId", "SUBAGENT_FINISHED", "subagent")

_OPENS: Final = {
    "TEXT_MESSAGE_START": _TEXT,
    "TOOL_CALL_START": _CALL,
    "REASONING_START": _THOUGHT,
    "REASONING_MESSAGE_START": _SAID,
    "STEP_STARTED": _STEP,
    "SUBAGENT_STARTED": _SUBAGENT,
}
_FILLS: Final = {
    "TEXT_MESSAGE_CONTENT": _TEXT,
    "TOOL_CALL_ARGS": _CALL,
    "REASONING_MESSAGE_CONTENT": _SAID,
}
_CLOSES: Final = {span.end: span for span in _OPENS.values()} | {"SUBAGENT_ERROR": _SUBAGENT}
_FREE: Final = frozenset(
    {"STATE_SNAPSHOT", "STATE_DELTA", "MESSAGES_SNAPSHOT", "RAW", "CUSTOM"}
    | {"TOOL_CALL_RESULT", "ACTIVITY_SNAPSHOT"}
)
"""Events that may come at any time."""
_KEPT: Final = ("metadata", "rawEvent")
"""Fields of a chunk that its content event keeps."""
_BESIDE_CHUNKS: Final = frozenset(
    {"RAW", "ACTIVITY_SNAPSHOT", "ACTIVITY_DELTA", "REASONING_ENCRYPTED_VALUE", "SUBAGENT_STARTED"}
)
"""Events that may come between two chunks of one message without ending it."""


class Shorthand(NamedTuple):
    """The events that a kind of chunk stands for."""

    span: Span
    start: str
    fill: str
    carried: tuple[str, ...]
    """Fields that the first chunk sets, and that later chunks may only repeat."""


_CHUNKS: Final = {
    "TEXT_MESSAGE_CHUNK": Shorthand(
        _TEXT, "TEXT_MESSAGE_START", "TEXT_MESSAGE_CONTENT", ("role", "name")
    ),
    "TOOL_CALL_CHUNK": Shorthand(
        _CALL, "TOOL_CALL_START", "TOOL_CALL_ARGS", ("toolCallName", "parentMessageId")
    ),
    "REASONING_MESSAGE_CHUNK": Shorthand(
        _SAID, "REASONING_MESSAGE_START", "REASONING_MESSAGE_CONTENT", ()
    ),
}
KINDS: Final = frozenset(
    {*_OPENS, *_FILLS, *_CLOSES, *_FREE, *_CHUNKS, "ACTIVITY_DELTA", "REASONING_ENCRYPTED_VALUE"}
    | {RUN_STARTED, *TERMINAL}
)
"""Every event type that this version knows; a newer AG-UI may describe more."""
_CHUNK_OF: Final = {shorthand.start: shorthand for shorthand in _CHUNKS.values()}


class Place(NamedTuple):
    """One thing that may be open. Only the name of a step is private to its subagent."""

    span: Span
    id: str
    owner: str | None = None


class RunGrammar:
    """The open things of one run and their owners, which decide the next legal event."""

    def __init__(self) -> None:
        """Begin after RUN_STARTED."""
        self._open: dict[Place, None] = {}  # a dictionary, because it keeps the order of opening
        self._owners: dict[tuple[str, str], str | None] = {}
        self._lanes: dict[str | None, Event] = {}
        """Per lane, the start event of the message that chunks began; lanes are the parent and each
        subagent."""
        self._subagents: set[str] = set()

    def accept(self, event: Event) -> Iterator[Event]:
        """Yield the log's events for `event`: the event itself, or what a chunk stands for.

        An event counts only after the next one is requested. So a caller that can't write an event
        stops there, and the event was never said.

        Raises:
            AgentProtocolError: The event may not come now.
        """
        kind = event["type"]
        if kind in _CHUNKS:
            yield from self._spell_out(_CHUNKS[kind], event)
            return
        for lane in self._lanes_ended_by(kind, event) if self._lanes else ():
            yield from self._end_lane(lane)
        yield from self._pass(event)

    def close(self) -> Iterator[Event]:
        """Yield end events for everything that is open, the newest first."""
        self._lanes.clear()
        while self._open:
            place, _ = self._open.popitem()
            yield self._closing(place)

    def _closing(self, place: Place) -> Event:
        """Return the end event of an open thing, with its current owner.

        A snapshot may change owners.
        """
        owner = (
            place.owner if place.span is _STEP else self._owners.get((place.span.realm, place.id))
        )
        event: Event = {"type": place.span.end, place.span.key: place.id}
        return event if owner is None else {**event, "subagentRunId": owner}

    def _pass(self, event: Event) -> Iterator[Event]:
        kind = event["type"]
        self._check(kind, event)
        yield event
        self._note(kind, event)

    # --- checks, which change nothing ------------------------------------------------------------

    def _check(self, kind: str, event: Event) -> None:
        if kind in _OPENS:
            self._check_start(_OPENS[kind], event)
        elif kind in _FILLS:
            self._check_open(_FILLS[kind], event)
        elif kind in _CLOSES:
            self._check_open(_CLOSES[kind], event)
        elif kind == "ACTIVITY_DELTA":
            self._check_owner(event, "activity", event["messageId"])
        elif kind == "REASONING_ENCRYPTED_VALUE":
            self._check_owner(event, self._realm_of(event), event["entityId"])
        elif kind not in _FREE:
            raise AgentProtocolError(f"{kind} is not an agent's to send")

    def _check_start(self, span: Span, event: Event) -> None:
        place = _place(span, event)
        if place in self._open:
            raise AgentProtocolError(f"{event['type']}: {span.kind} {place.id!r} is already open")
        if span is _SUBAGENT:
            self._check_fresh(event, place.id)
        self._starter(span, event, place)

    def _check_fresh(self, event: Event, subagent: str) -> None:
        parent = event.get("parentSubagentRunId")
        if subagent in self._subagents:
            raise AgentProtocolError(f"subagent {subagent!r} was already started in this run")
        if parent is not None and parent not in self._subagents:
            raise AgentProtocolError(f"parent subagent {parent!r} was never started in this run")

    def _starter(self, span: Span, event: Event, place: Place) -> str | None:
        """Return the owner of what `event` opens: the one who opened it first."""
        if span in {_STEP, _SUBAGENT}:
            return event.get("subagentRunId")
        self._check_owner(event, span.realm, place.id)
        owner = self._parent_owner(event) if span is _CALL else event.get("subagentRunId")
        known = self._owners.get((span.realm, place.id), owner)
        if known != owner and owner is not None:
            raise _not_its_own(event, span.kind, place.id)
        return known

    def _parent_owner(self, event: Event) -> str | None:
        """Return the owner of a tool call: its own subagent, or the owner of its message."""
        own, parent = event.get("subagentRunId"), event.get("parentMessageId")
        if ("message", parent) not in self._owners or parent is None:
            return own
        owner = self._owners["message", parent]
        if own is not None and own != owner:
            raise _not_its_own(event, "message", parent)
        known = self._owners.get(("toolCall", event["toolCallId"]), owner)
        if known != owner:
            raise _not_its_own(event, "tool call", event["toolCallId"])
        return owner

    def _check_open(self, span: Span, event: Event) -> None:
        place = _place(span, event)
        if place not in self._open:
            raise AgentProtocolError(f"{event['type']}: no {span.kind} {place.id!r} is open")
        if span not in {_STEP, _SUBAGENT}:
            self._check_owner(event, span.realm, place.id)

    def _check_owner(self, event: Event, realm: str, thing: str) -> None:
        """Check that a thing belongs to the subagent that the event names."""
        own = event.get("subagentRunId")
        if own is not None and self._owners.get((realm, thing), own) != own:
            raise _not_its_own(event, realm, thing)

    def _realm_of(self, event: Event) -> str:
        if event["subtype"] == "tool-call":
            return "toolCall"
        return "message" if ("message", event["entityId"]) in self._owners else "reasoning"

    # --- notes of accepted events ----------------------------------------------------------------

    def _note(self, kind: str, event: Event) -> None:
        if kind in _OPENS:
            self._note_start(_OPENS[kind], event)
        elif kind in _CLOSES:
            del self._open[_place(_CLOSES[kind], event)]
        elif kind == "TOOL_CALL_RESULT":
            self._owners["message", event["messageId"]] = event.get("subagentRunId")
        elif kind == "ACTIVITY_SNAPSHOT":
            self._note_activity(event)
        elif kind == "MESSAGES_SNAPSHOT":
            self._note_messages(event)

    def _note_start(self, span: Span, event: Event) -> None:
        place = _place(span, event)
        if span is _SUBAGENT:
            self._subagents.add(place.id)
        elif span is not _STEP:
            self._owners[span.realm, place.id] = self._starter(span, event, place)
        self._open[place] = None

    def _note_activity(self, event: Event) -> None:
        thing = ("activity", event["messageId"])
        if thing not in self._owners or event.get("replace") is not False:
            self._owners[thing] = event.get("subagentRunId")

    def _note_messages(self, event: Event) -> None:
        for message in event["messages"]:
            owner, role = message.get("subagentRunId"), message["role"]
            realm = role if role in {"reasoning", "activity"} else "message"
            self._owners[realm, message["id"]] = owner
            for call in calls_of(message):
                self._owners["toolCall", call["id"]] = owner

    # --- chunks ----------------------------------------------------------------------------------

    def _spell_out(self, shorthand: Shorthand, event: Event) -> Iterator[Event]:
        lane = self._lane_of(shorthand, event)
        start = self._lanes.get(lane)
        if start is not None and _goes_on(shorthand, start, event):
            yield from self._pass_content(shorthand, start, event, is_first=False)
            return
        yield from self._end_lane(lane)
        start = _spelled_start(shorthand, event)
        yield from self._pass(start)
        self._lanes[lane] = start
        yield from self._pass_content(shorthand, start, event, is_first=True)

    def _pass_content(
        self, shorthand: Shorthand, start: Event, event: Event, *, is_first: bool
    ) -> Iterator[Event]:
        """Yield the chunk's content; an empty delta where only other fields must be kept."""
        says = event.get("delta") is not None or event.get("rawEvent") is not None
        if not says and (is_first or event.get("metadata") is None):
            return
        key = shorthand.span.key
        content = {"type": shorthand.fill, key: start[key], "delta": event.get("delta") or ""}
        yield from self._pass({**content, **_pick(start, "subagentRunId"), **_pick(event, *_KEPT)})

    def _lane_of(self, shorthand: Shorthand, event: Event) -> str | None:
        """Return the lane whose message a chunk continues or begins."""
        own, thing = event.get("subagentRunId"), event.get(shorthand.span.key)
        lanes = [owner for owner, start in self._lanes.items() if start["type"] == shorthand.start]
        if thing is not None:
            key = shorthand.span.key
            return next((owner for owner in lanes if self._lanes[owner][key] == thing), own)
        if own is not None or None in lanes or not lanes:
            return own
        if len(lanes) > 1:
            raise AgentProtocolError(
                f"{event['type']}: several are open, and it names none of them"
            )
        return lanes[0]

    def _lanes_ended_by(self, kind: str, event: Event) -> list[str | None]:
        if kind in _BESIDE_CHUNKS:
            return []
        return list(self._lanes) if kind == "MESSAGES_SNAPSHOT" else [event.get("subagentRunId")]

    def _end_lane(self, lane: str | None) -> Iterator[Event]:
        start = self._lanes.get(lane)
        if start is None:
            return
        place = _place(_CHUNK_OF[start["type"]].span, start)
        if place in self._open:
            yield self._closing(place)
            del self._open[place]
        del self._lanes[lane]


def _place(span: Span, event: Event) -> Place:
    value = event.get(span.key)
    if not isinstance(value, str):
        raise AgentProtocolError(f"{event['type']} needs a {span.key}")
    return Place(span, value, event.get("subagentRunId") if span is _STEP else None)


def _goes_on(shorthand: Shorthand, start: Event, event: Event) -> bool:
    """Say whether a chunk continues the message that `start` began.

    Raises:
        AgentProtocolError: The chunk contradicts that start.
    """
    key = shorthand.span.key
    if start["type"] != shorthand.start or event.get(key) not in {None, start[key]}:
        return False
    for name in (*shorthand.carried, "subagentRunId"):
        if event.get(name) not in {None, start.get(name)}:
            raise AgentProtocolError(f"{event['type']}: its {name} is not that of its first chunk")
    return True


def _spelled_start(shorthand: Shorthand, event: Event) -> Event:
    """Return the start event for a first chunk."""
    for name in (shorthand.span.key, *(("toolCallName",) if shorthand.span is _CALL else ())):
        if not isinstance(event.get(name), str):
            raise AgentProtocolError(f"{event['type']}: the first chunk needs a {name}")
    start: Event = {"type": shorthand.start, shorthand.span.key: event[shorthand.span.key]}
    start |= _pick(event, *shorthand.carried, "subagentRunId", "metadata")
    if shorthand.span is not _CALL:
        start.setdefault("role", "assistant" if shorthand.span is _TEXT else "reasoning")
    return start


def _pick(event: Event, *names: str) -> Event:
    return {name: event[name] for name in names if event.get(name) is not None}


def _not_its_own(event: Event, what: str, thing: str) -> AgentProtocolError:
    own = event.get("subagentRunId")
    return AgentProtocolError(
        f"{event['type']}: {what} {thing!r} is not {own or 'the parent agent'}'s"
    )
