"""The server process of our own tests: `isolane.testing`'s, with what only they look at."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

import httpx
from tests.live import preloaded
from tests.live.stopwatch import Turns
from tests.live.untold import find_leaks, note, note_request, note_response

from isolane.engines.sqlite.database import READERS
from isolane.settings import DATABASE_NAME
from isolane.testing import server
from isolane.testing.server import (
    ANSWER_TIMEOUT_S,
    GAUGES,
    LEFTOVERS,
    LOOPBACK,
    POLL_S,
    START_TIMEOUT_S,
    STOP_TIMEOUT_S,
    Looks,
    ServerError,
    Stopped,
    free_port,
    has_ipv6,
)
from isolane.testing.servers import running

__all__ = [
    "ANSWER_TIMEOUT_S",
    "GAUGES",
    "LEFTOVERS",
    "LIVE_FOLDER",
    "LOOPBACK",
    "POLL_S",
    "START_TIMEOUT_S",
    "STOP_TIMEOUT_S",
    "Looks",
    "Server",
    "ServerError",
    "Stopped",
    "free_port",
    "has_ipv6",
    "running_server",
]

LIVE_FOLDER: Final = Path(__file__).parent


@dataclass(eq=False)
class Server(server.Server):
    """One server, whose process can be looked into; modules of this folder are importable."""

    folder: Path = LIVE_FOLDER
    is_planted: bool = False
    """Whether its build has a mistake in it, so that its output is for the test to judge."""
    judged: int = 0
    """How many lines of earlier lives were searched for secrets."""

    def __post_init__(self) -> None:
        """Let it tell all that it ever tells: what it may not tell is searched for there."""
        self.env = {"ISOLANE_LOG_LEVEL": "debug", **self.env}

    async def token(self, user: str, *, expires: int = 3600) -> str:
        """Return a token as its base does; nobody may write it down."""
        return note(await super().token(user, expires=expires))

    def http(self, token: str | None = None) -> httpx.AsyncClient:
        """Return a client as its base does; what is secret of what it sends and gets is noted."""
        client = super().http(token)
        client.event_hooks = {"request": [note_request], "response": [note_response]}
        return client

    async def _spawn(self, *command: str, stdout: int | None = None) -> asyncio.subprocess.Process:
        if not preloaded.may_fork(self.env):
            return await super()._spawn(*command, stdout=stdout)
        env = {**os.environ, **self.env}
        forked = await preloaded.spawn(*command, folder=self.folder, env=env, stdout=stdout)
        return cast("asyncio.subprocess.Process", forked)

    def resident_kib(self) -> int:
        """Return how much memory the process holds."""
        lines = (self._proc / "status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmRSS")).split()[1])

    def cpu_s(self) -> float:
        """Return the CPU time of all its threads so far."""
        return Turns.of(self.pid).ran_s

    def descriptors(self) -> Counter[str]:
        """Return what the process has open; each socket and pipe has a name that never recurs."""
        names: Counter[str] = Counter()
        for link in (self._proc / "fd").iterdir():
            with suppress(FileNotFoundError):  # closed since it was listed
                names[str(link.readlink())] += 1
        return names

    async def wait_for_descriptors(self, before: Counter[str], *, within_s: float) -> None:
        """Return once nothing is open that wasn't open before; raise TimeoutError that names it.

        What is gone since then is no trouble: it may be the socket of a request that looked. Nor is
        a connection to the database that its pool hadn't needed until now.
        """
        database, pool = str(self.data / DATABASE_NAME), READERS + 1
        # The file itself is open once more: that one holds the lock against a second gateway.
        allowed = before | Counter({database: pool + 1, f"{database}-wal": pool})
        left: Counter[str] = Counter()
        async for _ in Looks(within_s):
            left = self.descriptors() - allowed
            if not left:
                return
        raise TimeoutError(f"after {within_s} s still open: {dict(left)}")

    @property
    def _proc(self) -> Path:
        return Path(f"/proc/{self.pid}")

    def _judge(self) -> None:
        if self.is_planted:
            return
        super()._judge()
        leaks = find_leaks(self.lines[self.judged :])
        self.judged = len(self.lines)
        assert not leaks, "\n".join(["the server told what nobody may:", *leaks])


@asynccontextmanager
async def running_server(
    data: Path,
    *agents: str,
    env: Mapping[str, str] | None = None,
    port: int | None = None,
    is_planted: bool = False,
    command: str = "serve",
    options: tuple[str, ...] = (),
) -> AsyncIterator[Server]:
    """Start a server, on a free port unless one is named, and end it with the block."""
    server = Server(
        data,
        agents,
        env or {},
        options,
        command,
        port=port or free_port(),
        is_planted=is_planted,
    )
    async with running(server) as one:
        yield one
