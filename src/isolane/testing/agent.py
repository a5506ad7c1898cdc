"""An agent that does what it is told, and nothing by the clock."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass

from ag_ui.core import RunAgentInput

from isolane import UserExecutionContext
from isolane.contracts import StopSignal


@dataclass(frozen=True)
class Gate:
    """A step that waits until the test opens the gate of this name."""

    name: str
    holds_against_cancel: bool = False
    """Whether even being cancelled doesn't get a run past it, as with an agent gone wrong."""


class UntilStopped:
    """A step that waits until somebody stops the run."""


class ScriptedAgent:
    """Does its steps in order, in every run anew.

    A `Gate` or an `UntilStopped` waits, an exception is raised, and whatever else is yielded:
    text, mappings and events, nonsense too. Nothing but `UntilStopped` looks at the stop signal,
    so a script without one ignores it. The gates belong to the loop that the runs are on.
    """

    def __init__(self, *steps: object) -> None:
        """Keep the steps; the gates are shut."""
        self._steps = steps
        self._gates: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._arrivals: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self.inputs: list[RunAgentInput] = []
        """What it was asked, one for each run that began."""
        self.contexts: list[UserExecutionContext] = []
        """Who asked, in the same order."""

    async def run(
        self,
        input: RunAgentInput,  # noqa: A002 - the field's word for it
        context: UserExecutionContext,
        stop: StopSignal,
    ) -> AsyncGenerator[object, None]:
        """Do every step."""
        self.inputs.append(input)
        self.contexts.append(context)
        for step in self._steps:
            match step:
                case Gate():
                    await self._pass(step)
                case UntilStopped():
                    await stop.wait()
                case BaseException():
                    raise step
                case _:
                    yield step

    def open(self, gate: str) -> None:
        """Let the runs go on that wait at a gate, and those that come to it later."""
        self._gates[gate].set()

    async def arrived(self, gate: str, *, within_s: float = 5.0) -> None:
        """Return once a run has come to a gate; raise TimeoutError if none does. Safe to cancel."""
        async with asyncio.timeout(within_s):
            await self._arrivals[gate].wait()

    async def _pass(self, gate: Gate) -> None:
        self._arrivals[gate.name].set()
        is_open = self._gates[gate.name]
        while gate.holds_against_cancel and not is_open.is_set():
            with suppress(asyncio.CancelledError):
                await is_open.wait()
        await is_open.wait()
