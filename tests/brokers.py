"""A Redis server of the tests' own: one for a process of pytest, on a free port."""

from __future__ import annotations

import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import redis

from isolane.testing.server import LOOPBACK, free_port

PASSWORD = "not-to-be-told"


@dataclass(eq=False)
class RedisServer:
    """A server that runs, or may be started again on its port."""

    port: int
    folder: str
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its address, with the password."""
        return f"redis://:{PASSWORD}@{LOOPBACK}:{self.port}"

    def client(self) -> redis.Redis:
        """Return a client of its own."""
        return redis.Redis.from_url(self.url)

    def start(self) -> None:
        """Start it, and return once it answers."""
        program = shutil.which("redis-server")
        if program is None:
            pytest.fail("there is no Redis here: sh scripts/servers")
        options = {
            "port": str(self.port),
            "bind": LOOPBACK,
            "requirepass": PASSWORD,
            "save": "",
            "dir": self.folder,
            "enable-debug-command": "yes",
        }
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        self.process = subprocess.Popen([program, *words], stdout=subprocess.DEVNULL)
        while True:
            try:
                with self.client() as client:
                    client.ping()
            except (redis.RedisError, OSError):
                assert self.process.poll() is None, "the server ended by itself"
            else:
                return

    def kill(self) -> None:
        """End it without a word."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def freeze(self) -> None:
        """Let it do nothing, with all connections open."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)


@contextmanager
def running_redis() -> Iterator[RedisServer]:
    """Start a server that keeps nothing, and end it with the block."""
    with tempfile.TemporaryDirectory(prefix="isolane-redis-") as folder:
        server = RedisServer(free_port(), folder)
        server.start()
        try:
            yield server
        finally:
            server.kill()
