"""Every task has an owner: it starts here, is counted here, and ends here."""

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
    """Starts tasks, keeps them alive until they end, and reports what they raise.

    One per app. `len()` is the number of tasks that run now.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        """Return how many tasks are under way."""
        return len(self._tasks)

    def start(self, work: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
        """Start `work`; an error that nobody else collects is logged, never swallowed."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._settle)
        return task

    def detach(self, work: Coroutine[Any, Any, None], *, name: str) -> None:
        """Start `work` that nobody waits for: the owner ends it with everything else."""
        _ = self.start(work, name=name)

    async def complete(self, work: Coroutine[Any, Any, T], *, name: str) -> T:
        """Run `work` to its end, and return or raise what it does.

        A caller that is cancelled hears no more of the work, which goes on without it. Raises
        `GoingAway` when the owner closes before the work ends.
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
            _report(task, error)

    async def close(self, *, grace_s: float = 2.0) -> int:
        """Cancel what still runs and wait for it; return how many would not end in `grace_s`."""
        for task in self._tasks:
            task.cancel()
        if not self._tasks:
            return 0
        _, stuck = await asyncio.wait(self._tasks, timeout=grace_s)
        return len(stuck)


@dataclass(frozen=True, slots=True)
class _Failed:
    """An error on its way to the caller who waits for the work."""

    error: Exception


async def _collect(work: Coroutine[Any, Any, T]) -> T | _Failed:
    try:
        return await work
    except Exception as error:  # noqa: BLE001 - raised again where the caller waits
        return _Failed(error)


def is_cancelled_itself() -> bool:
    """Say whether the current task was cancelled, and not only something that it awaits."""
    caller = asyncio.current_task()
    return caller is not None and caller.cancelling() > 0


def _report_unheard(task: asyncio.Task[Any]) -> None:
    """Log an error whose caller has gone; a refusal is no news without the caller."""
    result = None if task.cancelled() else task.result()
    if isinstance(result, _Failed) and not isinstance(result.error, IsolaneError):
        _report(task, result.error)


def _report(task: asyncio.Task[Any], error: BaseException) -> None:
    _log.error(
        "task_failed",
        task=task.get_name(),
        chain=chain_of(error),
        exception=traceback_of(error),
    )


async def end_task(task: asyncio.Task[Any]) -> None:
    """Cancel `task` and wait until it is gone, without taking its cancellation for one's own."""
    task.cancel()
    await asyncio.wait({task})
