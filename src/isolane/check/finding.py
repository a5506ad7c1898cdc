"""Findings of a walk, one per layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

SHOWN_CHARACTERS: Final = 600
"""Maximum characters of a sent or received text in the evidence."""


class Broken(Exception):
    """A layer doesn't hold; the error says what was sent, what came, and what was expected.

    Its cause names the fault below, where that can be seen from outside.
    """

    def __init__(
        self, what: str, *, sent: object = "", came: object = "", expected: object = ""
    ) -> None:
        super().__init__(what)
        self.sent = _shorten(sent)
        self.came = _shorten(came)
        self.expected = _shorten(expected)


class Below(Exception):
    """The fault under a failure, as far as it can be seen from outside."""


class Skipped(Exception):
    """A layer can't be tried here; the text says why. It is no failure."""


class Misuse(Exception):
    """The walk can't begin; the text says what to give instead."""


def _shorten(value: object) -> str:
    text = str(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"


class Verdict(StrEnum):
    """Result of one layer."""

    HELD = "held"
    SKIPPED = "skipped"
    BROKE = "broke"


@dataclass(frozen=True, slots=True)
class Finding:
    """One layer that was tried."""

    layer: str
    verdict: Verdict
    took_ms: float
    note: str
    """Text about the result: the measurement, the reason of a skip, or the fault."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """The reason why the last finding is a failure."""

    sent: str
    came: str
    expected: str
    chain: Sequence[str]
    """One sentence per error, from the outermost to its first cause."""


@dataclass(frozen=True, slots=True)
class Round:
    """One whole walk. Layers after a broken one are not tried."""

    findings: Sequence[Finding]
    evidence: Evidence | None
    """None when all layers held."""
    left_behind: str = ""
    """Things that could not be cleaned up."""

    pause_s: float = 0
    """Seconds until another round can begin within the users' rate limit."""

    @property
    def took_ms(self) -> float:
        """Milliseconds that all layers took together."""
        return sum(finding.took_ms for finding in self.findings)
