"""The pace at which both servers speak, so that they differ in nothing but what is measured."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

NS_PER_S = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Pace:
    """When each event of a run is due, on the clock that all processes of a machine share."""

    first_at_ns: int
    interval_ns: int
    events: int

    @classmethod
    def parse(cls, props: Mapping[str, Any]) -> Self:
        """Return the pace that a run frame asks for in its `forwardedProps`.

        A request of OpenAI's APIs has it in its metadata.
        """
        asked = props.get("openai")
        return cls(**(props if asked is None else asked["metadata"]))

    def to_props(self) -> dict[str, int]:
        """Return what `parse` reads."""
        return asdict(self)

    def due_ns(self, number: int) -> int:
        """Return when event `number`, counted from 0, should be said."""
        return self.first_at_ns + number * self.interval_ns

    async def wait(self, number: int) -> str:
        """Wait until event `number` is due and return its text: its number, and the time now.

        Who is late doesn't wait, so a server that falls behind is asked to catch up. It sleeps
        even then, for no time at all, since an agent that never lets go would stop its server.
        """
        await asyncio.sleep(max(0, self.due_ns(number) - time.monotonic_ns()) / NS_PER_S)
        return f"{number} {time.monotonic_ns()}"
