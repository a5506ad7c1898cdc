"""Lets go of managers that nobody came for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import structlog

from isolane.errors import chain_of, traceback_of
from isolane.sockets.manager import IsolatedWebSocketManager
from isolane.tasks import TaskOwner

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class SweeperHealth:
    """Whether the sweeper is at work, and what came of it since the start."""

    is_running: bool
    looks: int
    closed: int
    errors: int


class Sweeper:
    """Closes a manager that had no open socket at two looks in a row.

    So whoever asked for one has a whole interval to bring a connection, and no clock is kept that
    a look at statistics could set back. Between the looks there is a timer and no task.
    """

    def __init__(
        self,
        managers: Callable[[], Iterable[IsolatedWebSocketManager]],
        *,
        tasks: TaskOwner,
        interval_s: float,
    ) -> None:
        """Look at `managers()` every `interval_s` seconds once started."""
        self._managers = managers
        self._tasks = tasks
        self._interval_s = interval_s
        self._timer: asyncio.TimerHandle | None = None
        self._suspects: set[IsolatedWebSocketManager] = set()
        self._looks = 0
        self._closed = 0
        self._errors = 0

    @property
    def health(self) -> SweeperHealth:
        """Return how the sweeper does. It runs when its timer is set, not when it was asked to."""
        return SweeperHealth(self._timer is not None, self._looks, self._closed, self._errors)

    def start(self) -> None:
        """Look from now on. Idempotent.

        Raises:
            RuntimeError: No event loop runs.
        """
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._interval_s, self._look)

    def stop(self) -> None:
        """Look no more, until the next start. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._suspects.clear()

    def _look(self) -> None:
        self._timer = None
        self.start()  # first of all: whatever happens now, there is a next time
        self._looks += 1
        try:
            idle = {manager for manager in self._managers() if not manager.has_open_socket}
        except Exception as error:  # noqa: BLE001 - the next look may fare better
            self._count(error)
            return
        due = idle & self._suspects
        self._suspects = idle - due
        if due:
            self._tasks.detach(self._sweep(due), name="sweep")

    async def _sweep(self, due: Iterable[IsolatedWebSocketManager]) -> None:
        for manager in due:
            if manager.has_open_socket:  # since the look, while another was closed
                continue
            try:
                await manager.close()
            except Exception as error:  # noqa: BLE001 - one that can't be closed keeps no other
                self._count(error)
            else:
                self._closed += 1

    def _count(self, error: Exception) -> None:
        self._errors += 1
        _log.error("sweep_failed", chain=chain_of(error), exception=traceback_of(error))
