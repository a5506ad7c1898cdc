"""The agents for the measurements of Isolane."""

from __future__ import annotations

from collections.abc import AsyncIterator

from ag_ui.core import RunAgentInput
from pace import Pace, speak


async def stream(run: RunAgentInput) -> AsyncIterator[str]:
    """Speak at the pace that the run asks for in its `forwardedProps`.

    A request of OpenAI's APIs has it in its metadata.
    """
    props = run.forwarded_props or {}
    async for words in speak(Pace.parse(props.get("openai", {}).get("metadata", props)["pace"])):
        yield words


async def brief(run: RunAgentInput) -> AsyncIterator[str]:
    """Say one word."""
    del run
    yield "Done."
