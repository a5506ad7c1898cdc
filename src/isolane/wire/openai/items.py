"""A run's input as input items of OpenAI's Responses API. Pure.

This is the way back from `content.py`. Messages that came through another door are told in the same
form. Shapes: those of the package `openai`, 3.57.0 for Python and 6.49.0 for JavaScript.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from isolane.errors import InvalidInput
from isolane.events.transcript import Message
from isolane.wire.openai.content import AUDIO, Part
from isolane.wire.openai.words import Said

APPROVAL_PREFIX: Final = "mcpr_"
"""Prefix that makes the id of an answer from the id of its question."""


def to_input_items(
    messages: Iterable[Message], resume: Iterable[Mapping[str, Any]] = ()
) -> list[Said]:
    """Return the items of a run's input: answers to questions first, then messages."""
    return [*map(_to_approval, resume), *map(_to_item, messages)]


def to_page(items: Sequence[Said], *, after: str | None, limit: int, is_newest_first: bool) -> Said:
    """Return a page of items, strictly after the item with the id `after`.

    Raises:
        InvalidInput: No item has that id.
    """
    ordered = items[::-1] if is_newest_first else items
    ids = [item["id"] for item in ordered]
    if after is not None and after not in ids:
        raise InvalidInput("after", "must be the id of an item of this response")
    begin = 0 if after is None else ids.index(after) + 1
    page = ordered[begin : begin + limit]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": begin + limit < len(ordered),
    }


def _to_approval(entry: Mapping[str, Any]) -> Said:
    payload = entry.get("payload")
    said = payload if isinstance(payload, dict) else {}
    is_approved = entry["status"] == "resolved" and said.get("approved") is not False
    reason = said.get("reason")
    return {
        "id": f"{APPROVAL_PREFIX}{entry['interruptId']}",
        "type": "mcp_approval_response",
        "approval_request_id": entry["interruptId"],
        "approve": is_approved,
        **({"reason": reason} if isinstance(reason, str) else {}),
    }


def _to_item(message: Message) -> Said:
    content, done = message.get("content") or "", {"id": message["id"], "status": "completed"}
    if message["role"] == "tool":
        output = content if isinstance(content, str) else [_to_content(part) for part in content]
        call_id = message["toolCallId"]
        return {**done, "type": "function_call_output", "call_id": call_id, "output": output}
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    said = [_to_content(part) for part in parts]
    return {**done, "type": "message", "role": message["role"], "content": said}


def _to_content(part: Part) -> Said:
    if part["type"] == "text":
        return {"type": "input_text", "text": part["text"]}
    return _CONTENTS.get(part["type"], _to_file)(part)


def _to_image(part: Part) -> Said:
    return {"type": "input_image", "detail": "auto", "image_url": _to_address(part["source"])}


def _to_audio(part: Part) -> Said:
    """Return an audio part whose bytes are in the message; any other audio is a file."""
    source = part["source"]
    kind = _AUDIO_FORMATS.get(source.get("mimeType", ""))
    if source["type"] == "url" or kind is None:
        return _to_file(part)
    return {"type": "input_audio", "input_audio": {"data": source["value"], "format": kind}}


def _to_file(part: Part) -> Said:
    source, name = part["source"], (part.get("metadata") or {}).get("filename")
    about = {"filename": name} if isinstance(name, str) else {}
    field = "file_url" if source["type"] == "url" else "file_data"
    return {"type": "input_file", field: _to_address(source), **about}


def _to_address(source: Mapping[str, Any]) -> str:
    if source["type"] == "url":
        return str(source["value"])
    return f"data:{source['mimeType']};base64,{source['value']}"


_AUDIO_FORMATS: Final = {mime_type: name for name, mime_type in AUDIO.items()}
_CONTENTS: Final[Mapping[str, Callable[[Part], Said]]] = {"image": _to_image, "audio": _to_audio}
