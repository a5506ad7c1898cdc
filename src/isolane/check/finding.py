"""What a walk finds out, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

SHOWN_CHARACTERS: Final = 600
"""How much of what was sent or came stands in the evidence."""


class Broken(Exception):
    """A layer doesn't hold: what was sent, what came, and what should have come.

    Its cause, where one can be seen from outside, says what lies below.
    """

    def __init__(
        self, what: str, *, sent: object = "", came: object = "", expected: object = ""
    ) -> None:
        super().__init__(what)
        self.sent = _shorten(sent)
        self.came = _shorten(came)
        self.expected = _shorten(expected)


class Below(Exception):
    """What lies under a failure, as far as it can be told from outside."""


class Skipped(Exception):
    """A layer can't be tried here; the text says why. It is no failure."""


class Misuse(Exception):
    """The walk can't begin as it was asked for: the text says what to give instead."""


def _shorten(value: object) -> str:
    text = str(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"


class Verdict(StrEnum):
    """What became of one layer."""

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
    """What held and what was measured, or why it was skipped, or what broke."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Why the last finding is a failure."""

    sent: str
    came: str
    expected: str
    chain: Sequence[str]
    """From the surface to the root, a sentence each."""


@dataclass(frozen=True, slots=True)
class Round:
    """One whole walk. The layers after a broken one were not tried."""

    findings: Sequence[Finding]
    evidence: Evidence | None
    """None when all held."""
    left_behind: str = ""
    """What could not be cleaned up."""

    pause_s: float = 0
    """Until another round may begin without meeting the users' rate limit."""

    @property
    def took_ms(self) -> float:
        """How long all layers took together, in milliseconds."""
        return sum(finding.took_ms for finding in self.findings)
