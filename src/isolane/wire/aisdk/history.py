"""A thread's stored messages in the form of AI SDK. Pure.

They are used for messages of users, and for turns whose events the log no longer keeps. Data parts
are gone then; the rest is as it was shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from isolane.events.transcript import Message, calls_of
from isolane.wire.aisdk.chunks import NOT_JSON, arguments_of, message_id_of, value_of
from isolane.wire.aisdk.messages import Part, UIMessage

_SCHEMES: Final = {"data": "data:{mime};base64,{value}", "url": "{value}"}


def to_user_message(message: Message) -> UIMessage:
    """Return the UI message for a message of a user."""
    content = message.get("content")
    given = content if isinstance(content, list) else [{"type": "text", "text": content or ""}]
    parts = [made for part in given for made in _to_parts(part)]
    return {"id": message["id"], "role": "user", "parts": parts}


def _to_parts(part: Mapping[str, Any]) -> Iterable[Part]:
    if part.get("type") == "text":
        yield {"type": "text", "text": part["text"]}
        return
    source = part.get("source") or {}
    scheme = _SCHEMES.get(str(source.get("type")))
    if scheme is None:  # a file that only its provider can open
        return
    media_type = source.get("mimeType") or "application/octet-stream"
    filename = (part.get("metadata") or {}).get("filename")
    named = {"filename": filename} if isinstance(filename, str) else {}
    url = scheme.format(mime=media_type, value=source["value"])
    yield {"type": "file", "mediaType": media_type, "url": url, **named}


def to_assistant_message(turn_id: str, runs: Iterable[Sequence[Message]]) -> UIMessage:
    """Return a turn's one assistant message, from the messages of each of its runs."""
    parts: list[Part] = []
    for messages in runs:
        is_step_due = True
        for message in messages:
            if message["role"] == "tool":
                _answer(parts, message)
                is_step_due = True
                continue
            made = _said_in(message)
            if made and is_step_due:
                parts.append({"type": "step-start"})
                is_step_due = False
            parts += made
    return {"id": message_id_of(turn_id), "role": "assistant", "metadata": {}, "parts": parts}


def _said_in(message: Message) -> list[Part]:
    """Return the parts of an assistant's message: text, reasoning and calls."""
    role, content = message["role"], message.get("content")
    if role == "reasoning":
        return [{"type": "reasoning", "id": message["id"], "text": content or "", "state": "done"}]
    if role != "assistant":
        return []
    said = [{"type": "text", "text": content, "state": "done"}] if content else []
    return [*said, *map(_to_call, calls_of(message))]


def _to_call(call: Mapping[str, Any]) -> Part:
    function = call["function"]
    part: Part = {"type": f"tool-{function['name']}", "toolCallId": call["id"]}
    text = function.get("arguments") or ""
    try:
        value = arguments_of(text)
    except ValueError:
        return {**part, "state": "output-error", "input": text, "errorText": NOT_JSON}
    return {**part, "state": "input-available", "input": value}


def answer_calls(message: UIMessage, answers: Iterable[Message]) -> None:
    """Add results that came with a later question to their calls, when these have none."""
    waiting = [part for part in message["parts"] if part.get("state") == "input-available"]
    for answer in answers if waiting else ():
        _answer(waiting, answer)


def _answer(parts: Sequence[Part], message: Message) -> None:
    """Add a tool's result to its call."""
    for part in parts:
        if part.get("toolCallId") != message["toolCallId"] or part["state"].startswith("output-"):
            continue
        if message.get("error") is not None:
            part |= {"state": "output-error", "errorText": str(message["error"])}
        else:
            part |= {"state": "output-available", "output": value_of(message["content"])}
            part["providerExecuted"] = True
        return
