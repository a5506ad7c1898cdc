"""How long something took, without what the machine was late meanwhile.

A stop of the whole machine, and a test that gets no core, make a timer late. How long the threads
of another process were ready to run and got no core, the kernel counts. A server that is slow by
itself shows in neither, so a bound on what is left judges the server alone.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

TICK_S: Final = 0.02


class Stopwatch:
    """Runs from when it is made until it is stopped; see `stopwatch()`."""

    def __init__(self, *pids: int) -> None:
        """Begin; `pids` are those that a test waits for."""
        self._loop = asyncio.get_running_loop()
        self._began_s = self._loop.time()
        self._waited_s = {pid: Turns.of(pid).waited_s for pid in pids}
        self._overslept_s = 0.0
        self._marks = [(time.time(), 0.0)]
        self._timer = self._loop.call_later(TICK_S, self._tick)

    @property
    def took_s(self) -> float:
        """How long it has been running, without what the machine was late."""
        return self._loop.time() - self._began_s - self._count_late_s()

    def late_s(self, since_s: float = 0) -> float:
        """Return how late the machine was since then, as `time.time()` tells it, while this ran."""
        late_s = self._marks[-1][1] if self._timer.cancelled() else self._count_late_s()
        at = bisect_right(self._marks, since_s, key=lambda mark: mark[0])
        return late_s - self._marks[max(at - 1, 0)][1]

    def stop(self) -> None:
        """Count no more."""
        self._mark()
        self._timer.cancel()

    def _tick(self) -> None:
        self._overslept_s += self._overdue_s
        self._timer = self._loop.call_later(TICK_S, self._tick)
        self._mark()

    def _mark(self) -> None:
        self._marks.append((time.time(), self._count_late_s()))

    def _count_late_s(self) -> float:
        # What a thread has waited is gone with it, so it may have been more before.
        starved_s = sum(
            max(Turns.of(pid).waited_s - sooner, 0) for pid, sooner in self._waited_s.items()
        )
        return self._overslept_s + self._overdue_s + starved_s

    @property
    def _overdue_s(self) -> float:
        return max(self._loop.time() - self._timer.when(), 0)


@contextmanager
def stopwatch(*pids: int) -> Iterator[Stopwatch]:
    """Give a stopwatch that runs while the block does; `pids` are those that a test waits for."""
    watch = Stopwatch(*pids)
    try:
        yield watch
    finally:
        watch.stop()


class Turns(NamedTuple):
    """How long threads ran, and how long they were ready to and had no core."""

    ran_s: float
    waited_s: float

    @classmethod
    def of(cls, pid: int) -> Turns:
        """Return those of all threads of a process so far."""
        return cls._read(Path(f"/proc/{pid}/task").glob("*/schedstat"))

    @classmethod
    def of_main(cls, pid: int) -> Turns:
        """Return those of the main thread alone, which has the event loop."""
        return cls._read([Path(f"/proc/{pid}/schedstat")])

    @classmethod
    def _read(cls, paths: Iterable[Path]) -> Turns:
        ran_ns = waited_ns = 0
        for path in paths:
            with suppress(FileNotFoundError, ProcessLookupError):  # ended since it was listed
                ran, waited, _ = path.read_text().split()
                ran_ns, waited_ns = ran_ns + int(ran), waited_ns + int(waited)
        return cls(ran_ns / 1e9, waited_ns / 1e9)

    def stretch(self, later: Turns) -> float:
        """Return how many times longer all took until then than on a core of its own."""
        ran_s, waited_s = later.ran_s - self.ran_s, later.waited_s - self.waited_s
        return 1 + waited_s / max(ran_s, 1e-9)
