"""Steps against a shortage of memory or disk, in their order, and their end.

No step touches active runs or acknowledged data.
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
"""Shares of the allowed memory at which steps begin and end. They differ, so that the next look
doesn't take back what a step has won."""
MEMORY_FULL: Final = 0.95
GROWTH: Final = 0.01
CALM_LOOKS: Final = 30
"""Growth, as a share, over that many looks without which memory counts as calm. Python keeps most
of the memory that it frees and uses it again. So memory that doesn't grow is no reason to refuse
runs for ever, as long as some is left."""
DISK_ENOUGH: Final = 1.25
"""The disk is short below its reserve, and enough above the reserve times this."""
SHED_BATCH: Final = 128
SHED_PACE_S: Final = 0.02
"""Seconds between two batches."""

_log = structlog.get_logger(__name__)


class Step(IntEnum):
    """A step against a shortage. Each step includes the steps before it."""

    NOTHING = 0
    IDLE_SOCKETS = 1
    WINDOWS = 2
    NEW_RUNS = 3

    @property
    def words(self) -> str:
        """Name of the step in the log."""
        return self.name.lower().replace("_", " ")


@dataclass(frozen=True, slots=True)
class ReliefActions:
    """The functions behind the steps. Each may run again at every look."""

    shed_sockets: Callable[[int], int]
    """Closes up to that many idle sockets and returns how many it closed."""
    shrink_windows: Callable[[], None]
    restore_windows: Callable[[], None]
    give_back_memory: Callable[[], None]


class Pressure:
    """Looks at memory and disk, and decides what has to give way.

    Short memory takes one step per look, in order. All steps end at once when there is enough. One
    step ends when memory has not grown for a while. A short disk goes straight to refusing new
    runs, because sockets and windows use no disk.
    """

    def __init__(
        self, read_memory: Callable[[], Memory | None], read_disk: Callable[[], Disk | None]
    ) -> None:
        """Begin calm; a reading of None means that the resource isn't watched."""
        self._read_memory = read_memory
        self._read_disk = read_disk
        self.memory_step = Step.NOTHING
        self.is_disk_short = False
        self._mark_bytes = 0.0
        """Reading with which later ones are compared to see growth."""
        self._accepted_bytes = 0.0
        """Memory that the process has held for a while without growing, so it doesn't count as
        short."""
        self._calm_looks = 0

    @property
    def step(self) -> Step:
        """The step in force, for either resource."""
        return Step.NEW_RUNS if self.is_disk_short else self.memory_step

    def get_states(self) -> dict[str, str]:
        """Return the state of each watched resource."""
        states: dict[str, str] = {}
        if self._read_memory() is not None:
            states["memory"] = "short" if self.memory_step else "ok"
        if self._read_disk() is not None:
            states["disk"] = "short" if self.is_disk_short else "ok"
        return states

    def check_room(self) -> None:
        """Refuse new runs during a shortage; the short resource is read once more first.

        So nobody is refused for a shortage that is over. Steps are taken only in `look()`, however
        often this is called.

        Raises:
            Unavailable: Memory or disk is short.
        """
        if self.step is Step.NEW_RUNS:
            self._ease(self._read_memory(), self._read_disk())
        if self.is_disk_short:
            raise Unavailable("the disk is short: no new runs")
        if self.memory_step is Step.NEW_RUNS:
            raise Unavailable("memory is short: no new runs")

    def look(self) -> None:
        """Read memory and disk once, and take at most one step."""
        memory, disk = self._read_memory(), self._read_disk()
        self._ease(memory, disk)
        if memory is not None:
            self._press(memory)
            self._settle(memory)
        if disk is not None and disk.free_bytes < disk.reserve_bytes and not self.is_disk_short:
            self.is_disk_short = True
            _tell("disk_short", Step.NEW_RUNS, disk)

    def _ease(self, memory: Memory | None, disk: Disk | None) -> None:
        """End the steps whose reason is over."""
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
        """Go back one step when memory has not grown for a while."""
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
    """Look once, and act on the steps."""
    pressure.look()
    step = pressure.memory_step
    if step >= Step.IDLE_SOCKETS:
        # memory that earlier looks have freed, because sockets take a while to close
        acts.give_back_memory()
        await _shed_sockets(acts)
    if step >= Step.WINDOWS:
        acts.shrink_windows()
    else:
        acts.restore_windows()


async def _shed_sockets(acts: ReliefActions) -> None:
    """Close idle sockets in batches until there are none."""
    while True:
        if acts.shed_sockets(SHED_BATCH) < SHED_BATCH:
            return
        await asyncio.sleep(SHED_PACE_S)  # other tasks run between two batches
