"""Servers that run while a block of a test runs."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import TypeVar

from isolane.testing.server import Server

S = TypeVar("S", bound=Server)


@asynccontextmanager
async def running(server: S) -> AsyncIterator[S]:
    """Start a server, and stop it at the block's end if it still runs."""
    try:
        await server.start()
        yield server
    finally:
        await server.close()


class Servers:
    """Starts servers, each on a free port with a data folder of its own; a fixture returns it."""

    def __init__(self, folder: Path) -> None:
        """Keep all data below `folder`."""
        self._folder = folder
        self._numbers = count(1)

    @asynccontextmanager
    async def __call__(
        self, *agents: str, env: Mapping[str, str] | None = None, options: tuple[str, ...] = ()
    ) -> AsyncIterator[Server]:
        """Serve `agents`, named as in `isolane serve --agent`, while the block runs.

        The server can import everything that the test can.

        Raises:
            ServerError: It didn't start, or it ended by itself.
            AssertionError: Its output reported a coroutine without an await.
        """
        data = self._folder / f"isolane-{next(self._numbers)}"
        path = os.pathsep.join(entry for entry in sys.path if entry)
        server = Server(data, agents, {"PYTHONPATH": path, **(env or {})}, options)
        async with running(server):
            yield server
