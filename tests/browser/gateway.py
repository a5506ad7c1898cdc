"""The servers under test: real processes that serve the built page."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Final

from click.testing import CliRunner
from tests.live.provider import Provider
from tests.live.server import START_TIMEOUT_S, Server

from isolane.cli import main

HERE: Final = Path(__file__).parent
PASSWORD: Final = "three lanes wide"
_LINK: Final = re.compile(r"(\w+): http://[^/]+(\S*/signin\?code=\S+)")
_numbers: Final = count(1)


@dataclass(eq=False)
class Gateway(Server):
    """A server with accounts, gates for its agent and, with `--demo`, sign-in links."""

    links: dict[str, str] = field(default_factory=dict)
    """By user; a path, so that it works through a proxy too."""

    async def new_user(self, name: str | None = None) -> str:
        """Make an account, as `isolane user add` does, and return its name."""
        user = name or f"user{next(_numbers)}"
        await asyncio.to_thread(self._add, user)
        return user

    def open_gate(self, user: str, gate: str) -> None:
        """Let the user's runs go on that wait for this gate."""
        self.gates.mkdir(exist_ok=True)
        (self.gates / f"{user}.{gate}").touch()

    @property
    def gates(self) -> Path:
        """Where an open gate is a file."""
        return self.data.with_name(f"{self.data.name}-gates")

    async def start(self) -> None:
        """Start the process; with `--demo` read the links that it prints."""
        await super().start()
        assert self._process is not None
        out = self._process.stdout
        while out is not None and len(self.links) < 2:
            line = (await asyncio.wait_for(out.readline(), START_TIMEOUT_S)).decode()
            if found := _LINK.match(line):
                self.links[found[1]] = found[2]

    def _add(self, user: str) -> None:
        command = ["user", "add", user, "--password-stdin", "--data", str(self.data)]
        result = CliRunner().invoke(main, command, input=PASSWORD)
        assert result.exit_code == 0, result.output

    async def _spawn(self, *command: str, stdout: int | None = None) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE if "--demo" in command else stdout
        return await super()._spawn(*command, stdout=pipe)


@asynccontextmanager
async def running_gateway(
    data: Path,
    *agents: str,
    is_demo: bool = False,
    providers: Sequence[Provider] = (),
    public_url: str | None = None,
) -> AsyncIterator[Gateway]:
    """Start a gateway, the built-in guide without agents; it must end with clean output.

    It offers to sign in at `providers`, whether anybody is there or not.
    """
    gateway = Gateway(data, agents, options=("--demo",) if is_demo else ())
    gateway.env = {
        **gateway.env,
        "PYTHONPATH": os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "ISOLANE_DRAIN_TIMEOUT_S": "1",
        "ISOLANE_TEST_GATES": str(gateway.gates),
        **({} if public_url is None else {"ISOLANE_PUBLIC_URL": public_url}),
        "ISOLANE_PROVIDERS": json.dumps([provider.settings for provider in providers]),
    }
    try:
        await gateway.start()
        yield gateway
    finally:
        await gateway.close()
    gateway.assert_clean(traceback_allowed=True)
