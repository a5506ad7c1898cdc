"""What is measured, and the goals."""

from __future__ import annotations

import json
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Final, NamedTuple

from generator import Generator, Report, Window
from line import Line
from machine import read_cpu_s
from pace import Pace
from servers import Server

NEWCOMER_PAUSE_S: Final = 0.1
WARM_UP: Final = 50
LATE_MS: Final = 10.0
"""Milliseconds that p99 may have at a sustained rate, from due to receipt."""
SUSTAINED: Final = (2_000, 4_000, 6_000, 8_000, 10_000, 15_000, 20_000, 30_000)
"""Events per second of all connections together. The first rate that is tried is the goal's."""


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
    """Return a report of all its connections. Raises Faults for any other."""
    if report.faults or report.ready != connections:
        raise Faults(f"{report.ready} of {connections} connections; {report.faults}")
    return report


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


@dataclass
class Kept:
    """What a load has put into each server before it measures, so that it is done once."""

    tags: dict[int, str] = field(default_factory=dict)

    @contextmanager
    def first(self, server: Server, tag: str) -> Iterator[bool]:
        """Yield whether the server has nothing yet; afterwards it has."""
        yield server.pid not in self.tags
        self.tags[server.pid] = tag


class Resume(Load):
    """A client that comes back and reads a thread from its start."""

    name = "resume"
    needs_log = True
    sizes = ((1_000, Goal(5)), (10_000, Goal(40)))

    def __init__(self) -> None:
        """Know of no thread yet."""
        self._kept = Kept()

    def measure(self, server: Server, generator: Generator, effort: Effort) -> Found:
        """Return the time from `subscribe` to the last event."""
        del generator
        with self._kept.first(server, self.name) as is_first:
            if is_first:
                self._write(server)
        found: Found = {}
        for events, goal in self.sizes:
            cpu_s = read_cpu_s(server.pid)
            took_s = [self._read(server, events) for _ in range(effort.repeats)]
            cpu_s = (read_cpu_s(server.pid) - cpu_s) / effort.repeats
            title = f"resume of {events:,} events, from subscribe to the last byte: ms"
            figure = Figure(f"resume-{events}", title, (goal,))
            found[figure] = Measured(median(took_s) * 1e3, {"CPU ms": cpu_s * 1e3})
        return found

    def _write(self, server: Server) -> None:
        for events, _ in self.sizes:
            with connect(server, 0) as line:
                ask(line, f"resume-{events}", Pace(0, 8, events))

    def _read(self, server: Server, events: int) -> float:
        with connect(server, 0) as line:
            line.say('{"type":"hello","v":1}', first=b"welcome", last=b"}")
            wanted = json.dumps({"type": "subscribe", "threadId": f"resume-{events}"})
            answer = line.say(wanted, first=b'"subscribed"', last=b'"RUN_FINISHED"')
        if (told := answer.content.count(b"due=")) != events:
            raise Faults(f"{told} of {events} events")
        return answer.last_s


class Start(Load):
    """Runs of one event: one after the other, and many at once."""

    name = "start"
    needs_log = True
    connections = 200
    wall = Figure(name, "run start, from the frame to RUN_STARTED: ms", (Goal(5),))
    cpu = Figure("run-cpu", "200 runs of one event at once: server CPU per run, ms", (Goal(5),))
    rate = Figure("runs", "200 runs of one event at once: runs/s", (Goal(300, is_least=True),))

    def measure(self, server: Server, generator: Generator, effort: Effort) -> Found:
        """Return what a start takes, and how many runs there are per second."""
        tag = generator.new_tag()
        with connect(server, 1) as line:
            names = [f"{tag}-one-{number}" for number in range(effort.repeats)]
            took_s = [ask(line, name, Pace(0, 1, 1)) for name in names]
        count = self.connections
        report = check(generator.finish(server, count, Pace(0, 1, 1), at_once=count), count)
        ends = report.ends
        if ends is None or report.ended != count or report.events != count:
            raise Faults(f"{report.ended} of {count} runs, {report.events} events")
        return {
            self.wall: Measured(median(took_s) * 1e3, {"longest": max(took_s) * 1e3}),
            self.cpu: Measured(ends.cpu_s / ends.count * 1e3),
            self.rate: Measured(ends.count / ends.took_s, {"p99 ms": ends.each.p99_ms}),
        }


class Storm(Load):
    """Sockets that all come back at the same moment, while new users come, too."""

    name = "storm"
    needs_log = True
    events = 20
    """Events of the thread of each who comes back."""

    def __init__(self) -> None:
        """Know of no thread yet."""
        self._kept = Kept()

    def measure(self, server: Server, generator: Generator, effort: Effort) -> Found:
        """Return when the last was caught up, and how long a newcomer waited at most."""
        pace = Pace(0, 10, self.events)
        with self._kept.first(server, self.name) as is_first:
            if is_first:
                generator.finish(server, effort.back, pace, at_once=64, tag=self.name)
        opening = '{"type":"hello","v":1}\n{"type":"subscribe","threadId":"storm-{n}"}'
        newcomers = Newcomers(server, generator.new_tag())
        with newcomers.coming():
            report = check(generator.come_back(server, effort.back, opening), effort.back)
        ends = report.ends
        if ends is None or report.events != effort.back * self.events:
            raise Faults(f"{report.events} of {effort.back * self.events} events")
        back = Figure(
            "back", f"{effort.back:,} sockets back at once: s until the last is caught up"
        )
        wait = Figure("newcomer", "meanwhile: s until the answer to a new user has ended, longest")
        cpu_ms = ends.cpu_s / ends.count * 1e3
        return {
            back._replace(goals=(Goal(6),)): Measured(ends.took_s, {"CPU ms": cpu_ms}),
            wait._replace(goals=(Goal(2),)): Measured(
                max(newcomers.waited_s), {"newcomers": len(newcomers.waited_s)}
            ),
        }


class Newcomers:
    """New users who connect one after the other, ask, and read their answer."""

    def __init__(self, server: Server, tag: str) -> None:
        """Take the last tokens, which nobody else uses."""
        self._server = server
        self._tag = tag
        self._is_over = threading.Event()
        self.waited_s: list[float] = []

    @contextmanager
    def coming(self) -> Iterator[None]:
        """Have them come for the block's time."""
        thread = threading.Thread(target=self._come)
        thread.start()
        try:
            yield
        finally:
            self._is_over.set()
            thread.join()

    def _come(self) -> None:
        number = 1
        while not self._is_over.wait(NEWCOMER_PAUSE_S) or number == 1:
            began_s = time.monotonic()
            with connect(self._server, -number) as line:
                ask(line, f"{self._tag}-new-{number}", Pace(0, 1, 1))
            self.waited_s.append(time.monotonic() - began_s)
            number += 1


def connect(server: Server, user: int) -> Line:
    """Return a line to the server that is upgraded for one of its users."""
    line = Line(server.port)
    line.upgrade(server.dialect.path, server.tokens[user])
    return line


def ask(line: Line, run_id: str, pace: Pace) -> float:
    """Have a run on a thread of its own, read it to its end, and return when it had started."""
    asked = json.dumps(
        {
            "threadId": run_id,
            "runId": run_id,
            "messages": [{"id": run_id, "role": "user", "content": "Speak."}],
            "forwardedProps": {"pace": str(pace)},
        }
    )
    return line.say(asked, first=b'"RUN_STARTED"', last=b'"RUN_FINISHED"').first_s


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
