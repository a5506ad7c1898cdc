"""Plugin of pytest: live tests, as they are, against a house of several processes.

    pytest -p tests.cluster tests/live/test_runs.py

Each server of a test is three gateways without agents and two workers then, on one PostgreSQL
database, behind a balancer that knows nothing of sockets, users or threads: the next connection
goes to the next gateway. Tests that look into the one process of a server can't be run so.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
from tests.live.server import Server, free_port
from tests.postgres import PostgresServer, running_postgres

from isolane.cli import GUIDE
from isolane.testing.server import Stopped

GATEWAYS: Final = 3
WORKERS: Final = 2


class Balancer:
    """The balancer of one house, as a process of its own."""

    def __init__(self, port: int, targets: list[int]) -> None:
        program = Path(__file__).with_name("balancer.py")
        words = [sys.executable, str(program), *map(str, [port, *targets])]
        self._process = subprocess.Popen(words, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        said = self._process.stdout.readline()
        assert said, "the balancer has ended by itself"

    def close(self) -> None:
        """Lead nobody any more, and cut off who was led."""
        self._process.kill()
        self._process.communicate()


@dataclass
class Place:
    """What belongs to one data folder of a test."""

    url: str
    others: list[Server] = field(default_factory=list[Server])
    balancer: Balancer | None = None


class Cluster:
    """Stands in for the start and the end of each server of a test."""

    def __init__(self, postgres: PostgresServer, stack: ExitStack) -> None:
        self._postgres = postgres
        self._stack = stack
        self._places: dict[Path, Place] = {}
        self._start: Any = Server.start
        self._end: Any = Server._end

    def is_for(self, server: Server) -> bool:
        """Say whether a server becomes several processes."""
        has_own = "ISOLANE_DATABASE_URL" in server.env and server.data not in self._places
        return server.command == "serve" and not (server.is_planted or has_own)

    async def start(self, server: Server) -> None:
        """Start workers and gateways, and the balancer at the port that the test knows."""
        if server.data not in self._places:
            url = self._stack.enter_context(self._postgres.database())
            self._places[server.data] = Place(url)
        place = self._places[server.data]
        gates = server.data / "gates"
        gates.mkdir(parents=True, exist_ok=True)
        known = {"ISOLANE_DATABASE_URL": place.url, "PROTOCOL_AGENTS_GATES": str(gates)}
        server.env = {"ISOLANE_SECRET_KEY": "k" * 32, **server.env, **known}
        front, agents, options = server.port, server.agents, server.options
        of_agents = tuple(word for word in options if word.startswith("--agent-threads"))
        of_users = (*(word for word in options if word not in of_agents), "--no-agents")
        for number in range(WORKERS):
            await self._add(place, server, f"worker-{number}", agents or (GUIDE,), of_agents)
        for number in range(GATEWAYS - 1):
            await self._add(place, server, f"gateway-{number}", (), of_users)
        server.port, server.agents, server.options = free_port(), (), of_users
        try:
            await self._start(server)
            ports = [server.port, *(one.port for one in place.others if one.command == "serve")]
        finally:
            server.port, server.agents, server.options = front, agents, options
        place.balancer = Balancer(front, ports)

    async def _add(
        self,
        place: Place,
        server: Server,
        name: str,
        agents: tuple[str, ...],
        options: tuple[str, ...],
    ) -> None:
        command = "work" if agents else "serve"
        folder = server.data / name
        one = Server(folder, agents, server.env, options, command, folder=server.folder)
        await self._start(one)
        place.others.append(one)

    async def end(self, server: Server, number: Any) -> Stopped:  # noqa: ANN401 - a signal
        """End all of them as the test ends its server; those who are connected hear it."""
        place = self._places[server.data]
        ends = [self._end(each, number) for each in (server, *place.others) if each.is_running]
        stopped: list[Stopped] = await asyncio.gather(*ends)
        place.others.clear()
        if place.balancer is not None:
            place.balancer.close()
            place.balancer = None
        return stopped[0]


def pytest_configure(config: pytest.Config) -> None:
    """Let each server of a live test be several processes."""
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", 0):
        stack = ExitStack()
        config.add_cleanup(stack.close)
        cluster = Cluster(stack.enter_context(running_postgres()), stack)

        async def start(server: Server) -> None:
            if cluster.is_for(server):
                await cluster.start(server)
            else:
                await cluster._start(server)

        async def end(server: Server, number: Any) -> Stopped:  # noqa: ANN401 - a signal
            if cluster.is_for(server) and server.data in cluster._places:
                return await cluster.end(server, number)
            stopped: Stopped = await cluster._end(server, number)
            return stopped

        setattr(Server, "start", start)  # noqa: B010 - mypy refuses to change a class otherwise
        setattr(Server, "_end", end)  # noqa: B010
