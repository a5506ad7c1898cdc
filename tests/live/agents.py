"""Sample agents, served as `--agent name=agents:attribute` from this folder.

Their pace is part of what they are, so they may sleep; what stops them is not.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ag_ui.core import RunAgentInput

    from isolane import UserExecutionContext
    from isolane.contracts import StopSignal

SECRET: Final = "secret-text"
"""What an error says and nobody may see."""
_DIRECTIVE: Final = re.compile(r"count (\d+)(?: every (\d+) ?ms)?")
_COUNT: Final = 30
_PACE_MS: Final = 50


def last_user_text(input: RunAgentInput) -> str:  # noqa: A002  # AG-UI's name for it
    """Return what the user said last; nothing when they said nothing or no text."""
    for message in reversed(input.messages):
        if message.role == "user":
            return message.content if isinstance(message.content, str) else ""
    return ""


def numbered(count: int) -> str:
    """Return the whole answer that `slow` gives when it is asked to count so far."""
    return "".join(f"{number} " for number in range(1, count + 1))


async def echo(input: RunAgentInput) -> AsyncIterator[str]:  # noqa: A002
    """Say what the user said, word by word."""
    for word in last_user_text(input).split():
        yield f"{word} "


async def slow(
    input: RunAgentInput,  # noqa: A002
    context: UserExecutionContext,
    stop: StopSignal,
) -> AsyncIterator[str]:
    """Count: `count 30 every 50ms` is 30 numbers, 20 a second, which is also what it does unasked.

    Ends early, and says no more, once it is stopped.
    """
    del context
    found = _DIRECTIVE.search(last_user_text(input))
    count = int(found[1]) if found else _COUNT
    pace_ms = int(found[2]) if found and found[2] else _PACE_MS
    for number in range(1, count + 1):
        yield f"{number} "
        if await _stopped_within(stop, pace_ms / 1000):
            return


async def _stopped_within(stop: StopSignal, delay_s: float) -> bool:
    try:
        await asyncio.wait_for(stop.wait(), delay_s)
    except TimeoutError:
        return False
    return True


async def stubborn(input: RunAgentInput) -> AsyncIterator[str]:  # noqa: A002
    """Say one word and then neither end nor let itself be cancelled."""
    del input
    yield "never "
    while True:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)


async def crash(input: RunAgentInput) -> AsyncIterator[str]:  # noqa: A002
    """Say one word and raise an error whose text must not leave the process."""
    del input
    yield "almost "
    raise ValueError(SECRET)
