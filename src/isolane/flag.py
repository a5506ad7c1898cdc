"""A flag that tasks wait for, in 150 bytes. The deque of an `asyncio.Event` alone takes 620."""

from __future__ import annotations

import asyncio


class Flag:
    """An `asyncio.Event` for what there is one of per connection."""

    __slots__ = ("_is_set", "_waiters")

    def __init__(self) -> None:
        """Begin unset."""
        self._is_set = False
        self._waiters: list[asyncio.Future[None]] = []

    def is_set(self) -> bool:
        """Say whether nobody has to wait."""
        return self._is_set

    def set(self) -> None:
        """Let everybody go on who waits, and everybody who comes."""
        self._is_set = True
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def clear(self) -> None:
        """Let those wait who come from now on."""
        self._is_set = False

    async def wait(self) -> None:
        """Return once the flag is set, also where it is cleared right after. Safe to cancel."""
        if self._is_set:
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        finally:
            self._waiters.remove(waiter)
