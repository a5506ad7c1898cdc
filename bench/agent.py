"""The agents for the measurements of Isolane."""

from __future__ import annotations

from collections.abc import AsyncIterator

from ag_ui.core import RunAgentInput
from pace import Pace


async def stream(run: RunAgentInput) -> AsyncIterator[str]:
    """Say numbered pieces of text at the pace that the run frame asks for."""
    pace = Pace.parse(run.forwarded_props or {})
    for number in range(pace.events):
        yield await pace.wait(number)


async def brief(run: RunAgentInput) -> AsyncIterator[str]:
    """Say one word."""
    del run
    yield "Done."
