"""What runs for as long as the gateway is open: a failure is told, and the next time comes."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs
from tests.house import until

from isolane.errors import Unavailable
from isolane.tasks import end_task
from isolane.upkeep import every, to_interval_s


async def run_chore(*results: BaseException | None) -> list[dict[str, object]]:
    """Let a chore end so at each time, and cancel it at last; return what the log told."""
    waiting, done = list(results), asyncio.Event()

    async def act() -> None:
        if not waiting:
            done.set()
            await asyncio.Event().wait()
        result = waiting.pop(0)
        if result is not None:
            raise result

    with capture_logs() as logs:
        task = asyncio.create_task(every(0, act, failed="test_postponed"))
        await done.wait()
        await end_task(task)
    assert task.cancelled()
    return [dict(entry) for entry in logs]


async def test_what_was_foreseen_is_a_warning_and_the_next_time_comes() -> None:
    (entry,) = await run_chore(None, Unavailable("no database"), None)
    assert (entry["event"], entry["log_level"]) == ("test_postponed", "warning")
    assert "no database" in str(entry["chain"])
    assert "exception" not in entry


async def test_who_is_rung_does_not_wait_and_does_it_once_more_for_a_ring_meanwhile() -> None:
    rung, turns, calls = asyncio.Event(), asyncio.Semaphore(0), list[int]()

    async def act() -> None:
        calls.append(len(calls))
        await turns.acquire()

    task = asyncio.create_task(every(3600, act, failed="test_postponed", rung=rung))
    for number in range(1, 4):
        await until(lambda: len(calls) == number)  # noqa: B023 - awaited here
        rung.set()  # while it is under way
        rung.set()
        turns.release()
    await until(lambda: len(calls) == 4)
    turns.release()
    await asyncio.sleep(0)
    assert len(calls) == 4  # two rings are one more call
    await end_task(task)


async def test_what_nobody_foresaw_is_an_error_with_its_traceback_and_the_next_time_comes() -> None:
    entries = await run_chore(RuntimeError("no reading"), KeyError("x"), None)
    assert [(one["event"], one["log_level"]) for one in entries] == [
        ("test_postponed", "error"),
        ("test_postponed", "error"),
    ]
    assert "no reading" in str(entries[0]["exception"])
    assert await run_chore(None, None) == []


async def test_cancelled_help_ends_no_chore() -> None:
    (entry,) = await run_chore(asyncio.CancelledError("the help was cancelled"), None)
    assert entry["log_level"] == "error"


@pytest.mark.parametrize(
    "kept_s, interval_s", [(86_400.0, 60.0), (60.0, 15.0), (4.0, 1.0), (0.5, 0.25), (0.0, 0.25)]
)
def test_what_is_kept_shortly_is_looked_for_more_often(kept_s: float, interval_s: float) -> None:
    assert to_interval_s(kept_s) == interval_s
