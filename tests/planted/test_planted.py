"""Each mistake, put back into a copy of the package, is caught by the test or gate that it names.

`make planted` runs them, some at a time, and says of each who caught it and by what.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from typing import Final, NoReturn
from xml.etree import ElementTree as ET

import pytest
from tests.live.build import build_with
from tests.planted.forked import run_pytest
from tests.planted.plant import Gate, Planted, load_all

pytestmark = pytest.mark.timeout(900)  # each waits for those before it

ROOT: Final = Path(__file__).parents[2]
BIN: Final = Path(sys.executable).parent
AT_ONCE: Final = 6
"""Three times the cores of a small machine: most of them wait for what never comes."""
RUN_TIMEOUT_S: Final = 400.0
"""Above what a test may take by its own timeout, and the server's end after it."""
SHOWN_CHARACTERS: Final = 160
TESTS_FAILED: Final = 1
"""pytest's exit code; what could not be collected has another."""
REPORTED: Final = re.compile(r"src/isolane/([\w/]+\.py):[\d:]+ .*error: .*[\[(]([\w-]+)[\])]$")
PLANTED: Final = {planted.name: planted for planted in load_all()}


@pytest.fixture(scope="module")
def catching(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mapping[str, Future[str]]]:
    """Begin with all that are asked for, in order, so many at a time."""
    asked = [name for name in PLANTED if any(f"[{name}]" in i.name for i in request.session.items)]
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        yield {
            name: pool.submit(catch, PLANTED[name], tmp_path_factory.mktemp(name)) for name in asked
        }
    finally:
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("name", PLANTED)
def test_it_is_caught(
    name: str, catching: Mapping[str, Future[str]], record_property: Callable[[str, object], None]
) -> None:
    record_property("caught", catching[name].result())


def catch(planted: Planted, folder: Path) -> str:
    """Make the mistake and return who caught it, by what; raise when nobody did."""
    began = monotonic()
    env = build_with(folder / "src", *planted.mistakes)
    if planted.gate is None:
        said = ask_test(planted, folder, env)
    else:
        said = ask_gate(planted, planted.gate, folder)
    shutil.rmtree(folder)
    took_s = monotonic() - began
    return f"{planted.name}, {took_s:.1f} s: {planted.catcher}\n    {said[:SHOWN_CHARACTERS]}"


def ask_test(planted: Planted, folder: Path, env: Mapping[str, str]) -> str:
    """Return the first line of the failure; raise unless the test itself fails with its symptom."""
    report = folder / "report.xml"
    done = run_pytest(
        *(planted.catcher, "-q", "-p", "no:cacheprovider"),
        *("--basetemp", str(folder / "tmp"), "--junit-xml", str(report)),
        env=env,
        output=folder / "output.txt",
        timeout_s=RUN_TIMEOUT_S,
    )
    if done.returncode != TESTS_FAILED:
        fail("its test could not be run" if done.returncode else "nobody noticed", done)
    # What goes wrong in a fixture, as a server that doesn't start, is an error and no failure.
    failures = list(ET.parse(report).iter("failure"))  # noqa: S314 - pytest has just written it
    if len(failures) != 1:
        fail("it was not the test that failed", done)
    lines = [line for line in (failures[0].text or "").splitlines() if line.startswith("E ")]
    if not any(symptom in line for line in lines for symptom in planted.symptoms):
        fail(f"it failed, and not as in {planted.symptoms}", done)
    return failures[0].get("message", "").partition("\n")[0]


def ask_gate(planted: Planted, gate: Gate, folder: Path) -> str:
    """Return what the gate reports; raise unless that is its rule, in the files of the patch."""
    shutil.copy(ROOT / "pyproject.toml", folder)
    (folder / ".venv").symlink_to(sys.prefix)
    if (ROOT / ".mypy_cache").is_dir():  # from cold it would take a minute
        shutil.copytree(ROOT / ".mypy_cache", folder / ".mypy_cache")
    files = sorted(f"src/isolane/{file}" for file in planted.files)
    done = run_gate(gate.tool, *files, cwd=folder)
    found = [found for found in map(REPORTED.search, done.stdout.splitlines()) if found]
    if {(one[1], one[2]) for one in found} != {(file, gate.rule) for file in planted.files}:
        fail(f"it was not reported as {planted.catcher}", done)
    return found[0][0]


def fail(why: str, done: subprocess.CompletedProcess[str]) -> NoReturn:
    pytest.fail(f"{why}:\n{done.stdout}", pytrace=False)


def run_gate(tool: str, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BIN / tool, *words],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=RUN_TIMEOUT_S,
        check=False,
    )
