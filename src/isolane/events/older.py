"""Translation of events for clients older than AG-UI 1.0. Pure.

Such a client gives up a whole run for three things that it doesn't know: the outcome `cancelled`,
the parts of a tool result, and a part whose bytes are in a file elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec

from isolane.events.event import RUN_FINISHED, RUN_STARTED, Event, decode_event
from isolane.events.transcript import Message


def to_older(payload: bytes) -> bytes:
    """Return an event of the log for an older client; most events stay unchanged."""
    if not payload.startswith(_STARTS):
        return payload
    event = decode_event(payload)
    older = _CHANGES[event["type"]](event)
    return payload if older == event else msgspec.json.encode(older)


def _without_cancelled(event: Event) -> Event:
    outcome = event.get("outcome") or {}  # an agent may add fields beside the type
    if outcome.get("type") != "cancelled":
        return event
    return {name: event[name] for name in event if name != "outcome"}


def _with_text_only(event: Message) -> Message:
    """Return a tool result with only the text of its parts; the log keeps all of them."""
    content = event.get("content")
    if not isinstance(content, list):
        return event
    texts = [part["text"] for part in content if part["type"] == "text"]
    return {**event, "content": "\n".join(texts)}


def _with_older_messages(event: Event) -> Event:
    return {**event, "messages": [_to_older_message(one) for one in event["messages"]]}


def _with_older_input(event: Event) -> Event:
    return {**event, "input": _with_older_messages(event["input"])}


def _to_older_message(message: Message) -> Message:
    if message["role"] == "tool":
        return _with_text_only(message)
    content = message.get("content")
    if message["role"] != "user" or not isinstance(content, list):
        return message
    return {**message, "content": _without_files(content)}


def _without_files(parts: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [part for part in parts if part.get("source", {}).get("type") != "file"]


_CHANGES: Final[Mapping[str, Callable[[Event], Event]]] = {
    RUN_STARTED: _with_older_input,
    RUN_FINISHED: _without_cancelled,
    "TOOL_CALL_RESULT": _with_text_only,
    "MESSAGES_SNAPSHOT": _with_older_messages,
}
_STARTS: Final = tuple(f'{{"type":"{name}"'.encode() for name in _CHANGES)
