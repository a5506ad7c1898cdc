"""The structure of the source: how long a function and a file may be, so that people read them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

SOURCE: Final = Path(__file__).parents[2] / "src" / "isolane"
FILES: Final = sorted(SOURCE.rglob("*.py"))
MIGRATIONS: Final = SOURCE / "sql" / "migrations" / "versions"
"""Their functions are lists of steps, and nobody changes them after a release."""
BODY_LINES_MAX: Final = 40
"""Lines of a function's body, its docstring not counted."""
FILE_LINES_MAX: Final = 300
REASON: Final = re.compile(r"^# Long because: .{20,}$", re.MULTILINE)
"""What a file above that says about itself."""


def long_bodies(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield the name of each function whose body is too long, and how many lines it has."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        has_docstring = ast.get_docstring(node) is not None
        body = node.body[1 if has_docstring else 0 :]
        lines = count_lines(body) if body else 0
        if lines > BODY_LINES_MAX:
            yield node.name, lines


def count_lines(body: list[ast.stmt]) -> int:
    """Return how many lines statements take, with what stands between them."""
    return (body[-1].end_lineno or 0) - body[0].lineno + 1


def name_of(file: Path) -> str:
    return file.relative_to(SOURCE).as_posix()


@pytest.mark.parametrize("file", [f for f in FILES if f.parent != MIGRATIONS], ids=name_of)
def test_no_function_is_long(file: Path) -> None:
    assert list(long_bodies(ast.parse(file.read_text(encoding="utf-8")))) == []


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_long_file_says_why(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    is_long = len(text.splitlines()) > FILE_LINES_MAX
    has_reason = REASON.search(text) is not None
    assert is_long == has_reason, "a reason is for a long file, and a long file has one"


def test_a_docstring_counts_for_nothing() -> None:
    body = "    x = 1\n" * BODY_LINES_MAX
    doc = '    """Say.\n\n' + "    more\n" * 9 + '    """\n'
    assert list(long_bodies(ast.parse(f"def f():\n{doc}{body}"))) == []
    assert list(long_bodies(ast.parse(f"def f():\n{doc}{body}    x = 2\n"))) == [("f", 41)]
