"""The planted mistakes fit the source, and say what they are, what they break and who notices.

Whether they are noticed is what `make planted` shows.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Final

import pytest
from tests.planted.plant import Planted, load_all

ROOT: Final = Path(__file__).parents[2]
PLANTED: Final = load_all()
LEAST: Final = 25
each = pytest.mark.parametrize("planted", PLANTED, ids=lambda planted: planted.name)


def promises() -> dict[str, str]:
    """Return what stands under each promise of the page of guarantees, by its heading."""
    text = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
    parts = [part.partition("\n") for part in text.split("\n## ")[1:]]
    return {heading: rest for heading, _, rest in parts if heading != "Not there yet"}


def functions_of(file: Path) -> set[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    return {node.name for node in tree.body if isinstance(node, kinds)}


def test_there_are_enough_of_them() -> None:
    assert len(PLANTED) >= LEAST


@each
def test_it_fits_the_source_and_makes_other_source_of_it(planted: Planted) -> None:
    assert planted.mistakes
    for file in planted.files:
        right = wrong = (ROOT / "src" / "isolane" / file).read_text(encoding="utf-8")
        for mistake in planted.mistakes:
            wrong = mistake.made_in(wrong) if mistake.file == file else wrong
        assert ast.dump(ast.parse(wrong)) != ast.dump(ast.parse(right))


@each
def test_it_says_what_it_did(planted: Planted) -> None:
    assert re.fullmatch(r"[a-z]+(-[a-z]+)+", planted.name)
    assert re.fullmatch(r"[A-Z].{20,}\.", planted.story)


@each
def test_who_notices_it_is_there_and_looks_from_outside(planted: Planted) -> None:
    assert (planted.gate is None) == bool(planted.symptoms)
    if planted.gate is None:
        file, _, test = planted.catcher.partition("::")
        assert re.fullmatch(r"tests/(live|browser)/test_\w+\.py", file)
        assert test.partition("[")[0] in functions_of(ROOT / file)


@pytest.mark.parametrize("promise", promises())
def test_promise_names_the_mistakes_that_break_it(promise: str) -> None:
    named = re.findall(r"`tests/planted/([\w-]+)\.patch`", promises()[promise])
    assert named == [planted.name for planted in PLANTED if planted.promise == promise]
    assert named


def test_each_breaks_a_promise_that_is_made() -> None:
    assert {planted.promise for planted in PLANTED} == set(promises())
