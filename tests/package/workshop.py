"""What the tests of the package build with: copies of the checkout, commands, environments."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[2]
SERVER_LOCK: Final = ROOT / "requirements" / "server.lock"
EPOCH: Final = "1790000000"
"""The time that all files of a package get here, unless a release has said it already."""


class Said(NamedTuple):
    """How a command ended, and what it wrote to stdout and stderr together."""

    code: int
    text: str


def run(
    *command: str | Path,
    folder: Path = ROOT,
    env: Mapping[str, str] | None = None,
    time_s: int = 300,
) -> Said:
    """Run a command to its end, in this process's environment and `env`."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env={"SOURCE_DATE_EPOCH": EPOCH, **os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=time_s,
        check=False,
    )
    return Said(done.returncode, done.stdout.decode(errors="replace"))


def run_well(
    *command: str | Path, folder: Path = ROOT, env: Mapping[str, str] | None = None
) -> str:
    """Run a command that must succeed, and return what it wrote."""
    said = run(*command, folder=folder, env=env)
    assert said.code == 0, said.text
    return said.text


def copy_checkout(to: Path) -> Path:
    """Copy what a clone would hold, and what isn't committed yet, but nothing that is built."""
    listed = run_well("git", "ls-files", "--cached", "--others", "--exclude-standard", "-z")
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)
    return to


def path_without_npm(folder: Path) -> str:
    """Return a PATH with the machine's commands in it, but no `npm`."""
    folder.mkdir()
    for place in os.environ["PATH"].split(os.pathsep):
        for found in Path(place).iterdir() if Path(place).is_dir() else ():
            link = folder / found.name
            if not found.name.startswith(("npm", "npx", "node")) and not link.is_symlink():
                link.symlink_to(found)
    return str(folder)


def make_environment(folder: Path, *, pip: str | None = None) -> Path:
    """Make an environment, with a given pip or the one that Python brings; return its Python."""
    extra = () if pip is None else ("--without-pip",)
    run_well(sys.executable, "-m", "venv", *extra, folder)
    python = folder / "bin" / "python"
    if pip is not None:
        run_well(sys.executable, "-m", "pip", "--python", python, "install", "-q", f"pip=={pip}")
    return python


def install_lock(
    python: Path, lock: Path, *options: str, env: Mapping[str, str] | None = None
) -> Said:
    """Install a lock as every target of the Makefile does."""
    return run("sh", ROOT / "scripts" / "install", python, lock, *options, env=env)
