"""Turns at the database: one thing of each user at a time, however much any of them wants.

The house is the gateway itself: appends, recovery, retention. Its work stands in no user's lane.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from typing import Any, Final, Generic, TypeVar

T = TypeVar("T")

HOUSE: Final = ""
"""The lane of the gateway's own work. No user is called so."""


class Lanes(Generic[T]):
    """Things that wait, each in its user's lane. Lanes take turns. Pure."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._lanes: dict[str, deque[T]] = {}  # in the order of their turns

    def __bool__(self) -> bool:
        """Say whether anything waits."""
        return bool(self._lanes)

    def put(self, lane: str, thing: T) -> None:
        """Put a thing last in its lane."""
        self._lanes.setdefault(lane, deque()).append(thing)

    def take(self, may: Callable[[str], bool] = lambda _lane: True) -> tuple[str, T] | None:
        """Return the next lane that `may` have a turn, with its first thing; None without one."""
        lane = next((lane for lane in self._lanes if may(lane)), None)
        if lane is None:
            return None
        line = self._lanes.pop(lane)
        thing = line.popleft()
        if line:  # behind all others
            self._lanes[lane] = line
        return lane, thing


class Gate:
    """Lets so many through at once, and of one lane fewer: nobody has all of it for themselves."""

    def __init__(self, most: int, *, most_of_lane: int) -> None:
        """Let `most` through at once, `most_of_lane` of them of one lane."""
        self._free = most
        self._most_of_lane = most_of_lane
        self._inside: Counter[str] = Counter()
        self._waiting: Lanes[asyncio.Future[None]] = Lanes()

    async def enter(self, lane: str) -> None:
        """Return when it is the lane's turn; `leave` ends that. Safe to cancel."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.put(lane, turn)
        self._admit()
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # the turn came with the cancellation
                self.leave(lane)
            raise

    async def run(self, threads: Executor, work: Callable[[], T], *, lane: str) -> T:
        """Run `work` in a thread, the house's at once and a user's when it is the lane's turn.

        Safe to cancel: a thread can't be, so the work counts until it is done.
        """
        loop = asyncio.get_running_loop()
        if lane == HOUSE:
            return await loop.run_in_executor(threads, work)
        await self.enter(lane)
        running = loop.run_in_executor(threads, work)
        running.add_done_callback(partial(self._leave_after, lane))
        return await asyncio.shield(running)

    def _leave_after(self, lane: str, running: asyncio.Future[Any]) -> None:
        self.leave(lane)
        if not running.cancelled():
            _ = running.exception()  # retrieved, because the caller may have gone

    def leave(self, lane: str) -> None:
        """Make room for the next one."""
        self._free += 1
        self._inside[lane] -= 1
        if not self._inside[lane]:
            del self._inside[lane]
        self._admit()

    def _admit(self) -> None:
        while self._free and (found := self._waiting.take(self._may_enter)) is not None:
            lane, turn = found
            if not turn.done():  # as one is that was cancelled
                self._free -= 1
                self._inside[lane] += 1
                turn.set_result(None)

    def _may_enter(self, lane: str) -> bool:
        return self._inside[lane] < self._most_of_lane
