"""Measure the stream: how late an event is, what it costs, and how many a server carries.

`python bench/stream.py [--quick] [--json FILE]`; `README.md` says how to read what it prints.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import msgspec
from client import Window
from climb import Climb
from target import Target, serve_bare, serve_isolane

CONNECTIONS = 50
RATE = 20.0
LIMIT_MS = 100.0
"""Maximum milliseconds that p99 may have at the highest rate."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How long it may take: window lengths in seconds, and how often each is repeated."""

    windows: int
    window_s: float
    climb_s: float
    needed: int


FULL = Effort(windows=4, window_s=5.0, climb_s=4.0, needed=2)
QUICK = Effort(windows=2, window_s=2.0, climb_s=2.0, needed=1)


class Step(msgspec.Struct, frozen=True):
    """One window of the search, and whether it held its rate."""

    rate: float
    is_held: bool
    window: Window


@dataclass(slots=True)
class Findings:
    """Everything that was seen of one server."""

    windows: list[Window] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    highest_rate: float = 0.0
    """Events per second of each connection."""

    @property
    def faults(self) -> list[str]:
        """What was missing, doubled or out of order in any window."""
        seen = [*self.windows, *(step.window for step in self.steps)]
        return [fault for window in seen for fault in window.faults]

    def median(self, name: str) -> float:
        """Return the median over the windows of one of their figures."""
        return float(median(getattr(window, name) for window in self.windows))

    def median_at_highest(self, name: str) -> float:
        """Return the same over the windows that held the highest rate; NaN without any."""
        held = [step for step in self.steps if step.is_held and step.rate == self.highest_rate]
        figures = [float(getattr(step.window, name)) for step in held]
        return median(figures) if figures else float("nan")


class Bench:
    """Measures the servers in turn, in short windows, so that a noisy moment strikes them all."""

    def __init__(self, targets: Sequence[Target], effort: Effort) -> None:
        """Measure servers that run already."""
        self._targets = targets
        self._effort = effort
        self._count = 0
        self.findings = {target.name: Findings() for target in targets}

    def stream(self) -> None:
        """Measure the given rate."""
        for _ in range(self._effort.windows):
            for target in self._targets:
                window = self._measure(target, RATE, self._effort.window_s)
                self.findings[target.name].windows.append(window)

    def climb(self) -> None:
        """Find the highest rate of each server."""
        effort = self._effort
        climbs = {target.name: Climb(stride=3, needed=effort.needed) for target in self._targets}
        while not all(climb.is_done for climb in climbs.values()):
            for target in self._targets:
                if not climbs[target.name].is_done:
                    self._step(target, climbs[target.name])
        for name, climb in climbs.items():
            self.findings[name].highest_rate = climb.highest

    def _step(self, target: Target, climb: Climb) -> None:
        rate = climb.rate
        window = self._measure(target, rate, self._effort.climb_s)
        is_held = not window.faults and window.due_p99_ms < LIMIT_MS
        self.findings[target.name].steps.append(Step(rate, is_held, window))
        climb.vote(is_held=is_held)

    def _measure(self, target: Target, rate: float, duration_s: float) -> Window:
        self._count += 1
        window = target.measure(f"t{self._count}", rate=rate, duration_s=duration_s)
        progress = f"{target.name:<8}{rate:>7g}/s  {window.p50_ms:>8.2f} {window.p99_ms:>8.2f}"
        print(
            f"{progress} {window.due_p99_ms:>8.2f} ms {window.others_load:>5.2f}", file=sys.stderr
        )
        return window


def measure(effort: Effort, folder: Path | None, agent_threads: int) -> dict[str, Findings]:
    """Start the servers, measure them, and end them."""
    with ExitStack() as stack:
        data = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=folder)))
        servers = [serve_isolane(data / "isolane", connections=CONNECTIONS)]
        if agent_threads:
            threads = ("--agent-threads", str(agent_threads))
            beside = serve_isolane(
                data / "threads", *threads, connections=CONNECTIONS, name="threads"
            )
            servers.append(beside)
        servers.append(serve_bare(data, connections=CONNECTIONS))
        bench = Bench([stack.enter_context(server) for server in servers], effort)
        bench.stream()
        bench.climb()
    return bench.findings


def show(findings: dict[str, Findings], effort: Effort) -> None:
    """Print the figures."""
    print(f"{os.cpu_count()} CPUs; medians over windows that take turns")
    print(f"{CONNECTIONS} connections x {RATE:g} events/s", end=", ")
    print(f"{effort.windows} windows of {effort.window_s:g} s each")
    print(f"{'':<32}{''.join(f'{name:>10}' for name in findings)}{'ratio':>8}")
    for label, name in ROWS:
        show_row(label, [found.median(name) for found in findings.values()])
    print(f"highest rate with p99 from due under {LIMIT_MS:g} ms")
    show_row("events/s per connection", [found.highest_rate for found in findings.values()])
    show_row("events/s", [found.highest_rate * CONNECTIONS for found in findings.values()])
    for label, name in ROWS:
        show_row(label, [found.median_at_highest(name) for found in findings.values()])


ROWS = (
    ("p50 ms, yield to receipt", "p50_ms"),
    ("p99 ms, yield to receipt", "p99_ms"),
    ("p99 ms, due to receipt", "due_p99_ms"),
    ("server CPU us per event", "cpu_us"),
    ("client's load, CPUs", "client_load"),
    ("others' load, CPUs", "others_load"),
)


def show_row(label: str, values: Sequence[float]) -> None:
    """Print one figure of every server, and the first over the last."""
    ratio = values[0] / values[-1] if values[-1] else float("nan")
    print(f"  {label:<30}{''.join(f'{value:>10.2f}' for value in values)}{ratio:>8.2f}")


def judge(findings: dict[str, Findings]) -> int:
    """Say whether every event came once and in order; return the exit code."""
    faults = [f"{name}: {fault}" for name, found in findings.items() for fault in found.faults]
    print("\n".join(faults) or "every event came once and in order")
    return 1 if faults else 0


def main() -> int:
    """Measure, print, and return the exit code: 1 when an event was lost, doubled or misplaced."""
    parser = argparse.ArgumentParser(description="Measure the stream.")
    parser.add_argument("--quick", action="store_true", help="less, in a minute: a first look")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every window here")
    parser.add_argument("--folder", type=Path, help="where the log is kept; a disk, not a tmpfs")
    parser.add_argument(
        "--agent-threads",
        type=int,
        default=0,
        metavar="N",
        help="also measure a gateway whose agents run on N loops of their own",
    )
    options = parser.parse_args()
    effort = QUICK if options.quick else FULL
    findings = measure(effort, options.folder, options.agent_threads)
    show(findings, effort)
    if options.json is not None:
        options.json.write_bytes(msgspec.json.encode(findings))
    return judge(findings)


if __name__ == "__main__":
    sys.exit(main())
