"""Agents for a server that runs short: one takes memory, one goes on until it is let go.

Served as `--agent name=hungry_agents:attribute`. No run can be begun to tell them anything then.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ag_ui.core import RunAgentInput

    from isolane import UserExecutionContext
    from isolane.contracts import StopSignal


async def hoarder(
    input: RunAgentInput,  # noqa: A002  # AG-UI's name for it
    context: UserExecutionContext,
    stop: StopSignal,
) -> AsyncIterator[str]:
    """Take memory, `take 4096 bytes`, and keep it until stopped."""
    del context
    hoard = bytearray(b"x") * int(str(input.messages[-1].content).split()[1])
    yield f"{len(hoard)} "
    await stop.wait()


async def counter(input: RunAgentInput) -> AsyncIterator[str]:  # noqa: A002
    """Count, 20 numbers a second, until there is a file where the user says; then say so."""
    sign, number = Path(str(input.messages[-1].content)), 0
    while not sign.exists():  # noqa: ASYNC240 - it is looked for, not read
        number += 1
        yield f"{number} "
        await asyncio.sleep(0.05)  # the pace
    yield "over"
