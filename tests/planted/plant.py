"""The mistakes of this folder: what each one did, which promise it breaks, and who notices."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.live.build import Mistake

FOLDER: Final = Path(__file__).parent
_FIELD: Final = re.compile(r"(Promise|Caught by|Seen as): (.+)")
_GATE: Final = re.compile(r"(mypy|basedpyright) \[([\w-]+)\]")
_FILE: Final = re.compile(r"\+\+\+ b/src/isolane/(\S+)")
_HUNK: Final = re.compile(r"@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@.*")


@dataclass(frozen=True)
class Gate:
    """A tool that reads the source, and the rule by which it reports."""

    tool: str
    rule: str


@dataclass(frozen=True)
class Planted:
    """One patch: lines of plain text that say what it is, and a unified diff of the source."""

    name: str
    story: str
    promise: str
    catcher: str
    """A test's node id, or a gate and its rule."""
    symptoms: tuple[str, ...]
    """What the test's failure says: one of these. Another failure would be another mistake's."""
    mistakes: tuple[Mistake, ...]

    @property
    def gate(self) -> Gate | None:
        """The gate that catches it; None when a test does."""
        found = _GATE.fullmatch(self.catcher)
        return Gate(found[1], found[2]) if found else None

    @property
    def files(self) -> set[str]:
        """The files that it changes."""
        return {mistake.file for mistake in self.mistakes}


def load_all() -> list[Planted]:
    """Return every patch of the folder, by name."""
    return [read(path) for path in sorted(FOLDER.glob("*.patch"))]


def read(path: Path) -> Planted:
    """Return what a patch says; raises when it lacks a line, or a hunk has not its lines."""
    head, _, diff = path.read_text(encoding="utf-8").partition("\n--- ")
    lines = head.splitlines()
    fields = {found[1]: found[2] for line in lines if (found := _FIELD.fullmatch(line))}
    story = " ".join(line for line in lines if line and not _FIELD.fullmatch(line))
    return Planted(
        name=path.stem,
        story=story,
        promise=fields["Promise"],
        catcher=fields["Caught by"],
        symptoms=tuple(fields["Seen as"].split(" or ")) if "Seen as" in fields else (),
        mistakes=tuple(_read_hunks(diff.splitlines())),
    )


def _read_hunks(lines: list[str]) -> list[Mistake]:
    """Return what stands in the source and what the diff puts there, hunk by hunk."""
    hunks: list[Mistake] = []
    file, place = "", 0
    while place < len(lines):
        line, place = lines[place], place + 1
        if found := _FILE.fullmatch(line):
            file = found[1]
        elif found := _HUNK.fullmatch(line):
            counts = int(found[1] or 1), int(found[2] or 1)
            hunk, place = _take_hunk(lines, place, *counts)
            hunks.append(Mistake(file, *hunk))
    return hunks


def _take_hunk(
    lines: list[str], place: int, old_count: int, new_count: int
) -> tuple[tuple[str, str], int]:
    """Return both sides of the hunk whose lines begin at `place`, and where it ends."""
    old: list[str] = []
    new: list[str] = []
    while len(old) < old_count or len(new) < new_count:
        # Editors strip the blank that stands before a blank line; diff's readers don't mind.
        mark, text = (lines[place] or " ")[0], lines[place][1:]
        if mark not in " -+":
            raise ValueError(f"a hunk ends too early: {lines[place]!r}")
        old += [text] * (mark != "+")
        new += [text] * (mark != "-")
        place += 1
    return (_joined(old), _joined(new)), place


def _joined(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
