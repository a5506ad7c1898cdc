"""Questions of a run to a person, and the check that the next run answers them. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from isolane.errors import InvalidInput, RunConflict, shorten

Interrupt = Mapping[str, Any]
"""AG-UI's interrupt: an `id`, a `reason`, and data with which a client asks the person."""


def check_answers(resume: Sequence[Mapping[str, Any]], interrupts: Sequence[Interrupt]) -> None:
    """Check that `resume` answers each open interrupt exactly once, as AG-UI 1.0 demands.

    Raises:
        RunConflict: An answer is for an interrupt that isn't open; it came too late.
        InvalidInput: An answer is missing, or there are two.
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
