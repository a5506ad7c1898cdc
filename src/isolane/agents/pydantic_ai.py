"""Agents that are made with pydantic-ai."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from ag_ui.core import Context, RunAgentInput
from pydantic_ai import Agent, CancellationToken
from pydantic_ai.ui.ag_ui import AGUIAdapter

from isolane.agents.function import MARKS, has_mark
from isolane.context import UserExecutionContext
from isolane.contracts import StopSignal
from isolane.tasks import end_task


class PydanticAgent:
    """Runs a pydantic-ai `Agent` over pydantic-ai's own AG-UI adapter."""

    def __init__(
        self, agent: Agent[Any, Any], *, raw_ids: bool = False, restartable: bool = False
    ) -> None:
        """Keep the agent. All runs share it, as pydantic-ai expects."""
        self._agent = agent
        self.raw_ids = raw_ids
        self.restartable = restartable

    async def run(
        self,
        input: RunAgentInput,  # noqa: A002 - the name of AG-UI's field
        context: UserExecutionContext,  # noqa: ARG002 - pydantic-ai has deps of its own
        stop: StopSignal,
    ) -> AsyncGenerator[object, None]:
        """Yield the adapter's events; a stop ends the model's stream and the tools.

        A pydantic-ai run ends in order only by its own token. A cancelled task yields no end event.
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
    """Return the application's context as text for the model; None without one.

    The text comes after the agent's own instructions. It is the client's word, like the question.
    """
    if not context:
        return None
    told = [f"{entry.description}:\n{entry.value}" for entry in context]
    return "\n\n".join(["What the application says of its state:", *told])


async def _cancel_on(stop: StopSignal, token: CancellationToken) -> None:
    await stop.wait()
    token.cancel()


def adapt_pydantic(value: object, *, name: str) -> PydanticAgent | None:
    """Return an agent for `value`, or None when it wasn't made with pydantic-ai."""
    if not isinstance(value, Agent):
        return None
    return PydanticAgent(value, **{mark: has_mark(value, mark, name=name) for mark in MARKS})
