"""Ownership of tasks: every task starts here, is counted here, and ends here."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog

from isolane.errors import GoingAway, IsolaneError, chain_of, traceback_of

_log = structlog.get_logger(__name__)

T = TypeVar("T")


class TaskOwner:
    """Starts tasks, keeps them alive until they end, and logs their errors.

    There is one per app. `len()` is the number of running tasks.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        """Return the number of running tasks."""
        return len(self._tasks)

    def start(self, work: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
        """Start `work` and return its task; an error that nobody collects is logged."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._settle)
        return task

    def detach(self, work: Coroutine[Any, Any, None], *, name: str) -> None:
        """Start `work` that nobody waits for; the owner ends it in `close()`."""
        _ = self.start(work, name=name)

    async def complete(self, work: Coroutine[Any, Any, T], *, name: str) -> T:
        """Run `work` to its end, and return its result or raise its error.

        When the caller is cancelled, the work goes on without it.

        Raises:
            GoingAway: The owner closed before the end of the work.
        """
        task = self.start(_collect(work), name=name)
        try:
            result = await asyncio.shield(task)
        except asyncio.CancelledError as error:
            if task.cancelled() and not is_cancelled_itself():
                raise GoingAway(f"the gateway ended during the {name}") from error
            task.add_done_callback(_report_unheard)
            raise
        if isinstance(result, _Failed):
            raise result.error
        return result

    def _settle(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            report(task.get_name(), error)

    async def close(self, *, grace_s: float = 2.0) -> int:
        """Cancel running tasks and wait for them; return how many didn't end within `grace_s`."""
        for task in self._tasks:
            task.cancel()
        if not self._tasks:
            return 0
        _, stuck = await asyncio.wait(self._tasks, timeout=grace_s)
        return len(stuck)


@dataclass(frozen=True, slots=True)
class _Failed:
    """An error on its way to the caller that waits for the work."""

    error: Exception


async def _collect(work: Coroutine[Any, Any, T]) -> T | _Failed:
    try:
        return await work
    except Exception as error:  # noqa: BLE001 - raised again at the caller
        return _Failed(error)


def is_cancelled_itself() -> bool:
    """Say whether the current task was cancelled, and not only something that it awaits."""
    caller = asyncio.current_task()
    return caller is not None and caller.cancelling() > 0


def _report_unheard(task: asyncio.Task[Any]) -> None:
    """Log an error whose caller has gone; a refusal interests only its caller."""
    result = None if task.cancelled() else task.result()
    if isinstance(result, _Failed) and not isinstance(result.error, IsolaneError):
        report(task.get_name(), result.error)


def report(name: str, error: BaseException) -> None:
    """Log an error that nobody foresaw; `name` tells what it ended."""
    _log.error(
        "task_failed",
        task=name,
        chain=chain_of(error),
        exception=traceback_of(error),
    )


async def end_task(task: asyncio.Task[Any]) -> None:
    """Cancel `task` and wait for its end; its cancellation isn't taken for the caller's own."""
    task.cancel()
    await asyncio.wait({task})
