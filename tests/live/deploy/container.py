"""What a container gives a process, made without an engine: its own root, user and process ids.

The root is read-only but for `/data` and `/tmp`, the user is nobody that the machine knows, and the
process has the id 1. It needs root, as mounts do.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.live.server import START_TIMEOUT_S, Looks

UID: Final = 10001
SHARED: Final = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/lib32")
SCRIPT: Final = """
set -eu
PATH=$PATH:/usr/sbin:/sbin
tree=$1 data=$2 agents=$3 packages=$4 uid=$5 shared=$6; shift 6
umask 022
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$tree"
show() {
    if [ -L "$1" ]; then
        cp -P "$1" "$tree$1"
    elif [ -e "$1" ]; then
        mkdir -p "$tree$2" && mount --bind "$1" "$tree$2"
        mount -o remount,bind,ro "$tree$2"
    fi
}
mkdir -p "$tree/proc" "$tree/dev" "$tree/tmp" "$tree/data"
mount -t tmpfs -o mode=1777 tmpfs "$tree/tmp"
for place in $shared; do show "$place" "$place"; done  # some may lie below /tmp
show "$agents" /agents
show "$packages" /opt/isolane
mount -t proc proc "$tree/proc"
mount --rbind /dev "$tree/dev"
mount --bind "$data" "$tree/data"
mount -o remount,ro "$tree"
exec chroot "$tree" setpriv --reuid "$uid" --regid "$uid" --clear-groups --no-new-privs \
    --bounding-set=-all --inh-caps=-all env --ignore-environment --chdir=/agents "$@"
"""


@dataclass(eq=False)
class Container:
    """A process that sees little more than an image would show it."""

    folder: Path
    packages: Path
    """What is installed, beside what the tests' own environment has."""
    agents: Path
    data: Path
    said: list[str] = field(default_factory=list)

    def prepare(self) -> None:
        """Make the volume, which belongs to the user of the image."""
        self.data.mkdir(mode=0o700)
        os.chown(self.data, UID, UID)

    async def run(self, *command: str, env: Mapping[str, str]) -> tuple[int, str]:
        """Run a command to its end, as `docker compose exec` does; return its code and output."""
        process = await self._spawn(command, env)
        out, _ = await asyncio.wait_for(process.communicate(), START_TIMEOUT_S)
        assert process.returncode is not None
        return process.returncode, out.decode()

    @asynccontextmanager
    async def running(self, *command: str, env: Mapping[str, str]) -> AsyncIterator[Running]:
        """Run a command while the block runs."""
        process = await self._spawn(command, env)
        reader = asyncio.create_task(self._collect(process))
        try:
            yield Running(process, self.said)
        finally:
            if process.returncode is None:
                process.kill()  # and unshare ends what it has started
            await process.wait()
            await reader

    async def _spawn(
        self, command: Sequence[str], env: Mapping[str, str]
    ) -> asyncio.subprocess.Process:
        tree = self.folder / "root"
        tree.mkdir(exist_ok=True)
        shared = [*SHARED, sys.base_prefix, sys.prefix]
        paths = map(str, (tree, self.data, self.agents, self.packages, UID, " ".join(shared)))
        words = [f"{name}={value}" for name, value in env.items()]
        return await asyncio.create_subprocess_exec(
            *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--"),
            *("sh", "-c", SCRIPT, "sh", *paths, *words, *command),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=16 << 20,
        )

    async def _collect(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            self.said.append(line.decode(errors="replace").rstrip("\n"))


@dataclass(frozen=True)
class Running:
    """A process of a container; `process` is what has started it and ends as it ends."""

    process: asyncio.subprocess.Process
    said: list[str]

    @property
    def pid(self) -> int:
        """The process that is number 1 in there."""
        parent = self.process.pid
        return int(Path(f"/proc/{parent}/task/{parent}/children").read_text())

    def read_status(self) -> dict[str, str]:
        """Return what the kernel says of the process."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}

    async def until_said(self, text: str) -> None:
        """Return once the process has written a text."""
        async for _ in Looks(START_TIMEOUT_S):
            if any(text in line for line in self.said):
                return
            assert self.process.returncode is None, self.said
        raise TimeoutError(f"{text!r} is not in {self.said}")

    async def stop(self) -> int:
        """Send SIGTERM, as an engine does, and return the exit code."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)
        return await asyncio.wait_for(self.process.wait(), START_TIMEOUT_S)
