"""Users who look alike, all on one server: what they do together, and whether all is right."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from typing import Final, NamedTuple, TypeAlias

from tests.live.lanes.guest import Deed, Guest
from tests.live.lanes.ledger import DEVICES
from tests.live.lanes.thread import Run
from tests.live.lanes.venue import Venue

Move: TypeAlias = Callable[[], Deed]
After: TypeAlias = int | str
"""A place in a log, by its number or by what it is."""
NAMES: Final = ("a-{}", "a-{}:b", "A-{}", "\u0430-{}", "a-{}|b", "a-{}:b:c")
"""Names that look alike: the fourth begins with a letter that isn't Latin."""


class Joins(NamedTuple):
    """How devices come to a thread that moves."""

    ways: tuple[tuple[After, bool], ...]
    """From where each follows, and whether by an event stream."""
    lag: int
    """How many round trips each comes after what was done before; below 0 the move comes last."""


async def at_once(deeds: Iterable[Deed]) -> None:
    """Do all of it at the same time."""
    await asyncio.gather(*deeds)


class Party:
    """The users of one example, whom no other example knows."""

    def __init__(self, venue: Venue, names: Iterable[str]) -> None:
        number = next(venue.numbers)
        self.guests = [Guest(venue, name.format(number)) for name in names]
        self._venue = venue

    @property
    def held(self) -> list[tuple[Guest, Run]]:
        """Each run that waits at a gate, and whose it is."""
        return [(guest, run) for guest in self.guests for run in guest.ledger.held]

    @property
    def runs(self) -> list[tuple[Guest, Run]]:
        """Each run that there is, and whose it is."""
        return [(guest, run) for guest in self.guests for run in guest.ledger.runs.values()]

    async def settle(self) -> None:
        """Return when everybody has exactly what is due to them; fail when that doesn't come."""
        watches = [guest.watch for guest in self.guests]
        number = next(self._venue.numbers)
        for watch in watches:
            await watch.send_fences(number)
        await self._venue.wait(
            lambda: not [watch for watch in watches if not watch.judge()],
            lambda: [watch.missing for watch in watches],
        )
        for guest in self.guests:
            await guest.watch.pass_fences()
            await guest.hear_out()

    async def rest(self) -> None:
        """Settle, and let runs end that nobody follows: what they held is free for the next one."""
        await self.settle()
        await self._venue.until_active(len(self.held))

    def find(self, guest: Guest, on: int, thread_id: str, after: After) -> str | None:
        """Return the id of a place in a user's thread, or one that is none there."""
        thread = guest.ledger.threads.get(thread_id)
        if after == "own":
            return guest.ledger.devices[on].at.get(thread_id)
        if after == "stale":
            return guest.desk.stale.get(thread_id)
        if after == "foreign":
            others = [one.ledger.threads.get(thread_id) for one in self.guests if one is not guest]
            return next((other.head for other in others if other and other.entries), None)
        if after == "start" or thread is None or thread.epoch is None:
            return None
        length = len(thread.entries)
        places = {"head": length, "ahead": length + 1}
        return f"{thread.epoch}-{places[after] if isinstance(after, str) else min(after, length)}"

    async def join(self, guest: Guest, on: int, thread_id: str, joins: Joins, move: Move) -> None:
        """Follow a thread on the other devices while a move is made: it is one sequence for all."""
        others = [(on + step) % DEVICES for step in range(1, DEVICES)]
        for other in others:
            await guest.unsubscribe(other, thread_id)
        await self.settle()
        deeds = [move(), *self._joining(guest, others, thread_id, joins.ways)]
        lags = [place * max(joins.lag, 0) for place in range(len(deeds))]
        lags[0] = max(-joins.lag, 0)
        await at_once(self._after(*each) for each in zip(lags, deeds, strict=True))

    async def _after(self, trips: int, deed: Deed) -> None:
        for _ in range(trips):
            await self._venue.make_round_trip()
        await deed

    def _joining(
        self, guest: Guest, others: list[int], thread_id: str, ways: Iterable[tuple[After, bool]]
    ) -> Iterator[Deed]:
        is_there = thread_id in guest.ledger.threads
        for on, (after, is_stream) in zip(others, ways, strict=True):
            # What is ahead of a log that moves may be in it when it is asked for.
            place = self.find(guest, on, thread_id, "head" if after == "ahead" else after)
            if is_stream and is_there:
                yield guest.follow_by_http(on, thread_id, place)
            else:
                yield guest.subscribe(on, thread_id, place, is_racing=True)

    async def restart(self, *, is_killed: bool) -> None:
        """Let the server end, in order or by a kill, and come back."""
        if not is_killed:
            for guest in self.guests:
                guest.ledger.stop()
        await self._venue.stop(is_killed=is_killed)
        if not is_killed:
            await self.settle()
        for guest in self.guests:
            await guest.leave()
            guest.ledger.recover()
        await self._venue.start()
        self.check_what_is_kept()

    def check_what_is_kept(self) -> None:
        """Fail when a row isn't its owner's or is of what is gone, or when the log tells a word."""
        markers = {guest.marker: guest.name for guest in self.guests if guest.ledger.threads}
        threads = {(guest.name, name) for guest in self.guests for name in guest.ledger.threads}
        self._venue.check_rows(markers, threads)
        self._venue.check_logs()

    async def clear_up(self) -> None:
        """Look at what all this has left, remove it, and look again: nothing is left."""
        self.check_what_is_kept()
        every = [guest.desk.delete(name) for guest in self.guests for name in guest.ledger.threads]
        await asyncio.gather(*every)
        await self.settle()
        for guest in self.guests:
            await guest.leave()
        self._venue.check_rows({}, set())
        await self._venue.check_quiet({guest.name for guest in self.guests})
        self._venue.check_logs()

    async def give_up(self) -> None:
        """Leave nothing behind when something went wrong: it would go wrong for others."""
        for guest in self.guests:
            guest.vanish()
        await self._venue.start_over()
