"""A real server process for tests.

`python -m isolane serve`, with everything it wrote to stderr.
"""

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
"""Seconds for a start. It takes one or two of CPU time, and longer on a busy machine."""
ANSWER_TIMEOUT_S: Final = 20.0
"""Seconds for a request, far more than any takes, because the machine may be busy."""
STOP_TIMEOUT_S: Final = 40.0
"""Seconds for a stop, more than the drain's own 30 s."""
POLL_S: Final = 0.02
"""Seconds between two looks at something that can't call back."""
_TASKS: Final = "isolane_tasks"
GAUGES: Final = (
    "isolane_connections",
    "isolane_managers",
    "isolane_followers",
    "isolane_runs_active",
    _TASKS,
)
LEFTOVERS: Final = ("coroutine", "never awaited", "Task was destroyed")
"""Words that a clean server never writes, neither in logs nor in warnings."""


class ServerError(Exception):
    """The process did not do what it was asked; the text has its last output."""


class Stopped(NamedTuple):
    """The exit code of a server, and the seconds until its end."""

    code: int
    duration_s: float


def free_port() -> int:
    """Return a port that is free on every address of this machine, and that no other caller gets.

    On Linux the port is reserved while this process lives, by a bound socket that doesn't listen.
    Servers bind with SO_REUSEADDR, so a server may listen there, end, and come back. The port is
    free on every address, because a server on 0.0.0.0 is refused when a connection uses it on any
    of them, even an outgoing one.
    """
    family = socket.AF_INET6 if has_ipv6() else socket.AF_INET
    keeper = socket.socket(family)
    keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        keeper.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # both kinds of address
    keeper.bind(("", 0))
    port: int = keeper.getsockname()[1]
    if sys.platform == "linux":
        keeper.detach()  # leaves the socket bound
    else:
        keeper.close()  # on other systems the server couldn't bind beside it
    return port


def has_ipv6() -> bool:
    """Say whether this machine has a loopback address of IPv6."""
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


class Looks:
    """Turns for looking at something that can't call back, as many as fit into some seconds.

    Looks are counted, not the time. So a machine that stalls for that long loses one look, and
    fails no test. It is no generator, because the caller would have to close one.
    """

    def __init__(self, within_s: float) -> None:
        """Give the first turn at once, and each other one after a pause."""
        self._left = math.ceil(within_s / POLL_S)
        self._pause_s = 0.0

    def __aiter__(self) -> Looks:
        """Return itself, for one use."""
        return self

    async def __anext__(self) -> None:
        """Wait for the next turn. Safe to cancel."""
        if not self._left:
            raise StopAsyncIteration
        self._left -= 1
        await asyncio.sleep(self._pause_s)
        self._pause_s = POLL_S


@dataclass(eq=False)
class Server:
    """One server with its data, its agents and its port. `start()` after `stop()` is a restart."""

    data: Path
    agents: tuple[str, ...]
    """Agents as `--agent` takes them; the first is the default. Without any the built-in guide
    answers."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Variables besides this process's own environment."""
    options: tuple[str, ...] = ()
    command: str = "serve"
    """`serve`, or `work` for a process that has agents and no users."""
    port: int = field(default_factory=free_port)
    folder: Path = field(default_factory=Path.cwd)
    """Working folder of the process; modules in it are importable."""
    lines: list[str] = field(default_factory=list)
    """Everything it wrote to stderr since the first start."""
    _process: asyncio.subprocess.Process | None = None
    _reader: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        """Host and port."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def url(self) -> str:
        """Address of its HTTP routes."""
        return f"http://{self.address}"

    @property
    def pid(self) -> int:
        """Id of the running process.

        Raises:
            ServerError: No process is running.
        """
        return self._running().pid

    @property
    def logs(self) -> list[dict[str, Any]]:
        """The lines of stderr that are JSON objects."""
        objects = (_json_object(line) for line in self.lines)
        return [entry for entry in objects if entry is not None]

    @property
    def is_running(self) -> bool:
        """Say whether the process is running."""
        return self._process is not None and self._process.returncode is None

    def websocket_url(self, agent: str | None = None, *, address: str | None = None) -> str:
        """Return the WebSocket address of an agent.

        `address` may name a proxy in front of the server.
        """
        path = "/ws" if agent is None else f"/ws/{agent}"
        return f"ws://{address or self.address}{path}"

    async def start(self) -> None:
        """Start the process and wait until it is ready."""
        named = [word for agent in self.agents for word in ("--agent", agent)]
        where = ["--host", LOOPBACK, "--port", str(self.port), "--data", str(self.data)]
        self._process = await self._spawn(self.command, *where, *named, *self.options)
        self._reader = asyncio.create_task(self._collect(self._process))
        await self._wait_until_ready()

    async def stop(self) -> Stopped:
        """Send SIGTERM and wait until the process has ended."""
        return await self._end(signal.SIGTERM)

    async def kill(self) -> Stopped:
        """Send SIGKILL: nothing is drained, nothing is closed."""
        return await self._end(signal.SIGKILL)

    async def wait(self) -> int:
        """Wait until the process has ended by itself, and return its exit code.

        Raises:
            TimeoutError: It goes on.
        """
        process = self._running()
        code = await asyncio.wait_for(process.wait(), STOP_TIMEOUT_S)
        self._process = None
        await self._collected()
        return code

    def send_signal(self, number: signal.Signals) -> None:
        """Send the process a signal without waiting."""
        self._running().send_signal(number)

    async def restart(self) -> Stopped:
        """Stop the server and start it again on the same port and data."""
        stopped = await self.stop()
        await self.start()
        return stopped

    async def close(self) -> None:
        """Stop the server if it is running.

        Raises:
            ServerError: It has ended without being asked.
        """
        if self._process is None:
            return
        if not self.is_running:
            code, self._process = self._process.returncode, None
            await self._collected()
            raise ServerError(f"it ended by itself with {code}; {self._latest()}")
        await self.stop()

    async def token(self, user: str, *, expires: int = 3600) -> str:
        """Return a token of the local issuer for a user, which expires in `expires` seconds."""
        process = await self._spawn(
            *("token", "--user", user, "--expires", str(expires), "--data", str(self.data)),
            stdout=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(), START_TIMEOUT_S)
        if process.returncode != 0:
            raise ServerError(f"isolane token ended with {process.returncode}: {err.decode()}")
        return out.decode().strip()

    async def tickets(self, token: str, count: int = 1) -> list[str]:
        """Return tickets for the user of a token, one per socket to open."""
        async with self.http(token) as http:
            answers = [await http.post("/api/tickets") for _ in range(count)]
        return [answer.raise_for_status().json()["ticket"] for answer in answers]

    def http(self, token: str | None = None) -> httpx.AsyncClient:
        """Return a client for its HTTP routes, authenticated when there is a token."""
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        return httpx.AsyncClient(
            base_url=self.url,
            headers=headers,
            timeout=ANSWER_TIMEOUT_S,
            trust_env=False,
            verify=False,  # noqa: S501 - there is no TLS, and reading the machine's certificates is slow
        )

    async def metrics(self) -> dict[str, float]:
        """Return every sample of `/metrics`, with its labels as part of the name."""
        async with self.http(self.env.get("ISOLANE_METRICS_TOKEN")) as http:
            answer = await http.get("/metrics")
        return dict(_samples(answer.raise_for_status().text.splitlines()))

    async def gauges(self) -> dict[str, float]:
        """Return the five gauges that return to their baseline when the server is quiet."""
        metrics = await self.metrics()
        return {name: metrics[name] for name in GAUGES}

    async def wait_for_gauges(
        self, baseline: Mapping[str, float], *, within_s: float = 2.0
    ) -> None:
        """Wait until the gauges equal `baseline`, but for tasks: there may be fewer.

        What ended just before, as a socket's task does that closes, can be in the baseline.

        Raises:
            TimeoutError: They don't within `within_s` seconds; the text has them.
        """
        now: Mapping[str, float] = {}
        async for _ in Looks(within_s):
            now = await self.gauges()
            is_rest = {**now, _TASKS: baseline[_TASKS]} == dict(baseline)
            if is_rest and now[_TASKS] <= baseline[_TASKS]:
                return
        raise TimeoutError(f"after {within_s} s: {now}, wanted {dict(baseline)}")

    async def wait_for_log(
        self, wanted: Callable[[dict[str, Any]], bool], *, timeout_s: float = START_TIMEOUT_S
    ) -> dict[str, Any]:
        """Return the first wanted log entry, among the written and the coming ones.

        Raises:
            TimeoutError: There is none within `timeout_s` seconds.
        """
        deadline = monotonic() + timeout_s
        while True:
            for entry in self.logs:
                if wanted(entry):
                    return entry
            if monotonic() > deadline:
                raise TimeoutError(f"not logged in {timeout_s} s; {self._latest()}")
            await asyncio.sleep(POLL_S)

    def assert_clean(self, *, traceback_allowed: bool = False) -> None:
        """Fail when the server ever reported a coroutine without an await, or a traceback.

        `traceback_allowed` allows tracebacks.
        """
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
        """Wait for the end of stderr, which a child could hold open, and judge the output."""
        assert self._reader is not None  # noqa: S101 - it was started with the process
        await asyncio.wait_for(self._reader, START_TIMEOUT_S)
        self._judge()

    def _judge(self) -> None:
        """Fail when this life of the server left a coroutine without an await."""
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
    """Return a line without the path of a request, because a client chooses that."""
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
