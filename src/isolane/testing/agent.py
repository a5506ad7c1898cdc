"""An agent that follows a script and never depends on time."""

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
    """A step that waits until the test opens the gate with this name."""

    name: str
    holds_against_cancel: bool = False
    """True when even a cancellation doesn't end the wait, as in a broken agent."""


class UntilStopped:
    """A step that waits until somebody stops the run."""


class ScriptedAgent:
    """Does its steps in order, anew in every run.

    A `Gate` or an `UntilStopped` waits. An exception is raised. Everything else is yielded: text,
    mappings, events, also invalid ones. Only `UntilStopped` looks at the stop signal, so a script
    without one ignores it. The gates belong to the event loop of the runs.
    """

    def __init__(self, *steps: object) -> None:
        """Keep the steps; all gates are closed."""
        self._steps = steps
        self._gates: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._arrivals: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self.inputs: list[RunAgentInput] = []
        """The inputs, one per run that began."""
        self.contexts: list[UserExecutionContext] = []
        """The contexts, in the same order."""

    async def run(
        self,
        input: RunAgentInput,  # noqa: A002 - the name of AG-UI's field
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
        """Open a gate for the runs that wait there and for later ones."""
        self._gates[gate].set()

    async def arrived(self, gate: str, *, within_s: float = 5.0) -> None:
        """Wait until a run has come to a gate. Safe to cancel.

        Raises:
            TimeoutError: No run came within `within_s` seconds.
        """
        async with asyncio.timeout(within_s):
            await self._arrivals[gate].wait()

    async def _pass(self, gate: Gate) -> None:
        self._arrivals[gate.name].set()
        is_open = self._gates[gate.name]
        while gate.holds_against_cancel and not is_open.is_set():
            with suppress(asyncio.CancelledError):
                await is_open.wait()
        await is_open.wait()
