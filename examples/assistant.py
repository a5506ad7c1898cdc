"""An agent made with pydantic-ai, which calls a tool and needs no key and no network.

To use a real model, put its name in place of the `FunctionModel`: `Agent("openai:gpt-5")`. Serve it
from this folder: `isolane serve --agent assistant:agent`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Final

from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage, ModelRequest, ToolReturnPart, UserPromptPart
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, DeltaToolCalls, FunctionModel

PACE_S: Final = 0.05


async def answer(
    messages: list[ModelMessage], _info: AgentInfo
) -> AsyncIterator[str | DeltaToolCalls]:
    """Take the place of a model: call the tool first, then say its result."""
    newest = messages[-1]
    parts = newest.parts if isinstance(newest, ModelRequest) else []
    returned = [part for part in parts if isinstance(part, ToolReturnPart)]
    if not returned:
        asked = [part.content for part in parts if isinstance(part, UserPromptPart)]
        yield {0: DeltaToolCall(name="count_words", json_args=json.dumps({"text": str(asked[-1])}))}
        return
    for word in f"Your question has {returned[-1].content} words.".split():
        yield f"{word} "
        await asyncio.sleep(PACE_S)


agent: Agent[None, str] = Agent(FunctionModel(stream_function=answer))


@agent.tool_plain
def count_words(text: str) -> int:
    """Count the words of a text."""
    return len(text.split())
