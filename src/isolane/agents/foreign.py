"""Translation of events that AG-UI 1.0 doesn't know; what can't be translated is left out.

AG-UI's own client does the same. Events of older versions get today's names, and unknown types,
perhaps of a newer version, are left out. A malformed value of a known type stays, and is refused
later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from ag_ui.core import BaseEvent, Message, RunFinishedOutcome, SubagentFinishedOutcome
from ag_ui.core import Event as AnyEvent

from isolane.events.fitting import FILLS
from isolane.events.grammar import KINDS
from isolane.events.left_out import Kind, LeftOut
from isolane.events.parts import known_parts, tags_of
from isolane.events.surrogates import mend_text
from isolane.ids import new_message_id

Fields = Mapping[Any, Any]

UNKNOWN: Final = object()
"""Result for an event of an unknown type, which is left out."""

_RETIRED: Final = {
    "THINKING_START": "REASONING_START",
    "THINKING_END": "REASONING_END",
    "THINKING_TEXT_MESSAGE_START": "REASONING_MESSAGE_START",
    "THINKING_TEXT_MESSAGE_CONTENT": "REASONING_MESSAGE_CONTENT",
    "THINKING_TEXT_MESSAGE_END": "REASONING_MESSAGE_END",
}
_EVENTS: Final = tags_of(AnyEvent, "type") & KINDS
_ROLES: Final = tags_of(Message, "role")
_OUTCOMES: Final = {
    "RUN_FINISHED": tags_of(RunFinishedOutcome, "type"),
    "SUBAGENT_FINISHED": tags_of(SubagentFinishedOutcome, "type"),
}
_OPERATIONS: Final = frozenset({"add", "remove", "replace", "move", "copy", "test"})
"""The operations of RFC 6902, which has no others."""
_POINTERS: Final = ("path", "from")
"""Fields of a patch operation that point into the document."""


class Foreign:
    """Translates the events of one run's agent."""

    def __init__(self, left_out: LeftOut) -> None:
        """Note in `left_out` every part that is left out."""
        self._left_out = left_out
        self._ids: dict[str, str] = {}
        """Ids of the open message and of the open span, because retired events have none."""

    def adapt(self, value: object) -> object:
        """Return an event with today's names, or `UNKNOWN`.

        A value that is no event comes back unchanged, because the next step refuses it.
        """
        if isinstance(value, BaseEvent):
            kind = str(getattr(value.type, "value", value.type))
            return value if kind in _EVENTS else self._adapt(kind, value.model_dump(by_alias=True))
        if not isinstance(value, Mapping):
            return value
        name = value.get("type")
        return self._adapt(name, value) if isinstance(name, str) else value

    def _adapt(self, kind: str, event: Fields) -> object:
        if kind in FILLS:
            return event
        if kind in _RETIRED:
            return self._renew(kind, event)
        if kind not in _EVENTS:
            self._left_out.note(Kind.EVENT, kind)
            return UNKNOWN
        strip = _STRIPS.get(kind)
        return event if strip is None else {**event, **strip(event, self._left_out)}

    def _renew(self, kind: str, event: Fields) -> Fields:
        """Return today's event for a thinking event, which had no ids before AG-UI 1.0."""
        place = "message" if "MESSAGE" in kind else "span"
        if kind.endswith("_START"):
            self._ids[place] = new_message_id()
        own: dict[str, Any] = {"type": _RETIRED[kind]}
        own["messageId"] = self._ids.get(place) or new_message_id()
        if own["type"] == "REASONING_MESSAGE_START":
            own["role"] = "reasoning"
        if event.get("title"):  # AG-UI 1.0 has no field for a title
            own["metadata"] = {**(event.get("metadata") or {}), "title": event["title"]}
        kept = {name: value for name, value in event.items() if name != "title"}
        return {**kept, **own}


def _strip_result(event: Fields, left_out: LeftOut) -> Fields:
    content = event.get("content")
    return {"content": _strip_content(content, left_out)} if isinstance(content, list) else {}


def _strip_content(content: Sequence[Any], left_out: LeftOut) -> list[Any]:
    return list(known_parts(content, left_out).values())


def _strip_messages(event: Fields, left_out: LeftOut) -> Fields:
    messages = event.get("messages")
    if not isinstance(messages, list):
        return {}
    return {"messages": list(_known_messages(messages, left_out))}


def _strip_input(event: Fields, left_out: LeftOut) -> Fields:
    """Leave unknown parts out of the input that an agent repeats in RUN_STARTED.

    The gateway knows the input better, but checks every event that it is given.
    """
    asked = event.get("input")
    if not isinstance(asked, Mapping):
        return {}
    return {"input": {**asked, **_strip_messages(asked, left_out)}}


def _known_messages(messages: Sequence[Any], left_out: LeftOut) -> Iterator[Any]:
    for message in messages:
        role = message.get("role") if isinstance(message, Mapping) else None
        if isinstance(role, str) and role not in _ROLES:
            left_out.note(Kind.MESSAGE, role)
        elif isinstance(message, Mapping) and isinstance(message.get("content"), list):
            yield {**message, "content": _strip_content(message["content"], left_out)}
        else:
            yield message


def _strip_outcome(event: Fields, left_out: LeftOut) -> Fields:
    outcome = event.get("outcome")
    kind = outcome.get("type") if isinstance(outcome, Mapping) else None
    if not isinstance(kind, str) or kind in _OUTCOMES[event["type"]]:
        return {}
    left_out.note(Kind.OUTCOME, kind)
    return {"outcome": None}


def _strip_patch(name: str) -> Callable[[Fields, LeftOut], Fields]:
    def strip(event: Fields, left_out: LeftOut) -> Fields:
        patch = event.get(name)
        if not isinstance(patch, list):
            return {}
        kept = []
        for operation in patch:
            kind = operation.get("op") if isinstance(operation, Mapping) else None
            if isinstance(kind, str) and kind not in _OPERATIONS:
                left_out.note(Kind.OPERATION, kind)
            else:
                kept.append(_with_whole_pointers(operation))
        return {name: kept}

    return strip


def _with_whole_pointers(operation: Any) -> Any:  # noqa: ANN401 - any JSON value of an agent
    """Return an operation whose pointers have no half surrogate pair, like keys of the state."""
    if not isinstance(operation, Mapping):
        return operation
    pointers = {name: operation[name] for name in _POINTERS if isinstance(operation.get(name), str)}
    return {**operation, **{name: mend_text(pointer) for name, pointer in pointers.items()}}


_STRIPS: Final[Mapping[str, Callable[[Fields, LeftOut], Fields]]] = {
    "TOOL_CALL_RESULT": _strip_result,
    "MESSAGES_SNAPSHOT": _strip_messages,
    "RUN_STARTED": _strip_input,
    "RUN_FINISHED": _strip_outcome,
    "SUBAGENT_FINISHED": _strip_outcome,
    "STATE_DELTA": _strip_patch("delta"),
    "ACTIVITY_DELTA": _strip_patch("patch"),
}
