"""What live tests share: a line to break, and room for many sockets."""

from __future__ import annotations

import resource
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final, Protocol

import pytest
from tests.live.disk import mounted
from tests.live.proxy import Proxy, proxy_to
from tests.live.server import Server

LONGEST: Final = ("test_lanes.py", "test_hostile.py", "test_framing.py")
"""The files that take longest. Where several processes share the files, these must begin first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the longest files come first, and leave the others in their order."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


# A child inherits which signals its parent ignores: in the background, or under nohup, some that
# servers and clients are tried with.
for _number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(_number) == signal.SIG_IGN:
        signal.signal(_number, signal.SIG_DFL)


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


@pytest.fixture
def room_for_many() -> Iterator[None]:
    """Let this process, and the servers that it starts, open as many sockets as they may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Give a disk of 16 MiB."""
    folder = tmp_path / "disk"
    with mounted(folder, size="16m"):
        yield folder
