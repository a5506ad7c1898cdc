"""Loads for servers that have runs and logs: resumes, run starts, and all who come back at once."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Final

from figures import Effort, Faults, Figure, Found, Goal, Load, Measured, check
from generator import Ends, Generator
from line import Line
from machine import read_cpu_s
from pace import Pace
from servers import Server

NEWCOMER_PAUSE_S: Final = 0.1
"""Seconds between the answer to one new user and the next one's coming."""


class Resume(Load):
    """A client that comes back and reads a thread from its start."""

    name = "resume"
    needs_log = True
    sizes = ((1_000, Goal(5)), (10_000, Goal(40)))

    def __init__(self) -> None:
        """Have filled no server yet."""
        self._filled: set[int] = set()

    def measure(self, server: Server, generator: Generator, effort: Effort) -> Found:
        """Return the time from `subscribe` to the last event."""
        del generator
        if server.pid not in self._filled:
            self._write(server)
            self._filled.add(server.pid)
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
    goals_from = 2_000
    """Sockets for which the goals hold. They say nothing about fewer."""

    def __init__(self) -> None:
        """Have filled no server yet."""
        self._filled: set[int] = set()

    def measure(self, server: Server, generator: Generator, effort: Effort) -> Found:
        """Return when the last was caught up, and how long a newcomer waited at most."""
        if server.pid not in self._filled:
            pace = Pace(0, 10, self.events)
            made = generator.finish(server, effort.back, pace, at_once=64, tag=self.name)
            check(made, effort.back)
            self._filled.add(server.pid)
        opening = '{"type":"hello","v":1}\n{"type":"subscribe","threadId":"storm-{n}"}'
        newcomers = Newcomers(server, generator.new_tag())
        with newcomers.coming():
            report = check(generator.come_back(server, effort.back, opening), effort.back)
        ends = report.ends
        if ends is None or report.events != effort.back * self.events:
            raise Faults(f"{report.events} of {effort.back * self.events} events")
        return self._to_found(effort.back, ends, newcomers.waited_s)

    def _to_found(self, count: int, ends: Ends, waited_s: Sequence[float]) -> Found:
        is_judged = count >= self.goals_from
        back = Figure(
            "back",
            f"{count:,} sockets back at once: s until the last is caught up",
            (Goal(6),) if is_judged else (),
        )
        wait = Figure(
            "newcomer",
            "meanwhile: s until the answer to a new user has ended, longest",
            (Goal(2),) if is_judged else (),
        )
        return {
            back: Measured(ends.took_s, {"CPU ms": ends.cpu_s / ends.count * 1e3}),
            wait: Measured(max(waited_s), {"newcomers": len(waited_s)}),
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
