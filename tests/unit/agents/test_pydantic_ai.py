"""What an agent of pydantic-ai is told beside the messages."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from ag_ui.core import Context, RunAgentInput
from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage
from pydantic_ai.models.function import AgentInfo, FunctionModel
from tests.house import ask, context_of

from isolane.agents.pydantic_ai import PydanticAgent, instructions_of
from isolane.runs.stop import Stop


async def told(run_input: RunAgentInput) -> str | None:
    """Return the instructions that the model gets."""
    heard: list[str | None] = []

    async def answer(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str]:
        del messages
        heard.append(info.instructions)
        yield "fine"

    agent = PydanticAgent(Agent(FunctionModel(stream_function=answer), instructions="Be brief."))
    async for _ in agent.run(run_input, context_of("r"), Stop()):
        pass
    (instructions,) = heard
    return instructions


@pytest.mark.parametrize("entries", [0, 2])
async def test_the_context_of_the_input_reaches_the_instructions(entries: int) -> None:
    context = [Context(description=f"place {n}", value=f"Delft {n}") for n in range(entries)]
    instructions = (
        await told(ask(context_of("r"), "hi").model_copy(update={"context": context})) or ""
    )
    assert instructions.startswith("Be brief.")
    assert instructions.count("place ") == instructions.count("Delft ") == entries


def test_without_context_nothing_is_added() -> None:
    assert instructions_of([]) is None
