"""Results for every tool call of a conversation. Pure.

Providers refuse a history in which a call has no result right behind it. A run that was stopped,
failed or died with its process leaves such calls.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from isolane.events.transcript import Message, calls_of

NO_RESULT: Final = "There is no result: the run ended before this call was answered."
"""Text that an agent reads as the result of a call without one."""


@dataclass(slots=True, eq=False)
class _Place:
    """A message with calls, and their results."""

    message: Message
    results: list[Message] = field(default_factory=list)
    is_open: bool = False
    """True when its calls may stay without results, because this run brings them."""


def answer_calls(
    history: Sequence[Message], *, added: Sequence[Message] = (), resumes: bool = False
) -> Sequence[Message]:
    """Return the history with a result behind every call; a call without one gets `NO_RESULT`.

    A run that `resumes` brings answers to the questions of the last turn. Then the calls after the
    user's last message stay without results. Messages that the run itself `added` at the end are
    not counted.
    """
    if _is_answered(history):
        return history
    items = _place(history)
    if resumes:
        _keep_open(items, added)
    answered: list[Message] = []
    for item in items:
        if isinstance(item, _Place):
            answered.extend(_spelled_out(item))
        else:
            answered.append(item)
    return answered


def _is_answered(history: Sequence[Message]) -> bool:
    """Say quickly that each call has one result, right behind its message. Mostly this is so."""
    waiting: set[str] = set()
    for message in history:
        if message["role"] == "tool":
            if message.get("toolCallId") not in waiting:
                return False
            waiting.discard(message["toolCallId"])
        elif waiting:
            return False
        elif calls := calls_of(message):
            waiting = {call["id"] for call in calls}
    return not waiting


def _place(history: Sequence[Message]) -> list[Message | _Place]:
    """Return the messages, with their results at those that have calls.

    A result belongs to the newest call of its id. One of an unknown call stays where it is.
    """
    items: list[Message | _Place] = []
    callers: dict[str, _Place] = {}  # some models reuse the ids of calls in each turn
    for message in history:
        caller = callers.get(message.get("toolCallId", "")) if message["role"] == "tool" else None
        if caller is not None:
            caller.results.append(message)
        elif calls := calls_of(message):
            place = _Place(message)
            items.append(place)
            callers.update((call["id"], place) for call in calls)
        else:
            items.append(message)
    return items


def _keep_open(items: Sequence[Message | _Place], added: Sequence[Message]) -> None:
    fresh = {message["id"] for message in added}
    for item in reversed(items):
        if isinstance(item, _Place):
            item.is_open = True
        elif item["role"] == "user" and item["id"] not in fresh:
            return


def _spelled_out(place: _Place) -> Iterator[Message]:
    answered = {result["toolCallId"] for result in place.results}
    missing = [call for call in calls_of(place.message) if call["id"] not in answered]
    if place.is_open or not missing:
        yield place.message
        yield from place.results
        return
    calls = [_readable(call) if call in missing else call for call in calls_of(place.message)]
    yield {**place.message, "toolCalls": calls}
    yield from place.results
    for call in missing:
        yield {
            "id": f"unanswered:{call['id']}",
            "role": "tool",
            "toolCallId": call["id"],
            "content": NO_RESULT,
            "error": NO_RESULT,
        }


def _readable(call: Message) -> Message:
    """Return a call whose arguments are JSON; arguments that were cut off become `{}`."""
    try:
        json.loads(call["function"]["arguments"])
    except (ValueError, RecursionError):
        return {**call, "function": {**call["function"], "arguments": "{}"}}
    return call
