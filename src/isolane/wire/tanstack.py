"""A thread's messages as TanStack AI's chat client keeps them. Pure.

That client makes one message of what an assistant thinks, calls and says, where AG-UI has several.
This follows what it makes of a run's events (`StreamProcessor` of `@tanstack/ai`), so that a page
which was loaded anew shows what was seen before. Only its names of steps aren't kept anywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec

from isolane.events.interrupts import Interrupt
from isolane.events.transcript import Message, calls_of

UiMessage = dict[str, Any]
"""An `id`, a `role` (`user`, `assistant` or `system`) and `parts`, with the client's names."""
Part = dict[str, Any]

_MEDIA: Final = frozenset({"image", "audio", "video", "document"})


def to_ui_messages(
    runs: Iterable[Sequence[Message]], interrupts: Iterable[Interrupt] = ()
) -> list[UiMessage]:
    """Return what a client shows of the messages that each run added, the oldest run first.

    `interrupts` are open: what they ask stands at the calls that they are about. Values in it that
    are `msgspec.Raw` are JSON.
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
    """The messages that a client shows, grown message by message."""

    def __init__(self) -> None:
        self.messages: list[UiMessage] = []
        self._open: UiMessage | None = None
        """The message of this run to which calls and thoughts belong that name no other."""
        self._is_named = True
        """Whether the open message has the id of what it says: it may have said nothing yet."""
        self._calls: dict[str, tuple[Part, UiMessage]] = {}

    def begin_run(self) -> None:
        """Let what comes belong to another run."""
        self._open = None
        self._is_named = True

    def add(self, message: Message) -> None:
        """Show one AG-UI message; an activity has no place in that client."""
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
        """Return the open message; without one, a new one that waits for what it will say."""
        if self._open is None:
            self._open = self._put(message, "assistant", [])
            self._is_named = False
        return self._open

    def _open_named(self, message: Message) -> UiMessage:
        """Return the message that says `message`: what was thought and called before, or a new."""
        if self._open is None or self._is_named:
            self._open = self._put(message, "assistant", [])
        self._is_named = True
        self._open["id"] = message["id"]
        _describe(self._open, message)
        return self._open

    def _add_answer(self, message: Message) -> None:
        words = message.get("content")
        if words is not None:  # also without a word: it was begun as a message, not by a call
            self._open_named(message)["parts"] += _to_parts(words)
        for call in calls_of(message):
            owner = self._open_unnamed(message)
            part = _to_call(call)
            owner["parts"].append(part)
            self._calls[call["id"]] = (part, owner)

    def _add_thought(self, message: Message) -> None:
        """Add a thought to the open message, which has one part for all of them."""
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
        """Add a tool's answer behind its call; nobody sees the answer to a call that isn't here."""
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
    """Add what a message tells about itself; a client keeps its time in the metadata."""
    for name in ("name", "metadata"):
        if message.get(name) is not None:
            shown[name] = message[name]
    created_at = _tanstack(message).get("createdAt")
    if isinstance(created_at, str):
        shown["createdAt"] = created_at


def _tanstack(message: Message) -> Mapping[str, Any]:
    """Return what the client itself noted in a message's metadata."""
    noted = (message.get("metadata") or {}).get("tanstack")
    return noted if isinstance(noted, Mapping) else {}


def _to_parts(content: object) -> list[Part]:
    """Return a content's words and attachments."""
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
    """Return a text that is JSON as such, as it is; None for any other."""
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return None
    return msgspec.Raw(text.encode())


def _error_of(message: Message) -> str | None:
    """Return the error that a tool ended in, if it did."""
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
