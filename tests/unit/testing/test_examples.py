"""The examples of the page and the example project do what they say."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from tests.unit.testing.inner import run_pytest

ROOT: Final = Path(__file__).parents[3]
EXAMPLE: Final = ROOT / "examples" / "testing"
_FILE: Final = re.compile(r"^```\w+\n# (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_TEST: Final = re.compile(r"^(?:async )?def (test_\w+)", re.MULTILINE)


def names_in(*texts: str) -> frozenset[str]:
    return frozenset(name for text in texts for name in _TEST.findall(text))


def test_the_pages_examples_pass(tmp_path: Path) -> None:
    files = dict(_FILE.findall((ROOT / "docs" / "testing.md").read_text(encoding="utf-8")))
    assert len(files) == 9
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    inner = run_pytest(tmp_path, "-W", "error")
    assert inner.failed == {}, inner.output
    assert inner.passed == names_in(*files.values()), inner.output


def test_the_example_projects_tests_pass(tmp_path: Path) -> None:
    for file in [*EXAMPLE.glob("*.py"), EXAMPLE / "pyproject.toml"]:
        (tmp_path / file.name).write_bytes(file.read_bytes())
    inner = run_pytest(tmp_path, "-W", "error")
    tests = (EXAMPLE / "test_weather.py").read_text(encoding="utf-8")
    assert inner.failed == {}, inner.output
    assert inner.passed == names_in(tests), inner.output
