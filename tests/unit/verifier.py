"""The rules by which `@ag-ui/client` judges a stream, written down a second time.

Independent of `isolane.events.grammar`: what that lets through must pass here. Follows
`verifyEvents` of `@ag-ui/client` 1.0 rule by rule, for one run between its RUN_STARTED and
RUN_FINISHED.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Event = dict[str, Any]

_FAMILY = {
    "TEXT_MESSAGE": ("message", "messageId"),
    "TOOL_CALL": ("tool call", "toolCallId"),
    "REASONING": ("reasoning", "messageId"),
    "REASONING_MESSAGE": ("reasoning", "messageId"),
}


class IllegalStreamError(Exception):
    """`@ag-ui/client` would end the run here."""


class Verifier:
    """Takes the events of one run, one by one."""

    def __init__(self) -> None:
        """Begin after RUN_STARTED."""
        self.open: dict[str, set[str]] = {name: set() for name in _FAMILY}
        self.steps: set[tuple[str | None, str]] = set()
        self.subagents: set[str] = set()
        self.spent: set[str] = set()
        # Who owns a message, call or reasoning, for as long as the run lasts, open or not.
        self.owners: dict[tuple[str, str], str | None] = {}

    def take(self, event: Event) -> None:  # noqa: C901 - a table of rules
        """Take one event; raise `IllegalStreamError` when it may not come now."""
        kind: str = event["type"]
        if kind.endswith("_CHUNK"):
            raise IllegalStreamError(f"{kind} must have been spelled out")
        if kind.startswith("STEP_"):
            self._step(event)
        elif kind.startswith("SUBAGENT_"):
            self._subagent(event)
        elif kind == "TOOL_CALL_RESULT":
            self.owners["message", event["messageId"]] = event.get("subagentRunId")
        elif kind == "REASONING_ENCRYPTED_VALUE":
            self._encrypted(event)
        elif kind == "ACTIVITY_SNAPSHOT":
            place = ("activity", event["messageId"])
            if place not in self.owners or event.get("replace") is not False:
                self.owners[place] = event.get("subagentRunId")
        elif kind == "ACTIVITY_DELTA":
            self._check_owner("activity", event["messageId"], event)
        elif kind == "MESSAGES_SNAPSHOT":
            self._snapshot(event)
        elif kind.rpartition("_")[0] in _FAMILY:
            self._span(event)

    def finish(self) -> None:
        """Take RUN_FINISHED: nothing may be open."""
        left = [*(one for ids in self.open.values() for one in ids), *self.steps, *self.subagents]
        if left:
            raise IllegalStreamError(f"still open: {left}")

    def _span(self, event: Event) -> None:
        name, _, act = event["type"].rpartition("_")
        family, key = _FAMILY[name]
        span_id, is_open = event[key], event[key] in self.open[name]
        if act == "START":
            if is_open:
                raise IllegalStreamError(f"{event}: already in progress")
            inherited = self._parent_owner(event) if name == "TOOL_CALL" else None
            if (family, span_id) in self.owners:
                self._check_owner(family, span_id, event)
                self._check_parent(event, span_id)
            else:
                self.owners[family, span_id] = event.get("subagentRunId", inherited)
            self.open[name].add(span_id)
            return
        if not is_open:
            raise IllegalStreamError(f"{event}: nothing of that id is in progress")
        self._check_owner(family, span_id, event)
        if act == "END":
            self.open[name].discard(span_id)

    def _check_owner(self, family: str, span_id: str, event: Event) -> None:
        claimed = event.get("subagentRunId")
        if (
            claimed is not None
            and (family, span_id) in self.owners
            and self.owners[family, span_id] != claimed
        ):
            raise IllegalStreamError(f"{event}: belongs to another")

    def _parent_owner(self, event: Event) -> str | None:
        parent = event.get("parentMessageId")
        if parent is None or ("message", parent) not in self.owners:
            return None
        owner = self.owners["message", parent]
        if event.get("subagentRunId", owner) != owner:
            raise IllegalStreamError(f"{event}: belongs to the message that carries it")
        return owner

    def _check_parent(self, event: Event, call_id: str) -> None:
        parent = event.get("parentMessageId")
        if parent is None or "subagentRunId" in event or ("message", parent) not in self.owners:
            return
        if self.owners["message", parent] != self.owners["tool call", call_id]:
            raise IllegalStreamError(f"{event}: its parent belongs to another")

    def _encrypted(self, event: Event) -> None:
        entity, subtype = event["entityId"], event["subtype"]
        if subtype == "tool-call":
            family = "tool call"
        elif subtype == "message" and ("message", entity) in self.owners:
            family = "message"
        else:
            family = "reasoning"
        self._check_owner(family, entity, event)

    def _snapshot(self, event: Event) -> None:
        for message in event["messages"]:
            families = {"reasoning": "reasoning", "activity": "activity"}
            family = families.get(message["role"], "message")
            self.owners[family, message["id"]] = message.get("subagentRunId")
            for call in message.get("toolCalls", ()):
                self.owners["tool call", call["id"]] = message.get("subagentRunId")

    def _step(self, event: Event) -> None:
        place = (event.get("subagentRunId"), event["stepName"])
        if event["type"] == "STEP_STARTED":
            if place in self.steps:
                raise IllegalStreamError(f"{event}: already active")
            self.steps.add(place)
        elif place in self.steps:
            self.steps.remove(place)
        else:
            raise IllegalStreamError(f"{event}: not started")

    def _subagent(self, event: Event) -> None:
        subagent = event["subagentRunId"]
        if event["type"] == "SUBAGENT_STARTED":
            parent = event.get("parentSubagentRunId")
            if subagent in self.subagents | self.spent:
                raise IllegalStreamError(f"{event}: used before")
            if parent is not None and parent not in self.subagents | self.spent:
                raise IllegalStreamError(f"{event}: its parent never started")
            self.subagents.add(subagent)
            return
        if subagent not in self.subagents:
            raise IllegalStreamError(f"{event}: not active")
        self.subagents.remove(subagent)
        self.spent.add(subagent)


def verify(events: Iterable[Event]) -> None:
    """Take all of a run's events and its end; raise `IllegalStreamError` where the client would."""
    verifier = Verifier()
    for event in events:
        verifier.take(event)
    verifier.finish()
