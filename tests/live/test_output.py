"""A server whose stdout and stderr nobody reads for a while: nobody waits for whoever should."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Final

import httpx
import pytest
from tests.live.server import Looks, Server
from tests.live.stage import SECRET_KEY, Lane

from isolane.testing.servers import running

REFUSALS: Final = 400
"""Requests without a good token. Each is a line of some 250 bytes, and a pipe takes 64 KiB."""
SHOUTER: Final = "shouter=hungry_agents:shouter"


@dataclass(eq=False)
class Unread(Server):
    """A server that is heard from `may_read` on: asyncio's own pipes would read ahead."""

    may_read: asyncio.Event = field(default_factory=asyncio.Event)
    pipe: IO[bytes] | None = None

    async def _spawn(self, *command: str, stdout: int | None = None) -> asyncio.subprocess.Process:
        if command[0] != "serve":
            return await super()._spawn(*command, stdout=stdout)
        reading, writing = os.pipe()
        self.pipe = os.fdopen(reading, "rb")
        try:
            return await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "isolane", *command),
                cwd=self.folder,
                env={**os.environ, **self.env},
                stdout=writing,
                stderr=writing,
            )
        finally:
            os.close(writing)

    async def _collect(self, process: asyncio.subprocess.Process) -> None:
        del process
        await self.may_read.wait()
        await asyncio.to_thread(self._read_all)

    def _read_all(self) -> None:
        assert self.pipe is not None
        with self.pipe:
            for line in self.pipe:
                self.lines.append(line.decode(errors="replace").rstrip("\n"))


@pytest.fixture
async def unread(tmp_path: Path) -> AsyncIterator[Unread]:
    env = {"ISOLANE_SECRET_KEY": SECRET_KEY, "ISOLANE_DRAIN_TIMEOUT_S": "1"}
    async with running(Unread(tmp_path, (SHOUTER,), env)) as server:
        try:
            yield server
        finally:
            server.may_read.set()


async def fill_the_pipe(server: Server) -> None:
    async with server.http("not.a.token") as http:
        for _ in range(REFUSALS):
            assert (await http.get("/api/threads")).status_code == httpx.codes.UNAUTHORIZED


async def test_reader_that_stalls_holds_up_nobody_and_is_told_what_it_missed(
    unread: Unread,
) -> None:
    lane = Lane(unread)
    await fill_the_pipe(unread)
    async with unread.http() as http:
        assert (await http.get("/healthz")).status_code == httpx.codes.OK
    assert (await unread.metrics())["isolane_log_lines_dropped_total"] == 0
    async with lane.connect() as client:
        await lane.finish(client, "t", "r-1", "8192 lines")  # 8 MiB to each
        dropped = (await unread.metrics())["isolane_log_lines_dropped_total"]
        assert dropped > 4096
        unread.may_read.set()
        told = [
            await unread.wait_for_log(partial(is_loss, name)) for name in ("<stdout>", "<stderr>")
        ]
        assert sum(entry["lines"] for entry in told) == dropped
        await lane.finish(client, "t", "r-2", "1 lines")
    assert (await unread.stop()).code == 0
    assert any(entry["event"] == "draining" for entry in unread.logs)
    assert len([entry for entry in unread.logs if entry["event"] == "log_lines_dropped"]) == 2


def is_loss(name: str, entry: dict[str, object]) -> bool:
    return (entry["event"], entry.get("stream")) == ("log_lines_dropped", name)


async def test_server_that_nobody_hears_ends_all_the_same(unread: Unread) -> None:
    await fill_the_pipe(unread)
    stopping = asyncio.create_task(unread.stop())
    async for _ in Looks(30):
        if not unread.is_running:
            break
    assert not unread.is_running
    unread.may_read.set()
    assert (await stopping).code == 0
