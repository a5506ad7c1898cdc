"""Pauses between two tries at something that can't be done for now."""

from __future__ import annotations

import asyncio
from typing import Final

FIRST_S: Final = 0.05
MAX_S: Final = 2.0
"""Seconds of the longest pause: a database that can be written again is found so soon."""


class Backoff:
    """Pauses that double, from `first_s` seconds to 2 s. One is made for each thing that is tried.

    There is no last try: its user has to know what is worth another one.
    """

    def __init__(self, *, first_s: float = FIRST_S) -> None:
        """Begin with a pause of `first_s` seconds."""
        self._next_s = first_s

    async def pause(self) -> None:
        """Wait before the next try. Safe to cancel."""
        await asyncio.sleep(self._next_s)
        self._next_s = min(self._next_s * 2, MAX_S)
