"""What gives way when memory or disk runs short: which step, in which order, until when."""

from __future__ import annotations

from typing import Any

import pytest
from structlog.testing import capture_logs

from isolane.errors import Unavailable
from isolane.health.pressure import (
    CALM_LOOKS,
    SHED_BATCH,
    Pressure,
    ReliefActions,
    Step,
    relieve,
)
from isolane.health.resources import Disk, Memory

RESERVE = 100


class Machine:
    """Memory and disk as a test says; memory in percent of what is allowed."""

    def __init__(self) -> None:
        self.memory: Memory | None = Memory(50, 100)
        self.disk: Disk | None = Disk(1000, RESERVE)
        self.pressure = Pressure(lambda: self.memory, lambda: self.disk)

    def look(self, *, held: int | None = 50, free: int | None = 1000) -> Step:
        """Look at such readings; None is what isn't watched."""
        self.memory = None if held is None else Memory(held, 100)
        self.disk = None if free is None else Disk(free, RESERVE)
        self.pressure.look()
        return self.pressure.step


class Deeds:
    """What was done, in order, and how many sockets there are to shed."""

    def __init__(self, *, idle: int = 0) -> None:
        self.idle = idle
        self.done: list[str] = []
        self.acts = ReliefActions(
            shed_sockets=self._shed,
            shrink_windows=lambda: self.done.append("shrink"),
            restore_windows=lambda: self.done.append("restore"),
            give_back_memory=lambda: self.done.append("give back"),
        )

    def _shed(self, most: int) -> int:
        shed = min(most, self.idle)
        self.idle -= shed
        self.done.append(f"shed {shed}")
        return shed


@pytest.mark.parametrize(
    "held,steps",
    [
        ([50, 84, 85], [0, 0, 0]),
        ([86, 86, 86, 86, 99], [1, 2, 3, 3, 3]),
        ([99, 99, 99], [1, 2, 3]),  # however short, no step is left out
        ([86, 80, 86, 76, 86], [1, 1, 2, 2, 3]),  # between both bounds nothing changes
        ([86, 86, 86, 85, 75, 74], [1, 2, 3, 3, 3, 0]),
        ([86, 74, 86, 86], [1, 0, 1, 2]),  # it begins anew
        ([86, 86, None, 86], [1, 2, 0, 1]),
    ],
    ids=str,
)
def test_memory_takes_one_step_a_look_and_is_over_below_its_lower_bound(
    held: list[int | None], steps: list[int]
) -> None:
    machine = Machine()
    assert [machine.look(held=each) for each in held] == steps


def test_what_grows_no_more_is_taken_back_step_by_step_until_it_grows_again() -> None:
    machine = Machine()
    steps = [machine.look(held=90) for _ in range(4 * CALM_LOOKS)]
    changes = [steps.index(step, 3) for step in (Step.WINDOWS, Step.IDLE_SOCKETS, Step.NOTHING)]
    assert changes == [CALM_LOOKS, 2 * CALM_LOOKS, 3 * CALM_LOOKS]
    assert steps[:3] == [1, 2, 3]
    assert [machine.look(held=held) for held in (91, 92, 92, 93)] == [0, 1, 2, 3]
    assert [machine.look(held=held) for held in (74, 90)] == [0, 1]  # enough: it begins anew


def test_what_grows_slowly_or_is_all_but_full_is_not_taken_back() -> None:
    machine = Machine()
    slowly = [held for held in range(86, 95, 2) for _ in range(CALM_LOOKS - 3)]
    steps = [machine.look(held=held) for held in slowly]
    assert set(steps[2:]) == {Step.NEW_RUNS}
    assert {machine.look(held=96) for _ in range(3 * CALM_LOOKS)} == {Step.NEW_RUNS}


@pytest.mark.parametrize(
    "free,steps",
    [
        ([1000, 100], [0, 0]),
        ([99, 99, 100, 124, 125], [3, 3, 3, 3, 0]),
        ([0, 1000, 99], [3, 0, 3]),
        ([99, None], [3, 0]),
    ],
    ids=str,
)
def test_a_short_disk_goes_straight_to_new_runs_and_recovers(
    free: list[int | None], steps: list[int]
) -> None:
    machine = Machine()
    assert [machine.look(free=each) for each in free] == steps
    assert machine.pressure.memory_step == Step.NOTHING


def test_each_shortage_has_its_own_end() -> None:
    machine, seen = Machine(), list[tuple[Step, Step]]()
    for held, free in ((90, 0), (80, 1000), (50, 0)):
        step = machine.look(held=held, free=free)
        seen.append((step, machine.pressure.memory_step))
    assert seen == [
        (Step.NEW_RUNS, Step.IDLE_SOCKETS),
        (Step.IDLE_SOCKETS, Step.IDLE_SOCKETS),
        (Step.NEW_RUNS, Step.NOTHING),
    ]


def test_runs_are_taken_until_the_last_step_and_again_as_soon_as_it_is_over() -> None:
    machine = Machine()
    for _ in range(2):
        machine.look(held=90)
        machine.pressure.check_room()
    machine.look(held=90)
    with pytest.raises(Unavailable, match="memory is short") as refused:
        machine.pressure.check_room()
    assert (refused.value.retryable, refused.value.retry_after_ms) == (True, 1000)
    machine.memory = Memory(74, 100)
    machine.pressure.check_room()  # no look since
    assert machine.pressure.step == Step.NOTHING


def test_a_full_disk_refuses_until_there_is_room() -> None:
    machine = Machine()
    machine.look(free=0)
    with pytest.raises(Unavailable, match="disk is short"):
        machine.pressure.check_room()
    machine.disk = Disk(1000, RESERVE)
    machine.pressure.check_room()


def test_who_asks_for_runs_takes_no_step() -> None:
    machine = Machine()
    machine.look(held=90, free=0)
    for _ in range(5):
        with pytest.raises(Unavailable):
            machine.pressure.check_room()
    assert machine.pressure.memory_step == Step.IDLE_SOCKETS


def test_each_step_is_logged_once_and_so_is_the_end() -> None:
    machine = Machine()
    with capture_logs() as logs:
        for _ in range(5):
            machine.look(held=90)
        machine.look(held=70, free=99)
        machine.look(free=1000)
    told = [(entry["event"], entry.get("step"), entry.get("sheds")) for entry in logs]
    assert told == [
        ("memory_short", 1, "idle sockets"),
        ("memory_short", 2, "windows"),
        ("memory_short", 3, "new runs"),
        ("memory_recovered", None, None),
        ("disk_short", 3, "new runs"),
        ("disk_recovered", None, None),
    ]
    assert {entry["log_level"] for entry in logs} == {"warning"}
    readings: list[Any] = [logs[0]["held_bytes"], logs[0]["allowed_bytes"], logs[4]["free_bytes"]]
    assert readings == [90, 100, 99]


def test_what_is_watched_is_named_and_nothing_else() -> None:
    machine = Machine()
    machine.look()
    assert machine.pressure.get_states() == {"memory": "ok", "disk": "ok"}
    machine.look(held=90, free=99)
    assert machine.pressure.get_states() == {"memory": "short", "disk": "short"}
    machine.look(held=None, free=None)
    assert machine.pressure.get_states() == {}


async def test_what_gives_way_goes_in_its_order_and_comes_back() -> None:
    machine, deeds = Machine(), Deeds()
    for held in (50, 90, 90, 90, 50):
        machine.memory = Memory(held, 100)
        deeds.done.append(f"{held}:")
        await relieve(machine.pressure, deeds.acts)
    assert " ".join(deeds.done) == (
        "50: restore "
        "90: give back shed 0 restore "
        "90: give back shed 0 shrink "
        "90: give back shed 0 shrink "
        "50: restore"
    )


async def test_idle_sockets_go_in_batches_to_the_last() -> None:
    machine, deeds = Machine(), Deeds(idle=2 * SHED_BATCH + 3)
    machine.memory = Memory(90, 100)
    await relieve(machine.pressure, deeds.acts)
    assert deeds.done[1:-1] == [f"shed {SHED_BATCH}", f"shed {SHED_BATCH}", "shed 3"]


async def test_a_short_disk_sheds_no_socket_and_no_window() -> None:
    machine, deeds = Machine(), Deeds(idle=5)
    machine.disk = Disk(0, RESERVE)
    await relieve(machine.pressure, deeds.acts)
    assert machine.pressure.step == Step.NEW_RUNS
    assert deeds.done == ["restore"]
