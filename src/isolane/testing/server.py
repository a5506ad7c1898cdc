"""A real server process under test: `python -m isolane serve`, with all it wrote to stderr."""

# Long because: one class that starts, watches and ends a process, for tests of others.

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any, Final, NamedTuple

import httpx

LOOPBACK: Final = "127.0.0.1"
START_TIMEOUT_S: Final = 90.0
"""It takes a second or two of CPU, and much longer where others want that CPU too."""
ANSWER_TIMEOUT_S: Final = 20.0
"""Far above what any request takes, for a machine that has other things to do."""
STOP_TIMEOUT_S: Final = 40.0
"""Above the drain's own deadline, 30 s."""
POLL_S: Final = 0.02
"""Between two looks at something that can't call back."""
GAUGES: Final = (
    "isolane_connections",
    "isolane_managers",
    "isolane_followers",
    "isolane_runs_active",
    "isolane_tasks",
)
LEFTOVERS: Final = ("coroutine", "never awaited", "Task was destroyed")
"""What a clean server never says, in logs or in warnings."""


class ServerError(Exception):
    """The process did not do what it was asked; the text holds what it wrote last."""


class Stopped(NamedTuple):
    """How a server ended."""

    code: int
    duration_s: float


def free_port() -> int:
    """Return a port that nobody has on any address of this machine, and that nobody is given later.

    Linux keeps it for as long as this process lives: a socket is bound there, and doesn't listen. A
    server that binds with SO_REUSEADDR, as all do, may listen there, end, and come back. On every
    address, because a server on 0.0.0.0 is refused for one connection on any of them, even one that
    goes out of the machine.
    """
    family = socket.AF_INET6 if has_ipv6() else socket.AF_INET
    keeper = socket.socket(family)
    keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        keeper.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # both kinds of address
    keeper.bind(("", 0))
    port: int = keeper.getsockname()[1]
    if sys.platform == "linux":
        keeper.detach()  # which leaves it bound
    else:
        keeper.close()  # elsewhere the server itself could not bind beside it
    return port


def has_ipv6() -> bool:
    """Say whether this machine has a loopback address of IPv6."""
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


class Looks:
    """Turns for looking at what can't call back, as many as are possible in some seconds.

    Looks are counted, not the time: a machine that stands still for that long costs one of them,
    and no verdict. No generator, which would need to be closed by whoever has seen enough.
    """

    def __init__(self, within_s: float) -> None:
        """Give the first turn at once, and each other one a pause later."""
        self._left = math.ceil(within_s / POLL_S)
        self._pause_s = 0.0

    def __aiter__(self) -> Looks:
        """Return itself: it is for one use."""
        return self

    async def __anext__(self) -> None:
        """Wait until it is time for another look. Safe to cancel."""
        if not self._left:
            raise StopAsyncIteration
        self._left -= 1
        await asyncio.sleep(self._pause_s)
        self._pause_s = POLL_S


@dataclass(eq=False)
class Server:
    """One server: its data, its agents, its port. `start()` after `stop()` is a restart."""

    data: Path
    agents: tuple[str, ...]
    """As `--agent` takes them; the first is the default. Without any the built-in guide answers."""
    env: Mapping[str, str] = field(default_factory=dict)
    """What it gets besides this process's own environment."""
    options: tuple[str, ...] = ()
    port: int = field(default_factory=free_port)
    folder: Path = field(default_factory=Path.cwd)
    """Where it runs; modules of this folder are importable."""
    lines: list[str] = field(default_factory=list)
    """What it wrote to stderr, over all its lives."""
    _process: asyncio.subprocess.Process | None = None
    _reader: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        """Host and port."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def url(self) -> str:
        """Where its HTTP routes begin."""
        return f"http://{self.address}"

    @property
    def pid(self) -> int:
        """The process that runs now; raises `ServerError` when none does."""
        return self._running().pid

    @property
    def logs(self) -> list[dict[str, Any]]:
        """The lines of stderr that are JSON objects."""
        objects = (_json_object(line) for line in self.lines)
        return [entry for entry in objects if entry is not None]

    @property
    def is_running(self) -> bool:
        """Say whether there is a process that hasn't ended."""
        return self._process is not None and self._process.returncode is None

    def websocket_url(self, agent: str | None = None, *, address: str | None = None) -> str:
        """Return the socket's URL for an agent, or the default one; a proxy has its own address."""
        path = "/ws" if agent is None else f"/ws/{agent}"
        return f"ws://{address or self.address}{path}"

    async def start(self) -> None:
        """Start the process and wait until it is ready."""
        named = [word for agent in self.agents for word in ("--agent", agent)]
        where = ["--host", LOOPBACK, "--port", str(self.port), "--data", str(self.data)]
        self._process = await self._spawn("serve", *where, *named, *self.options)
        self._reader = asyncio.create_task(self._collect(self._process))
        await self._wait_until_ready()

    async def stop(self) -> Stopped:
        """Ask it to end, by SIGTERM, and wait until it has."""
        return await self._end(signal.SIGTERM)

    async def kill(self) -> Stopped:
        """End it at once, by SIGKILL: nothing is drained, nothing is closed."""
        return await self._end(signal.SIGKILL)

    def send_signal(self, number: signal.Signals) -> None:
        """Send its process a signal, and wait for nothing."""
        self._running().send_signal(number)

    async def restart(self) -> Stopped:
        """Stop it and start it again on the same port and data."""
        stopped = await self.stop()
        await self.start()
        return stopped

    async def close(self) -> None:
        """Stop it if it runs; raise `ServerError` when it has ended without being asked."""
        if self._process is None:
            return
        if not self.is_running:
            code, self._process = self._process.returncode, None
            await self._collected()
            raise ServerError(f"it ended by itself with {code}; {self._latest()}")
        await self.stop()

    async def token(self, user: str, *, expires: int = 3600) -> str:
        """Return a JWT of the local issuer for a user; `expires` in seconds from now."""
        process = await self._spawn(
            *("token", "--user", user, "--expires", str(expires), "--data", str(self.data)),
            stdout=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(), START_TIMEOUT_S)
        if process.returncode != 0:
            raise ServerError(f"isolane token ended with {process.returncode}: {err.decode()}")
        return out.decode().strip()

    async def tickets(self, token: str, count: int = 1) -> list[str]:
        """Buy tickets for the user of a token, one for each socket to be opened."""
        async with self.http(token) as http:
            answers = [await http.post("/api/tickets") for _ in range(count)]
        return [answer.raise_for_status().json()["ticket"] for answer in answers]

    def http(self, token: str | None = None) -> httpx.AsyncClient:
        """Return a client for its HTTP routes, signed in when there is a token."""
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        return httpx.AsyncClient(
            base_url=self.url,
            headers=headers,
            timeout=ANSWER_TIMEOUT_S,
            trust_env=False,
            verify=False,  # noqa: S501 - there is no TLS; reading the machine's trust is slow
        )

    async def metrics(self) -> dict[str, float]:
        """Return every sample of `/metrics`; labels are part of the name, as they stand there."""
        async with self.http(self.env.get("ISOLANE_METRICS_TOKEN")) as http:
            answer = await http.get("/metrics")
        return dict(_samples(answer.raise_for_status().text.splitlines()))

    async def gauges(self) -> dict[str, float]:
        """Return the five gauges that fall back to their baseline when all is quiet."""
        metrics = await self.metrics()
        return {name: metrics[name] for name in GAUGES}

    async def wait_for_gauges(
        self, baseline: Mapping[str, float], *, within_s: float = 2.0
    ) -> None:
        """Return once the gauges equal `baseline`; raise TimeoutError that holds them if not."""
        now: Mapping[str, float] = {}
        async for _ in Looks(within_s):
            if (now := await self.gauges()) == baseline:
                return
        raise TimeoutError(f"after {within_s} s: {now}, wanted {dict(baseline)}")

    async def wait_for_log(
        self, wanted: Callable[[dict[str, Any]], bool], *, timeout_s: float = START_TIMEOUT_S
    ) -> dict[str, Any]:
        """Return the first log entry that is wanted, among those written and those to come."""
        deadline = monotonic() + timeout_s
        while True:
            for entry in self.logs:
                if wanted(entry):
                    return entry
            if monotonic() > deadline:
                raise TimeoutError(f"not logged in {timeout_s} s; {self._latest()}")
            await asyncio.sleep(POLL_S)

    def assert_clean(self, *, traceback_allowed: bool = False) -> None:
        """Fail when it ever said that something was left un-awaited or, unless allowed, raised."""
        self._assert_without(LEFTOVERS if traceback_allowed else (*LEFTOVERS, "Traceback"))

    def _assert_without(self, marks: tuple[str, ...]) -> None:
        found = [line for line in self.lines if any(mark in _own_words(line) for mark in marks)]
        if found:
            raise AssertionError("\n".join(["the server said:", *found]))

    async def _spawn(self, *command: str, stdout: int | None = None) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "isolane", *command),
            cwd=self.folder,
            env={**os.environ, **self.env},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=stdout,
            stderr=asyncio.subprocess.PIPE,
            limit=16 * 1024 * 1024,
        )

    async def _collect(self, process: asyncio.subprocess.Process) -> None:
        assert process.stderr is not None  # noqa: S101 - `_spawn` has asked for it
        async for line in process.stderr:
            self.lines.append(line.decode(errors="replace").rstrip("\n"))

    async def _wait_until_ready(self) -> None:
        deadline = monotonic() + START_TIMEOUT_S
        async with self.http() as http:
            while not await _is_ready(http):
                if not self.is_running:
                    await self.close()
                if monotonic() > deadline:
                    raise ServerError(f"not ready in {START_TIMEOUT_S} s; {self._latest()}")
                await asyncio.sleep(POLL_S)

    async def _end(self, number: signal.Signals) -> Stopped:
        process = self._running()
        began = monotonic()
        process.send_signal(number)
        try:
            code = await asyncio.wait_for(process.wait(), STOP_TIMEOUT_S)
        except TimeoutError:
            process.kill()
            await process.wait()
            raise ServerError(f"alive {STOP_TIMEOUT_S} s after {number.name}") from None
        finally:
            self._process = None
            await self._collected()
        return Stopped(code, monotonic() - began)

    async def _collected(self) -> None:
        """Wait for the end of stderr, which a child of the server could hold open, and judge it."""
        assert self._reader is not None  # noqa: S101 - it was started with the process
        await asyncio.wait_for(self._reader, START_TIMEOUT_S)
        self._judge()

    def _judge(self) -> None:
        """Fail, at the end of each of its lives, for what it left un-awaited."""
        self._assert_without(LEFTOVERS)

    def _running(self) -> asyncio.subprocess.Process:
        if self._process is None or not self.is_running:
            raise ServerError(f"no server is running; {self._latest()}")
        return self._process

    def _latest(self) -> str:
        return "stderr ends:\n" + "\n".join(self.lines[-20:])


async def _is_ready(http: httpx.AsyncClient) -> bool:
    try:
        return (await http.get("/readyz")).is_success
    except httpx.TransportError:
        return False


def _own_words(line: str) -> str:
    """Return what a line says, without the path: that is what somebody asked for."""
    entry = _json_object(line)
    return line if entry is None else json.dumps({**entry, "path": ""})


def _json_object(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _samples(lines: Iterable[str]) -> Iterable[tuple[str, float]]:
    for line in lines:
        if line and not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            yield name, float(value)
