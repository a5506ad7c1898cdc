"""A reverse proxy: it speaks for its visitors, and strips a path or keeps it.

Only the head of each request is rewritten. Each connection serves one request, so that heads stand
at its beginning; what comes behind, a body or a socket's frames, passes as it is.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

LOOPBACK: Final = "127.0.0.1"
HEAD_END: Final = b"\r\n\r\n"
NOT_HERE: Final = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"

_PAGE: Final = "<!doctype html><title>A host</title><script src='/app.js'></script>"
OWN_PAGE: Final = (
    "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\nconnection: close\r\n"
    f"content-length: {len(_PAGE)}\r\n\r\n{_PAGE}"
).encode()


@dataclass(eq=False)
class ReverseProxy:
    """The proxy; `reverse_proxy()` opens and closes it."""

    target_port: int
    prefix: str = ""
    """What its own paths begin with, as it stands in an address."""
    strips: bool = True
    """Whether the server behind it is asked for what stands after the prefix only."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """What is sent in place of the visitor's own headers of these names."""
    port: int = 0
    source: str = LOOPBACK
    """The address that the server sees it at."""
    own: str | None = None
    """A pattern of paths that it answers itself, with a page, as servers of SPAs do."""
    _links: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def origin(self) -> str:
        """Scheme, host and port that visitors see."""
        return f"http://{LOOPBACK}:{self.port}"

    @property
    def url(self) -> str:
        """Where visitors find the gateway."""
        return f"{self.origin}{self.prefix}"

    def answer(self, head: bytes) -> bytes | None:
        """Return what the proxy itself answers; None for what the server is asked."""
        path = head.decode("latin-1").split(" ")[1].partition("?")[0]
        if path != self.prefix and not path.startswith(f"{self.prefix}/"):
            return NOT_HERE
        is_own = self.own is not None and re.match(self.own, path.removeprefix(self.prefix))
        return OWN_PAGE if is_own else None

    def rewrite(self, head: bytes) -> bytes:
        """Return the head for the server."""
        first, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
        method, target, version = first.split(" ")
        path, mark, query = target.partition("?")
        if self.strips:
            path = path.removeprefix(self.prefix) or "/"
        replaced = {name.lower() for name in self.headers}
        is_upgrade = any(line.lower().startswith("upgrade:") for line in lines)
        if not is_upgrade:
            replaced.add("connection")
        kept = [line for line in lines if line.partition(":")[0].lower() not in replaced]
        kept += [f"{name}: {value}" for name, value in self.headers.items()]
        kept += [] if is_upgrade else ["Connection: close"]
        return "\r\n".join([f"{method} {path}{mark}{query} {version}", *kept, "", ""]).encode(
            "latin-1"
        )

    async def listen(self) -> asyncio.Server:
        """Take connections on a free loopback port."""
        listener = await asyncio.start_server(self._welcome, LOOPBACK, self.port)
        self.port = listener.sockets[0].getsockname()[1]
        return listener

    async def close(self) -> None:
        """End every connection."""
        for link in self._links:
            link.cancel()
        await asyncio.gather(*self._links, return_exceptions=True)

    def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = asyncio.get_running_loop().create_task(self._link(reader, writer))
        self._links.add(link)
        link.add_done_callback(self._links.discard)

    async def _link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = [writer]
        with suppress(OSError, asyncio.IncompleteReadError):
            try:
                head = await reader.readuntil(HEAD_END)
                if own := self.answer(head):
                    writer.write(own)
                    return
                back, server = await asyncio.open_connection(
                    LOOPBACK, self.target_port, local_addr=(self.source, 0)
                )
                ends.append(server)
                server.write(self.rewrite(head))
                up = asyncio.create_task(_pump(reader, server))
                try:
                    await _pump(back, writer)
                finally:
                    up.cancel()
                    await asyncio.gather(up, return_exceptions=True)
            finally:
                for end in ends:
                    end.close()
                await asyncio.gather(*(e.wait_closed() for e in ends), return_exceptions=True)


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while data := await source.read(65536):
        sink.write(data)
        await sink.drain()


@asynccontextmanager
async def reverse_proxy(proxy: ReverseProxy) -> AsyncIterator[ReverseProxy]:
    """Serve until the block ends."""
    async with await proxy.listen():
        try:
            yield proxy
        finally:
            await proxy.close()
