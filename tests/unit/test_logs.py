"""Log lines: events that can be searched for, and colours on a terminal only."""

from __future__ import annotations

import ast
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from isolane.logs import wants_colours

ROOT: Final = Path(__file__).parents[2]
LEVELS: Final = {"debug", "info", "warning", "error", "exception", "critical"}


def log_events() -> Iterator[str]:
    """Yield the name of each event that the source logs."""
    for file in (ROOT / "src" / "isolane").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(
                    func=ast.Attribute(value=ast.Name("_log"), attr=level),
                    args=[ast.Constant(str(event)), *_],
                ) if level in LEVELS:
                    yield event
                case ast.keyword(arg="failed", value=ast.Constant(str(event))):  # of upkeep
                    yield event
                case _:
                    pass


def test_events_are_names_that_the_documentation_explains() -> None:
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    events = set(log_events())
    assert len(events) > 50
    assert [event for event in events if not re.fullmatch(r"[a-z]+(_[a-z]+)*", event)] == []
    assert [event for event in events if f"`{event}`" not in page] == []


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    "stream, environ, is_coloured",
    [
        (Terminal(), {}, True),
        (Terminal(), {"TERM": "xterm"}, True),
        (Terminal(), {"TERM": "dumb"}, False),
        (Terminal(), {"NO_COLOR": "1"}, False),
        (Terminal(), {"NO_COLOR": ""}, True),
        (Terminal(), {"FORCE_COLOR": "0"}, False),
        (Terminal(), {"NO_COLOR": "1", "FORCE_COLOR": "1"}, False),
        (io.StringIO(), {}, False),
        (io.StringIO(), {"TERM": "xterm"}, False),
        (io.StringIO(), {"FORCE_COLOR": "1"}, True),
        (io.StringIO(), {"FORCE_COLOR": "1", "TERM": "dumb"}, True),
        (io.StringIO(), {"FORCE_COLOR": ""}, False),
    ],
)
def test_colours_are_for_terminals_unless_wished_otherwise(
    stream: io.StringIO,
    environ: dict[str, str],
    is_coloured: bool,  # noqa: FBT001 - a table
) -> None:
    assert wants_colours(stream, environ) is is_coloured
