"""The words of a measurement: a figure with its goals, a load, and how long all may take."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from generator import Generator, Report
from servers import Server


class Goal(NamedTuple):
    """What a figure should be at most, or at least: by itself, or as a multiple of a peer's."""

    limit: float
    peer: str = ""
    is_least: bool = False


class Figure(NamedTuple):
    """One kind of figure: its table's title, the unit, and the goals for Isolane."""

    name: str
    what: str
    goals: Sequence[Goal] = ()


class Measured(NamedTuple):
    """One figure of one server in one round; `beside` says what else was seen, by column."""

    value: float
    beside: Mapping[str, float] = {}


Found = dict[Figure, Measured]


@dataclass(frozen=True, slots=True)
class Effort:
    """How long the bench may take."""

    rounds: int
    settle_s: float
    window_s: float
    idle: Sequence[int]
    repeats: int
    """Runs and resumes of one client, one after the other."""
    back: int
    """Sockets that come back at once."""
    idle_settle_s: float = 1.0
    """Seconds until memory is looked at, because servers give some of it back a moment later."""


FULL: Final = Effort(3, 0.5, 2.0, (1_000, 5_000, 10_000), 40, 2_000)
QUICK: Final = Effort(1, 0.3, 1.0, (1_000,), 10, 500)


class Load(ABC):
    """A measurement that is made of one server at a time."""

    needs_log: bool = False
    """Whether only servers with runs and logs can be measured."""
    is_fresh: bool = False
    """Whether it needs a server that nobody used before."""
    rounds_max: int = 9
    """Rounds in which it is measured at most, because some loads take long and vary little."""
    name: str

    @abstractmethod
    def measure(self, server: Server, generator: Generator, effort: Effort) -> Found:
        """Measure, and return the figures."""


class Faults(Exception):
    """A measurement that doesn't count, because something was lost or refused; the text says it."""


def check(report: Report, connections: int) -> Report:
    """Return a report of all its connections.

    Raises:
        Faults: Connections are missing, or something was lost, refused or closed.
    """
    if report.faults or report.ready != connections:
        raise Faults(f"{report.ready} of {connections} connections; {report.faults}")
    return report
