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
    """A message and the results of its calls."""

    message: Message
    results: list[Message] = field(default_factory=list)
    is_open: bool = False
    """True when its calls may stay without results, because this run brings them."""


def answer_calls(
    history: Sequence[Message], *, added: Sequence[Message] = (), resumes: bool = False
) -> list[Message]:
    """Return the history with a result behind every call; a call without one gets `NO_RESULT`.

    A run that `resumes` brings answers to the questions of the last turn. Then the calls after the
    user's last message stay without results. Messages that the run itself `added` at the end are
    not counted.
    """
    if not any(calls_of(message) for message in history):
        return list(history)
    places = _place(history)
    if resumes:
        _keep_open(places, added)
    return [message for place in places for message in _spelled_out(place)]


def _place(history: Sequence[Message]) -> list[_Place]:
    """Return the messages with their results; a result belongs to the newest call of its id."""
    places: list[_Place] = []
    callers: dict[str, _Place] = {}  # some models reuse the ids of calls in each turn
    for message in history:
        caller = callers.get(message.get("toolCallId", "")) if message["role"] == "tool" else None
        if caller is not None:
            caller.results.append(message)
            continue
        place = _Place(message)
        places.append(place)
        callers.update((call["id"], place) for call in calls_of(message))
    return places


def _keep_open(places: Sequence[_Place], added: Sequence[Message]) -> None:
    fresh = {message["id"] for message in added}
    for place in reversed(places):
        if place.message["role"] == "user" and place.message["id"] not in fresh:
            return
        place.is_open = True


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
