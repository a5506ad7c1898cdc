"""What a run left out: what its client or its agent sent, and nobody here knows or may take."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum
from typing import Final

from isolane.errors import shorten
from isolane.events.surrogates import mend_text

NAMES_MAX: Final = 20
"""Names that one run's warning tells; what comes under further ones is counted only."""


class Kind(StrEnum):
    """What was left out."""

    EVENT = "event"
    """An event of a type that AG-UI doesn't describe."""
    MESSAGE = "message"
    """A message of an unknown role, in a snapshot; or an older one of a client, without a part that
    is known."""
    PART = "part"
    """A part of a message's content, of an unknown type or from an unknown kind of source."""
    OUTCOME = "outcome"
    """How an agent says that a run or a subagent ended; it counts as a success."""
    OPERATION = "operation"
    """A step of a JSON Patch."""
    ROLE = "role"
    """A message of a role that clients may not speak in: `system` or `developer`."""


class LeftOut:
    """Counts what one run left out, by kind and name. Adds it up in `totals`, too."""

    def __init__(self, totals: Counter[Kind] | None = None) -> None:
        """Begin with nothing; `totals` counts for the whole process."""
        self._totals = Counter[Kind]() if totals is None else totals
        self._names: dict[Kind, Counter[str]] = {}

    def note(self, kind: Kind, name: str) -> None:
        """Count what was left out, and keep its name: the type or role that it came under."""
        self._totals[kind] += 1
        names = self._names.setdefault(kind, Counter())
        shown = mend_text(shorten(name))
        if shown in names or sum(map(len, self._names.values())) < NAMES_MAX:
            names[shown] += 1

    def add(self, other: LeftOut) -> None:
        """Take in what another one has noted, which adds nothing up but its own."""
        for kind, names in other._names.items():
            self._names.setdefault(kind, Counter()).update(names)
        self._totals.update(other._totals)

    def to_report(self) -> dict[str, dict[str, int]]:
        """Return how often each name was left out, by kind; empty when nothing was."""
        return {str(kind): dict(names) for kind, names in self._names.items()}
