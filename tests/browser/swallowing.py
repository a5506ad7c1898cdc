"""A proxy whose connections can die as they do under a page that sleeps: without a word."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.live.proxy import PIECE_BYTES, Proxy


class SwallowingProxy(Proxy):
    """Forwards bytes; of the connections there are at `swallow()` none passes from then on.

    Nobody is told: both sides may go on sending. New connections pass.
    """

    swallows: int = 0

    def swallow(self) -> None:
        """Let every connection there is now die in silence."""
        self.swallows += 1

    async def _up(self, client: asyncio.StreamReader, server: asyncio.StreamWriter) -> None:
        await self._pass(client, server)

    async def _down(self, server: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        await self._pass(server, client)

    async def _pass(self, source: asyncio.StreamReader, goal: asyncio.StreamWriter) -> None:
        born = self.swallows
        while data := await source.read(PIECE_BYTES):
            if born == self.swallows:
                goal.write(data)
                await goal.drain()
        if born == self.swallows:
            goal.write_eof()


@asynccontextmanager
async def swallowing_proxy_to(target_port: int) -> AsyncIterator[SwallowingProxy]:
    """Listen on a free loopback port and forward to `target_port`, until the block ends."""
    proxy = SwallowingProxy(target_port)
    async with await proxy.listen():
        try:
            yield proxy
        finally:
            await proxy.close()
