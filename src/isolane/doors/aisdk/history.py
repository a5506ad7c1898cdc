"""The messages of a chat in AI SDK's form, page by page."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from isolane.context import ThreadKey
from isolane.contracts import StandingTurn, TurnBook
from isolane.doors.records import read_kept
from isolane.events.event import Record, decode_event
from isolane.events.transcript import Message
from isolane.log.feed import Feed
from isolane.wire.aisdk.chunks import ID_PREFIX, UIChunks
from isolane.wire.aisdk.history import answer_calls, to_assistant_message, to_user_message
from isolane.wire.aisdk.messages import UIMessage, UIMessageFold

PAGE_BYTES: Final = 4 << 20
"""Maximum bytes of events that one page of messages is made from."""


async def load_messages(
    feed: Feed, book: TurnBook, key: ThreadKey, *, before: str | None, limit: int
) -> list[UIMessage] | None:
    """Return a page of a chat's messages, the oldest first; None without such a chat.

    `limit` counts turns. A page has fewer when their events have more than `PAGE_BYTES`, but at
    least one.

    Raises:
        InvalidCursor: `before` names no standing message.
    """
    place = None if before is None else before.removeprefix(ID_PREFIX)
    page = await book.load_turns(key, before=place, limit=limit)
    if page is None:
        return None
    bounds = await feed.load_bounds(key)
    turns: list[list[UIMessage]] = []
    # results of tools in later turns, because they came with a later question
    answers: list[Message] = []
    size = 0
    for turn in page.turns:
        records = await _load_kept(feed, key, turn, trimmed_seq=bounds.trimmed_seq)
        size += sum(len(record.payload) for record in records)
        if turns and size > PAGE_BYTES:
            break
        turns.append(await asyncio.to_thread(_to_messages, turn, records, tuple(answers)))
        answers = _answers_before(turn, turns[-1], answers)
    return [message for turn in reversed(turns) for message in turn]


async def _load_kept(
    feed: Feed, key: ThreadKey, turn: StandingTurn, *, trimmed_seq: int
) -> list[Record]:
    """Return a turn's records; none when a part is no longer kept, or was taken back."""
    begun = [one.run.first_seq for one in turn.runs if one.run.first_seq is not None]
    is_kept = begun and begun[0] > trimmed_seq and all(one.is_whole for one in turn.runs)
    runs = [one.run for one in turn.runs]
    return [record async for record in read_kept(feed, key, runs)] if is_kept else []


def _to_messages(
    turn: StandingTurn, records: Sequence[Record], answers: Sequence[Message]
) -> list[UIMessage]:
    """Return the user's messages of a turn, and the message that a client made of the answer.

    `answers` are tool results that came later.
    """
    asked = [message for one in turn.runs for message in one.added if message["role"] == "user"]
    said = [to_user_message(message) for message in asked]
    if records:
        events = [decode_event(record.payload) for record in records]
        chunks = UIChunks(turn.turn_id)
        chunks.look_ahead(events)
        grown = UIMessageFold()
        for event in events:
            for chunk in chunks.add(event):
                grown.add(chunk)
        answer = grown.to_message()
        answer_calls(answer, answers)
        return [*said, answer]
    runs = [[*_tools_in(one.added), *one.left] for one in turn.runs]
    answer = to_assistant_message(turn.turn_id, runs)
    answer_calls(answer, answers)
    return [*said, answer] if answer["parts"] else said


def _answers_before(
    turn: StandingTurn, shown: Sequence[UIMessage], later: Sequence[Message]
) -> list[Message]:
    """Return the tool results that came with a turn or later, for calls of earlier turns."""
    own = {part.get("toolCallId") for message in shown for part in message["parts"]}
    first, *others = [_tools_in(one.added) for one in turn.runs]
    came = [*later, *(message for messages in others for message in messages)]
    return [*(one for one in came if one["toolCallId"] not in own), *first]


def _tools_in(messages: Sequence[Message]) -> list[Message]:
    return [message for message in messages if message["role"] == "tool"]
