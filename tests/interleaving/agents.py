"""Agents of every kind, whose own waiting is chance as well."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Final, cast

from tests.interleaving.scheduler import ShuffledLoop

from isolane.contracts import StopSignal

DEAF_S: Final = 30.0
FLOOD: Final = 100


async def talker(_input: object) -> AsyncIterator[object]:
    loop = _loop()
    for number in range(loop.chance.randrange(4)):
        await loop.pause()
        yield f"word {number}"


async def hasty(_input: object) -> AsyncIterator[object]:
    """End as soon as may be."""
    yield "word"


async def raiser(_input: object) -> AsyncIterator[object]:
    loop = _loop()
    await loop.pause()
    if loop.chance.random() < 0.5:
        yield "so far"
    raise loop.chance.choice((ValueError, SystemExit, asyncio.CancelledError))


async def heeder(_input: object, _context: object, stop: StopSignal) -> AsyncIterator[object]:
    yield "until I am stopped"
    await stop.wait()
    await _loop().pause()
    yield "and a last word"


async def deaf(_input: object) -> AsyncIterator[object]:
    """Swallow each cancellation, and go on long after the run has ended."""
    loop = _loop()
    until_s = loop.time() + DEAF_S
    while loop.time() < until_s:
        try:
            await asyncio.sleep(until_s - loop.time())
        except asyncio.CancelledError:
            continue
    yield "at last"


async def silent(_input: object) -> AsyncIterator[object]:
    await asyncio.Event().wait()
    yield "never"


async def flood(_input: object) -> AsyncIterator[object]:
    for _ in range(FLOOD):
        yield "x"


AGENTS: Final[Mapping[str, Callable[..., AsyncIterator[object]]]] = {
    agent.__name__: agent for agent in (talker, hasty, raiser, heeder, deaf, silent, flood)
}


def _loop() -> ShuffledLoop:
    return cast("ShuffledLoop", asyncio.get_running_loop())
