"""Public docstrings list the errors that they raise, so that a reader finds them in one place."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, TypeAlias

import pytest

SOURCE: Final = Path(__file__).parents[2] / "src" / "isolane"
"""Files and folders that still name errors inside sentences. The list only gets shorter."""
INLINE: Final = re.compile(r"\braises? `\w+`", re.IGNORECASE)
ENTRY: Final = re.compile(r"\A(?:    )+[\w.]+: [A-Z`]")
FILES: Final = sorted(path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*.py"))
Described: TypeAlias = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def public_docstrings(file: str) -> Iterator[tuple[str, str]]:
    """Yield the name and the docstring of every public class, function and method of a file."""
    waiting: list[ast.stmt] = list(ast.parse((SOURCE / file).read_text(encoding="utf-8")).body)
    while waiting:
        node = waiting.pop()
        if not isinstance(node, Described) or node.name.startswith("_"):
            continue
        if text := ast.get_docstring(node):
            yield node.name, text
        if isinstance(node, ast.ClassDef):
            waiting.extend(node.body)


@pytest.mark.parametrize("file", FILES)
def test_errors_are_listed(file: str) -> None:
    inline = {name for name, text in public_docstrings(file) if INLINE.search(text)}
    assert not inline, f"{file}: list the errors under `Raises:` in {sorted(inline)}"


@pytest.mark.parametrize("file", FILES)
def test_each_listed_error_says_when(file: str) -> None:
    for name, text in public_docstrings(file):
        lines = text.partition("\nRaises:\n")[2].splitlines()
        for line in lines:
            is_further = line.startswith("        ")
            assert is_further or ENTRY.match(line), f"{file}: {name}: {line!r}"
