"""Agents made with pydantic-ai."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from ag_ui.core import RunAgentInput
from pydantic_ai import Agent, CancellationToken
from pydantic_ai.ui.ag_ui import AGUIAdapter

from isolane.context import UserExecutionContext
from isolane.contracts import StopSignal
from isolane.tasks import end_task


class PydanticAgent:
    """Runs a pydantic-ai `Agent` over its own AG-UI adapter."""

    def __init__(self, agent: Agent[Any, Any]) -> None:
        """Keep the agent; it is shared by all runs, as pydantic-ai means it to be."""
        self._agent = agent

    async def run(
        self,
        input: RunAgentInput,  # noqa: A002 - the field's word for it
        context: UserExecutionContext,  # noqa: ARG002 - pydantic-ai has its own deps
        stop: StopSignal,
    ) -> AsyncGenerator[object, None]:
        """Yield the adapter's events; a stop ends the model's stream and the tools.

        Only its own token ends a pydantic-ai run in order; cancelling the task alone does not.
        """
        token = CancellationToken()
        watch = asyncio.create_task(_cancel_on(stop, token), name="pydantic-ai stop")
        adapter = AGUIAdapter(agent=self._agent, run_input=input)
        try:
            async for event in adapter.run_stream(cancellation_token=token):
                yield event
        finally:
            await end_task(watch)


async def _cancel_on(stop: StopSignal, token: CancellationToken) -> None:
    await stop.wait()
    token.cancel()


def adapt_pydantic(value: object) -> PydanticAgent | None:
    """Return the agent that `value` is, or None when pydantic-ai didn't make it."""
    return PydanticAgent(value) if isinstance(value, Agent) else None
