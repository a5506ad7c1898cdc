"""Tasks have an owner: counted while they run, reported when they fail, ended at the end."""

from __future__ import annotations

import asyncio

from structlog.testing import capture_logs

from isolane.tasks import TaskOwner, end_task


async def test_tasks_are_counted_while_they_run() -> None:
    owner = TaskOwner()
    gate = asyncio.Event()
    task = owner.start(gate.wait(), name="one")
    assert len(owner) == 1
    gate.set()
    await task
    await asyncio.sleep(0)
    assert len(owner) == 0


async def test_an_error_that_nobody_collects_is_logged() -> None:
    async def fail() -> None:
        raise ValueError("x")

    owner = TaskOwner()
    with capture_logs() as logs:
        task = owner.start(fail(), name="the failing one")
        await asyncio.wait({task})
        await asyncio.sleep(0)
    (log,) = logs
    assert (log["event"], log["task"]) == ("task_failed", "the failing one")
    assert log["exception"].rstrip().endswith("ValueError: x")


async def test_closing_cancels_what_runs_and_counts_what_will_not_end() -> None:
    released = asyncio.Event()

    async def stubborn() -> None:
        while not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                continue

    owner = TaskOwner()
    willing = owner.start(asyncio.Event().wait(), name="willing")
    unwilling = owner.start(stubborn(), name="unwilling")
    await asyncio.sleep(0)
    assert await owner.close(grace_s=0.05) == 1
    assert willing.cancelled()
    released.set()
    await unwilling
    assert await owner.close() == 0


async def test_ending_a_task_is_not_ones_own_end() -> None:
    owner = TaskOwner()
    task = owner.start(asyncio.Event().wait(), name="one")
    await end_task(task)
    await end_task(task)
    assert task.cancelled()
    current = asyncio.current_task()
    assert current is not None
    assert current.cancelling() == 0
