"""Locks by key: of two tasks that work on one run or thread, the second finds the first's result.

A lock lasts over awaits, and is there only while somebody holds it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

K = TypeVar("K")


class KeyedLocks(Generic[K]):
    """One lock for each key. Locks of different keys know nothing of each other."""

    def __init__(self) -> None:
        """Begin with every key free."""
        self._held: dict[K, asyncio.Event] = {}

    def __len__(self) -> int:
        """Return how many keys are held now."""
        return len(self._held)

    def __contains__(self, key: K) -> bool:
        """Say whether somebody holds the key."""
        return key in self._held

    @asynccontextmanager
    async def hold(self, key: K) -> AsyncIterator[None]:
        """Hold a key for the block's time, once nobody else does. Safe to cancel."""
        await self.until_free(key)
        self._held[key] = asyncio.Event()
        try:
            yield
        finally:
            self._held.pop(key).set()

    async def until_free(self, key: K) -> None:
        """Return once nobody holds the key. Safe to cancel."""
        while key in self._held:
            await self._held[key].wait()

    async def until_released(self) -> None:
        """Return once all have let go who hold a key now. Safe to cancel."""
        for held in tuple(self._held.values()):
            await held.wait()
