"""A real pydantic-ai agent on an offline model, served as `--agent assistant:agent`.

In a file of its own, for importing pydantic-ai takes two seconds that no other sample needs.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage, ModelRequest, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, DeltaToolCalls, FunctionModel

CITY: Final = "Delft"
FORECAST: Final = f"{CITY}: rain, 11 degrees"
PACE_S: Final = 0.02


async def _model(
    messages: list[ModelMessage], _info: AgentInfo
) -> AsyncIterator[str | DeltaToolCalls]:
    """Call the tool, in pieces as real models do; tell what it said once that is known."""
    found = _tool_result(messages)
    if found is None:
        yield {0: DeltaToolCall(name="lookup", json_args='{"city":')}
        yield {0: DeltaToolCall(json_args=f' "{CITY}"}}')}
        return
    for word in f"The forecast is {found}".split():
        yield f"{word} "
        await asyncio.sleep(PACE_S)


def _tool_result(messages: list[ModelMessage]) -> str | None:
    """Return what the tool said since the user's last word, if it has been called."""
    newest = messages[-1]
    if not isinstance(newest, ModelRequest):
        return None
    returns = [part for part in newest.parts if isinstance(part, ToolReturnPart)]
    return str(returns[-1].content) if returns else None


agent: Agent[None, str] = Agent(FunctionModel(stream_function=_model))


@agent.tool_plain
def lookup(city: str) -> str:
    """Look up the weather of a city."""
    return FORECAST.replace(CITY, city)
