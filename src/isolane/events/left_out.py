"""Counts of what a run left out: data of its client or agent that is unknown or not allowed."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum
from typing import Final

from isolane.errors import shorten
from isolane.events.surrogates import mend_text

NAMES_MAX: Final = 20
"""Maximum number of names in one run's warning; under further names things are only counted."""


class Kind(StrEnum):
    """Kind of a thing that was left out."""

    EVENT = "event"
    """An event of a type that AG-UI doesn't describe."""
    MESSAGE = "message"
    """A message of an unknown role in a snapshot, or an older client message without known
    parts."""
    PART = "part"
    """A part of a message's content, of an unknown type or with an unknown source."""
    OUTCOME = "outcome"
    """An unknown outcome of a run or subagent, which counts as success."""
    OPERATION = "operation"
    """An operation of a JSON Patch."""
    ROLE = "role"
    """A message in a role that clients may not use: `system` or `developer`."""


class LeftOut:
    """Counts what one run left out, by kind and name, and adds to `totals`."""

    def __init__(self, totals: Counter[Kind] | None = None) -> None:
        """Begin with no counts; `totals` counts for the whole process."""
        self._totals = Counter[Kind]() if totals is None else totals
        self._names: dict[Kind, Counter[str]] = {}

    def note(self, kind: Kind, name: str) -> None:
        """Count one thing, and keep its name: its type or role."""
        self._totals[kind] += 1
        names = self._names.setdefault(kind, Counter())
        shown = mend_text(shorten(name))
        if shown in names or sum(map(len, self._names.values())) < NAMES_MAX:
            names[shown] += 1

    def add(self, other: LeftOut) -> None:
        """Add the counts of `other`, which are in the totals already."""
        for kind, names in other._names.items():
            self._names.setdefault(kind, Counter()).update(names)
        self._totals.update(other._totals)

    def to_report(self) -> dict[str, dict[str, int]]:
        """Return the counts by kind and name; empty when nothing was left out."""
        return {str(kind): dict(names) for kind, names in self._names.items()}
