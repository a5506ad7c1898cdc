"""Each way to forget an await or to break a contract is reported by the gate that it names.

The files in `wrong/` are meant to be wrong. The first line of each names its gate, `# here` marks
the line that must be reported. The main runs of the gates leave the folder out.
"""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from isolane.errors import ContractError

ROOT = Path(__file__).parents[2]
WRONG = sorted((Path(__file__).parent / "wrong").glob("*.py"))
BIN = Path(sys.executable).parent
MYPY_LINE = re.compile(
    r"^(?P<file>.+?):(?P<line>\d+): error: .*\[(?P<code>[\w-]+)\]$", re.MULTILINE
)


def _run(*command: str) -> str:
    done = subprocess.run(
        [str(BIN / command[0]), *command[1:], *map(str, WRONG)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, (
        done.stdout + done.stderr
    )  # 1 is "found some", 2 is "could not run"
    return done.stdout


@cache
def _mypy() -> frozenset[tuple[str, int, str]]:
    found = MYPY_LINE.finditer(_run("mypy", "--no-error-summary", "--no-pretty"))
    return frozenset(
        (Path(one["file"]).name, int(one["line"]), f"[{one['code']}]") for one in found
    )


@cache
def _ruff() -> frozenset[tuple[str, int, str]]:
    found = json.loads(_run("ruff", "check", "--output-format", "json", "--no-cache"))
    return frozenset(
        (Path(one["filename"]).name, one["location"]["row"], one["code"]) for one in found
    )


def _gate(path: Path) -> tuple[str, str]:
    tool, _, code = path.read_text().partition("\n")[0].removeprefix("# gate: ").partition(" ")
    return tool, code


def _marked_line(path: Path) -> int:
    (line,) = [
        number
        for number, text in enumerate(path.read_text().splitlines(), 1)
        if text.endswith("# here")
    ]
    return line


def _of(tool: str) -> list[Path]:
    return [path for path in WRONG if _gate(path)[0] == tool]


def test_there_are_a_dozen_ways_and_each_names_a_gate() -> None:
    assert len(WRONG) >= 12
    assert {_gate(path)[0] for path in WRONG} == {"mypy", "ruff", "ensure"}


@pytest.mark.parametrize("path", _of("mypy"), ids=lambda path: path.stem)
def test_mypy_reports_it(path: Path) -> None:
    assert (path.name, _marked_line(path), _gate(path)[1]) in _mypy()


@pytest.mark.parametrize("path", _of("ruff"), ids=lambda path: path.stem)
def test_ruff_reports_it(path: Path) -> None:
    assert (path.name, _marked_line(path), _gate(path)[1]) in _ruff()


@pytest.mark.parametrize("path", _of("ensure"), ids=lambda path: path.stem)
def test_ensure_refuses_it_at_run_time(path: Path) -> None:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with pytest.raises(ContractError) as caught:
        module.enter()
    assert caught.tb is not None
    assert any(entry.lineno + 1 == _marked_line(path) for entry in caught.traceback)


@pytest.mark.parametrize("path", _of("ensure"), ids=lambda path: path.stem)
def test_what_ensure_must_refuse_no_type_checker_sees(path: Path) -> None:
    assert not [one for one in _mypy() if one[0] == path.name]
