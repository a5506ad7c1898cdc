"""An agent that tells tomorrow's weather, and one that adds a greeting to any other agent.

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
    """A source of forecasts."""

    async def load_tomorrow(self, city: str) -> str:
        """Return tomorrow's weather in a word or two."""
        ...


class Almanac:
    """Always has the same forecast."""

    async def load_tomorrow(self, city: str) -> str:
        """Return the constant forecast."""
        return "rain" if city == "Bergen" else "sun"


class Weather:
    """Answers the name of a city with its forecast."""

    def __init__(self, forecast: Forecast) -> None:
        """Ask `forecast` for the weather; an object that is no forecast is refused here."""
        self._forecast = ensure(forecast, Forecast)

    async def run(
        self,
        input: RunAgentInput,  # noqa: A002 - the name of AG-UI's field
        context: UserExecutionContext,
        stop: StopSignal,
    ) -> AsyncGenerator[object, None]:
        """Say tomorrow's weather."""
        del context, stop
        city = str(input.messages[-1].content)
        yield f"Tomorrow in {city}: "
        yield await self._forecast.load_tomorrow(city)


class Polite:
    """Greets the user, passes on another agent's answer, and says goodbye unless it was stopped."""

    def __init__(self, agent: Agent) -> None:
        """Wrap `agent`."""
        self._agent = ensure(agent, Agent)

    async def run(
        self,
        input: RunAgentInput,  # noqa: A002 - the name of AG-UI's field
        context: UserExecutionContext,
        stop: StopSignal,
    ) -> AsyncGenerator[object, None]:
        """Say everything."""
        yield f"Hello {context.user_id}. "
        async with aclosing(self._agent.run(input, context, stop)) as answer:
            async for value in answer:
                yield value
        if not stop.is_set():
            yield " Goodbye."


agent = Polite(Weather(Almanac()))
