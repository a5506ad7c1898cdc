"""A thread's messages in the form of TanStack AI's chat client. Pure.

That client makes one message of an assistant's thoughts, calls and words, where AG-UI has several.
This fold does the same as its `StreamProcessor` in `@tanstack/ai`. So a page that is reloaded shows
what it showed before. Only names of steps are lost, because they are stored nowhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec

from isolane.events.interrupts import Interrupt
from isolane.events.transcript import Message, calls_of

UiMessage = dict[str, Any]
"""A message with an `id`, a `role` (`user`, `assistant` or `system`) and `parts`, named as in the
client."""
Part = dict[str, Any]

_MEDIA: Final = frozenset({"image", "audio", "video", "document"})


def to_ui_messages(
    runs: Iterable[Sequence[Message]], interrupts: Iterable[Interrupt] = ()
) -> list[UiMessage]:
    """Return what the client shows for each run's messages, the oldest run first.

    `interrupts` are the open questions; each is shown at the call that it is about. A value of type
    `msgspec.Raw` is JSON.
    """
    shown = _Shown()
    for run in runs:
        shown.begin_run()
        for message in run:
            shown.add(message)
    for interrupt in interrupts:
        shown.ask(interrupt)
    return shown.messages


class _Shown:
    """The messages that a client shows, which grow message by message."""

    def __init__(self) -> None:
        self.messages: list[UiMessage] = []
        self._open: UiMessage | None = None
        """The message of this run that gets calls and thoughts without a message of their own."""
        self._is_named = True
        """True when the open message has the id of its text, even before its first word."""
        self._calls: dict[str, tuple[Part, UiMessage]] = {}

    def begin_run(self) -> None:
        """Begin another run."""
        self._open = None
        self._is_named = True

    def add(self, message: Message) -> None:
        """Show one AG-UI message; that client has no place for activities."""
        match message["role"]:
            case "assistant":
                self._add_answer(message)
            case "reasoning":
                self._add_thought(message)
            case "tool":
                self._add_result(message)
            case "user" | "system" | "developer" as role:
                shown = "user" if role == "user" else "system"
                self._put(message, shown, _to_parts(message.get("content")))
            case _:
                pass

    def ask(self, interrupt: Interrupt) -> None:
        """Mark the call that a person is asked to approve."""
        call, _ = self._calls.get(str(interrupt.get("toolCallId")), (None, None))
        metadata = interrupt.get("metadata")
        kind = metadata.get("kind") if isinstance(metadata, Mapping) else None
        if call is not None and (kind == "approval" or interrupt["reason"] == "approval_required"):
            approval = {"id": interrupt["id"], "needsApproval": True}
            call.update(state="approval-requested", approval=approval)

    def _put(self, message: Message, role: str, parts: list[Part]) -> UiMessage:
        shown: UiMessage = {"id": message["id"], "role": role, "parts": parts}
        _describe(shown, message)
        self.messages.append(shown)
        return shown

    def _open_unnamed(self, message: Message) -> UiMessage:
        """Return the open message, or a new one that waits for its text."""
        if self._open is None:
            self._open = self._put(message, "assistant", [])
            self._is_named = False
        return self._open

    def _open_named(self, message: Message) -> UiMessage:
        """Return the message for this text: the open one with thoughts and calls, or a new one."""
        if self._open is None or self._is_named:
            self._open = self._put(message, "assistant", [])
        self._is_named = True
        self._open["id"] = message["id"]
        _describe(self._open, message)
        return self._open

    def _add_answer(self, message: Message) -> None:
        words = message.get("content")
        if words is not None:  # an empty text too, because it began as a message and not as a call
            self._open_named(message)["parts"] += _to_parts(words)
        for call in calls_of(message):
            owner = self._open_unnamed(message)
            part = _to_call(call)
            owner["parts"].append(part)
            self._calls[call["id"]] = (part, owner)

    def _add_thought(self, message: Message) -> None:
        """Add a thought to the open message, which has one part for all thoughts."""
        words, signature = message.get("content") or "", message.get("encryptedValue")
        if not words and not signature:
            return
        parts = self._open_unnamed(message)["parts"]
        part = next((each for each in parts if each["type"] == "thinking"), None)
        if part is None:
            part = {"type": "thinking", "content": "", "stepId": message["id"]}
            parts.append(part)
        part["content"] += words
        if signature:
            part["signature"] = signature

    def _add_result(self, message: Message) -> None:
        """Add a tool's result behind its call; a result without a shown call is dropped."""
        call, owner = self._calls.get(message["toolCallId"], (None, None))
        if call is None or owner is None:
            return
        content, error = message["content"], _error_of(message)
        state = "complete" if error is None else "error"
        result = {
            "type": "tool-result",
            "toolCallId": message["toolCallId"],
            "content": content,
            "state": state,
        }
        owner["parts"].append(result if error is None else {**result, "error": error})
        output = _to_json(content) if isinstance(content, str) else content
        if message.get("error"):
            output = {"error": error}
        call.update(state=state, output=content if output is None else output)


def _describe(shown: UiMessage, message: Message) -> None:
    """Add a message's own metadata; a client keeps its time there."""
    for name in ("name", "metadata"):
        if message.get(name) is not None:
            shown[name] = message[name]
    created_at = _tanstack(message).get("createdAt")
    if isinstance(created_at, str):
        shown["createdAt"] = created_at


def _tanstack(message: Message) -> Mapping[str, Any]:
    """Return the client's own notes in a message's metadata."""
    noted = (message.get("metadata") or {}).get("tanstack")
    return noted if isinstance(noted, Mapping) else {}


def _to_parts(content: object) -> list[Part]:
    """Return text and attachments of a content."""
    if isinstance(content, str):
        return [{"type": "text", "content": content}] if content else []
    parts: list[Part] = []
    for part in content if isinstance(content, list) else ():
        if part["type"] == "text":
            parts.append({"type": "text", "content": part["text"]})
        elif part["type"] in _MEDIA:
            parts.append({name: value for name, value in part.items() if value is not None})
    return parts


def _to_call(call: Message) -> Part:
    arguments = call["function"]["arguments"]
    part: Part = {
        "type": "tool-call",
        "id": call["id"],
        "name": call["function"]["name"],
        "arguments": arguments,
        "state": "input-complete",
    }
    given = _to_json(arguments)
    if given is not None:
        part["input"] = given
    metadata = dict(call.get("metadata") or {})
    if call.get("encryptedValue"):
        metadata["thoughtSignature"] = call["encryptedValue"]
    if metadata:
        part["metadata"] = metadata
    return part


def _to_json(text: str) -> msgspec.Raw | None:
    """Return a text that is JSON as raw JSON; None for any other text."""
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return None
    return msgspec.Raw(text.encode())


def _error_of(message: Message) -> str | None:
    """Return the error with which a tool ended, or None."""
    if message.get("error"):
        return str(message["error"])
    if _tanstack(message).get("state") != "output-error":
        return None
    said = message["content"]
    with suppress(msgspec.DecodeError, RecursionError, TypeError):
        said = msgspec.json.decode(said)
    if isinstance(said, Mapping) and isinstance(said.get("error"), str):
        return str(said["error"])
    return said if isinstance(said, str) else "Tool execution failed"
