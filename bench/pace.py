"""When an agent speaks, and its words: the same for Isolane and for all peers in Python."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, NamedTuple, Self, TypeVar

NS_PER_S: Final = 1_000_000_000
_asked = itertools.count(1)


class Pace(NamedTuple):
    """How often to speak. Its text form, "RATE BURST EVENTS", is the question to every server."""

    rate: float
    """Events per second. 0 is as often as the event loop comes by."""
    burst: int = 1
    """Events that are said at once."""
    events: int = 0
    """Events until the end. 0 has no end."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the pace of its text form."""
        rate, burst, events = text.split()
        return cls(float(rate), int(burst), int(events))

    def __str__(self) -> str:
        """Return what `parse` reads."""
        return f"{self.rate:g} {self.burst} {self.events}"


async def speak(pace: Pace) -> AsyncIterator[str]:
    """Yield each event's words: when it should have been said, and when it was, in nanoseconds.

    A server that falls behind is asked to catch up, because a late event does not wait.
    """
    rate, burst, left = pace.rate, pace.burst, pace.events or 1 << 62
    period_s = burst / rate if rate else 0.0
    # Spread over a period, or all connections would speak at the same moment.
    due_s = time.monotonic() + period_s * (next(_asked) * 7919 % 1000) / 1000
    while left > 0:
        await asyncio.sleep(max(0, due_s - time.monotonic()) if rate else 0)
        due_ns = round(due_s * NS_PER_S) if rate else 0
        for _ in range(min(burst, left)):
            at_ns = time.monotonic_ns()
            yield f"due={due_ns or at_ns} at={at_ns} "
        due_s += period_s
        left -= burst


EPOCH: Final = "5d1c0e9ab2f47a31"
MESSAGE_ID: Final = "msg_0b9d4e6c-5e1f-4c3a-9d2b-7f6e5d4c3b2a"
NAMES: Final = {"threadId": "t123-1", "runId": "r123-1"}
Frame = TypeVar("Frame")


async def produce(
    send: Callable[[Frame], Awaitable[None]], to_frame: Callable[[int, str], Frame], asked: str
) -> None:
    """Send what a connection of a peer asked for; a frame without words is the end."""
    seq = 0
    async for words in speak(Pace.parse(asked)):
        seq += 1
        await send(to_frame(seq, words))
    await send(to_frame(seq + 1, ""))


def to_text(seq: int, words: str) -> str:
    """Return the text of an envelope like Isolane's, as cheaply as Python can make it."""
    if not words:
        return json.dumps(to_mapping(seq, words), separators=(",", ":"))
    return (
        f'{{"id":"{EPOCH}-{seq}","chunk":{{"type":"TEXT_MESSAGE_CONTENT",'
        f'"messageId":"{MESSAGE_ID}","delta":"{words}"}},"threadId":"t123-1","runId":"r123-1"}}'
    )


def to_mapping(seq: int, words: str) -> dict[str, object]:
    """Return the same envelope, for a library that makes texts itself."""
    said = {"type": "TEXT_MESSAGE_CONTENT", "messageId": MESSAGE_ID, "delta": words}
    return {"id": f"{EPOCH}-{seq}", "chunk": said if words else {"type": "RUN_FINISHED"}, **NAMES}
