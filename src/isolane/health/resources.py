"""Readings of memory and disk, and the return of free memory to the system."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

RESERVE_BYTES: Final = 64 << 20
"""Default disk reserve, in bytes."""
RESERVE_PERCENT: Final = 5
"""Default disk reserve of a small disk, in percent. On a disk of 64 MiB the other default would
leave nothing."""


class Memory(NamedTuple):
    """Memory of this process: what it holds and what it may hold."""

    held_bytes: int
    allowed_bytes: int


class Disk(NamedTuple):
    """Disk space at the database: what is free, and what is reserved for active runs."""

    free_bytes: int
    reserve_bytes: int


class Resources:
    """Reads memory and disk.

    The result is None for a resource that isn't watched or can't be read.
    """

    def __init__(
        self,
        *,
        memory_bytes: int | None,
        disk_reserve_bytes: int | None,
        folder: Path | None,
        proc: Path = Path("/proc"),
        cgroups: Path = Path("/sys/fs/cgroup"),
    ) -> None:
        """Watch with these bounds; None means the default, 0 means not to watch.

        `folder` is the database's folder, None for one in memory.
        """
        self._statm = proc / "self" / "statm"
        self._allowed_bytes = (
            find_allowance(proc=proc, cgroups=cgroups) if memory_bytes is None else memory_bytes
        )
        self._reserve_bytes = disk_reserve_bytes
        self._folder = folder
        self._page_bytes = os.sysconf("SC_PAGE_SIZE")

    def read_memory(self) -> Memory | None:
        """Return the resident memory, shared pages included, and the bound."""
        if not self._allowed_bytes:
            return None
        try:
            pages = int(self._statm.read_text().split()[1])
        except (OSError, ValueError, IndexError):  # there is no /proc, for example on macOS
            return None
        return Memory(pages * self._page_bytes, self._allowed_bytes)

    def read_disk(self) -> Disk | None:
        """Return the disk space that is free for this user, and the reserve."""
        if self._folder is None:
            return None
        try:
            found = os.statvfs(self._folder)
        except OSError:  # the database will report the error
            return None
        reserve_bytes = self._reserve_bytes
        if reserve_bytes is None:
            size_bytes = found.f_blocks * found.f_frsize
            reserve_bytes = min(RESERVE_BYTES, size_bytes * RESERVE_PERCENT // 100)
        return Disk(found.f_bavail * found.f_frsize, reserve_bytes) if reserve_bytes else None


def find_allowance(*, proc: Path, cgroups: Path) -> int:
    """Return the smallest limit of the process's control groups, or the machine's memory."""
    machine_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    # Without a limit, version 1 of control groups shows a number that no machine reaches.
    return min([machine_bytes, *_limits(proc, cgroups)])


def _limits(proc: Path, cgroups: Path) -> Iterator[int]:
    """Yield every limit from the process's control group up to the root group."""
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
        # In a container the path may be the host's. Then the root is the container's own group.
        folder = root / path.lstrip("/")
        for place in (folder, *folder.parents):
            if place.is_relative_to(root):
                with suppress(OSError, ValueError):  # the file has no limit, or the word `max`
                    yield int((place / name).read_text())


def give_back_memory() -> None:
    """Return free heap memory to the system, when the C library is glibc.

    It takes a millisecond. No garbage collection runs before it: that would block for 200 ms, and
    won nothing after 800 sockets were closed.
    """
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
