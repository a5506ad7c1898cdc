"""An agent of Agno with a database of its own, behind Agno's AG-UI interface. Its model is none."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from agno.agent import Agent as AgnoAgent
from agno.db.in_memory import InMemoryDb
from agno.models.base import Model
from agno.models.response import ModelResponse
from agno.os.interfaces.agui.router import run_entity
from tests.beside.try_memory import Agent


class Repeater(Model):  # type: ignore[misc]  # typed where it is installed
    """Stands in for a model: says all that is in its context."""

    async def ainvoke_stream(
        self, messages: list[Any], **_more: object
    ) -> AsyncGenerator[Any, None]:
        """Yield one answer."""
        yield ModelResponse(content="; ".join(str(message.content) for message in messages))

    def invoke(self, *_args: object, **_more: object) -> Any:  # noqa: ANN401 - as there
        """Serve nobody: the interface only streams."""
        raise NotImplementedError

    ainvoke = invoke_stream = _parse_provider_response = _parse_provider_response_delta = invoke


def new_agent() -> Agent:
    """Return the agent."""
    shared = AgnoAgent(
        model=Repeater(id="none"), db=InMemoryDb(), add_history_to_context=True, telemetry=False
    )

    async def agent(input: Any) -> AsyncGenerator[object, None]:  # noqa: A002, ANN401
        async for event in run_entity(shared, input):
            yield event

    return agent
