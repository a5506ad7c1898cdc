"""The runs that another life of the gateway left: each ends, or is taken on again."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Final

import structlog

from isolane.backoff import Backoff
from isolane.contracts import RunState, StoppedBy, StoredRun
from isolane.errors import (
    AgentLost,
    DatabaseFailed,
    IsolaneError,
    NameTaken,
    Unavailable,
    chain_of,
)
from isolane.ids import new_node_id
from isolane.runs.driver import RunDriver
from isolane.runs.ground import Ground
from isolane.runs.lost import end_lost_run
from isolane.runs.run import Run

RECOVERY_PATIENCE_S: Final = 1.0
"""Seconds that a start waits for the ends of lost runs. What takes longer goes on beside."""
LOST_AT_ONCE: Final = 4
"""Lost runs whose events are in memory at a time while they are ended."""

_CUT_OFF: Final = AgentLost("the process was cut off from its database")

_log = structlog.get_logger(__name__)


class Restart:
    """Ends the runs that were under way when a process died, and takes on those that waited."""

    def __init__(self, ground: Ground, *, driver: RunDriver) -> None:
        """Register the node of `ground`, and let `driver` begin the runs that waited."""
        self._live = ground.live
        self._feed = ground.feed
        self._store = ground.store
        self._book = ground.book
        self._members = ground.members
        self._node = ground.node
        self._draining = ground.draining
        self._maker = ground.maker
        self._tasks = ground.tasks
        self._driver = driver
        self._ending = asyncio.Semaphore(LOST_AT_ONCE)

    async def recover(self) -> int:
        """End the lost runs and take on the queued ones; see `AgentService.recover`.

        A database that can't be written now is no reason not to start: then the rest goes on
        beside, and the count is that of the runs which another life had under way.
        """
        try:
            await self._join()
        except Unavailable as error:
            _log.warning("registration_failed", reason=str(error))
            self._tasks.detach(self._recover_later(), name="recovery")
            found = await self._book.load_open_runs()
            return sum(each.state is RunState.RUNNING for each in found)
        ends = await self._take_on()
        if ends:
            await asyncio.wait(ends, timeout=RECOVERY_PATIENCE_S)
        return len(ends)

    async def _recover_later(self) -> None:
        """Do the same as soon as the database can be written."""
        backoff = Backoff()
        while True:
            await backoff.pause()  # between two tries; the lost runs wait for the disk
            try:
                await self._join()
                await self._take_on()
            except Unavailable:
                continue
            except Exception as error:  # noqa: BLE001 - the top of its task
                _log.error("registration_failed", chain=chain_of(error))
            return

    async def _join(self) -> None:
        """Register, so that the runs of nodes that are gone count as lost, and hand turns on."""
        await self._members.register(self._node.id)
        await self._book.mend_turns()

    async def _take_on(self) -> set[asyncio.Task[None]]:
        """Begin to end the lost runs, and take on the queued ones; return the tasks that end."""
        found = await self._book.find_lost()
        ends = {self.start_end(each) for each in found if each.key not in self._live}
        for each in await self._book.load_open_runs():
            if each.state is RunState.QUEUED and each.key not in self._live:
                self._live.hold(self._maker.revive(each))
        self._driver.dispatcher.wake()
        return ends

    async def leave(self) -> None:
        """Count this process no longer; where that can't be written, others see it in a while."""
        try:
            await self._members.leave(self._node.id)
        except IsolaneError as error:
            _log.warning("leave_failed", reason=str(error))

    async def rejoin(self) -> None:
        """Register under another id: others have declared this process dead, and end its runs.

        Whatever those runs would still write is refused, so their agents are stopped.

        Raises:
            Unavailable: The database can't be reached; the next beat tries again.
        """
        self._node.id = new_node_id()
        await self._members.register(self._node.id)
        _log.error("node_was_declared_dead", runs_lost=self._stop_all(), node=self._node.id)

    def yield_name(self, error: NameTaken) -> None:
        """Serve no more: another process has this one's name, and ends its runs."""
        if self._draining.has_begun:
            return
        cut_off = self._stop_all()
        _log.error("node_name_taken", runs_lost=cut_off, reason=str(error))
        self._draining.begin(error)

    def _stop_all(self) -> int:
        """Stop the agents whose events are refused now; return how many."""
        cut_off = [run for run in self._live if run.begun is not None]
        for run in cut_off:
            run.stop.set(_CUT_OFF)
        return len(cut_off)

    async def end_orphans(self) -> None:
        """Begin to end runs whose node has died since.

        Raises:
            Unavailable: The database can't be reached; the next beat tries again.
        """
        for each in await self._book.find_orphans(self._node.id):
            if each.key not in self._live:
                _ = self.start_end(each)

    def start_end(self, stored: StoredRun, *, is_unheard: bool = False) -> asyncio.Task[None]:
        """Begin to end a lost run, or a stopped one whose node doesn't obey.

        Until that is done, its thread's next run waits.
        """
        run = self._maker.revive(stored)
        run.is_lost = True
        if is_unheard:
            run.stop.set(asked_at=stored.stop_at)
            run.stop.by = StoppedBy.FENCE
        self._live.hold(run)
        return self._tasks.start(self._end(run, stored), name=f"recovery of {run.run_id}")

    async def _end(self, run: Run, stored: StoredRun) -> None:
        begins_anew = False
        try:
            async with self._ending:
                if run.stop.by is not StoppedBy.FENCE:
                    begins_anew = await self._begin_anew(run)
                if begins_anew or not await self._take_over(run):
                    return
                open_writer = partial(self._driver.open_writer, run)
                end = await end_lost_run(run, stored, open_writer, self._feed, self._store)
                await self._driver.give_up(run, end)
        finally:
            self._driver.leave(run)
            if begins_anew:
                self._driver.hand_on()

    async def _begin_anew(self, run: Run) -> bool:
        """Let any node begin a lost run anew that is restartable; False when it is to end."""
        try:
            begins_anew = await self._book.begin_anew(run.context.run_key)
        except IsolaneError as error:
            _log.error("run_take_over_failed", run_id=run.run_id, chain=chain_of(error))
            return False
        if begins_anew:
            _log.warning("run_begins_anew", run_id=run.run_id)
        return begins_anew

    async def _take_over(self, run: Run) -> bool:
        """Make a lost run this node's own; False when its end has to wait for another start."""
        backoff = Backoff()
        while True:
            try:
                return await self._book.take_over(
                    run.context.run_key,
                    self._node.id,
                    is_unheard=run.stop.by is StoppedBy.FENCE,
                )
            except Unavailable as error:
                _log.error("run_recovery_postponed", run_id=run.run_id, reason=str(error))
                await backoff.pause()  # between two tries; the run waits for the disk
            except DatabaseFailed as error:  # its row can't be changed: perhaps its end can
                _log.error("run_take_over_failed", run_id=run.run_id, chain=chain_of(error))
                return True
