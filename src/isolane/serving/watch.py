"""Looks whether what a peer has begun goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

PROGRESS_S: Final = 10.0
PROGRESS_BYTES: Final = 10 * 1024
"""What a message or body that has begun must bring in `PROGRESS_S`: 1 KiB a second is less than
what the slowest telephone line of the web's early days did."""
SLICE: Final = 4096
"""Bytes taken at once: some 700 of the smallest frames, which cost some 10 ms; then others come."""


class Watch:
    """Looks, every so often, whether what has begun goes on, and says so once it doesn't."""

    def __init__(self, has_moved: Callable[[], bool], give_up: Callable[[], None]) -> None:
        """Call `give_up` when `has_moved` says no."""
        self._has_moved = has_moved
        self._give_up = give_up
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, interval_s: float) -> None:
        """Look every `interval_s` from now on, unless that is so already."""
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(interval_s, self._look, interval_s)

    def end(self) -> None:
        """Look no more."""
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
    """Looks whether enough comes of a message or a body that has begun."""

    def __init__(self, is_held: Callable[[], bool], give_up: Callable[[], None]) -> None:
        """Let time pass in which `is_held`, for it is the server itself that doesn't read."""
        super().__init__(lambda: self._has_come() or is_held(), give_up)
        self._came = 0

    def count(self, size: int) -> None:
        """Note that so many bytes came."""
        self._came += size

    def _has_come(self) -> bool:
        came, self._came = self._came, 0
        return came >= PROGRESS_BYTES
