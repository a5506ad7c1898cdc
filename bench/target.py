"""The two servers that are measured, as processes."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
from client import HOST, Plan, Window

from isolane.app import make_issuer
from isolane.settings import load_settings
from isolane.testing.server import free_port

FOLDER = Path(__file__).parent
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 40.0
POLL_S = 0.02
"""Between two looks whether a server listens."""
TOKEN_LIFE_S = 86_400


@dataclass(frozen=True, slots=True)
class Target:
    """A server that runs: its name, where it is, and a token for each connection."""

    name: str
    port: int
    pid: int
    tokens: list[str | None]

    def measure(self, thread_id: str, *, rate: float, duration_s: float) -> Window:
        """Run one window, in a client process of its own. `thread_id` must be fresh."""
        plan = Plan(self.port, self.pid, thread_id, self.tokens, rate, duration_s)
        answer = subprocess.run(
            [sys.executable, "client.py"],
            cwd=FOLDER,
            input=msgspec.json.encode(plan),
            stdout=subprocess.PIPE,
            check=True,
        )
        return msgspec.json.decode(answer.stdout, type=Window)


@contextmanager
def serve_isolane(
    data: Path, *options: str, connections: int, name: str = "isolane"
) -> Iterator[Target]:
    """Serve the agent with `isolane serve`; what it keeps and its log lines are in `data`."""
    port = free_port()
    data.mkdir()
    where = ["--host", HOST, "--port", str(port), "--data", str(data)]
    command = ["-m", "isolane", "serve", "--agent", "agent:stream", *where, *options]
    with running(command, data / "isolane.log", port) as pid:
        yield Target(name, port, pid, make_tokens(data, connections))


@contextmanager
def serve_bare(data: Path, *, connections: int) -> Iterator[Target]:
    """Serve the yardstick; its log lines are in `data`."""
    port = free_port()
    with running(["bare.py", str(port)], data / "bare.log", port) as pid:
        yield Target("bare", port, pid, [None] * connections)


@contextmanager
def running(command: list[str], log: Path, port: int) -> Iterator[int]:
    """Run a Python process that listens on `port`; yield its process id, and end it."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *command], cwd=FOLDER, stdout=output, stderr=output
        )
    try:
        wait_until_listening(process, port)
        yield process.pid
    except Exception as error:
        error.add_note(f"{command} (exit code {process.poll()}) wrote:\n{log.read_text()[-2000:]}")
        raise
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()


def wait_until_listening(process: subprocess.Popen[bytes], port: int) -> None:
    """Return once `port` takes connections; raise RuntimeError when it never does."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection((HOST, port)).close()
        except ConnectionRefusedError:
            time.sleep(POLL_S)
        else:
            return
    raise RuntimeError(f"no server on port {port}")


def make_tokens(data: Path, count: int) -> list[str | None]:
    """Return a token each for the users u1, u2, …; the command line would take a second for one."""
    issuer = make_issuer(load_settings({"data": data}))
    return [issuer.issue(f"u{place + 1}", expires_s=TOKEN_LIFE_S) for place in range(count)]
