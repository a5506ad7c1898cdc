"""The agents that the churn asks; served as `--agent name=churn.agents:attribute`.

The actor's pace is part of what it is, so it may sleep.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ag_ui.core import RunAgentInput

    from isolane import UserExecutionContext
    from isolane.contracts import StopSignal

SECRET: Final = "what an error says and nobody may see"
DEAF_S: Final = 5.0
"""Longer than an agent may take after it was cancelled, so it is abandoned; but not for ever, or
tasks and memory would be its own doing."""
BLOB_CHARACTERS: Final = 20_000
FLOOD_EVENTS: Final = 40
FLOOD_CHARACTERS: Final = 50_000
"""More than the buffers of a socket take whose reader doesn't read."""


async def actor(
    input: RunAgentInput,  # noqa: A002  # AG-UI's name for it
    context: UserExecutionContext,
    stop: StopSignal,
) -> AsyncIterator[object]:
    """Say whose run it is, count, and then end in the manner that the question asks for."""
    asked = json.loads(str(input.messages[-1].content))
    yield f"mark.{context.user_id}. "
    for number in range(1, asked["words"] + 1):
        yield f"{number} "
        if await _stopped_within(stop, asked["every_s"]) and asked["manner"] == "talk":
            return
    match asked["manner"]:
        case "raise":
            raise ValueError(SECRET)
        case "wait":
            await asyncio.Event().wait()  # hears no stop, but lets itself be cancelled
        case "deaf":
            await _hear_nothing(stop)
        case "blob":
            yield blob(BLOB_CHARACTERS)
        case "flood":
            for _ in range(FLOOD_EVENTS):
                yield blob(FLOOD_CHARACTERS)
        case _:
            assert asked["manner"] == "talk"


async def weigher(input: RunAgentInput) -> AsyncIterator[str]:  # noqa: A002  # as above
    """Say how many blocks of memory the server's objects take, of 512 bytes at most each."""
    del input
    gc.collect()
    yield str(sys.getallocatedblocks())


def blob(characters: int) -> dict[str, object]:
    """Return an event of that size."""
    return {"type": "CUSTOM", "name": "blob", "value": "x" * characters}


async def _stopped_within(stop: StopSignal, delay_s: float) -> bool:
    try:
        await asyncio.wait_for(stop.wait(), delay_s)
    except TimeoutError:
        return False
    return True


async def _hear_nothing(stop: StopSignal) -> None:
    """Go on for a while after the stop, cancelled or not."""
    with suppress(asyncio.CancelledError):
        await stop.wait()
    until = monotonic() + DEAF_S
    while (left_s := until - monotonic()) > 0:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(left_s)
