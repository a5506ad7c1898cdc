"""Builds the C programs, and runs the load generator."""

from __future__ import annotations

import itertools
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec
from machine import on_core
from pace import Pace
from servers import FOLDER, Server

END: Final = '"RUN_FINISHED"'
TIMEOUT_S: Final = 240.0
_tags = itertools.count(1)


class Lateness(msgspec.Struct, frozen=True):
    """How late events were, in milliseconds."""

    p50_ms: float
    p99_ms: float
    max_ms: float


class Stage(msgspec.Struct, frozen=True):
    """So many connections are open: what their handshakes took, and what the server holds."""

    ready: int
    """All connections so far."""
    took_s: float
    cpu_s: float
    resident_kib: float


class Window(msgspec.Struct, frozen=True):
    """What came while a window was open, and who used which CPU time meanwhile."""

    events: int
    took_s: float
    cpu_s: float
    """CPU seconds of the server."""
    own_s: float
    """CPU seconds of the generator."""
    others_s: float
    """CPU seconds of all else on the machine."""
    since_due: Lateness
    since_said: Lateness


class Ends(msgspec.Struct, frozen=True):
    """When the connections had their last event; each counts from the first question."""

    count: int
    took_s: float
    cpu_s: float
    each: Lateness


class Report(msgspec.Struct, frozen=True):
    """What the generator tells at its end."""

    resident_kib: float
    """Memory of the server before the first connection."""
    stages: list[Stage]
    ready: int
    events: int
    """All events, within the window or not."""
    ended: int
    gaps: int
    """Number of ids that did not follow the one before."""
    refused: int
    closed: int
    errors: int
    window: Window | None = None
    ends: Ends | None = None

    @property
    def faults(self) -> str:
        """Say what went wrong; nothing, usually."""
        counts = {name: getattr(self, name) for name in ("gaps", "refused", "closed", "errors")}
        return ", ".join(f"{name} {count}" for name, count in counts.items() if count)


def build(folder: Path, *names: str) -> None:
    """Compile C programs of this folder into another one.

    Raises:
        SystemExit: There is no compiler.
    """
    compiler = shutil.which("cc")
    if compiler is None:
        raise SystemExit("The bench needs a C compiler named `cc`: install gcc or clang.")
    for name in names:
        source = FOLDER / f"{name}.c"
        subprocess.run([compiler, "-O2", "-o", folder / name, source], check=True)


class Generator:
    """Runs the program that `build` has made; each run is a process of its own."""

    def __init__(self, folder: Path, core: int | None = None) -> None:
        """Keep files in `folder`, and run on one core if one is named."""
        self._folder = folder
        self._core = core

    def new_tag(self) -> str:
        """Return a beginning of ids that no other measurement has."""
        return f"b{next(_tags)}"

    def idle(self, server: Server, counts: Sequence[int], *, settle_s: float) -> Report:
        """Open so many connections, stage by stage, and say nothing."""
        return self._run(server, f"--settle={settle_s}", f"--connections={_join(counts)}")

    def stream(
        self, server: Server, connections: int, pace: Pace, *, settle_s: float, window_s: float
    ) -> Report:
        """Have each connection followed for a window, and stop."""
        tag = self.new_tag()
        asked = _fill(server.dialect.go, tag, pace)
        times = (f"--settle={settle_s}", f"--window={window_s}")
        end = (f"--end={END}", f"--stop={_fill(server.dialect.stop, tag, pace)}")
        return self._run(
            server, *times, *(end if server.dialect.stop else ()), go=asked, count=connections
        )

    def finish(
        self, server: Server, connections: int, pace: Pace, *, at_once: int, tag: str = ""
    ) -> Report:
        """Have each connection ask, so many at once, and wait until all have their last event."""
        asked = _fill(server.dialect.go, tag or self.new_tag(), pace)
        options = (f"--end={END}", f"--at-once={at_once}")
        return self._run(server, *options, go=asked, count=connections)

    def come_back(self, server: Server, connections: int, opening: str) -> Report:
        """Have all connect at the same moment, say `opening`, and read until their last event."""
        options = (f"--open={opening}", f"--end={END}", f"--at-once={connections}")
        return self._run(server, *options, count=connections)

    def _run(self, server: Server, *options: str, go: str = "", count: int = 0) -> Report:
        dialect = server.dialect
        command = [
            str(self._folder / "generator"),
            f"--port={server.port}",
            f"--pid={server.pid}",
            f"--path={dialect.path}",
            f"--open={dialect.opening}",
            f"--ready={dialect.ready}",
            f"--go={go}",
            *([f"--connections={count}"] if count else []),
            *options,
        ]
        if server.tokens:
            tokens = self._folder / f"{server.name}.tokens"
            tokens.write_text("\n".join(server.tokens), encoding="utf-8")
            command.append(f"--tokens={tokens}")
        with on_core(self._core):
            told = subprocess.run(
                command, stdout=subprocess.PIPE, timeout=TIMEOUT_S, check=True
            ).stdout
        return msgspec.json.decode(told, type=Report)


def _join(counts: Sequence[int]) -> str:
    return ",".join(map(str, counts))


def _fill(text: str, tag: str, pace: Pace) -> str:
    return text.replace("{tag}", tag).replace("{pace}", str(pace))
