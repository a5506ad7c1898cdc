"""How much memory and disk there is, how much of it is taken, and giving memory back."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

RESERVE_BYTES: Final = 64 << 20
RESERVE_PERCENT: Final = 5
"""The default reserve of a small disk: of 64 MiB there it might be short from the start."""


class Memory(NamedTuple):
    """What this process holds, and what it may hold."""

    held_bytes: int
    allowed_bytes: int


class Disk(NamedTuple):
    """What is free where the database is, and what of it is kept for runs under way."""

    free_bytes: int
    reserve_bytes: int


class Resources:
    """Reads memory and disk. What isn't watched, or can't be read, is None."""

    def __init__(
        self,
        *,
        memory_bytes: int | None,
        disk_reserve_bytes: int | None,
        folder: Path | None,
        proc: Path = Path("/proc"),
        cgroups: Path = Path("/sys/fs/cgroup"),
    ) -> None:
        """Watch with these bounds; None takes the default, 0 watches nothing.

        `folder` is where the database is, None for one in memory.
        """
        self._statm = proc / "self" / "statm"
        self._allowed_bytes = (
            find_allowance(proc=proc, cgroups=cgroups) if memory_bytes is None else memory_bytes
        )
        self._reserve_bytes = disk_reserve_bytes
        self._folder = folder
        self._page_bytes = os.sysconf("SC_PAGE_SIZE")

    def read_memory(self) -> Memory | None:
        """Return what is resident, shared pages included, and the bound."""
        if not self._allowed_bytes:
            return None
        try:
            pages = int(self._statm.read_text().split()[1])
        except (OSError, ValueError, IndexError):  # no /proc, as on macOS
            return None
        return Memory(pages * self._page_bytes, self._allowed_bytes)

    def read_disk(self) -> Disk | None:
        """Return what is free for us, not for root alone, and the reserve."""
        if self._folder is None:
            return None
        try:
            found = os.statvfs(self._folder)
        except OSError:  # the database will say so
            return None
        reserve_bytes = self._reserve_bytes
        if reserve_bytes is None:
            size_bytes = found.f_blocks * found.f_frsize
            reserve_bytes = min(RESERVE_BYTES, size_bytes * RESERVE_PERCENT // 100)
        return Disk(found.f_bavail * found.f_frsize, reserve_bytes) if reserve_bytes else None


def find_allowance(*, proc: Path, cgroups: Path) -> int:
    """Return the smallest limit of the process's control groups, or the machine's memory."""
    machine_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    # Without a limit version 1 names a number that no machine reaches.
    return min([machine_bytes, *_limits(proc, cgroups)])


def _limits(proc: Path, cgroups: Path) -> Iterator[int]:
    """Yield every limit on the way from the process's group to the root of all."""
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            root, name = cgroups, "memory.max"
        elif "memory" in controllers.split(","):
            root, name = cgroups / "memory", "memory.limit_in_bytes"
        else:
            continue
        # In a container the path may be the host's: then the root is the container's own group.
        folder = root / path.lstrip("/")
        for place in (folder, *folder.parents):
            if place.is_relative_to(root):
                with suppress(OSError, ValueError):  # no limit there, or the word `max`
                    yield int((place / name).read_text())


def give_back_memory() -> None:
    """Hand to the system what lies free in the heap, where the C library is glibc.

    It takes a millisecond. A collection of garbage first would hold up everybody for 200, and has
    won nothing after 800 sockets were closed.
    """
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
