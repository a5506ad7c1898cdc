"""The fold of a run's events into its messages. Pure.

It follows `@ag-ui/client`, so that a reader of a thread's messages sees the same as a reader who
watched the run. A store differs in three things. Messages of earlier runs stay unchanged. An
assistant's message without any content is left out. A patch that would make an activity's content
something other than an object changes nothing.

Deltas are collected and joined once, because `+=` would copy the whole answer per word.
"""

# Long because: one fold, with a short function for each kind of event.

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from isolane.events.event import Event
from isolane.events.patch import PatchError, patched

FINGERPRINT_BYTES: Final = 8

Message = dict[str, Any]
"""One AG-UI message with its names on the wire."""


def fingerprint(message: Message) -> tuple[bytes, bytes]:
    """Return two hashes of 8 bytes, of the message's id and of the whole message."""
    whole = json.dumps(message, sort_keys=True).encode()
    return id_print(str(message["id"])), _digest(whole)


def id_print(message_id: str) -> bytes:
    """Return the first half of a message's fingerprint: a hash of 8 bytes of its id."""
    return _digest(message_id.encode())


def _digest(value: bytes) -> bytes:
    return hashlib.blake2b(value, digest_size=FINGERPRINT_BYTES).digest()


def calls_of(message: Mapping[str, Any]) -> Sequence[Message]:
    """Return the tool calls of a message; only an assistant's message has any."""
    return message.get("toolCalls") or () if message["role"] == "assistant" else ()


@dataclass(slots=True, eq=False)
class _Call:
    """A tool call whose arguments still grow."""

    call: Message
    arguments: list[str] = field(default_factory=list)

    def finished(self) -> Message:
        function = self.call["function"]
        arguments = "".join([function["arguments"], *self.arguments])
        return {**self.call, "function": {**function, "arguments": arguments}}


@dataclass(slots=True, eq=False)
class _Draft:
    """A message that still grows."""

    message: Message
    words: list[str] = field(default_factory=list)
    calls: list[_Call] = field(default_factory=list)

    def add_words(self, delta: str) -> None:
        if not self.words:
            content = self.message.get("content")
            self.words.append(content if isinstance(content, str) else "")
        self.words.append(delta)

    def finished(self) -> Message:
        message = dict(self.message)
        if self.words:
            message["content"] = "".join(self.words)
        if self.calls:
            message["toolCalls"] = [call.finished() for call in self.calls]
        return message


class Transcript:
    """The messages of one run, which grow event by event."""

    def __init__(self, *, known_ids: Iterable[str] = ()) -> None:
        """Begin empty; `known_ids` are ids of messages that the thread had before."""
        self._known = frozenset(known_ids)
        self._drafts: list[_Draft] = []
        # Where two messages share an id, for example after a result that reused one, the first
        # counts.
        self._by_id: dict[str, _Draft] = {}
        self._callers: dict[str, _Draft] = {}
        self._calls: dict[str, _Call] = {}

    def add(self, event: Event) -> None:
        """Add one legal event."""
        fold = _FOLDS.get(event["type"])
        if fold is not None:
            fold(self, event)

    def get_adder(self, kind: str, thing_id: str) -> Callable[[str], None] | None:
        """Return what adds a plain text to that message or call; None where nothing does.

        It holds until an event of another kind is added.
        """
        if kind == "TOOL_CALL_ARGS":
            call = self._calls.get(thing_id)
            return None if call is None else call.arguments.append
        draft = self._by_id.get(thing_id)
        is_spoken = draft is not None and draft.message["role"] != "activity"
        return draft.add_words if draft is not None and is_spoken else None

    def messages(self) -> list[Message]:
        """Return the messages so far, in order, without those that have no content."""
        finished = (draft.finished() for draft in self._drafts)
        return [message for message in finished if _says_something(message)]

    # --- text and reasoning ----------------------------------------------------------------------

    def _start_text(self, event: Event) -> None:
        about = {"role": event.get("role") or "assistant", "content": "", **_pick(event, "name")}
        self._start(event, about)

    def _start_reasoning(self, event: Event) -> None:
        self._start(event, {"role": "reasoning", "content": ""})

    def _start(self, event: Event, about: Message) -> None:
        draft = self._by_id.get(event["messageId"])
        if draft is None:
            draft = self._put({"id": event["messageId"], **about, **_pick(event, "subagentRunId")})
        if draft.message["role"] != "activity":
            _merge_metadata(draft.message, event)

    def _add_words(self, event: Event) -> None:
        draft = self._by_id.get(event["messageId"])
        if draft is not None and draft.message["role"] != "activity":
            draft.add_words(event["delta"])
            _merge_metadata(draft.message, event)

    def _end_words(self, event: Event) -> None:
        draft = self._by_id.get(event["messageId"])
        if draft is not None and draft.message["role"] != "activity":
            _merge_metadata(draft.message, event)

    # --- tool calls ------------------------------------------------------------------------------

    def _start_call(self, event: Event) -> None:
        call_id, name = event["toolCallId"], event["toolCallName"]
        call = self._calls.get(call_id)
        if call is None:
            caller = self._caller_of(event)
            function = {"name": name, "arguments": ""}
            call = _Call({"id": call_id, "type": "function", "function": function})
            caller.calls.append(call)
            self._callers[call_id], self._calls[call_id] = caller, call
        call.call["function"]["name"] = name
        _merge_metadata(call.call, event)

    def _caller_of(self, event: Event) -> _Draft:
        """Return the message that carries a new call: the named parent, or a message of its own."""
        parent_id = event.get("parentMessageId") or None
        parent = None if parent_id is None else self._by_id.get(parent_id)
        if parent is not None and parent.message["role"] == "assistant":
            return parent
        is_free = parent is None and parent_id is not None and parent_id not in self._known
        message = {"id": parent_id if is_free else event["toolCallId"], "role": "assistant"}
        is_new = message["id"] not in self._by_id
        return self._put({**message, **(_pick(event, "subagentRunId") if is_new else {})})

    def _add_arguments(self, event: Event) -> None:
        call = self._calls.get(event["toolCallId"])
        if call is not None:
            call.arguments.append(event["delta"])
            _merge_metadata(call.call, event)

    def _end_call(self, event: Event) -> None:
        call = self._calls.get(event["toolCallId"])
        if call is not None:
            _merge_metadata(call.call, event)

    def _add_result(self, event: Event) -> None:
        """Put a result right behind its call, because providers refuse any other order."""
        about = _pick(event, "toolCallId", "content", "subagentRunId", "metadata")
        result = {"id": event["messageId"], "role": "tool", **about}
        caller = self._callers.get(event["toolCallId"])
        if caller is None:
            self._put(result)
            return
        place = self._drafts.index(caller) + 1
        while place < len(self._drafts) and self._drafts[place].message["role"] == "tool":
            place += 1
        self._put(result, place)

    # --- whole messages --------------------------------------------------------------------------

    def _set_activity(self, event: Event) -> None:
        draft = self._by_id.get(event["messageId"])
        about = _pick(event, "activityType", "content", "subagentRunId")
        fresh = {"id": event["messageId"], "role": "activity", **about}
        if draft is None:
            draft = self._put(fresh)
        elif event.get("replace") is not False:
            draft = self._replace(draft, fresh)
        if draft.message["role"] == "activity":
            _merge_metadata(draft.message, event)

    def _patch_activity(self, event: Event) -> None:
        draft = self._by_id.get(event["messageId"])
        if draft is None or draft.message["role"] != "activity":
            return
        _merge_metadata(draft.message, event)
        try:
            content = patched(draft.message["content"], event["patch"])
        except (PatchError, RecursionError):
            return
        if isinstance(content, dict):
            self._replace(
                draft, {**draft.message, "content": content, **_pick(event, "activityType")}
            )

    def _replace(self, draft: _Draft, activity: Message) -> _Draft:
        """Replace a message with an activity; an activity's metadata is kept."""
        fresh = _Draft(activity)
        self._drafts[self._drafts.index(draft)] = fresh
        if draft.message["role"] != "activity":
            self._set_drafts(self._drafts)
            return fresh
        fresh.message |= _pick(draft.message, "metadata")
        self._by_id[activity["id"]] = fresh
        return fresh

    def _set_messages(self, event: Event) -> None:
        """Replace the messages with the snapshot's.

        Reasoning and activities stay when the snapshot has none of their kind.
        """
        spoken_of = {message["role"] for message in event["messages"]}
        silent_on = {"reasoning", "activity"} - spoken_of
        fresh = [message for message in event["messages"] if message["id"] not in self._known]
        restated = {message["id"]: _resumed(message) for message in fresh}
        kept = [
            restated.get(draft.message["id"], draft)
            for draft in self._drafts
            if draft.message["id"] in restated or draft.message["role"] in silent_on
        ]
        ids = {draft.message["id"] for draft in kept}
        self._set_drafts([*kept, *(_resumed(one) for one in fresh if one["id"] not in ids)])

    def _encrypt(self, event: Event) -> None:
        """Keep a provider's opaque value at the message or call that it belongs to."""
        if event["subtype"] == "tool-call":
            call = self._calls.get(event["entityId"])
            target = None if call is None else call.call
        else:
            draft = self._by_id.get(event["entityId"])
            target = None if draft is None else draft.message
        if target is not None and target.get("role") != "activity":
            target["encryptedValue"] = event["encryptedValue"]

    # --- places ----------------------------------------------------------------------------------

    def _put(self, message: Message, place: int | None = None) -> _Draft:
        draft = _Draft(message)
        self._drafts.insert(len(self._drafts) if place is None else place, draft)
        if message["id"] in self._by_id:
            self._set_drafts(self._drafts)
        else:
            self._by_id[message["id"]] = draft
        return draft

    def _set_drafts(self, drafts: list[_Draft]) -> None:
        self._drafts = drafts
        self._by_id, self._callers, self._calls = {}, {}, {}
        for draft in drafts:
            self._by_id.setdefault(draft.message["id"], draft)
            for call in draft.calls:
                self._callers.setdefault(call.call["id"], draft)
                self._calls.setdefault(call.call["id"], call)


def _resumed(message: Message) -> _Draft:
    """Return a draft of a whole message, so that later events can extend it."""
    calls = [_Call({**call, "function": dict(call["function"])}) for call in calls_of(message)]
    return _Draft(dict(message), calls=calls)


def _merge_metadata(target: Message, event: Event) -> None:
    if event.get("metadata") is not None:
        target["metadata"] = {**target.get("metadata", {}), **event["metadata"]}


def _pick(event: Event, *names: str) -> Message:
    return {name: event[name] for name in names if event.get(name) is not None}


def _says_something(message: Message) -> bool:
    said = ("content", "toolCalls", "encryptedValue")
    return message["role"] != "assistant" or any(message.get(name) for name in said)


_FOLDS: Final[dict[str, Callable[[Transcript, Event], None]]] = {
    "TEXT_MESSAGE_START": Transcript._start_text,  # noqa: SLF001 - the table is the class's own
    "TEXT_MESSAGE_CONTENT": Transcript._add_words,  # noqa: SLF001
    "TEXT_MESSAGE_END": Transcript._end_words,  # noqa: SLF001
    "REASONING_MESSAGE_START": Transcript._start_reasoning,  # noqa: SLF001
    "REASONING_MESSAGE_CONTENT": Transcript._add_words,  # noqa: SLF001
    "REASONING_MESSAGE_END": Transcript._end_words,  # noqa: SLF001
    "REASONING_ENCRYPTED_VALUE": Transcript._encrypt,  # noqa: SLF001
    "TOOL_CALL_START": Transcript._start_call,  # noqa: SLF001
    "TOOL_CALL_ARGS": Transcript._add_arguments,  # noqa: SLF001
    "TOOL_CALL_END": Transcript._end_call,  # noqa: SLF001
    "TOOL_CALL_RESULT": Transcript._add_result,  # noqa: SLF001
    "ACTIVITY_SNAPSHOT": Transcript._set_activity,  # noqa: SLF001
    "ACTIVITY_DELTA": Transcript._patch_activity,  # noqa: SLF001
    "MESSAGES_SNAPSHOT": Transcript._set_messages,  # noqa: SLF001
}
