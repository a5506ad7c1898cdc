"""What agents are asked to do, and what they say then: known beforehand, so whole logs are."""

from __future__ import annotations

import json
from typing import Any, Final, NamedTuple

WORDS: Final = tuple(f"{number} " for number in range(1, 9))
RECALL: Final = "all that was asked"
"""Stands for the words of an agent that repeats the questions of its thread."""
PLOTS: Final = ("say", "hold", "wait", "count", "raise")


class Plot(NamedTuple):
    """What an agent does: it says something, may wait at a gate, says more, and ends."""

    question: str
    says: tuple[str, ...]
    gate: str | None = None
    adds: tuple[str, ...] = ()
    outcome: str = "success"


def make_plot(name: str, marker: str, gate: str) -> Plot:
    """Return the plot of a name, in words that one user has for themselves."""
    word, more, hold = f"{marker} ", f"and {marker} ", ["hold", gate]
    if name == "hold":
        return Plot(_script(["say", word], hold, ["say", more]), (word,), gate, (more,))
    if name == "wait":
        return Plot(_script(hold, ["say", more]), (), gate, (more,))
    if name == "count":
        return Plot(_script(["say", word], ["count", len(WORDS)]), (word, *WORDS))
    if name == "raise":
        fault = ["raise", "ValueError", "an error"]
        return Plot(_script(["say", word], fault), (word,), outcome="agent_error")
    script = _script(["remember", word], ["say", word], ["recall"], ["memory"])
    return Plot(script, (word, RECALL, word))  # the memory of the thread has nobody else's words


def _script(*steps: list[Any]) -> str:
    return json.dumps(steps)
