"""A TCP proxy that breaks connections where a test wants them broken.

It stands between a client and the server under test, forwards bytes both ways with backpressure,
and can cut every connection hard (a reset to both sides), stop reading from the server as a client
does that never reads, and refuse newcomers.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

LOOPBACK: Final = "127.0.0.1"
CLOSE_TIMEOUT_S: Final = 5.0
PIECE_BYTES: Final = 65536
_LINGER_ZERO: Final = struct.pack("ii", 1, 0)
"""SO_LINGER on, 0 s: closing resets the connection and drops what was not sent."""


@dataclass(slots=True)
class CutPlan:
    """Cut after the `times`-th `needle` that the server sends, counted over all connections."""

    needle: bytes
    times: int
    _tail: bytes = b""

    def find(self, data: bytes) -> int | None:
        """Return how much of `data` passes before the cut, or None when all of it does."""
        text = self._tail + data
        end = 0
        while (found := text.find(self.needle, end)) >= 0:
            end = found + len(self.needle)
            self.times -= 1
            if self.times == 0:
                return end - len(self._tail)
        # What the next piece may complete, but no part of a needle that was counted already.
        self._tail = text[max(end, len(text) - len(self.needle) + 1) :]
        return None


@dataclass(eq=False)
class Proxy:
    """The proxy; `proxy_to()` opens and closes it."""

    target_port: int
    port: int = 0
    refusing: bool = False
    accepted: int = 0
    """How many connections were taken so far."""
    cuts: int = 0
    """How many times `cut()` has struck, by a plan or by hand."""
    _plans: deque[CutPlan] = field(default_factory=deque)
    _ends: set[asyncio.StreamWriter] = field(default_factory=set)
    _links: set[asyncio.Task[None]] = field(default_factory=set)
    _flowing: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def address(self) -> str:
        """Host and port to give to clients."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def open_links(self) -> int:
        """How many connections pass through now."""
        return len(self._links)

    def cut(self) -> None:
        """Reset every connection, on both sides."""
        self.cuts += 1
        self._reset_all()

    def cut_after(self, needle: bytes, *times: int) -> None:
        """Cut after the n-th `needle` from the server; several numbers are several cuts in a row.

        Each count begins where the cut before has struck. What the server sent passes up to the
        needle's last byte, so that a needle within a frame leaves half a frame behind.
        """
        self._plans.extend(CutPlan(needle, n) for n in times)

    def pause(self) -> None:
        """Stop reading from the server, as a client does that never reads.

        Up to some 200 KB more are taken before the server's own send buffer begins to fill.
        """
        self._flowing.clear()

    def resume(self) -> None:
        """Read on."""
        self._flowing.set()

    def refuse(self) -> None:
        """Reset each newcomer from now on."""
        self.refusing = True

    def accept(self) -> None:
        """Take newcomers again."""
        self.refusing = False

    async def listen(self) -> asyncio.Server:
        """Take connections on a free loopback port."""
        self._flowing.set()
        listener = await asyncio.start_server(self._welcome, LOOPBACK, 0)
        self.port = listener.sockets[0].getsockname()[1]
        return listener

    async def close(self) -> None:
        """Reset every connection and wait until nothing of them is left."""
        self.refusing = True
        self._flowing.set()
        self._reset_all()
        await asyncio.wait_for(asyncio.gather(*self._links), CLOSE_TIMEOUT_S)

    def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refusing:
            _reset(writer)
            return
        self.accepted += 1
        link = asyncio.get_running_loop().create_task(self._link(reader, writer))
        self._links.add(link)
        link.add_done_callback(self._links.discard)

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = [writer]
        self._ends.add(writer)
        try:
            server_reader, server = await asyncio.open_connection(LOOPBACK, self.target_port)
            ends.append(server)
            self._ends.add(server)
            if writer.transport.is_closing():
                raise ConnectionResetError("cut while the server was dialled")
            async with asyncio.TaskGroup() as ways:
                ways.create_task(self._up(reader, server))
                ways.create_task(self._down(server_reader, writer))
        except* OSError:
            # One side is gone without a goodbye; so shall the other be.
            for end in ends:
                _reset(end)
        finally:
            for end in ends:
                end.close()
            await asyncio.gather(*(end.wait_closed() for end in ends), return_exceptions=True)
            self._ends.difference_update(ends)

    async def _up(self, client: asyncio.StreamReader, server: asyncio.StreamWriter) -> None:
        while data := await client.read(PIECE_BYTES):
            server.write(data)
            await server.drain()
        server.write_eof()

    async def _down(self, server: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        while data := await server.read(PIECE_BYTES):
            await self._flowing.wait()
            passed = self._plans[0].find(data) if self._plans else None
            client.write(data[:passed])
            if passed is not None:
                self._plans.popleft()
                self.cut()
            await client.drain()
        client.write_eof()

    def _reset_all(self) -> None:
        for end in self._ends:
            _reset(end)


def _reset(end: asyncio.StreamWriter) -> None:
    raw: socket.socket = end.get_extra_info("socket")
    if raw.fileno() >= 0:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
    end.transport.abort()


@asynccontextmanager
async def proxy_to(target_port: int) -> AsyncIterator[Proxy]:
    """Listen on a free loopback port and forward to `target_port`, until the block ends."""
    proxy = Proxy(target_port)
    async with await proxy.listen():
        try:
            yield proxy
        finally:
            await proxy.close()
