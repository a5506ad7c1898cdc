"""The beat of a node: it says that the node lives, and mends what an answer that got lost left.

The database may have done what it was asked for although its answer was lost. Then a row says that
this node holds a run, and the node doesn't know. Without the beat nobody would begin or end it.
"""

from __future__ import annotations

from typing import Final

import structlog

from isolane.context import RunKey
from isolane.contracts import HeldRun, RunLease, RunState, Signs
from isolane.errors import DatabaseFailed, NameTaken, chain_of
from isolane.runs.driver import RunDriver
from isolane.runs.ground import Ground
from isolane.runs.restart import Restart
from isolane.runs.unserved import UnservedRuns

UNKNOWN_MS: Final = 1000
"""Milliseconds for which a run may be unknown to the node that holds it. An answer on its way takes
less; one that takes longer does no harm, because its lease has ended then."""

_log = structlog.get_logger(__name__)


class Beat:
    """Compares the rows in the name of this node with the runs that it drives."""

    def __init__(self, ground: Ground, *, driver: RunDriver, restart: Restart) -> None:
        """Let `driver` claim runs, and `restart` end them."""
        self._live = ground.live
        self._book = ground.book
        self._store = ground.store
        self._members = ground.members
        self._node = ground.node
        self._driver = driver
        self._dispatcher = driver.dispatcher
        self._unserved = UnservedRuns(ground, dispatcher=driver.dispatcher)
        self._starting = ground.starting
        self._restart = restart
        self._timer = ground.timer
        self._unknown: dict[RunLease, int] = {}
        """Leases of runs that this node doesn't know, and since when, by the timer."""
        self._taken: set[RunKey] = set()
        """Runs that wait here and that the book had no more as waiting, at the last beat."""
        self._failed: frozenset[int] = frozenset()
        """Numbers of runs that can be neither given back nor ended, as long as their rows stay."""

    async def beat(self) -> None:
        """Say that the node lives, and do what only the rows know of; see `AgentService.beat`."""
        try:
            lives = await self._members.beat(self._node.id)
        except NameTaken as error:
            self._restart.yield_name(error)
            return
        if not lives:
            await self._restart.rejoin()
        signs = await self.load_signs()
        await self._dispatcher.look(signs)
        await self._unserved.look(signs)
        if signs.orphans:
            await self._restart.end_orphans()
        if signs.held or self._unknown:
            await self._compare()
        await self._forget_taken()

    async def load_signs(self) -> Signs:
        """Return what there is to do for this node. Safe to cancel."""
        return await self._book.load_signs(self._node.id)

    async def _compare(self) -> None:
        """Let go of runs that this node holds and hasn't known for a while."""
        held = await self._book.load_held(self._node.id)
        self._failed &= {one.lease.run_no for one in held}
        unknown = [one for one in held if not self._knows(one)]
        now = self._timer()
        self._unknown = {one.lease: self._unknown.get(one.lease, now) for one in unknown}
        for one in unknown:
            # A run that was unknown may have come to be known while another one was let go.
            if now - self._unknown[one.lease] >= UNKNOWN_MS and not self._knows(one):
                await self._let_go(one)

    async def _forget_taken(self) -> None:
        """Let go of runs that waited here, and that another node has begun meanwhile."""
        waiting = [run for run in self._live if run.waits]
        if not waiting:
            return
        found = await self._book.find_waiting()
        keys = {run.context.run_key for run in waiting} - found
        taken = {key for key in keys if key not in self._starting}
        for run in waiting:
            # One that was taken on just now may have had no row yet: only the second look counts.
            is_taken = run.context.run_key in taken & self._taken
            if is_taken and run.waits:
                self._driver.leave(run)
        self._taken = taken

    def _knows(self, held: HeldRun) -> bool:
        """Say whether this node drives a run, or takes it on just now."""
        key = held.lease.run_key
        if key in self._starting or held.lease.run_no in self._failed:
            return True
        run = self._live.get(key)
        return run is not None and not run.waits

    async def _let_go(self, held: HeldRun) -> None:
        """Give a run back, so that it begins after all; end it when it has an event."""
        lease = held.lease
        try:
            if await self._book.give_back(lease):
                _log.warning("unknown_run_given_back", run_id=lease.run_id)
                self._dispatcher.wake()
            elif held.has_events:
                await self._end(lease)
        except DatabaseFailed as error:  # its row is damaged, and the next start tries again
            self._failed |= {lease.run_no}
            _log.error("unknown_run_kept", run_id=lease.run_id, chain=chain_of(error))

    async def _end(self, lease: RunLease) -> None:
        stored = await self._store.load_run(lease.run_key)
        self._failed |= {lease.run_no}  # one try: an end that fails for good fails each time
        if stored is not None and stored.state is RunState.RUNNING:
            _log.warning("unknown_run_ended", run_id=lease.run_id)
            _ = self._restart.start_end(stored)
