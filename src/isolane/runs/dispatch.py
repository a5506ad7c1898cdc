"""Runs whose turn has come: this process claims them from the book and begins them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from isolane.backoff import Backoff
from isolane.contracts import ClaimedRun, RunLease, Signs
from isolane.errors import Unavailable, chain_of
from isolane.runs.ground import Ground
from isolane.runs.run import Run

CLAIMED_AT_ONCE: Final = 64
"""Runs that one transaction claims, at most."""

Begin = Callable[[Run, RunLease], None]
"""Begins a run that this node has claimed, in a task of its own."""

_log = structlog.get_logger(__name__)


class Dispatcher:
    """Claims runs when it is woken. One claim is under way at a time."""

    def __init__(self, ground: Ground, *, begin: Begin) -> None:
        """Claim for the node of `ground`, and hand each run to `begin`."""
        self._live = ground.live
        self._draining = ground.draining
        self._book = ground.book
        self._maker = ground.maker
        self._roster = ground.roster
        self._node = ground.node
        self._tasks = ground.tasks
        self._begin = begin
        self._is_woken = False
        self._idle = asyncio.Event()
        """Set while no claim is under way."""
        self._idle.set()

    def wake(self) -> None:
        """Look for runs whose turn has come. Plain: a task of its own looks."""
        if self._may_claim():
            self._tasks.detach(self._claim(), name="claim of runs")

    def _may_claim(self) -> bool:
        """Say whether a claim begins now; the one that is under way looks once more."""
        self._is_woken = True
        if self._draining.has_begun or not self._idle.is_set():
            return False
        self._idle.clear()
        return True

    async def _claim(self) -> None:
        backoff = Backoff()
        try:
            while self._is_woken and not self._draining.has_begun:
                self._is_woken = False
                try:
                    claimed = await self._book.claim(
                        self._node.id, room=CLAIMED_AT_ONCE, agents=self._roster.claimed
                    )
                except Unavailable as error:
                    _log.error("run_claim_failed", reason=str(error))
                    await backoff.pause()  # between two tries
                    self._is_woken = True
                    continue
                except Exception as error:  # noqa: BLE001 - the next look claims again
                    _log.error("run_claim_failed", chain=chain_of(error))
                    return
                for each in claimed:
                    self.take(each)
                self._is_woken = self._is_woken or len(claimed) == CLAIMED_AT_ONCE
        finally:
            self._idle.set()

    async def until_idle(self) -> None:
        """Return once no claim is under way. Safe to cancel."""
        await self._idle.wait()

    def take(self, claimed: ClaimedRun) -> None:
        """Begin a claimed run, once. One that nobody holds here waited in another process."""
        stored = claimed.run
        run = self._live.get(stored.key)
        if run is None:
            run = self._maker.revive(stored)
            self._live.hold(run)
        if run.has_turn or run.begun is not None:  # what drives it has lost its lease, and ends
            return
        run.has_turn = True
        run.draft = stored.draft
        if stored.stop_at is not None:
            run.stop.set(asked_at=stored.stop_at)
        self._begin(run, claimed.lease)

    async def look(self, signs: Signs) -> None:
        """Hand the turn on where it was lost, and obey stops that another process wrote.

        Safe to cancel: the next look does the rest.

        Raises:
            Unavailable: The database can't be reached.
        """
        if signs.turns:
            await self._book.mend_turns()
        # Another process may have given a run back.
        if (signs.turns or signs.unclaimed) and self._may_claim():
            await self._claim()
        if signs.stops:
            await self.obey_stops()

    async def obey_stops(self) -> None:
        """Stop the runs of this node whose stops another process wrote. Safe to cancel.

        Raises:
            Unavailable: The database can't be reached.
        """
        found = await self._book.load_stops(self._node.id)
        for key, asked_at in found:
            run = self._live.get(key)
            if run is not None:
                run.stop.set(asked_at=asked_at)
        if found:
            await self._book.note_stops([key for key, _ in found])
