"""The watchdog: blames who blocks a loop, once, and nobody else."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from structlog.testing import capture_logs
from tests.house import until

from isolane.health.watchdog import CALM_S, PATIENCE_TICKS, TICK_S, Watchdog


class Seconds:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Seconds:
    return Seconds()


@pytest.fixture
def watchdog(clock: Seconds) -> Watchdog:
    return Watchdog(clock)


def look(watchdog: Watchdog, clock: Seconds, ticks: int) -> list[Any]:
    """Look so many times while the loop can't turn, and return what was logged."""
    with capture_logs() as logs:
        for _ in range(ticks):
            clock.now += TICK_S
            watchdog.look()
    return logs


async def test_who_blocks_is_named_with_task_and_stack_once(
    watchdog: Watchdog, clock: Seconds
) -> None:
    forget = watchdog.watch("gateway")
    watchdog.look()

    async def block() -> list[Any]:
        return look(watchdog, clock, PATIENCE_TICKS * 3)

    (entry,) = await asyncio.create_task(block(), name="agent of r-1")
    assert (entry["log_level"], entry["event"]) == ("error", "event_loop_blocked")
    assert (entry["loop"], entry["task"]) == ("gateway", "agent of r-1")
    assert any(
        place.endswith(" block") and "test_watchdog.py" in place
        for place in entry["stack"].splitlines()
    )
    assert watchdog.blocks == 1
    forget()


async def test_a_short_stay_is_no_block(watchdog: Watchdog, clock: Seconds) -> None:
    forget = watchdog.watch("gateway")
    watchdog.look()
    assert look(watchdog, clock, PATIENCE_TICKS - 1) == []
    assert watchdog.get_blocked() == []
    forget()


async def test_a_machine_that_stands_still_blames_nobody(
    watchdog: Watchdog, clock: Seconds
) -> None:
    forget = watchdog.watch("gateway")
    watchdog.look()
    clock.now += 3600
    assert look(watchdog, clock, 1) == []
    forget()


async def test_it_counts_as_blocked_until_it_was_calm_for_a_while(
    watchdog: Watchdog, clock: Seconds
) -> None:
    forget = watchdog.watch("gateway")
    watchdog.look()
    look(watchdog, clock, PATIENCE_TICKS)
    assert watchdog.get_blocked() == ["gateway"]
    beats = watchdog._watched[0].beats
    await until(lambda: watchdog._watched[0].beats > beats)
    (entry,) = look(watchdog, clock, 1)
    assert (entry["event"], entry["blocked_ms"]) == (
        "event_loop_freed",
        round((PATIENCE_TICKS + 1) * TICK_S * 1000),
    )
    assert watchdog.get_blocked() == ["gateway"]
    clock.now += CALM_S
    assert watchdog.get_blocked() == []
    forget()


async def test_a_loop_that_is_forgotten_is_not_looked_at(
    watchdog: Watchdog, clock: Seconds
) -> None:
    watchdog.watch("gateway")()
    assert look(watchdog, clock, PATIENCE_TICKS * 2) == []


@pytest.fixture
def running() -> Iterator[Watchdog]:
    watchdog = Watchdog()
    watchdog.start()
    yield watchdog
    watchdog.close()
    watchdog.close()
    assert "watchdog" not in {thread.name for thread in threading.enumerate()}


async def test_its_thread_sees_a_real_block(running: Watchdog) -> None:
    forget = running.watch("gateway")
    with capture_logs() as logs:
        began_s = time.monotonic()
        while not logs and time.monotonic() - began_s < 5:
            time.sleep(0.01)  # noqa: ASYNC251 - the block itself
    assert [entry["event"] for entry in logs] == ["event_loop_blocked"]
    assert logs[0]["stack"].splitlines()[-1].endswith("test_its_thread_sees_a_real_block")
    forget()
