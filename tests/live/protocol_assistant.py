"""A pydantic-ai agent whose tool may take for ever: `--agent protocol_assistant:agent`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Final

from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage, ModelRequest, ToolReturnPart, UserPromptPart
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, DeltaToolCalls, FunctionModel


async def _model(
    messages: list[ModelMessage], _info: AgentInfo
) -> AsyncIterator[str | DeltaToolCalls]:
    """Call the tool with the user's words, and say what it said."""
    newest = messages[-1]
    assert isinstance(newest, ModelRequest)
    said = [str(part.content) for part in newest.parts if isinstance(part, ToolReturnPart)]
    asked = [str(part.content) for part in newest.parts if isinstance(part, UserPromptPart)]
    if said and not asked:
        yield f"The tool said: {said[-1]} "
        return
    yield {0: DeltaToolCall(name="look", json_args=json.dumps({"at": asked[-1]}))}


agent: Final[Agent[None, str]] = Agent(FunctionModel(stream_function=_model))


@agent.tool_plain
async def look(at: str) -> str:
    """Look, for ever if it is asked for."""
    if "for ever" in at:
        await asyncio.Event().wait()
    return "rain"
