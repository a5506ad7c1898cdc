"""What is read of memory and disk, and where the bounds come from."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from isolane.health.resources import Disk, Memory, Resources, find_allowance, give_back_memory

MACHINE_BYTES = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
MIB = 1 << 20


def proc_of(folder: Path, groups: str, *, pages: int = 10) -> Path:
    own = folder / "proc" / "self"
    own.mkdir(parents=True)
    (own / "statm").write_text(f"99 {pages} 5 1 0 7 0\n")
    (own / "cgroup").write_text(groups)
    return own.parent


def limit(folder: Path, place: str, text: str) -> Path:
    """Write a limit of a control group, and return the root of all."""
    root = folder / "cgroups"
    file = root / place
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{text}\n")
    return root


def watching(
    *, memory: int | None = MIB, reserve: int | None = MIB, folder: Path | None = None
) -> Resources:
    return Resources(memory_bytes=memory, disk_reserve_bytes=reserve, folder=folder)


@pytest.mark.parametrize(
    "groups,limits,found",
    [
        ("0::/\n", {}, MACHINE_BYTES),
        ("0::/\n", {"memory.max": "max"}, MACHINE_BYTES),
        ("0::/\n", {"memory.max": "300"}, 300),
        ("0::/a/b\n", {"a/b/memory.max": "max", "a/memory.max": "200"}, 200),
        ("0::/a\n", {"a/memory.max": "100", "memory.max": "200"}, 100),
        ("0::/not/ours\n", {"memory.max": "100"}, 100),
        ("4:memory:/a\n0::/\n", {"memory/a/memory.limit_in_bytes": "100"}, 100),
        ("4:cpu,memory:/x\n", {"memory/memory.limit_in_bytes": "100"}, 100),
        ("4:memory:/\n", {"memory/memory.limit_in_bytes": str(1 << 62)}, MACHINE_BYTES),
        ("7:cpu:/a\n", {"memory/a/memory.limit_in_bytes": "100"}, MACHINE_BYTES),
    ],
)
def test_the_smallest_limit_of_the_control_groups_counts_else_the_machine(
    groups: str, limits: dict[str, str], found: int, tmp_path: Path
) -> None:
    proc, root = proc_of(tmp_path, groups), tmp_path / "cgroups"
    for place, text in limits.items():
        limit(tmp_path, place, text)
    assert find_allowance(proc=proc, cgroups=root) == found


def test_without_proc_no_memory_is_watched(tmp_path: Path) -> None:
    assert find_allowance(proc=tmp_path, cgroups=tmp_path) == MACHINE_BYTES
    read = Resources(
        memory_bytes=MIB, disk_reserve_bytes=0, folder=None, proc=tmp_path, cgroups=tmp_path
    )
    assert read.read_memory() is None


def test_memory_is_what_is_resident(tmp_path: Path) -> None:
    proc = proc_of(tmp_path, "0::/\n", pages=25)
    root = limit(tmp_path, "memory.max", "300000")
    read = Resources(
        memory_bytes=None, disk_reserve_bytes=None, folder=None, proc=proc, cgroups=root
    )
    assert read.read_memory() == Memory(25 * os.sysconf("SC_PAGE_SIZE"), 300_000)


def test_what_a_process_takes_is_seen_and_what_it_frees_too() -> None:
    read = watching()
    before = read.read_memory()
    fill = bytearray(b"x") * (64 * MIB)
    during = read.read_memory()
    del fill
    give_back_memory()
    after = read.read_memory()
    assert before is not None
    assert during is not None
    assert after is not None
    assert before.allowed_bytes == MIB
    assert during.held_bytes - before.held_bytes > 60 * MIB
    assert during.held_bytes - after.held_bytes > 60 * MIB


def test_zero_watches_nothing(tmp_path: Path) -> None:
    read = watching(memory=0, reserve=0, folder=tmp_path)
    assert (read.read_memory(), read.read_disk()) == (None, None)


def test_a_database_in_memory_has_no_disk() -> None:
    assert watching(folder=None).read_disk() is None


def test_a_disk_that_cannot_be_read_is_not_watched(tmp_path: Path) -> None:
    assert watching(folder=tmp_path / "gone").read_disk() is None


@pytest.mark.parametrize(
    "size_mib,reserve,wanted",
    [(16, None, 16 * MIB // 20), (100_000, None, 64 * MIB), (16, 5 * MIB, 5 * MIB)],
)
def test_the_reserve_is_a_part_of_a_small_disk_and_never_more_than_64_mib(
    size_mib: int,
    reserve: int | None,
    wanted: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # bsize, frsize, blocks, bfree, bavail, files, ffree, favail, flag, namemax
    blocks = size_mib * MIB // 4096
    found = os.statvfs_result((4096, 4096, blocks, 9, 7, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _path: found)
    read = watching(reserve=reserve, folder=tmp_path)
    assert read.read_disk() == Disk(7 * 4096, wanted)
