"""Runs whose turn has come: this process claims them from the book and begins them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog

from isolane.backoff import Backoff
from isolane.contracts import StoredRun
from isolane.errors import Unavailable, chain_of
from isolane.runs.ground import Ground
from isolane.runs.run import Run

CLAIMED_AT_ONCE: Final = 64
"""Runs that one transaction claims, at most."""

Begin = Callable[[Run], None]
"""Begins a run whose turn has come, in a task of its own."""

_log = structlog.get_logger(__name__)


class Dispatcher:
    """Claims runs when it is woken. One claim is under way at a time."""

    def __init__(self, ground: Ground, *, begin: Begin) -> None:
        """Claim for the node of `ground`, and hand each run to `begin`."""
        self._live = ground.live
        self._draining = ground.draining
        self._book = ground.book
        self._maker = ground.maker
        self._node_id = ground.node_id
        self._tasks = ground.tasks
        self._begin = begin
        self._is_woken = False
        self._is_claiming = False

    def wake(self) -> None:
        """Look for runs whose turn has come. Plain: a task of its own looks."""
        self._is_woken = True
        if not (self._is_claiming or self._draining.has_begun):
            self._is_claiming = True
            self._tasks.detach(self._claim(), name="claim of runs")

    async def _claim(self) -> None:
        backoff = Backoff()
        try:
            while self._is_woken and not self._draining.has_begun:
                self._is_woken = False
                try:
                    claimed = await self._book.claim(self._node_id, room=CLAIMED_AT_ONCE)
                except Unavailable as error:
                    _log.error("run_claim_failed", reason=str(error))
                    await backoff.pause()  # between two tries
                    self._is_woken = True
                    continue
                except Exception as error:  # noqa: BLE001 - the next look claims again
                    _log.error("run_claim_failed", chain=chain_of(error))
                    return
                for stored in claimed:
                    self._take(stored)
                self._is_woken = self._is_woken or len(claimed) == CLAIMED_AT_ONCE
        finally:
            self._is_claiming = False

    def _take(self, stored: StoredRun) -> None:
        """Begin a claimed run, once. One that nobody holds here waited in another process."""
        run = self._live.get(stored.key)
        if run is None:
            run = self._maker.revive(stored)
            self._live.hold(run)
        if run.has_turn:
            return
        run.has_turn = True
        run.draft = stored.draft
        if stored.stop_at is not None:
            run.stop.set(asked_at=stored.stop_at)
        self._begin(run)

    async def look(self) -> None:
        """Hand the turn on where it was lost, and obey stops that another process wrote.

        Raises `Unavailable`. Safe to cancel: the next look does the rest.
        """
        has_waiting = any(run.begun is None for run in self._live)
        if await self._book.mend_turns() or has_waiting:
            self.wake()
        found = await self._book.load_stops(self._node_id)
        for key, asked_at in found:
            run = self._live.get(key)
            if run is not None:
                run.stop.set(asked_at=asked_at)
        if found:
            await self._book.note_stops([key for key, _ in found])
