"""A newcomer's ways in, as the README has them: a package that is installed, and a checkout."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from pathlib import Path
from typing import Final

import pytest
from tests.package.conftest import Packages
from tests.package.first_minutes import ask_the_demo
from tests.package.workshop import (
    ROOT,
    SERVER_LOCK,
    copy_checkout,
    make_environment,
    path_without_npm,
    run_well,
)

QUESTION: Final = "What is Isolane?"
ANSWER: Final = "From **Isolane > What Isolane is** (`docs/index.md`):"
ENVIRONMENT_MAX_BYTES: Final = 150_000_000

pytestmark = pytest.mark.timeout(600)


def write_constraints(file: Path) -> Path:
    """Write the versions of the server's lock as constraints: later releases change no verdict."""
    pins = re.findall(
        r"^([a-z0-9.-]+)(?:\[.*?\])?(==[^\\\n]+)", SERVER_LOCK.read_text(), re.MULTILINE
    )
    file.write_text("".join(f"{name}{version}\n" for name, version in pins), encoding="utf-8")
    return file


def snippet_of_readme(word: str) -> list[str]:
    """Return the commands of the README's block that holds a word."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    (block,) = [block for block in blocks if word in block]
    return [line.partition("  #")[0].strip() for line in block.splitlines()]


def size_of(folder: Path) -> int:
    """Return the bytes of all files below a folder; of those that are hard links, once."""
    files = {}
    for path in folder.rglob("*"):
        entry = path.lstat()
        files[entry.st_ino] = entry.st_blocks * 512
    return sum(files.values())


async def test_wheel_in_an_empty_environment_serves_the_page_and_answers(
    packages: Packages, tmp_path: Path
) -> None:
    install, serve = snippet_of_readme("pip install")
    python = make_environment(tmp_path / "env")
    here = {
        "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}",
        "PIP_FIND_LINKS": f"{packages.wheel.parent} {os.environ.get('PIP_FIND_LINKS', '')}",
        "PIP_CONSTRAINT": str(write_constraints(tmp_path / "constraints.txt")),
    }
    await asyncio.to_thread(run_well, *install.split(), "-q", folder=tmp_path, env=here)
    await asyncio.to_thread(run_well, python, "-m", "pip", "check")
    home = tmp_path / "home"
    home.mkdir()
    command, *rest = serve.split()
    answer = await ask_the_demo(
        python.parent / command, *rest, "--port", "0", folder=home, question=QUESTION
    )
    assert answer.startswith(ANSWER)
    imported = "import isolane, isolane.app, isolane.testing.server"
    await asyncio.to_thread(run_well, python, "-c", imported, folder=home)


async def test_make_run_in_a_clone_serves_the_page_and_answers(tmp_path: Path) -> None:
    run, _ = snippet_of_readme("make run")
    checkout = copy_checkout(tmp_path / "a clone")
    command = (*run.split(), "ARGS=--port 0")
    answer = await ask_the_demo(*command, folder=checkout, question=QUESTION)
    assert answer.startswith(ANSWER)
    assert size_of(checkout / ".venv") < ENVIRONMENT_MAX_BYTES

    # What only builds the page may go; then nothing of it is wanted again.
    for folder in (".build", "page/node_modules"):
        shutil.rmtree(checkout / folder)
    env = path_without_npm(tmp_path / "bin")
    again = ("env", f"PATH={env}", *command)
    assert (await ask_the_demo(*again, folder=checkout, question=QUESTION)).startswith(ANSWER)
    assert not (checkout / ".build").exists()
