"""Bounds on the bytes of large bodies and frames that are in memory, per user and over all."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

ROOM_BYTES: Final = 4 << 20
"""Maximum bytes per user at once, a handful of the largest bodies. Further ones wait unread."""
SMALL_BYTES: Final = 64 * 1024
"""Bodies and frames up to this many bytes need no room; other limits bound their number."""
_ALL: Final = "all users"


class Room:
    """Bytes that are reserved per user before a body or frame is read.

    Requests and frames of one user get room in the order in which they asked. A size above the
    whole room gets the whole room alone.
    """

    def __init__(self, most: int = ROOM_BYTES) -> None:
        """Allow each user `most` bytes."""
        self._most = most
        self._held: Counter[str] = Counter()
        self._lines: dict[str, deque[tuple[int, asyncio.Future[None]]]] = {}

    def get_held(self, user_id: str) -> int:
        """Return the reserved bytes of a user."""
        return self._held[user_id]

    def is_awaited(self, user_id: str) -> bool:
        """Say whether a request or frame of a user waits for room."""
        return user_id in self._lines

    @asynccontextmanager
    async def hold(self, user_id: str, size: int) -> AsyncIterator[None]:
        """Reserve `size` bytes while the block runs. Safe to cancel."""
        await self.take(user_id, size)
        try:
            yield
        finally:
            self.give_back(user_id, size)

    async def take(self, user_id: str, size: int) -> None:
        """Reserve `size` bytes as soon as there is room; `give_back` releases them.

        Safe to cancel.
        """
        line = self._lines.get(user_id)
        if line is None and self._fits(user_id, size):
            self._held[user_id] += size
            return
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lines.setdefault(user_id, deque()).append((size, granted))
        try:
            await granted
        except asyncio.CancelledError:
            # the room was granted just before the cancellation
            if granted.done() and not granted.cancelled():
                self.give_back(user_id, size)
            else:
                self._admit(user_id)  # the next one in line may fit now
            raise

    def give_back(self, user_id: str, size: int) -> None:
        """Release `size` bytes for those that wait."""
        self._held[user_id] -= size
        if not self._held[user_id]:
            del self._held[user_id]
        self._admit(user_id)

    def _fits(self, user_id: str, size: int) -> bool:
        held = self._held[user_id]
        return not held or held + size <= self._most

    def _admit(self, user_id: str) -> None:
        line = self._lines.get(user_id, deque())
        while line and (line[0][1].done() or self._fits(user_id, line[0][0])):
            size, granted = line.popleft()
            if not granted.done():  # a cancelled wait is done already
                self._held[user_id] += size
                granted.set_result(None)
        if not line:
            self._lines.pop(user_id, None)


class Hall:
    """Bytes of bodies above a frame's size: one body per user, and a bound over all users.

    They are admitted in the order in which they asked.
    """

    def __init__(self, most: int) -> None:
        """Allow all users together `most` bytes."""
        self._of_user = Room(0)  # a size above the whole room gets it alone, so one body per user
        self._of_all = Room(most)

    @property
    def is_awaited(self) -> bool:
        """True when a user on their turn waits for the bytes of others."""
        return self._of_all.is_awaited(_ALL)

    def get_held(self) -> int:
        """Return the reserved bytes of all users together."""
        return self._of_all.get_held(_ALL)

    @asynccontextmanager
    async def hold(self, user_id: str, size: int) -> AsyncIterator[None]:
        """Reserve `size` bytes while the block runs. Safe to cancel."""
        async with self._of_user.hold(user_id, size), self._of_all.hold(_ALL, size):
            yield
