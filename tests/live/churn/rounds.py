"""A round of the churn: a few runs of one thread, asked for at once, and how they may end."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Final, Literal

from tests.live.agents import numbered
from tests.live.client import TERMINAL, Frame, outcome_of, run_frame
from tests.live.stage import text_of

from isolane.events.event import PROTOCOL_VERSION

Manner = Literal["talk", "blob", "raise", "wait", "deaf"]
NEVER_ENDING: Final = frozenset({"wait", "deaf"})


@dataclass(frozen=True)
class Ask:
    """One run that is asked for."""

    run_id: str
    mark: str
    words: int
    every_s: float
    manner: Manner = "talk"
    policy: str = "queue"
    stop_after: int | None = None
    """How many of its events somebody sees who then stops it."""

    def frame(self, thread_id: str) -> Frame:
        """Return the run frame."""
        said = {"mark": self.mark, "words": self.words, "every_s": self.every_s}
        text = json.dumps(said | {"manner": self.manner})
        props = {"policy": self.policy}
        # Without a version, an answer over HTTP would lack the outcome `cancelled` of its log.
        return run_frame(
            thread_id, self.run_id, text, forwardedProps=props, protocolVersion=PROTOCOL_VERSION
        )

    @property
    def text(self) -> str:
        """What it says when it comes to its end."""
        return f"{self.mark} {numbered(self.words)}"


@dataclass(eq=False)
class Round:
    """What is asked for, and what was answered so far."""

    thread_id: str
    asks: list[Ask]
    after: str
    """Where the log ended before."""
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once one of its runs was taken on."""
    accepted: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    stopped_at: dict[str, float] = field(default_factory=dict)
    """When a run's first stop was asked for."""

    @property
    def wanted(self) -> set[str]:
        """The runs whose ends are to come."""
        return {ask.run_id for ask in self.asks} - self.refused

    @property
    def unanswered(self) -> list[Ask]:
        """What is still to be asked for, in order."""
        return [ask for ask in self.asks if ask.run_id not in self.accepted | self.refused]

    def accept(self, run_id: str) -> None:
        """Note that a run was taken on; the answer to a frame sent twice may come a round late."""
        if run_id in self.wanted:
            self.accepted.add(run_id)
            self.begun.set()

    def refuse(self, run_id: str, code: str) -> None:
        """Note that a run will never be, which only a policy may say; it, too, may say it late."""
        assert code == "run_conflict", (run_id, code)
        policies = {ask.run_id: ask.policy for ask in self.asks}
        if run_id in policies:
            assert policies[run_id] == "reject", run_id
            self.refused.add(run_id)

    def possible_outcomes(self, ask: Ask) -> set[str]:
        """Return how a run may end, by what was asked."""
        if ask.manner in NEVER_ENDING:
            return {"cancelled"}
        usual = "agent_error" if ask.manner == "raise" else "success"
        is_pushed = any(other.policy == "interrupt" for other in self.asks if other is not ask)
        may_be_stopped = ask.stop_after is not None or is_pushed
        return {usual, "cancelled"} if may_be_stopped else {usual}


def judge_run(ask: Ask, events: list[Frame], outcomes: set[str]) -> str:
    """Fail unless a run is whole and ended once, with one of these outcomes; return with which."""
    types = [event["type"] for event in events]
    assert [kind == "RUN_STARTED" for kind in types] == [True] + [False] * (len(types) - 1), types
    assert [kind in TERMINAL for kind in types] == [False] * (len(types) - 1) + [True], types
    outcome, text = outcome_of(events[-1]), text_of(events)
    assert outcome in outcomes, (ask, events[-1])
    assert ask.text.startswith(text), (ask, text)
    if outcome in {"success", "agent_error"}:
        assert text == ask.text, (ask, text)
    return outcome
