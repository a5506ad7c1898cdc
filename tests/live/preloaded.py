"""Server processes that need not import again what every server imports.

To import it takes 1.4 s of CPU, which is more than most tests need for all else. A process that has
done so, the nursery, forks a child for each order. The child runs `python -m isolane` with the
words, the environment and the folder of the order, and ends as every Python does. One nursery
serves a process of pytest. Run as a script, this file is the nursery.
"""

from __future__ import annotations

import asyncio
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from functools import cache
from pathlib import Path
from typing import Any, Final, NoReturn

PRELOADED: Final = (
    "isolane.cli",
    "isolane.server",
    "isolane.app",
    "isolane.engines.sqlite.database",
)
ORDER_BYTES: Final = 1 << 20
"""No order is larger: an environment has some KB."""
LINE_BYTES: Final = 16 << 20
"""Of what a server writes, the longest line that is read."""
READ_AT_START: Final = ("PYTHON", "LD_", "MALLOC_", "LC_", "LANG", "TZ")
"""Names of variables that begin so are for the interpreter's own start, which a fork has behind it.
"""


def may_fork(env: Mapping[str, str]) -> bool:
    """Say whether a forked process is as good as a new one with `env` on top of ours."""
    return sys.platform == "linux" and not any(name.startswith(READ_AT_START) for name in env)


class Forked:
    """A process that the nursery forked, as `asyncio.subprocess.Process` has it."""

    def __init__(self, pid: int, ended: Future[int]) -> None:
        """Tell of the process `pid`; `ended` will hold its exit code."""
        self.pid = pid
        self.stdout: asyncio.StreamReader | None = None
        self.stderr: asyncio.StreamReader | None = None
        self._ended = ended

    @property
    def returncode(self) -> int | None:
        """The exit code; minus the signal's number when one ended it, None while it runs."""
        return self._ended.result() if self._ended.done() else None

    async def wait(self) -> int:
        """Return the exit code once there is one. Safe to cancel."""
        return await asyncio.shield(asyncio.wrap_future(self._ended))

    async def communicate(self) -> tuple[bytes, bytes]:
        """Return all that it writes, once it has ended."""
        out, err, _ = await asyncio.gather(_all_of(self.stdout), _all_of(self.stderr), self.wait())
        return out, err

    def send_signal(self, number: int) -> None:
        """Send it a signal; nothing happens once it has ended."""
        if not self._ended.done():
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)


async def _all_of(stream: asyncio.StreamReader | None) -> bytes:
    return b"" if stream is None else await stream.read()


class _Nursery:
    """The process that forks, and what it tells of its children."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._channel = ours
        self._orders = threading.Lock()
        self._born: Future[int] = Future()
        self._ended: dict[int, Future[int]] = {}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
            )
        threading.Thread(target=self._listen, name="nursery", daemon=True).start()

    def order(self, order: Mapping[str, Any], fds: Sequence[int]) -> Forked:
        """Return a new process; `fds` are its standard output and error."""
        with self._orders:
            self._born = Future()
            socket.send_fds(self._channel, [json.dumps(order).encode()], fds)
            pid = self._born.result()
            return Forked(pid, self._ended[pid])

    def _listen(self) -> None:
        while said := self._channel.recv(ORDER_BYTES):
            pid, code = json.loads(said)
            if code is None:
                self._ended[pid] = Future()
                self._born.set_result(pid)
            else:
                self._ended.pop(pid).set_result(code)


_nursery = cache(_Nursery)


async def spawn(*words: str, folder: Path, env: Mapping[str, str], stdout: int | None) -> Forked:
    """Run `python -m isolane` with these words in a process of its own.

    `stdout` is a descriptor, `asyncio.subprocess.PIPE`, or None for our own. Standard error comes
    through a pipe.
    """
    read_err, write_err = os.pipe()
    piped = os.pipe() if stdout == asyncio.subprocess.PIPE else None
    write_out = piped[1] if piped else 1 if stdout is None else stdout
    order = {"words": words, "folder": str(folder), "env": dict(env), "ignored": _ignored()}
    try:
        forked = await asyncio.to_thread(lambda: _nursery().order(order, (write_out, write_err)))
    finally:
        os.close(write_err)
        if piped:
            os.close(piped[1])
    forked.stderr = await _reader_of(read_err)
    forked.stdout = await _reader_of(piped[0]) if piped else None
    return forked


def _ignored() -> list[int]:
    """Return the signals that this process ignores: whoever it starts ignores them as well."""
    python_own = {signal.SIGPIPE, signal.SIGXFSZ}
    others = signal.valid_signals() - python_own
    return [number for number in others if signal.getsignal(number) is signal.SIG_IGN]


async def _reader_of(descriptor: int) -> asyncio.StreamReader:
    reader = asyncio.StreamReader(limit=LINE_BYTES)
    pipe = os.fdopen(descriptor, "rb", 0)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    return reader


# --- the nursery itself ---------------------------------------------------------------------------


def _nurse(channel: socket.socket) -> Mapping[str, Any]:
    """Fork for each order, and return the order in the child. The nursery itself never returns."""

    def tell_of_ended(*_: object) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            channel.send(json.dumps([pid, os.waitstatus_to_exitcode(status)]).encode())

    while True:
        said, fds, _, _ = socket.recv_fds(channel, ORDER_BYTES, 2)
        if not said:
            _end()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # no end is told before its birth
        pid = os.fork()
        if pid == 0:
            channel.close()
            _take(fds)
            order: Mapping[str, Any] = json.loads(said)
            return order
        for descriptor in fds:
            os.close(descriptor)
        channel.send(json.dumps([pid, None]).encode())
        signal.signal(signal.SIGCHLD, tell_of_ended)
        tell_of_ended()


def _end() -> NoReturn:
    """End with the process that ordered; its servers are no business of ours."""
    os._exit(0)


def _take(fds: Sequence[int]) -> None:
    for place, descriptor in enumerate(fds, 1):
        os.dup2(descriptor, place)
        os.close(descriptor)


def _become(order: Mapping[str, Any]) -> None:
    """Do what `python -m isolane` does in a folder."""
    os.environ.clear()
    os.environ.update(order["env"])
    os.chdir(order["folder"])
    for number in order["ignored"]:
        signal.signal(number, signal.SIG_IGN)
    sys.path[0] = order["folder"]
    sys.argv[1:] = order["words"]
    runpy.run_module("isolane", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    for _name in PRELOADED:
        __import__(_name)
    _become(_nurse(socket.socket(fileno=int(sys.argv[1]))))
