"""The stop signal of one run."""

from __future__ import annotations

import asyncio

from isolane.clock import Clock, now_ms
from isolane.contracts import RunStop, StoppedBy
from isolane.errors import IsolaneError


class Stop:
    """Tells an agent that nobody wants its answer. Agents see `is_set` and `wait` of it."""

    def __init__(self, clock: Clock = now_ms) -> None:
        """Begin unset; `clock` returns milliseconds since 1970."""
        self._clock = clock
        self._event = asyncio.Event()
        self._requested_at = 0
        self.error: IsolaneError | None = None
        """Error in which the stopped run ends; None when its user stopped it."""
        self.by = StoppedBy.GATEWAY
        """What ended the run. The gateway itself ends a run that has no agent yet."""

    def set(self, error: IsolaneError | None = None, *, asked_at: int | None = None) -> None:
        """Stop the run. Later calls change nothing.

        `asked_at` is the time of the request in milliseconds since 1970, now by default.
        """
        if not self._event.is_set():
            self.error = error
            self._requested_at = self._clock() if asked_at is None else asked_at
        self._event.set()

    def to_report(self) -> RunStop:
        """Return how the run was stopped, for a run that ends now because of it."""
        took_ms = max(self._clock() - self._requested_at, 0)
        return RunStop(self._requested_at, took_ms, self.by)

    def is_set(self) -> bool:
        """Say whether the run was stopped."""
        return self._event.is_set()

    async def wait(self) -> bool:
        """Return once the run is stopped. Safe to cancel."""
        return await self._event.wait()
