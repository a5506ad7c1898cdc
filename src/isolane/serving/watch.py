"""Checks that a peer's message or body makes progress."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

PROGRESS_S: Final = 10.0
PROGRESS_BYTES: Final = 10 * 1024
"""Bytes that an unfinished message or body must bring per `PROGRESS_S`. 1 KiB per second is less
than the slowest modem of the early web."""
SLICE: Final = 4096
"""Bytes that are parsed at once: about 700 of the smallest frames, which take about 10 ms. Then
other connections come."""


class Watch:
    """Checks at intervals whether something makes progress, and calls back when it doesn't."""

    def __init__(self, has_moved: Callable[[], bool], give_up: Callable[[], None]) -> None:
        """Call `give_up` when `has_moved` says no."""
        self._has_moved = has_moved
        self._give_up = give_up
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, interval_s: float) -> None:
        """Check every `interval_s` seconds from now on; a running watch goes on unchanged."""
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(interval_s, self._look, interval_s)

    def end(self) -> None:
        """Stop checking."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self, interval_s: float) -> None:
        self._timer = None
        if self._has_moved():
            self.begin(interval_s)
        else:
            self._give_up()


class Progress(Watch):
    """Checks that an unfinished message or body brings enough bytes."""

    def __init__(self, is_held: Callable[[], bool], give_up: Callable[[], None]) -> None:
        """Don't count time while `is_held` is true: the server itself doesn't read then."""
        super().__init__(lambda: self._has_come() or is_held(), give_up)
        self._came = 0

    def count(self, size: int) -> None:
        """Count bytes that arrived."""
        self._came += size

    def _has_come(self) -> bool:
        came, self._came = self._came, 0
        return came >= PROGRESS_BYTES
