"""Hundreds of sockets in one process, cheap enough that the server is what is measured.

While a crowd listens its frames are only split and kept with the time of their receipt; they are
judged afterwards. What these clients themselves are late is part of every figure.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple, Self, cast

from tests.live.client import Frame
from tests.live.framing import TEXT
from tests.live.framing import frame as masked_frame
from tests.live.server import LOOPBACK
from tests.live.stage import Lane
from tests.live.tcp import shrink_buffers

SHORT = 126
"""What a frame's length byte says when two bytes of length follow; above, eight do."""
OPEN_TIMEOUT_S = 20.0


class Received(NamedTuple):
    """A frame and when it came, in seconds of the machine's monotonic clock."""

    at_s: float
    text: bytes

    @property
    def frame(self) -> Frame:
        """What it says."""
        frame: Frame = json.loads(self.text)
        return frame


class Member(asyncio.Protocol):
    """One socket; it keeps what comes, until it is told to read no more."""

    def __init__(self, lane: Lane) -> None:
        self.received: list[Received] = []
        self.port = 0
        """Its own, by which the kernel's tables tell it from others."""
        self.is_lost = False
        self.lane = lane
        self._rest = b""
        self._is_open = False
        self._transport: asyncio.Transport | None = None
        self._waiting: tuple[Callable[[], bool], asyncio.Future[None]] | None = None

    @classmethod
    async def join(
        cls, lane: Lane, *, is_deaf: bool = False, within_s: float = OPEN_TIMEOUT_S
    ) -> Self:
        """Open a socket and greet. A deaf one's buffers, on both sides, are small."""
        own = socket.socket()
        own.setblocking(False)  # noqa: FBT003 - the socket module's own
        if is_deaf:
            shrink_buffers(own)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(own, (LOOPBACK, lane.server.port))
        _, member = await loop.create_connection(lambda: cls(lane), sock=own)
        await member.until(lambda: member._is_open, within_s=within_s)
        member.send({"type": "hello", "v": 1})
        await member.until(lambda: member.has_frame("welcome"), within_s=within_s)
        return member

    def send(self, frame: Frame) -> None:
        """Send a frame, masked by zeros."""
        text = json.dumps(frame).encode()
        assert self._transport is not None
        self._transport.write(masked_frame(TEXT, text, mask=bytes(4)))

    async def subscribe(self, thread_id: str) -> None:
        """Follow a thread from the start of its log."""
        before = len(self.received)
        self.send({"type": "subscribe", "threadId": thread_id})
        await self.until(lambda: self.has_frame("subscribed", since=before))

    def go_deaf(self) -> None:
        """Read nothing from now on."""
        assert self._transport is not None
        self._transport.pause_reading()

    def hear(self) -> None:
        """Read on."""
        assert self._transport is not None
        self._transport.resume_reading()

    def leave(self) -> None:
        """Let go at once."""
        assert self._transport is not None
        self._transport.abort()

    def has_frame(self, kind: str, *, since: int = 0) -> bool:
        """Say whether a control frame of that type has come."""
        start = f'{{"type":"{kind}"'.encode()
        return any(received.text.startswith(start) for received in self.received[since:])

    async def until(
        self, condition: Callable[[], bool], *, within_s: float = OPEN_TIMEOUT_S
    ) -> None:
        """Return once what came is as wanted."""
        if not condition():
            done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting = condition, done
            await asyncio.wait_for(done, within_s)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the upgrade."""
        self._transport = cast("asyncio.Transport", transport)  # what TCP gives
        self.port = self._transport.get_extra_info("sockname")[1]
        lines = [
            *("GET /ws HTTP/1.1", f"Host: {self.lane.server.address}", "Connection: Upgrade"),
            *("Upgrade: websocket", "Sec-WebSocket-Version: 13"),
            *("Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==", "Sec-WebSocket-Protocol: agui.v1"),
            f"Authorization: Bearer {self.lane.token}",
        ]
        self._transport.write("\r\n".join([*lines, "", ""]).encode())

    def data_received(self, data: bytes) -> None:
        """Note the time, split, and tell who waits."""
        now_s = time.monotonic()
        self._rest += data
        if not self._is_open:
            head, separator, rest = self._rest.partition(b"\r\n\r\n")
            if not separator:
                return
            assert head.startswith(b"HTTP/1.1 101 "), head
            self._is_open, self._rest = True, rest
        self._split(now_s)
        if self._waiting is not None and self._waiting[0]() and not self._waiting[1].done():
            self._waiting[1].set_result(None)
            self._waiting = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Remember it: nobody here expects that."""
        del exc
        self.is_lost = True

    def _split(self, now_s: float) -> None:
        at = 0
        while (found := find_frame(self._rest, at)) is not None:
            start, end = found
            if self._rest[at] & 0x0F == TEXT:
                self.received.append(Received(now_s, self._rest[start:end]))
            at = end
        self._rest = self._rest[at:]


@asynccontextmanager
async def crowd() -> AsyncIterator[list[Member]]:
    """Give a list to put members in; whatever happens, they leave with the block."""
    members: list[Member] = []
    try:
        yield members
    finally:
        for member in members:
            member.leave()


def find_frame(data: bytes, at: int) -> tuple[int, int] | None:
    """Return where the payload of the unmasked frame at `at` begins and ends, if it is all here."""
    if len(data) < at + 2:
        return None
    length, start = data[at + 1], at + 2
    if length >= SHORT:
        width = 2 if length == SHORT else 8
        length, start = int.from_bytes(data[start : start + width], "big"), start + width
    end = start + length
    # A length that isn't here in full begins its payload beyond what is here.
    return (start, end) if max(start, end) <= len(data) else None
