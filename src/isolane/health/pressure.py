"""What gives way when memory or disk runs short, in which order, and until when.

Runs under way and what was acknowledged are in no step: they go on, whatever is short.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import structlog

from isolane.errors import Unavailable
from isolane.health.resources import Disk, Memory

LOOK_S: Final = 1.0
"""Seconds between two looks, because nobody tells of memory that runs short."""
MEMORY_SHORT: Final = 0.85
MEMORY_ENOUGH: Final = 0.75
"""Parts of what may be held. Apart, or what a step has won would be taken back at the next look."""
MEMORY_FULL: Final = 0.95
GROWTH: Final = 0.01
CALM_LOOKS: Final = 30
"""Python keeps most of what it frees, and uses it again. So what doesn't grow by that part for so
many looks is no reason to refuse for ever, as long as the rest isn't all but taken."""
DISK_ENOUGH: Final = 1.25
"""The disk is short below its reserve, and no more above this many times of it."""
SHED_BATCH: Final = 128
SHED_PACE_S: Final = 0.02
"""Between two batches of sockets."""

_log = structlog.get_logger(__name__)


class Step(IntEnum):
    """What gives way, beside all that stands before it."""

    NOTHING = 0
    IDLE_SOCKETS = 1
    WINDOWS = 2
    NEW_RUNS = 3

    @property
    def words(self) -> str:
        """What the log calls it."""
        return self.name.lower().replace("_", " ")


@dataclass(frozen=True, slots=True)
class ReliefActions:
    """How each step is taken; all of them may be done again at each look."""

    shed_sockets: Callable[[int], int]
    """Closes as many idle sockets as that, and returns how many there were."""
    shrink_windows: Callable[[], None]
    restore_windows: Callable[[], None]
    give_back_memory: Callable[[], None]


class Pressure:
    """Looks at memory and disk, and knows what has to give way.

    Memory takes one step a look, in their order, and gives all of them up at once when there is
    enough; one when it has grown no more for a while. Sockets and windows take no disk, so a short
    disk goes straight to new runs.
    """

    def __init__(
        self, read_memory: Callable[[], Memory | None], read_disk: Callable[[], Disk | None]
    ) -> None:
        """Begin calm; a reading of None is of what isn't watched."""
        self._read_memory = read_memory
        self._read_disk = read_disk
        self.memory_step = Step.NOTHING
        self.is_disk_short = False
        self._mark_bytes = 0.0
        """What memory is measured by to see whether it grows."""
        self._accepted_bytes = 0.0
        """What it may hold without being short, for it has held it without growing."""
        self._calm_looks = 0

    @property
    def step(self) -> Step:
        """What gives way now, for whichever reason."""
        return Step.NEW_RUNS if self.is_disk_short else self.memory_step

    def get_states(self) -> dict[str, str]:
        """Return how each thing is that is watched."""
        states: dict[str, str] = {}
        if self._read_memory() is not None:
            states["memory"] = "short" if self.memory_step else "ok"
        if self._read_disk() is not None:
            states["disk"] = "short" if self.is_disk_short else "ok"
        return states

    def check_room(self) -> None:
        """Raise `Unavailable` while new runs give way; what is short is looked at once more.

        So nobody is refused for what is over. Steps are taken at looks only, however many ask.
        """
        if self.step is Step.NEW_RUNS:
            self._ease(self._read_memory(), self._read_disk())
        if self.is_disk_short:
            raise Unavailable("the disk is short: no new runs")
        if self.memory_step is Step.NEW_RUNS:
            raise Unavailable("memory is short: no new runs")

    def look(self) -> None:
        """Read once; at most one step is taken."""
        memory, disk = self._read_memory(), self._read_disk()
        self._ease(memory, disk)
        if memory is not None:
            self._press(memory)
            self._settle(memory)
        if disk is not None and disk.free_bytes < disk.reserve_bytes and not self.is_disk_short:
            self.is_disk_short = True
            _tell("disk_short", Step.NEW_RUNS, disk)

    def _ease(self, memory: Memory | None, disk: Disk | None) -> None:
        """Give up what is over."""
        if memory is None or memory.held_bytes < MEMORY_ENOUGH * memory.allowed_bytes:
            self._accepted_bytes = 0.0
            if self.memory_step:
                self.memory_step = Step.NOTHING
                _log.warning("memory_recovered", **_figures(memory))
        if self.is_disk_short and (
            disk is None or disk.free_bytes >= DISK_ENOUGH * disk.reserve_bytes
        ):
            self.is_disk_short = False
            _log.warning("disk_recovered", **_figures(disk))

    def _press(self, memory: Memory) -> None:
        """Take the next step while memory is short."""
        most_bytes = max(MEMORY_SHORT * memory.allowed_bytes, self._accepted_bytes)
        if memory.held_bytes > most_bytes and self.memory_step < Step.NEW_RUNS:
            self.memory_step = Step(self.memory_step + 1)
            _tell("memory_short", self.memory_step, memory)

    def _settle(self, memory: Memory) -> None:
        """Take a step back when memory has grown no more for a while."""
        slack_bytes = GROWTH * memory.allowed_bytes
        if not self.memory_step or memory.held_bytes > self._mark_bytes + slack_bytes:
            self._mark_bytes = memory.held_bytes
            self._calm_looks = 0
            return
        self._calm_looks += 1
        is_full = memory.held_bytes > MEMORY_FULL * memory.allowed_bytes
        if self._calm_looks >= CALM_LOOKS and not is_full:
            self._accepted_bytes = memory.held_bytes + slack_bytes
            self._calm_looks = 0
            self.memory_step = Step(self.memory_step - 1)
            _log.warning("memory_stable", step=int(self.memory_step), **_figures(memory))


def _tell(event: str, step: Step, reading: Memory | Disk) -> None:
    _log.warning(event, step=int(step), sheds=step.words, **_figures(reading))


def _figures(reading: Memory | Disk | None) -> dict[str, int]:
    return {} if reading is None else reading._asdict()


async def relieve(pressure: Pressure, acts: ReliefActions) -> None:
    """Look, and do what the steps say."""
    pressure.look()
    step = pressure.memory_step
    if step >= Step.IDLE_SOCKETS:
        acts.give_back_memory()  # what the looks before have freed: sockets take a while to close
        await _shed_sockets(acts)
    if step >= Step.WINDOWS:
        acts.shrink_windows()
    else:
        acts.restore_windows()


async def _shed_sockets(acts: ReliefActions) -> None:
    """Close idle sockets, batch by batch, until there are none."""
    while True:
        if acts.shed_sockets(SHED_BATCH) < SHED_BATCH:
            return
        await asyncio.sleep(SHED_PACE_S)  # a turn for everybody else
