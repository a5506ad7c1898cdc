"""The model that speaks when no provider does, and the one that does when it is named."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, Final

from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelRequestPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models import Model, infer_model
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, DeltaToolCalls, FunctionModel

from isolane.agents.guide.answer import GREETING, compose, to_pieces
from isolane.agents.guide.library import Passage
from isolane.agents.guide.words import to_query
from isolane.errors import AgentRefused

PACE_S: Final = 0.015
"""Between two words of an offline answer: as fast as a model speaks, so that it is seen to."""

TOOL: Final = "search_docs"


def make_model(name: str | None) -> Model:
    """Return the model of that name, the offline one for None; raises `AgentRefused`."""
    if name is None:
        return FunctionModel(stream_function=answer, model_name="offline")
    try:
        return infer_model(name)
    except Exception as error:  # each provider's client has errors of its own
        raise AgentRefused(
            f"ISOLANE_MODEL holds {name!r}, which can't be used; provider:model is wanted. {error}"
        ) from error


async def answer(
    messages: list[ModelMessage], _info: AgentInfo
) -> AsyncIterator[str | DeltaToolCalls]:
    """Stand in for a model: look the question up, then answer with what was found."""
    query = to_query(_questions(messages))
    found = _found(messages[-1])
    if query and found is None:
        yield {0: DeltaToolCall(name=TOOL, json_args=json.dumps({"query": query}))}
        return
    for piece in to_pieces(GREETING if found is None else compose(found, query)):
        yield piece
        await asyncio.sleep(PACE_S)


def _found(message: ModelMessage) -> Sequence[Passage] | None:
    """Return what the tool has just returned; None when it has not been called yet."""
    for part in _parts([message]):
        if isinstance(part, ToolReturnPart) and part.tool_name == TOOL:
            content: Any = part.content  # what `search_docs` returned, as it returned it
            return list(content)
    return None


def _questions(messages: Sequence[ModelMessage]) -> list[str]:
    """Return what the user asked so far, the newest last."""
    return [_text(part) for part in _parts(messages) if isinstance(part, UserPromptPart)]


def _parts(messages: Sequence[ModelMessage]) -> Iterable[ModelRequestPart]:
    for message in messages:
        if isinstance(message, ModelRequest):
            yield from message.parts


def _text(part: UserPromptPart) -> str:
    if isinstance(part.content, str):
        return part.content
    return " ".join(piece for piece in part.content if isinstance(piece, str))
