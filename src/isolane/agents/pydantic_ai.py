"""Agents made with pydantic-ai."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from ag_ui.core import Context, RunAgentInput
from pydantic_ai import Agent, CancellationToken
from pydantic_ai.ui.ag_ui import AGUIAdapter

from isolane.agents.function import wants_raw_ids
from isolane.context import UserExecutionContext
from isolane.contracts import StopSignal
from isolane.tasks import end_task


class PydanticAgent:
    """Runs a pydantic-ai `Agent` over its own AG-UI adapter."""

    def __init__(self, agent: Agent[Any, Any], *, raw_ids: bool = False) -> None:
        """Keep the agent; it is shared by all runs, as pydantic-ai means it to be."""
        self._agent = agent
        self.raw_ids = raw_ids

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
        told = instructions_of(input.context)
        try:
            async for event in adapter.run_stream(instructions=told, cancellation_token=token):
                yield event
        finally:
            await end_task(watch)


def instructions_of(context: Sequence[Context] | None) -> str | None:
    """Return what the application says of itself, for the model; None when it says nothing.

    It comes behind the agent's own instructions. It is the client's word, as the question is.
    """
    if not context:
        return None
    told = [f"{entry.description}:\n{entry.value}" for entry in context]
    return "\n\n".join(["What the application says of its state:", *told])


async def _cancel_on(stop: StopSignal, token: CancellationToken) -> None:
    await stop.wait()
    token.cancel()


def adapt_pydantic(value: object, *, name: str) -> PydanticAgent | None:
    """Return the agent that `value` is, or None when pydantic-ai didn't make it."""
    if not isinstance(value, Agent):
        return None
    return PydanticAgent(value, raw_ids=wants_raw_ids(value, name=name))
