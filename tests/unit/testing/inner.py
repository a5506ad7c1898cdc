"""pytest in pytest: what becomes of the tests of a file, in a process and a folder of its own."""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Final, NamedTuple
from xml.etree import ElementTree as ET

TIMEOUT_S: Final = 250
"""Below what a test may take, so that it can say what the inner one has said."""


class Inner(NamedTuple):
    """How a run of pytest ended."""

    code: int
    passed: frozenset[str]
    """The tests in which nothing failed."""
    failed: dict[str, str]
    """By test: what it failed for, in its body and in its fixtures."""
    output: str


def run_pytest(folder: Path, *arguments: str) -> Inner:
    """Run the tests of a folder, with the plugins that are installed."""
    report = folder / "report.xml"
    done = subprocess.run(
        (sys.executable, "-m", "pytest", f"--junitxml={report}", *arguments),
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
    )
    return Inner(done.returncode, *_verdicts(report), done.stdout + done.stderr)


def _verdicts(report: Path) -> tuple[frozenset[str], dict[str, str]]:
    if not report.exists():  # it didn't come so far
        return frozenset(), {}
    cases = ET.parse(report).getroot().iter("testcase")  # noqa: S314 - pytest has just written it
    failed: defaultdict[str, str] = defaultdict(str)
    names: set[str] = set()
    for case in cases:
        name = case.attrib["name"]
        names.add(name)
        for part in case:
            failed[name] += "".join(part.itertext())
    return frozenset(names - failed.keys()), dict(failed)
