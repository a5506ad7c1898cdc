"""Messages of a run that its thread doesn't have yet. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from isolane.contracts import RunDraft
from isolane.errors import RunConflict
from isolane.events.transcript import Message, calls_of


def new_messages(
    offered: Sequence[Message],
    history: Iterable[Message],
    *,
    rewound: frozenset[str] = frozenset(),
) -> list[Message]:
    """Return the messages of `offered` that `history` doesn't have yet, in order, each id once.

    `rewound` are ids of messages and of calls that were edited away. They don't come back.

    A tool's answer is also known by its call, because clients that rebuild their history give tool
    messages new ids. A call has one answer. Some models count their calls anew in each turn, so an
    answered id may name a newer call that waits.
    """
    known: set[str] = set(rewound)
    answered: set[str] = set(rewound)
    reopened: set[str] = set()
    for message in history:
        known.add(message["id"])
        again = answered.intersection(call["id"] for call in calls_of(message))
        call_id = message.get("toolCallId", "")
        answered -= again
        answered.add(call_id)
        reopened |= again
        reopened.discard(call_id)
    earlier = _find_earlier(offered, known, reopened)
    fresh: list[Message] = []
    for place, message in enumerate(offered):
        call_id = message.get("toolCallId")
        if message["id"] in known or place in earlier or (call_id and call_id in answered):
            continue
        known.add(message["id"])
        answered.add(call_id or "")
        fresh.append(message)
    return fresh


def _find_earlier(
    offered: Sequence[Message], known: Collection[str], reopened: Collection[str]
) -> frozenset[int]:
    """Return the places of answers to the earlier calls of ids that name another call now.

    A list that begins with the conversation has them before what the thread knows, or before the
    answer to the newer call.
    """
    found: set[int] = set()
    seen: set[str] = set()
    for place in reversed(range(len(offered))):
        message = offered[place]
        call_id = message.get("toolCallId", "")
        if message["id"] in known:
            seen.update(reopened)
        elif call_id in reopened:
            if call_id in seen:
                found.add(place)
            seen.add(call_id)
    return frozenset(found)


def check_added(draft: RunDraft, added: Sequence[Message]) -> None:
    """Check that a run which only brings answers adds one of them.

    Raises:
        RunConflict: All its calls were answered before.
    """
    if draft.must_add and not added:
        raise RunConflict("the calls that it answers were answered already")


def has_question(added: Iterable[Message]) -> bool:
    """Say whether a user asks something among these messages."""
    return any(message["role"] == "user" for message in added)


def standing_before(message_id: str | None, history: Sequence[Message]) -> Sequence[Message]:
    """Return what a rewind to that message leaves standing; all of it without one."""
    ids = [message["id"] for message in history]
    return history[: ids.index(message_id)] if message_id in ids else history


def calls_in(message: Message) -> list[str]:
    """Return the calls that a message makes or answers."""
    answered = message.get("toolCallId")
    return [call["id"] for call in calls_of(message)] + ([answered] if answered else [])
