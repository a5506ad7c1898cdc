"""How many bytes of each user's large bodies and frames the gateway holds before they are done."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

ROOM_BYTES: Final = 4 << 20
"""Bytes of one user at once: a handful of the largest bodies. The next ones wait unread."""
SMALL_BYTES: Final = 64 * 1024
"""Bodies and frames up to this need no room: their number is bounded elsewhere."""
_ALL: Final = "all users"


class Room:
    """Bytes that are reserved by user, before what needs them is read.

    Requests and frames of one user get their room in the order in which they asked. One that is
    larger than all the room gets it alone.
    """

    def __init__(self, most: int = ROOM_BYTES) -> None:
        """Grant each user `most` bytes."""
        self._most = most
        self._held: Counter[str] = Counter()
        self._lines: dict[str, deque[tuple[int, asyncio.Future[None]]]] = {}

    def get_held(self, user_id: str) -> int:
        """Return how many bytes are reserved for a user."""
        return self._held[user_id]

    def is_awaited(self, user_id: str) -> bool:
        """Say whether something of a user waits for room."""
        return user_id in self._lines

    @asynccontextmanager
    async def hold(self, user_id: str, size: int) -> AsyncIterator[None]:
        """Reserve `size` bytes for the block's time. Safe to cancel."""
        await self.take(user_id, size)
        try:
            yield
        finally:
            self.give_back(user_id, size)

    async def take(self, user_id: str, size: int) -> None:
        """Reserve `size` bytes once there is room; `give_back` ends that. Safe to cancel."""
        line = self._lines.get(user_id)
        if line is None and self._fits(user_id, size):
            self._held[user_id] += size
            return
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lines.setdefault(user_id, deque()).append((size, granted))
        try:
            await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled():  # the room came with the cancellation
                self.give_back(user_id, size)
            else:
                self._admit(user_id)  # who stood behind may fit
            raise

    def give_back(self, user_id: str, size: int) -> None:
        """Free `size` bytes for those who wait."""
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
            if not granted.done():  # as one is that was cancelled
                self._held[user_id] += size
                granted.set_result(None)
        if not line:
            self._lines.pop(user_id, None)


class Hall:
    """Bytes of bodies that are larger than a frame: one of each user, and a sum of all users.

    They come in the order in which they asked, as in a room.
    """

    def __init__(self, most: int) -> None:
        """Grant all users together `most` bytes."""
        self._of_user = Room(0)  # what is larger than all the room has it alone
        self._of_all = Room(most)

    @property
    def is_awaited(self) -> bool:
        """Whether a user whose turn it is waits for the bytes of others."""
        return self._of_all.is_awaited(_ALL)

    def get_held(self) -> int:
        """Return how many bytes are reserved for all users together."""
        return self._of_all.get_held(_ALL)

    @asynccontextmanager
    async def hold(self, user_id: str, size: int) -> AsyncIterator[None]:
        """Reserve `size` bytes for the block's time. Safe to cancel."""
        async with self._of_user.hold(user_id, size), self._of_all.hold(_ALL, size):
            yield
