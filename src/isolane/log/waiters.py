"""The followers of one thread that wait for its next record."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from isolane.context import EventId
from isolane.events.event import Record

Hand = Callable[[Sequence[Record]], bool]
"""Takes records at once, without waiting. False when it can't: then it has taken none of them."""


class _Waiter:
    """A follower that has everything up to `position`."""

    __slots__ = ("_hand", "position", "woken")

    def __init__(self, position: EventId, hand: Hand | None) -> None:
        self.position = position
        self._hand = hand
        self.woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def take(self, records: Sequence[Record]) -> bool:
        first = records[0].id
        follows_on = (first.epoch, first.seq) == (self.position.epoch, self.position.seq + 1)
        if self._hand is None or not follows_on or self.woken.done():
            return False
        try:
            is_taken = self._hand(records)
        except Exception:  # noqa: BLE001 - its own task meets the same error, and the others go on
            return False
        if is_taken:
            self.position = records[-1].id
        return is_taken

    def wake(self) -> None:
        if not self.woken.done():
            self.woken.set_result(None)


class Waiters:
    """Followers that wait. Each is handed the next records, or woken to look for itself."""

    def __init__(self) -> None:
        self.rings = 0
        """How often there may have been something new. Who is about to wait compares it first."""
        self._waiting: set[_Waiter] = set()

    def hand(self, records: Sequence[Record]) -> None:
        """Hand new records to all whom they follow on for, and wake the others."""
        self.rings += 1
        for waiter in tuple(self._waiting):
            if not waiter.take(records):
                waiter.wake()

    def wake(self) -> None:
        """Send all to look for themselves."""
        self.rings += 1
        for waiter in self._waiting:
            waiter.wake()

    async def wait(self, position: EventId, hand: Hand | None) -> EventId:
        """Wait to be woken; return how far `hand` has taken records since `position`.

        Safe to cancel: `hand` has taken what it has taken.
        """
        waiter = _Waiter(position, hand)
        self._waiting.add(waiter)
        try:
            await waiter.woken
        finally:
            self._waiting.discard(waiter)
        return waiter.position
