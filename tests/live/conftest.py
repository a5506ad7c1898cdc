"""What live tests break."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Protocol

import pytest
from tests.live.proxy import Proxy, proxy_to
from tests.live.server import Server


class StartProxy(Protocol):
    """Starts a proxy before a server; see the fixture `break_line_to`."""

    async def __call__(self, server: Server) -> Proxy:
        """Return once it listens."""
        ...


@pytest.fixture
async def break_line_to() -> AsyncIterator[StartProxy]:
    """Give a function that puts a proxy before a server, to break what passes through."""
    async with AsyncExitStack() as stack:

        async def start(server: Server) -> Proxy:
            return await stack.enter_async_context(proxy_to(server.port))

        yield start
