"""Agents for a server that runs short: they take memory, or go on until or from a sign.

Served as `--agent name=hungry_agents:attribute`. No run can be begun to tell them anything then.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ag_ui.core import RunAgentInput

    from isolane import UserExecutionContext
    from isolane.contracts import StopSignal

FOLDER: Final = "HUNGRY_AGENTS_FOLDER"
"""Names where the signs are: what a user says is a secret, and paths stand in tracebacks."""


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
    """Count, 20 numbers a second, until there is a file that the user names; then say so."""
    sign, number = _sign(input), 0
    while not sign.exists():
        number += 1
        yield f"{number} "
        await asyncio.sleep(0.05)  # the pace
    yield "over"


async def flooder(input: RunAgentInput) -> AsyncIterator[str]:  # noqa: A002
    """Count to ten, wait until there is a file that the user names, and count on without end."""
    sign = _sign(input)
    for number in count(1):
        while number > 10 and not sign.exists():  # noqa: ASYNC110 - another process's
            await asyncio.sleep(0.05)  # between two looks
        yield f"{number} "


async def shouter(input: RunAgentInput) -> AsyncIterator[str]:  # noqa: A002
    """Write so many lines of a KiB to stdout and to stderr, `8192 lines`."""
    line = "!" * 1023
    for _ in range(int(str(input.messages[-1].content).split()[0])):
        print(line)  # noqa: T201 - what a tool may do
        print(line, file=sys.stderr)  # noqa: T201
    yield "over"


def _sign(input: RunAgentInput) -> Path:  # noqa: A002
    return Path(os.environ[FOLDER]) / str(input.messages[-1].content)
