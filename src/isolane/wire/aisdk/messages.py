"""The assistant's message that a client of AI SDK builds from a turn's chunks. Pure.

It follows `processUIMessageStream` of the package `ai`, 7.0.173, for the chunks of `chunks.py`. So
a reader who loads a chat sees the same as one who watched it. One thing is left to the client:
arguments that still grow are told as text only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from isolane.wire.aisdk.chunks import Chunk

UIMessage = dict[str, Any]
"""One `UIMessage` with its names on the wire."""
Part = dict[str, Any]


class UIMessageFold:
    """Builds a turn's one assistant message, chunk by chunk."""

    def __init__(self) -> None:
        """Begin without parts."""
        self._id = ""
        self._metadata: dict[str, Any] = {}
        self._parts: list[Part] = []
        self._words: dict[tuple[str, str], Part] = {}
        """The open text and reasoning parts, by kind and id."""
        self._growing: dict[str, Part] = {}
        """The parts of calls whose arguments grow, by call id."""
        self._step_at = 0
        """Index at which the last step's parts begin."""

    def add(self, chunk: Chunk) -> None:
        """Add the next chunk."""
        kind = chunk["type"]
        fold = _FOLDS.get(kind)
        if fold is not None:
            fold(self, chunk)
        elif kind.startswith("data-") and not chunk.get("transient"):
            self._set_data(chunk)

    def to_message(self) -> UIMessage:
        """Return the message so far."""
        parts = [_joined(part) for part in self._parts]
        return {"id": self._id, "role": "assistant", "metadata": self._metadata, "parts": parts}

    # --- the message itself ----------------------------------------------------------------------

    def _start(self, chunk: Chunk) -> None:
        self._id = chunk["messageId"]
        self._note(chunk)

    def _note(self, chunk: Chunk) -> None:
        self._metadata = _merged(self._metadata, chunk["messageMetadata"])

    def _start_step(self, _chunk: Chunk) -> None:
        self._parts.append({"type": "step-start"})
        self._step_at = len(self._parts)

    # --- text and reasoning ----------------------------------------------------------------------

    def _start_words(self, chunk: Chunk) -> None:
        kind = chunk["type"].removesuffix("-start")
        part: Part = {"type": kind, "text": [], "state": "streaming", **_owner_of(chunk)}
        if kind == "reasoning":
            part["id"] = chunk["id"]
        self._words[kind, chunk["id"]] = part
        self._parts.append(part)

    def _add_words(self, chunk: Chunk) -> None:
        self._words[chunk["type"].removesuffix("-delta"), chunk["id"]]["text"].append(
            chunk["delta"]
        )

    def _end_words(self, chunk: Chunk) -> None:
        self._words.pop((chunk["type"].removesuffix("-end"), chunk["id"]))["state"] = "done"

    # --- tool calls ------------------------------------------------------------------------------

    def _start_call(self, chunk: Chunk) -> None:
        part = self._set_call(chunk, "input-streaming")
        part["rawInput"] = []
        self._growing[chunk["toolCallId"]] = part

    def _add_arguments(self, chunk: Chunk) -> None:
        self._growing[chunk["toolCallId"]]["rawInput"].append(chunk["inputTextDelta"])

    def _end_call(self, chunk: Chunk) -> None:
        self._set_call(chunk, "input-available")

    def _break_call(self, chunk: Chunk) -> None:
        self._set_call(chunk, "output-error")

    def _set_call(self, chunk: Chunk, state: str) -> Part:
        """Set the call's part in the last step; a new call gets a part."""
        call_id, name = chunk["toolCallId"], chunk["toolName"]
        is_dynamic = chunk.get("dynamic") is True
        part = next(
            (
                one
                for one in self._parts[self._step_at :]
                if one.get("toolCallId") == call_id
                and (state == "output-error" or (one["type"] == "dynamic-tool") == is_dynamic)
            ),
            None,
        )
        if part is None:
            kind = {"type": "dynamic-tool", "toolName": name} if is_dynamic else {}
            part = {"type": f"tool-{name}", **kind, "toolCallId": call_id}
            self._parts.append(part)
        elif part["type"] != "dynamic-tool":
            part["type"] = f"tool-{name}"
        self._fill(part, state, chunk)
        return part

    def _answer_call(self, chunk: Chunk) -> None:
        self._answer(chunk, "output-available")

    def _fail_call(self, chunk: Chunk) -> None:
        self._answer(chunk, "output-error")

    def _answer(self, chunk: Chunk, state: str) -> None:
        part = self._find_call(chunk["toolCallId"])
        if part is not None:
            given = {"input": part["input"]} if "input" in part else {}
            self._fill(part, state, {**chunk, **given})

    def _fill(self, part: Part, state: str, chunk: Chunk) -> None:
        for name in ("input", "output", "errorText", "rawInput"):
            part.pop(name, None)
        part["state"] = state
        part |= {name: chunk[name] for name in _OF_CALLS if name in chunk}
        owner = chunk.get("providerMetadata")
        if owner is not None:
            side = "result" if state.startswith("output-") else "call"
            part[f"{side}ProviderMetadata"] = owner

    def _find_call(self, call_id: str) -> Part | None:
        """Return the part of a call: the first one in the last step, else the latest before it."""
        steps = self._parts[self._step_at :], reversed(self._parts[: self._step_at])
        found = (part for step in steps for part in step if part.get("toolCallId") == call_id)
        return next(found, None)

    def _ask(self, chunk: Chunk) -> None:
        part = self._find_call(chunk["toolCallId"])
        if part is not None:
            reason = {"requestReason": chunk["reason"]} if "reason" in chunk else {}
            part |= {
                "state": "approval-requested",
                "approval": {"id": chunk["approvalId"], **reason},
            }

    def _decide(self, chunk: Chunk) -> None:
        own = chunk["approvalId"]
        asked = (part for part in self._parts if part.get("approval", {}).get("id") == own)
        for part in asked:
            said = {name: chunk[name] for name in ("approved", "reason") if name in chunk}
            part |= {"state": "approval-responded", "approval": {**part["approval"], **said}}
            return

    def _deny(self, chunk: Chunk) -> None:
        part = self._find_call(chunk["toolCallId"])
        if part is not None:
            part["state"] = "output-denied"

    # --- whole parts -----------------------------------------------------------------------------

    def _set_data(self, chunk: Chunk) -> None:
        own = chunk.get("id")
        same = (
            part
            for part in self._parts
            if own is not None and part["type"] == chunk["type"] and part.get("id") == own
        )
        part = next(same, None)
        if part is None:
            self._parts.append(dict(chunk))
        else:
            part["data"] = chunk["data"]

    def _put(self, chunk: Chunk) -> None:
        self._parts.append(dict(chunk))


_OF_CALLS: Final = ("input", "output", "errorText", "providerExecuted")


_GROWING: Final = ("text", "rawInput")


def _joined(part: Part) -> Part:
    """Return a part with its texts joined; a text without a word is left out."""
    lists = {name: part[name] for name in _GROWING if isinstance(part.get(name), list)}
    if not lists:
        return part
    kept = {name: value for name, value in part.items() if name not in lists}
    return kept | {name: "".join(texts) for name, texts in lists.items() if texts}


def _owner_of(chunk: Chunk) -> Part:
    owner = chunk.get("providerMetadata")
    return {} if owner is None else {"providerMetadata": owner}


def _merged(base: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with the fields of `more`; objects in both are merged."""
    merged = dict(base)
    for name, value in more.items():
        old = merged.get(name)
        if isinstance(old, dict) and isinstance(value, dict):
            merged[name] = _merged(old, value)
        else:
            merged[name] = value
    return merged


_FOLDS: Final[Mapping[str, Callable[[UIMessageFold, Chunk], None]]] = {
    "start": UIMessageFold._start,  # noqa: SLF001 - the table is the class's own
    "message-metadata": UIMessageFold._note,  # noqa: SLF001
    "finish": UIMessageFold._note,  # noqa: SLF001
    "start-step": UIMessageFold._start_step,  # noqa: SLF001
    "text-start": UIMessageFold._start_words,  # noqa: SLF001
    "text-delta": UIMessageFold._add_words,  # noqa: SLF001
    "text-end": UIMessageFold._end_words,  # noqa: SLF001
    "reasoning-start": UIMessageFold._start_words,  # noqa: SLF001
    "reasoning-delta": UIMessageFold._add_words,  # noqa: SLF001
    "reasoning-end": UIMessageFold._end_words,  # noqa: SLF001
    "tool-input-start": UIMessageFold._start_call,  # noqa: SLF001
    "tool-input-delta": UIMessageFold._add_arguments,  # noqa: SLF001
    "tool-input-available": UIMessageFold._end_call,  # noqa: SLF001
    "tool-input-error": UIMessageFold._break_call,  # noqa: SLF001
    "tool-output-available": UIMessageFold._answer_call,  # noqa: SLF001
    "tool-output-error": UIMessageFold._fail_call,  # noqa: SLF001
    "tool-approval-request": UIMessageFold._ask,  # noqa: SLF001
    "tool-approval-response": UIMessageFold._decide,  # noqa: SLF001
    "tool-output-denied": UIMessageFold._deny,  # noqa: SLF001
    "source-url": UIMessageFold._put,  # noqa: SLF001
    "source-document": UIMessageFold._put,  # noqa: SLF001
    "file": UIMessageFold._put,  # noqa: SLF001
}
"""Function per chunk type. Other chunks leave nothing in the message."""
