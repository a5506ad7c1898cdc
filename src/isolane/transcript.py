"""The fold of a run's events into the messages it leaves behind. Pure.

Follows what `@ag-ui/client` makes of the same stream, so that who reads a thread's messages and
who watched them grow see the same. Deltas are collected and joined once: `+=` on a long answer
copies all of it for every word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from isolane.events import Event

Message = dict[str, Any]
"""One AG-UI message with its wire names."""


@dataclass(slots=True)
class _Draft:
    """A message that still grows."""

    message: Message
    content: list[str] = field(default_factory=list)
    arguments: dict[str, list[str]] = field(default_factory=dict)

    def finished(self) -> Message:
        message = dict(self.message)
        if self.content or message["role"] == "reasoning":
            message["content"] = "".join(self.content)
        if self.arguments:
            message["toolCalls"] = [self._finished_call(call) for call in message["toolCalls"]]
        return message

    def _finished_call(self, call: Message) -> Message:
        arguments = "".join(self.arguments[call["id"]])
        return {**call, "function": {**call["function"], "arguments": arguments}}


class Transcript:
    """The messages of one run, grown event by event."""

    def __init__(self, *, known_ids: Iterable[str] = ()) -> None:
        """Begin empty; `known_ids` are the messages that the thread had before."""
        self._known = frozenset(known_ids)
        self._drafts: dict[str, _Draft] = {}
        self._calls: dict[str, _Draft] = {}

    def add(self, event: Event) -> None:
        """Take one legal event in."""
        fold = _FOLDS.get(event["type"])
        if fold is not None:
            fold(self, event)

    def messages(self) -> list[Message]:
        """Return what stands so far, in order, without messages that say nothing at all."""
        finished = (draft.finished() for draft in self._drafts.values())
        return [message for message in finished if _says_something(message)]

    def _start_text(self, event: Event) -> None:
        role = event.get("role") or "assistant"
        self._open(event["messageId"], {"role": role, **_pick(event, "name", "subagentRunId")})

    def _start_reasoning(self, event: Event) -> None:
        self._open(event["messageId"], {"role": "reasoning", **_pick(event, "subagentRunId")})

    def _open(self, message_id: str, message: Mapping[str, Any]) -> _Draft:
        if message_id not in self._drafts:
            self._drafts[message_id] = _Draft({"id": message_id, **message})
        return self._drafts[message_id]

    def _add_content(self, event: Event) -> None:
        draft = self._drafts.get(event["messageId"])
        if draft is not None:
            draft.content.append(event["delta"])

    def _start_call(self, event: Event) -> None:
        call_id = event["toolCallId"]
        if call_id in self._calls:
            return
        parent = self._drafts.get(event.get("parentMessageId") or "")
        if parent is None or parent.message["role"] != "assistant":
            message_id = call_id if parent else event.get("parentMessageId") or call_id
            parent = self._open(message_id, {"role": "assistant", **_pick(event, "subagentRunId")})
        call = {
            "id": call_id,
            "type": "function",
            "function": {"name": event["toolCallName"], "arguments": ""},
        }
        parent.message.setdefault("toolCalls", []).append(call)
        parent.arguments[call_id] = []
        self._calls[call_id] = parent

    def _add_arguments(self, event: Event) -> None:
        draft = self._calls.get(event["toolCallId"])
        if draft is not None:
            draft.arguments[event["toolCallId"]].append(event["delta"])

    def _add_result(self, event: Event) -> None:
        result = {"id": event["messageId"], "role": "tool", **_pick(event, "toolCallId", "content")}
        self._drafts[event["messageId"]] = _Draft(result)

    def _set_activity(self, event: Event) -> None:
        if event["messageId"] in self._drafts and event.get("replace") is False:
            return
        activity = {"role": "activity", **_pick(event, "activityType", "content")}
        self._drafts[event["messageId"]] = _Draft({"id": event["messageId"], **activity})

    def _set_messages(self, event: Event) -> None:
        fresh = [message for message in event["messages"] if message["id"] not in self._known]
        self._drafts = {message["id"]: _resumed(message) for message in fresh}
        self._calls = {
            call["id"]: draft
            for draft in self._drafts.values()
            for call in draft.message.get("toolCalls", ())
        }


def _resumed(message: Message) -> _Draft:
    """Return a draft of a message that came whole: what follows goes on where it stands."""
    content = message.get("content")
    return _Draft(
        dict(message),
        content=[content] if isinstance(content, str) else [],
        arguments={
            call["id"]: [call["function"]["arguments"]] for call in message.get("toolCalls", ())
        },
    )


def _pick(event: Event, *names: str) -> Message:
    return {name: event[name] for name in names if event.get(name) is not None}


def _says_something(message: Message) -> bool:
    return message["role"] != "assistant" or bool(
        message.get("content") or message.get("toolCalls")
    )


_FOLDS: Final[dict[str, Callable[[Transcript, Event], None]]] = {
    "TEXT_MESSAGE_START": Transcript._start_text,  # noqa: SLF001 - the table is the class's own
    "TEXT_MESSAGE_CONTENT": Transcript._add_content,  # noqa: SLF001
    "TOOL_CALL_START": Transcript._start_call,  # noqa: SLF001
    "TOOL_CALL_ARGS": Transcript._add_arguments,  # noqa: SLF001
    "TOOL_CALL_RESULT": Transcript._add_result,  # noqa: SLF001
    "REASONING_MESSAGE_START": Transcript._start_reasoning,  # noqa: SLF001
    "REASONING_MESSAGE_CONTENT": Transcript._add_content,  # noqa: SLF001
    "ACTIVITY_SNAPSHOT": Transcript._set_activity,  # noqa: SLF001
    "MESSAGES_SNAPSHOT": Transcript._set_messages,  # noqa: SLF001
}
