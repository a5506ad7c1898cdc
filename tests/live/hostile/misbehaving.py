"""Agents that no other test needs; served as `--agent name=hostile.misbehaving:attribute`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, cast

if TYPE_CHECKING:
    from ag_ui.core import RunAgentInput


DEAF_S: Final = 7.0
"""A stopped run ends after 5 s; until its agent does, that is one task more."""


async def flood(input: RunAgentInput) -> AsyncIterator[str]:  # noqa: A002  # AG-UI's name for it
    """Say a hundred thousand words and wait for nothing in between."""
    del input
    for number in range(100_000):
        yield f"{number} "


async def deaf(input: RunAgentInput) -> AsyncIterator[str]:  # noqa: A002
    """Swallow every cancellation, for longer than anybody waits, but not for ever."""
    del input
    yield "word"
    until = time.monotonic() + DEAF_S
    while time.monotonic() < until:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(until - time.monotonic())


async def late(input: RunAgentInput) -> AsyncIterator[object]:  # noqa: A002
    """Go on after the end, with another end too."""
    end = {"type": "RUN_FINISHED", "threadId": input.thread_id, "runId": input.run_id}
    yield "before "
    yield end
    yield "after "
    yield {"type": "RUN_ERROR", "message": "after all", "code": "late"}
    yield end


async def returns_none(input: RunAgentInput) -> None:  # noqa: A002
    """Return nothing, where an agent would yield."""
    del input


def sync_generator(input: RunAgentInput) -> Iterator[str]:  # noqa: A002
    """Yield without being asynchronous."""
    del input
    yield "word"


def __getattr__(name: str) -> Coroutine[Any, Any, None]:
    """Make a coroutine that nobody awaits, only for who asks for it."""
    if name == "coroutine":
        return returns_none(cast("RunAgentInput", None))
    raise AttributeError(name)
