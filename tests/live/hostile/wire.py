"""TCP as attackers speak it: bytes out, whatever they are, and what comes back told in words."""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from tests.live import framing
from tests.live.framing import CLOSE, FULL_TAIL, PING, PONG, RSV1, TEXT
from tests.live.server import LOOPBACK
from tests.live.tcp import small_socket

from isolane.settings import Settings
from isolane.wire.dialogue import MALFORMED_MAX

SHORT: Final = 126
"""What a length byte says when two bytes of length follow; above it eight do."""
END_WITHIN_S: Final = 60.0
FORGIVEN: Final = MALFORMED_MAX - 1
"""Malformed frames in 10 s that a connection survives; one more closes it."""
FRAME_BYTES: Final = Settings().limit_frame_bytes
CLOSED: Final = "closed"
"""The line ended without a word."""
RESET: Final = "reset"
UPGRADE: Final = (
    *("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"),
    "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==",
)
HELLO: Final = '{"type":"hello","v":1}'


frame: Final = partial(framing.frame, mask=bytes(4))
"""Returns a frame under a mask of zeros, so that its payload can be read in what a server gets."""


def request(first: str, *headers: str, host: str = "localhost", body: bytes = b"") -> bytes:
    """Return an HTTP request."""
    lines = [f"{first} HTTP/1.1", f"Host: {host}", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


@dataclass(eq=False)
class Wire:
    """One TCP connection to the server."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    is_alive: bool = False
    """Whether pings that are read are answered, as by every peer that means well."""
    _inflater: zlib._Decompress = field(default_factory=lambda: zlib.decompressobj(wbits=-15))

    async def push(self, data: bytes) -> None:
        """Write, as far as the server takes it."""
        with suppress(ConnectionError):
            self.writer.write(data)
            await self.writer.drain()

    async def status(self) -> str:
        """Return the status of the next answer; how the line ended, when there is none."""
        try:
            head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), END_WITHIN_S)
        except asyncio.IncompleteReadError as nothing:
            return nothing.partial[9:12].decode() or CLOSED
        except ConnectionError:
            return RESET
        return head[9:12].decode()

    async def upgrade(self, *headers: str, path: str = "/ws", host: str = "localhost") -> str:
        """Ask for a socket and return the status."""
        await self.push(request(f"GET {path}", *UPGRADE, *headers, host=host))
        return await self.status()

    async def words(self, *, until: Sequence[str] = ()) -> list[str]:
        """Return what frames say, by code or else type, up to the end or the first of `until`.

        The last one is the close's code, or how the line ended without one.
        """
        said: list[str] = []
        async with asyncio.timeout(END_WITHIN_S):
            async for word in self._words():
                said.append(word)
                if word in until:
                    return said
        return said

    async def word(self) -> str:
        """Return the next of them."""
        async with asyncio.timeout(END_WITHIN_S):
            return await anext(self._words())

    async def end(self) -> str:
        """Return the close's code, or how the line ended without one."""
        return (await self.words())[-1]

    async def ended(self) -> str:
        """Drop what comes and return how the line ends."""
        try:
            async with asyncio.timeout(END_WITHIN_S):
                while await self.reader.read(65536):
                    pass
        except ConnectionError:
            return RESET
        return CLOSED

    async def _words(self) -> AsyncIterator[str]:
        try:
            while True:
                opcode, payload = await self._frame()
                if opcode == PING and self.is_alive:
                    await self.push(frame(PONG, payload))
                if opcode == CLOSE:
                    yield str(int.from_bytes(payload[:2], "big"))
                    return
                if opcode == TEXT and (word := _word(json.loads(payload))) != "heartbeat":
                    yield word
        except asyncio.IncompleteReadError:
            yield CLOSED
        except ConnectionError:
            yield RESET

    async def _frame(self) -> tuple[int, bytes]:
        """Return the next frame's opcode and payload; one that is deflated is inflated."""
        first, length = await self.reader.readexactly(2)
        if length >= SHORT:
            width = 2 if length == SHORT else 8
            length = int.from_bytes(await self.reader.readexactly(width), "big")
        payload = await self.reader.readexactly(length)
        if first >> 4 & RSV1:
            payload = self._inflater.decompress(payload + FULL_TAIL)
        return first & 0x0F, payload


def _word(said: dict[str, Any]) -> str:
    """Return an error's code, an event's type, or a control frame's."""
    if said == {"type": "ping"}:
        return "heartbeat"
    if "errorText" in said:
        return str(said["errorText"]).rpartition(" (")[2].partition(",")[0]
    if "chunk" in said:
        return str(said["chunk"].get("code") or said["chunk"]["type"])
    return str(said.get("code") or said["type"])


@asynccontextmanager
async def wire_to(
    port: int, *, source: str = LOOPBACK, is_lazy: bool = False, is_alive: bool = False
) -> AsyncIterator[Wire]:
    """Open a connection from an address of this machine; whatever happens, it is left at once.

    A lazy one's buffers are small, on both sides. One that is alive answers pings.
    """
    if is_lazy:
        lazy = small_socket(port)
        reader, writer = await asyncio.open_connection(sock=lazy, limit=4096)
    else:
        reader, writer = await asyncio.open_connection(
            LOOPBACK, port, local_addr=(source, 0), limit=1 << 21
        )
    try:
        yield Wire(reader, writer, is_alive)
    finally:
        writer.transport.abort()
