"""An agent that tells tomorrow's weather, and one that is polite around any other.

Serve them from this folder: `isolane serve --agent weather:agent`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Protocol

from ag_ui.core import RunAgentInput

from isolane import UserExecutionContext, ensure
from isolane.contracts import Agent, StopSignal


class Forecast(Protocol):
    """Whoever knows the weather."""

    async def load_tomorrow(self, city: str) -> str:
        """Return tomorrow's weather in a word or two."""
        ...


class Almanac:
    """Knows it by heart."""

    async def load_tomorrow(self, city: str) -> str:
        """Return what it always is."""
        return "rain" if city == "Bergen" else "sun"


class Weather:
    """Answers the name of a city."""

    def __init__(self, forecast: Forecast) -> None:
        """Ask `forecast` for the weather; what is none raises here."""
        self._forecast = ensure(forecast, Forecast)

    async def run(
        self,
        input: RunAgentInput,  # noqa: A002 - AG-UI's word for it
        context: UserExecutionContext,
        stop: StopSignal,
    ) -> AsyncGenerator[object, None]:
        """Say what tomorrow brings."""
        del context, stop
        city = str(input.messages[-1].content)
        yield f"Tomorrow in {city}: "
        yield await self._forecast.load_tomorrow(city)


class Polite:
    """Greets whoever asks, says what another agent says, and takes leave unless it was stopped."""

    def __init__(self, agent: Agent) -> None:
        """Put manners around `agent`."""
        self._agent = ensure(agent, Agent)

    async def run(
        self,
        input: RunAgentInput,  # noqa: A002 - AG-UI's word for it
        context: UserExecutionContext,
        stop: StopSignal,
    ) -> AsyncGenerator[object, None]:
        """Say it all."""
        yield f"Hello {context.user_id}. "
        async with aclosing(self._agent.run(input, context, stop)) as answer:
            async for value in answer:
                yield value
        if not stop.is_set():
            yield " Goodbye."


agent = Polite(Weather(Almanac()))
