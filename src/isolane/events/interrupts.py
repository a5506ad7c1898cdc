"""What a run asked of a person before it could go on, and whether the next one answers. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from isolane.errors import InvalidInput, RunConflict, shorten

Interrupt = Mapping[str, Any]
"""AG-UI's: an `id`, a `reason`, and what a client needs to put the question."""


def check_answers(resume: Sequence[Mapping[str, Any]], interrupts: Sequence[Interrupt]) -> None:
    """Raise unless `resume` answers each of the open `interrupts` once, as AG-UI 1.0 has it.

    An answer to what isn't open came too late: `RunConflict`. One that is missing or doubled is
    `InvalidInput`.
    """
    answered = Counter(str(entry["interruptId"]) for entry in resume)
    asked = [str(interrupt["id"]) for interrupt in interrupts]
    late = [name for name in answered if name not in asked]
    if late:
        raise RunConflict(f"{_named(late)} waits for no answer here, or has had one already")
    missing = [name for name in asked if name not in answered]
    if missing:
        raise InvalidInput("resume", f"must answer every interrupt; {_named(missing)} is left")
    doubled = [name for name, times in answered.items() if times > 1]
    if doubled:
        raise InvalidInput("resume", f"must answer each once; {_named(doubled)} comes twice")


def _named(names: Sequence[str]) -> str:
    return shorten(", ".join(names))
