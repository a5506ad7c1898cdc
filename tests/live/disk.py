"""A disk of the test's own that is full for a while, or nearly."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest


@contextmanager
def mounted(folder: Path, *, size: str) -> Iterator[None]:
    """Have a disk of that size at `folder`; one has to be allowed to mount it."""
    folder.mkdir()
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if mount is None or umount is None:
        pytest.skip("there is no `mount` here to make a small disk with")
    made = subprocess.run(
        [mount, "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        pytest.skip(f"a small disk can't be mounted here: {made.stderr.strip()}")
    yield
    # Lazily: a test that has failed may have left its server there.
    subprocess.run([umount, "-l", folder], check=True)


@contextmanager
def filled(folder: Path, *, but_bytes: int = 0) -> Iterator[None]:
    """Let no more than `but_bytes` be free on the disk of `folder` for the block's time."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while free_bytes(folder) > but_bytes:
            file.write(bytes(65536))
    yield
    filler.unlink()


def free_bytes(folder: Path) -> int:
    """Return what is free on the disk of `folder`."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize
