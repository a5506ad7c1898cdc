"""What the machine tells: the CPU time of a process, its turns, and the cores to run on."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Self


class Cores(NamedTuple):
    """One core for the server, and one for all else; None on a machine without two of them."""

    server: int | None
    others: int | None

    @classmethod
    def choose(cls) -> Self:
        """Return the first two cores that this process may use."""
        allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        return cls(allowed[0], allowed[1]) if len(allowed) > 1 else cls(None, None)


@contextmanager
def on_core(core: int | None) -> Iterator[None]:
    """Have this thread, and the processes that it starts meanwhile, run on one core."""
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Turns(NamedTuple):
    """How long a process's main thread had a core, and how long it waited for one; nanoseconds."""

    ran: int
    waited: int

    @classmethod
    def read(cls, pid: int) -> Self:
        """Return what the main thread of a process has had so far."""
        told = Path(f"/proc/{pid}/task/{pid}/schedstat").read_text(encoding="utf-8").split()
        return cls(int(told[0]), int(told[1]))

    def stretch_since(self, earlier: Self) -> float:
        """Return how many times longer it took, because other work had the cores."""
        return 1 + (self.waited - earlier.waited) / max(self.ran - earlier.ran, 1)


def read_cpu_s(pid: int) -> float:
    """Return the CPU time of a process and all its threads so far, in seconds.

    This clock shows what /proc/PID/stat shows, in nanoseconds instead of ticks of 10 ms.
    """
    return time.clock_gettime((~pid << 3) | 2)  # as `clock_getcpuclockid` makes it on Linux
