"""The legal order of a run's events. Pure: no await, no clock.

The gateway owns RUN_STARTED and the end; this judges what an agent puts between them. A run may
open messages, tool calls, reasoning, steps and subagents; content goes to what is open; what is
still open when the run ends is closed; what a subagent began is its own. The chunk shorthands are
spelled out, so that a log holds starts, contents and ends only. The rules are those of AG-UI 1.0
as `@ag-ui/client` enforces them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from isolane.errors import AgentProtocol
from isolane.events import Event


class Span(NamedTuple):
    """One kind of thing that is opened, filled and closed."""

    kind: str
    key: str
    end: str
    realm: str
    """What its ids are ids of: a reasoning span and its message share theirs."""


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
_FREE: Final = frozenset({"STATE_SNAPSHOT", "STATE_DELTA", "RAW", "CUSTOM"})
_BESIDE_CHUNKS: Final = frozenset({"RAW", "ACTIVITY_SNAPSHOT", "ACTIVITY_DELTA"})
"""What may stand between two chunks of one message without ending it."""
_CHUNKS: Final = {
    "TEXT_MESSAGE_CHUNK": (_TEXT, "TEXT_MESSAGE_CONTENT", ("role", "name")),
    "TOOL_CALL_CHUNK": (_CALL, "TOOL_CALL_ARGS", ("toolCallName", "parentMessageId")),
    "REASONING_MESSAGE_CHUNK": (_SAID, "REASONING_MESSAGE_CONTENT", ()),
}


class Place(NamedTuple):
    """One thing that may be open. Only a step's name is its subagent's own."""

    span: Span
    id: str
    owner: str | None = None


class RunGrammar:
    """What one run has open and who owns it, and so what may come next."""

    def __init__(self) -> None:
        """Begin after RUN_STARTED."""
        self._open: dict[Place, str | None] = {}
        self._owners: dict[tuple[str, str], str | None] = {}
        self._chunk: tuple[str, str] | None = None
        self._subagents: set[str] = set()

    def accept(self, event: Event) -> Iterator[Event]:
        """Yield what goes into the log for `event`: itself, or what its shorthand stands for.

        Raises `AgentProtocol` when it may not come now.
        """
        kind = event["type"]
        if kind in _CHUNKS:
            yield from self._spell_out(kind, event)
            return
        if kind not in _BESIDE_CHUNKS:
            yield from self._end_chunk()
        self._judge(kind, event)
        yield event

    def close(self) -> Iterator[Event]:
        """Yield the ends of everything that is open, the newest first."""
        self._chunk = None
        while self._open:
            place, owner = self._open.popitem()
            yield _closing(place, owner)

    def _judge(self, kind: str, event: Event) -> None:
        if kind in _OPENS:
            self._start(_OPENS[kind], event)
        elif kind in _FILLS:
            self._check_open(_FILLS[kind], event)
        elif kind in _CLOSES:
            del self._open[self._check_open(_CLOSES[kind], event)]
        elif kind not in _FREE:
            self._judge_mention(kind, event)

    def _judge_mention(self, kind: str, event: Event) -> None:
        """Judge events that open nothing, but speak of things that somebody owns."""
        owner = event.get("subagentRunId")
        match kind:
            case "TOOL_CALL_RESULT":
                self._owners["message", event["messageId"]] = owner
            case "ACTIVITY_SNAPSHOT":
                if event.get("replace") is not False:
                    self._owners.pop(("activity", event["messageId"]), None)
                self._owners.setdefault(("activity", event["messageId"]), owner)
            case "ACTIVITY_DELTA":
                self._check_owner(event, "activity", event["messageId"])
            case "REASONING_ENCRYPTED_VALUE":
                self._check_owner(event, self._realm_of(event), event["entityId"])
            case "MESSAGES_SNAPSHOT":
                self._take_messages(event)
            case _:
                raise AgentProtocol(f"{kind} is not an agent's to send")

    def _realm_of(self, event: Event) -> str:
        if event["subtype"] == "tool-call":
            return "toolCall"
        return "message" if ("message", event["entityId"]) in self._owners else "reasoning"

    def _take_messages(self, event: Event) -> None:
        for message in event["messages"]:
            owner, role = message.get("subagentRunId"), message["role"]
            realm = role if role in {"reasoning", "activity"} else "message"
            self._owners[realm, message["id"]] = owner
            for call in message.get("toolCalls") or ():
                self._owners["toolCall", call["id"]] = owner

    def _start(self, span: Span, event: Event) -> None:
        place = _place(span, event)
        if place in self._open:
            raise AgentProtocol(f"{event['type']}: {span.kind} {place.id!r} is already open")
        if span is _SUBAGENT:
            self._check_fresh(event, place.id)
        owner = self._parent_owner(event) if span is _CALL else event.get("subagentRunId")
        if span not in {_STEP, _SUBAGENT}:
            self._check_owner(event, span.realm, place.id)
            known = self._owners.setdefault((span.realm, place.id), owner)
            if known != owner and owner is not None:
                raise _not_its_own(event, span.kind, place.id)
            owner = known
        self._open[place] = owner

    def _parent_owner(self, event: Event) -> str | None:
        """Return whose a tool call is: who says so, or who owns the message that carries it."""
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

    def _check_fresh(self, event: Event, subagent: str) -> None:
        parent = event.get("parentSubagentRunId")
        if subagent in self._subagents:
            raise AgentProtocol(f"subagent {subagent!r} was already started in this run")
        if parent is not None and parent not in self._subagents:
            raise AgentProtocol(f"parent subagent {parent!r} was never started in this run")
        self._subagents.add(subagent)

    def _check_open(self, span: Span, event: Event) -> Place:
        place = _place(span, event)
        if place not in self._open:
            raise AgentProtocol(f"{event['type']}: no {span.kind} {place.id!r} is open")
        if span not in {_STEP, _SUBAGENT}:
            self._check_owner(event, span.realm, place.id)
        return place

    def _check_owner(self, event: Event, realm: str, thing: str) -> None:
        """Raise when the event says that something is a subagent's, and it is another's."""
        own = event.get("subagentRunId")
        if own is not None and self._owners.get((realm, thing), own) != own:
            raise _not_its_own(event, realm, thing)

    def _spell_out(self, kind: str, event: Event) -> Iterator[Event]:
        span, fill, carried = _CHUNKS[kind]
        given = event.get(span.key)
        if self._chunk is None or self._chunk[0] != kind or given not in {None, self._chunk[1]}:
            yield from self._end_chunk()
            yield self._open_chunk(kind, span, event, carried)
        if event.get("delta") is not None and self._chunk is not None:
            content = {"type": fill, span.key: self._chunk[1], "delta": event["delta"]}
            self._check_open(span, {**content, **_owner_of(event)})
            yield content

    def _open_chunk(self, kind: str, span: Span, event: Event, carried: tuple[str, ...]) -> Event:
        if not isinstance(event.get(span.key), str):
            raise AgentProtocol(f"{kind}: the first chunk needs a {span.key}")
        if span is _CALL and not isinstance(event.get("toolCallName"), str):
            raise AgentProtocol(f"{kind}: the first chunk needs a toolCallName")
        start: Event = {"type": f"{kind.removesuffix('_CHUNK')}_START", span.key: event[span.key]}
        start |= {key: event[key] for key in carried if event.get(key)} | _owner_of(event)
        if span is not _CALL:
            start.setdefault("role", "assistant" if span is _TEXT else "reasoning")
        self._start(span, start)
        self._chunk = (kind, event[span.key])
        return start

    def _end_chunk(self) -> Iterator[Event]:
        if self._chunk is None:
            return
        kind, thing = self._chunk
        self._chunk = None
        place = Place(_CHUNKS[kind][0], thing)
        if place in self._open:
            yield _closing(place, self._open.pop(place))


def _place(span: Span, event: Event) -> Place:
    value = event.get(span.key)
    if not isinstance(value, str):
        raise AgentProtocol(f"{event['type']} needs a {span.key}")
    return Place(span, value, event.get("subagentRunId") if span is _STEP else None)


def _owner_of(event: Event) -> Event:
    owner = event.get("subagentRunId")
    return {} if owner is None else {"subagentRunId": owner}


def _closing(place: Place, owner: str | None) -> Event:
    event: Event = {"type": place.span.end, place.span.key: place.id}
    return event if owner is None else {**event, "subagentRunId": owner}


def _not_its_own(event: Event, what: str, thing: str) -> AgentProtocol:
    own = event.get("subagentRunId")
    return AgentProtocol(f"{event['type']}: {what} {thing!r} is not {own or 'the parent agent'}'s")
