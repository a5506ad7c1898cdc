"""The guide without a model, which searches the pages and quotes what it found."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Iterator
from dataclasses import asdict
from typing import Final

from ag_ui.core import RunAgentInput, UserMessage

from isolane.agents.guide.answer import GREETING, NOT_COVERED, compose, to_pieces
from isolane.agents.guide.library import Passage
from isolane.agents.guide.search import TOOL, open_library, search_docs
from isolane.agents.guide.topics import is_sum
from isolane.agents.guide.words import to_query
from isolane.context import UserExecutionContext
from isolane.contracts import StopSignal

PACE_S: Final = 0.015
"""Seconds between two words of an answer, about the pace of a model, so that a person sees it
grow."""


async def answer(
    input: RunAgentInput,  # noqa: A002 - the name of AG-UI's field
    context: UserExecutionContext,
    stop: StopSignal,
) -> AsyncGenerator[object, None]:
    """Call the search tool with the newest question, then say the found passages word by word."""
    questions = [_text_of(message) for message in input.messages if message.role == "user"]
    query = to_query(questions)
    text = NOT_COVERED if query else GREETING
    if query and not is_sum(questions[-1]) and open_library().knows_topic(query):
        found = await search_docs(query)
        for event in _call_events(f"{context.run_key.run_id}-search", query, found):
            yield event
        text = compose(found, query)
    message_id = f"{context.run_key.run_id}-answer"
    yield {"type": "TEXT_MESSAGE_START", "messageId": message_id, "role": "assistant"}
    for piece in to_pieces(text):
        if stop.is_set():
            return
        yield {"type": "TEXT_MESSAGE_CONTENT", "messageId": message_id, "delta": piece}
        await asyncio.sleep(PACE_S)
    yield {"type": "TEXT_MESSAGE_END", "messageId": message_id}


def _text_of(message: UserMessage) -> str:
    """Return the text of a question, without its pictures."""
    if isinstance(message.content, str):
        return message.content
    return " ".join(part.text for part in message.content if part.type == "text")


def _call_events(call_id: str, query: str, found: list[Passage]) -> Iterator[dict[str, str]]:
    """Yield the tool call and its result as AG-UI events."""
    yield {"type": "TOOL_CALL_START", "toolCallId": call_id, "toolCallName": TOOL}
    arguments = json.dumps({"query": query})
    yield {"type": "TOOL_CALL_ARGS", "toolCallId": call_id, "delta": arguments}
    yield {"type": "TOOL_CALL_END", "toolCallId": call_id}
    yield {
        "type": "TOOL_CALL_RESULT",
        "messageId": f"{call_id}-result",
        "toolCallId": call_id,
        "content": json.dumps([asdict(passage) for passage in found], ensure_ascii=False),
        "role": "tool",
    }
