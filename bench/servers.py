"""Starts the servers that are measured: Isolane of any checkout, and its peers."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from machine import on_core

from isolane.testing.server import free_port

FOLDER: Final = Path(__file__).parent
CHECKOUT: Final = FOLDER.parent
PEERS_PYTHON: Final = CHECKOUT / ".build" / "peers" / "bin" / "python"
HOST: Final = "127.0.0.1"
START_TIMEOUT_S: Final = 60.0
STOP_TIMEOUT_S: Final = 40.0
POLL_S: Final = 0.02
"""Seconds between two looks whether a server listens."""
SECRET: Final = secrets.token_hex(32)
"""Key of all servers of a bench, so that tokens are made once."""
UVICORN: Final = (
    *("-m", "uvicorn", "--loop", "uvloop", "--http", "httptools", "--ws", "websockets-sansio"),
    *("--ws-per-message-deflate", "false", "--no-access-log", "--log-level", "warning"),
    *("--backlog", "4096"),
)
"""The settings with which stock uvicorn is fastest."""


class Dialect(NamedTuple):
    """What a client says to servers of one kind.

    `{pace}` and `{tag}` are filled in per measurement, and `{n}` per connection by the generator.
    """

    path: str = "/ws"
    opening: str = ""
    """Said after the upgrade."""
    ready: str = ""
    """Mark in the answer to the opening; without one the upgrade is enough."""
    go: str = "{pace}"
    stop: str = ""


PLAIN: Final = Dialect()
SOCKET_IO: Final = Dialect(
    path="/socket.io/?EIO=4&transport=websocket",
    opening="40",
    ready='40{"sid"',
    go='42["go","{pace}"]',
)
ISOLANE: Final = Dialect(
    go=json.dumps(
        {
            "threadId": "{tag}-{n}",
            "runId": "{tag}-{n}",
            "messages": [{"id": "{tag}-{n}", "role": "user", "content": "Speak."}],
            "forwardedProps": {"pace": "{pace}"},
        }
    ),
    stop='{"type":"abort","runId":"{tag}-{n}"}',
)


@dataclass(frozen=True, slots=True)
class Server:
    """A server that runs."""

    name: str
    port: int
    pid: int
    dialect: Dialect = PLAIN
    tokens: tuple[str, ...] = ()
    """Tokens of the users u1, u2, …; a peer knows no users."""

    @property
    def has_log(self) -> bool:
        """Say whether it is an Isolane, which has runs and logs."""
        return self.dialect is ISOLANE


@contextmanager
def serve_isolane(
    data: Path,
    agent: str,
    tokens: Sequence[str],
    *,
    name: str = "isolane",
    source: Path = CHECKOUT,
    core: int | None = None,
    env: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """Serve an agent with the `isolane serve` of a checkout; its database is in `data`."""
    port = free_port()
    data.mkdir(exist_ok=True)
    where = ["--host", HOST, "--port", str(port), "--data", str(data)]
    command = [python_of(source), "-m", "isolane", "serve", "--agent", agent, *where]
    environment = {**environment_of(source), **(env or {})}
    with running(command, data / "isolane.log", port, core=core, env=environment) as pid:
        yield Server(name, port, pid, ISOLANE, tuple(tokens))


@contextmanager
def serve_peer(name: str, folder: Path, core: int | None) -> Iterator[Server]:
    """Serve a peer; its lines, and the yardstick's program, are in `folder`."""
    port = free_port()
    uvicorn = [str(PEERS_PYTHON), *UVICORN, "--host", HOST, "--port", str(port)]
    commands = {
        "epoll": [str(folder / "epoll_server"), str(port)],
        "picows": [str(PEERS_PYTHON), "peers/picows_server.py", str(port)],
        "starlette": [*uvicorn, "peers.starlette_app:app"],
        "socketio": [*uvicorn, "peers.socketio_app:app"],
    }
    env = {"PYTHONPATH": str(FOLDER)}
    dialect = SOCKET_IO if name == "socketio" else PLAIN
    with running(commands[name], folder / f"{name}.log", port, core=core, env=env) as pid:
        yield Server(name, port, pid, dialect)


PEERS: Final = ("epoll", "picows", "starlette", "socketio")


@contextmanager
def running(
    command: Sequence[str],
    log: Path,
    port: int,
    *,
    core: int | None = None,
    env: Mapping[str, str] | None = None,
) -> Iterator[int]:
    """Run a process that listens on `port`, on one core if one is named; yield its id, and end it.

    Raises:
        RuntimeError: The process does not listen in time.
    """
    # Bytecode is kept, as where a server is installed, and not compiled at each start.
    environment = {**os.environ, **(env or {})}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    with log.open("wb") as output, on_core(core):
        process = subprocess.Popen(
            command, cwd=FOLDER, stdout=output, stderr=output, env=environment
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
            process.wait()


def wait_until_listening(process: subprocess.Popen[bytes], port: int) -> None:
    """Return once `port` takes connections.

    Raises:
        RuntimeError: It never does.
    """
    deadline = time.monotonic() + START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            socket.create_connection((HOST, port)).close()
        except ConnectionRefusedError:
            time.sleep(POLL_S)
        else:
            return
    raise RuntimeError(f"no server on port {port}")


def make_tokens(count: int, source: Path = CHECKOUT) -> list[str]:
    """Return a token each for the users u1, u2, …, made by the source of a checkout."""
    with tempfile.TemporaryDirectory() as data:
        told = subprocess.run(
            [python_of(source), "tokens.py", data, str(count)],
            cwd=FOLDER,
            env={**os.environ, **environment_of(source)},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    return told.stdout.split()


def read_commit(source: Path) -> str:
    """Return the commit of a checkout, marked when files differ from it."""
    command = ["git", "-C", str(source), "describe", "--always", "--dirty", "--exclude=*"]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    return told.stdout.strip() or "unknown"


def python_of(source: Path) -> str:
    """Return the Python of a checkout's own environment, or else this one."""
    own = source / ".venv" / "bin" / "python"
    return str(own) if own.exists() else sys.executable


def environment_of(source: Path) -> dict[str, str]:
    """Return the variables with which a Python runs the source of a checkout."""
    path = os.pathsep.join([str(source / "src"), str(FOLDER)])
    return {"PYTHONPATH": path, "ISOLANE_SECRET_KEY": SECRET}
