"""Loads for every server, and the list of all loads with the goals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from figures import Effort, Figure, Found, Goal, Load, Measured, check
from generator import Generator, Window
from pace import Pace
from runs import Resume, Start, Storm
from servers import Server

WARM_UP: Final = 50
"""Connections of a fresh server before its memory counts."""
LATE_MS: Final = 10.0
"""Milliseconds that p99 may have at a sustained rate, from due to receipt."""
SUSTAINED: Final = (2_000, 4_000, 6_000, 8_000, 10_000, 15_000, 20_000, 30_000)
"""Events per second of all connections together. The first rate that is tried is the goal's."""


@dataclass
class Stream(Load):
    """Connections that each follow one answer."""

    name: str
    connections: int
    pace: Pace
    what: str
    goals: Sequence[Goal] = ()

    def measure(self, server: Server, generator: Generator, effort: Effort) -> Found:
        """Return the server's CPU time per event that was delivered."""
        window = stream(server, generator, effort, self.connections, self.pace)
        title = f"{self.what}: server CPU per delivered event, us"
        figure = Figure(self.name, title, tuple(self.goals))
        beside = {
            "events/s": window.events / window.took_s,
            "p50 ms": window.since_said.p50_ms,
            "p99 ms": window.since_said.p99_ms,
            "others": window.others_s / window.took_s,
        }
        return {figure: Measured(window.cpu_s / max(window.events, 1) * 1e6, beside)}


def stream(
    server: Server, generator: Generator, effort: Effort, connections: int, pace: Pace
) -> Window:
    """Return what one window showed."""
    times = {"settle_s": effort.settle_s, "window_s": effort.window_s}
    report = check(generator.stream(server, connections, pace, **times), connections)
    assert report.window is not None  # noqa: S101 - a stream has one
    return report.window


class Sustained(Load):
    """The highest rate at which events are in time, by halves."""

    name = "sustained"
    connections = 200
    figure = Figure(
        name,
        f"200 connections: events/s on one core with p99 <= {LATE_MS:g} ms from due to receipt",
        (Goal(8_000, is_least=True),),
    )

    def measure(self, server: Server, generator: Generator, effort: Effort) -> Found:
        """Return the highest rate that was held. The highest of all means: at least so many."""
        held, missed, p99_ms = -1, len(SUSTAINED), 0.0
        while missed - held > 1:
            place = (held + missed) // 2
            pace = Pace(SUSTAINED[place] / self.connections)
            window = stream(server, generator, effort, self.connections, pace)
            if window.since_due.p99_ms <= LATE_MS:
                held, p99_ms = place, window.since_due.p99_ms
            else:
                missed = place
        return {self.figure: Measured(SUSTAINED[held] if held >= 0 else 0, {"p99 ms": p99_ms})}


class Idle(Load):
    """Connections that say nothing, on a fresh server: their handshakes, and what they hold."""

    name = "idle"
    is_fresh = True
    rounds_max = 2
    handshake = Figure(
        "handshake", "handshake, with a token where there are users: server CPU, ms", (Goal(0.8),)
    )

    def measure(self, server: Server, generator: Generator, effort: Effort) -> Found:
        """Return the memory per connection after each stage, and the CPU time of a handshake."""
        settle_s = effort.idle_settle_s
        # Before the first figure: what a server loads and allocates once, at its first connections.
        check(generator.idle(server, [WARM_UP], settle_s=settle_s), WARM_UP)
        report = generator.idle(server, effort.idle, settle_s=settle_s)
        check(report, effort.idle[-1])
        first = report.stages[0]
        found: Found = {
            self.handshake: Measured(
                first.cpu_s / first.ready * 1e3, {"per s": first.ready / first.took_s}
            )
        }
        for stage in report.stages:
            held = (stage.resident_kib - report.resident_kib) / stage.ready
            title = f"{stage.ready:,} idle connections: memory of the server per connection, KiB"
            found[Figure(f"idle-{stage.ready}", title, (Goal(24),))] = Measured(held)
        return found


def all_loads() -> list[Load]:
    """Return everything that is measured, in order."""
    return [
        Stream(
            "flood",
            200,
            Pace(0),
            "200 connections, each as fast as it can",
            (Goal(3, "epoll"), Goal(0.9, "starlette"), Goal(1 / 8, "socketio")),
        ),
        Stream(
            "bursts",
            200,
            Pace(0, 8),
            "200 connections, bursts of 8 as fast as they can",
            (Goal(12),),
        ),
        Stream("200x20", 200, Pace(20), "200 connections x 20 events/s", (Goal(3, "epoll"),)),
        Stream("50x20", 50, Pace(20), "50 connections x 20 events/s"),
        Sustained(),
        Idle(),
        Resume(),
        Start(),
        Storm(),
    ]
