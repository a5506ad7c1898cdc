"""The legal order of a run's events. Pure: no await, no clock.

The gateway owns RUN_STARTED and the end; this judges what an agent puts between them. A run may
open messages, tool calls, reasoning, steps and subagents; content goes to what is open; what is
still open when the run ends is closed. The chunk shorthands are spelled out, so that a log holds
starts, contents and ends only. The rules are those of AG-UI 1.0 as `@ag-ui/client` enforces them.
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


_SPANS: Final = {
    "TEXT_MESSAGE": Span("text message", "messageId", "TEXT_MESSAGE_END"),
    "TOOL_CALL": Span("tool call", "toolCallId", "TOOL_CALL_END"),
    "REASONING": Span("reasoning span", "messageId", "REASONING_END"),
    "REASONING_MESSAGE": Span("reasoning message", "messageId", "REASONING_MESSAGE_END"),
}
_OPENS: Final = {f"{name}_START": span for name, span in _SPANS.items()}
_FILLS: Final = {
    "TEXT_MESSAGE_CONTENT": _SPANS["TEXT_MESSAGE"],
    "TOOL_CALL_ARGS": _SPANS["TOOL_CALL"],
    "REASONING_MESSAGE_CONTENT": _SPANS["REASONING_MESSAGE"],
}
_CLOSES: Final = {span.end: span for span in _SPANS.values()}
_STEP: Final = Span("step", "stepName", "STEP_FINISHED")
_SUBAGENT: Final = Span("subagent", "subagentRunId", "SUBAGENT_FINISHED")
_FREE: Final = frozenset(
    {
        "TOOL_CALL_RESULT",
        "STATE_SNAPSHOT",
        "STATE_DELTA",
        "MESSAGES_SNAPSHOT",
        "ACTIVITY_SNAPSHOT",
        "ACTIVITY_DELTA",
        "RAW",
        "CUSTOM",
        "REASONING_ENCRYPTED_VALUE",
    }
)
_CHUNKS: Final = {
    "TEXT_MESSAGE_CHUNK": ("TEXT_MESSAGE", "TEXT_MESSAGE_CONTENT", ("role", "name")),
    "TOOL_CALL_CHUNK": ("TOOL_CALL", "TOOL_CALL_ARGS", ("toolCallName", "parentMessageId")),
    "REASONING_MESSAGE_CHUNK": ("REASONING_MESSAGE", "REASONING_MESSAGE_CONTENT", ("role",)),
}


class Open(NamedTuple):
    """One thing that is open: its kind, its id, and the subagent it belongs to."""

    span: Span
    id: str
    subagent_run_id: str | None


class RunGrammar:
    """What one run has open, and so what may come next."""

    def __init__(self) -> None:
        """Begin after RUN_STARTED."""
        self._open: dict[Open, None] = {}
        self._chunk: tuple[str, Open] | None = None
        self._spent_subagents: set[str] = set()

    def accept(self, event: Event) -> Iterator[Event]:
        """Yield what goes into the log for `event`: itself, or what its shorthand stands for.

        Raises `AgentProtocol` when it may not come now; nothing of it has been yielded then.
        """
        kind = event["type"]
        if kind in _CHUNKS:
            yield from self._spell_out(kind, event)
            return
        yield from self._end_chunk()
        self._judge(kind, event)
        yield event

    def close(self) -> Iterator[Event]:
        """Yield the ends of everything that is open, the newest first."""
        self._chunk = None
        while self._open:
            opened, _ = self._open.popitem()
            yield _closing(opened)

    def _judge(self, kind: str, event: Event) -> None:
        if kind in _FREE:
            return
        if kind in _FILLS:
            self._fill(_FILLS[kind], event)
        elif kind in _OPENS:
            self._start(_OPENS[kind], event)
        elif kind in _CLOSES:
            self._end(_CLOSES[kind], event)
        elif kind.startswith(("STEP_", "SUBAGENT_")):
            self._judge_work(kind, event)
        else:
            raise AgentProtocol(f"{kind} is not an agent's to send")

    def _judge_work(self, kind: str, event: Event) -> None:
        span = _STEP if kind.startswith("STEP_") else _SUBAGENT
        if not kind.endswith("_STARTED"):
            self._end(span, event)
            return
        if span is _SUBAGENT:
            self._check_fresh_subagent(event)
        self._start(span, event)

    def _check_fresh_subagent(self, event: Event) -> None:
        subagent, parent = event.get("subagentRunId"), event.get("parentSubagentRunId")
        if not isinstance(subagent, str):
            raise AgentProtocol("SUBAGENT_STARTED needs a subagentRunId")
        if subagent in self._spent_subagents:
            raise AgentProtocol(f"subagent {subagent!r} was already started in this run")
        if parent is not None and parent not in self._spent_subagents:
            raise AgentProtocol(f"parent subagent {parent!r} was never started in this run")
        self._spent_subagents.add(subagent)

    def _start(self, span: Span, event: Event) -> None:
        opened = _place(span, event)
        if self._find(span, opened) is not None:
            raise AgentProtocol(f"{event['type']}: {span.kind} {opened.id!r} is already open")
        self._open[opened] = None

    def _fill(self, span: Span, event: Event) -> None:
        if self._find(span, _place(span, event)) is None:
            raise AgentProtocol(f"{event['type']}: no {span.kind} {event[span.key]!r} is open")

    def _end(self, span: Span, event: Event) -> None:
        opened = self._find(span, _place(span, event))
        if opened is None:
            raise AgentProtocol(f"{event['type']}: no {span.kind} {event.get(span.key)!r} is open")
        del self._open[opened]

    def _find(self, span: Span, wanted: Open) -> Open | None:
        """Return what is open under that id; a step is its subagent's own, the others are not."""
        if span is _STEP or wanted in self._open:
            return wanted if wanted in self._open else None
        for opened in self._open:
            if opened.span is span and opened.id == wanted.id:
                return self._same_owner(opened, wanted)
        return None

    @staticmethod
    def _same_owner(opened: Open, wanted: Open) -> Open:
        if wanted.subagent_run_id is not None:
            raise AgentProtocol(
                f"{opened.span.kind} {opened.id!r} belongs to another subagent than"
                f" {wanted.subagent_run_id!r}"
            )
        return opened

    def _spell_out(self, kind: str, event: Event) -> Iterator[Event]:
        name, fill, carried = _CHUNKS[kind]
        span = _SPANS[name]
        given = event.get(span.key)
        if self._chunk is None or self._chunk[0] != kind or given not in {None, self._chunk[1].id}:
            if not isinstance(given, str):
                raise AgentProtocol(f"{kind}: the first chunk needs a {span.key}")
            if kind == "TOOL_CALL_CHUNK" and not isinstance(event.get("toolCallName"), str):
                raise AgentProtocol(f"{kind}: the first chunk needs a toolCallName")
            yield from self._end_chunk()
            yield self._open_chunk(kind, span, event, carried)
        if event.get("delta") is not None:
            assert self._chunk is not None  # noqa: S101 - opened above, or it was open
            yield {"type": fill, span.key: self._chunk[1].id, "delta": event["delta"]}

    def _open_chunk(self, kind: str, span: Span, event: Event, carried: tuple[str, ...]) -> Event:
        start: Event = {"type": f"{kind.removesuffix('_CHUNK')}_START", span.key: event[span.key]}
        start |= {key: event[key] for key in (*carried, "subagentRunId") if event.get(key)}
        if kind != "TOOL_CALL_CHUNK":
            start.setdefault("role", "assistant" if kind.startswith("TEXT") else "reasoning")
        self._start(span, start)
        self._chunk = (kind, _place(span, start))
        return start

    def _end_chunk(self) -> Iterator[Event]:
        if self._chunk is None:
            return
        opened = self._chunk[1]
        self._chunk = None
        if opened in self._open:
            del self._open[opened]
            yield _closing(opened)


def _place(span: Span, event: Event) -> Open:
    value = event.get(span.key)
    if not isinstance(value, str):
        raise AgentProtocol(f"{event['type']} needs a {span.key}")
    owner = None if span is _SUBAGENT else event.get("subagentRunId")
    return Open(span, value, owner)


def _closing(opened: Open) -> Event:
    event: Event = {"type": opened.span.end, opened.span.key: opened.id}
    if opened.subagent_run_id is not None:
        event["subagentRunId"] = opened.subagent_run_id
    return event
