"""Servers that live as long as a block of a test."""

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
    """Start a server, and end it with the block if it still runs."""
    try:
        await server.start()
        yield server
    finally:
        await server.close()


class Servers:
    """Starts servers, each on a free port with a data folder of its own; a fixture gives it."""

    def __init__(self, folder: Path) -> None:
        """Keep all data below `folder`."""
        self._folder = folder
        self._numbers = count(1)

    @asynccontextmanager
    async def __call__(
        self, *agents: str, env: Mapping[str, str] | None = None, options: tuple[str, ...] = ()
    ) -> AsyncIterator[Server]:
        """Serve `agents`, named as `isolane serve --agent` takes them, while the block runs.

        What the test can import the server can, too. Raises `ServerError` when it doesn't start
        or ends by itself, AssertionError when its output told of something un-awaited.
        """
        data = self._folder / f"isolane-{next(self._numbers)}"
        path = os.pathsep.join(entry for entry in sys.path if entry)
        server = Server(data, agents, {"PYTHONPATH": path, **(env or {})}, options)
        async with running(server):
            yield server
