"""Stops of runs: of one, of a thread's, of a user's, and of one that hasn't come yet."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

import structlog

from isolane.context import RunKey, ThreadKey, UserExecutionContext
from isolane.errors import InvalidContext, IsolaneError
from isolane.log.feed import HouseTopic
from isolane.runs.ground import Ground
from isolane.runs.recent import RecentRuns
from isolane.runs.run import Run

_log = structlog.get_logger(__name__)


class Stopping:
    """Stops runs: here at once, and in the book, so that a stop outlives this process."""

    def __init__(self, ground: Ground) -> None:
        """Write stops into the book."""
        self._live = ground.live
        self._feed = ground.feed
        self._book = ground.book
        self._store = ground.store
        self._tasks = ground.tasks
        self._clock = ground.clock
        self._deleted_runs = RecentRuns(ground.timer)

    async def abort(self, context: UserExecutionContext) -> None:
        """Stop the context's run; see `AgentService.abort`."""
        run = self._live.get(context.run_key)
        if run is None:
            stored = await self._store.load_run(context.run_key)
            if stored is None:
                return
            run = self._live.get(stored.key)
            if run is None:  # it has ended, or another process drives it
                check_thread(context, stored.thread_id)
                await self._write(stored.key, self._clock())
                return
        check_thread(context, run.thread_id)
        await self._stop(run, self._clock())

    async def stop(self, key: RunKey, *, asked_at: int) -> bool:
        """Stop a run that is held here, and return once the book has it; False without one."""
        run = self._live.get(key)
        if run is not None:
            await self._stop(run, asked_at)
        return run is not None

    def halt(self, key: RunKey, *, asked_at: int) -> bool:
        """Stop a run that is held here, and let the book hear of it later; False without one."""
        run = self._live.get(key)
        if run is not None:
            self.halt_run(run, asked_at=asked_at)
        return run is not None

    def halt_run(self, run: Run, *, asked_at: int | None = None) -> None:
        """Stop a run, and let the book hear of it later."""
        when = self._clock() if asked_at is None else asked_at
        if not run.stop.is_set():
            self._tasks.detach(self._write(run.context.run_key, when), name=f"stop of {run.run_id}")
        run.stop.set(asked_at=when)

    async def stop_thread(self, key: ThreadKey) -> list[str]:
        """Stop every run of a thread that hasn't ended, also those in line; return their ids."""
        runs, now = self._live.get_of_thread(key), self._clock()
        for run in runs:  # all of them first: none begins while another's stop is written
            run.stop.set(asked_at=now)
        await asyncio.gather(*(self._stop(run, now) for run in runs))
        return [run.run_id for run in runs]

    async def stop_users(self, until: Mapping[str, int]) -> None:
        """Stop the runs that users had at a time; see `AgentService.abort_all`."""
        now = self._clock()
        runs = [run for run in self._live if run.taken_on_at <= until.get(run.context.user_id, -1)]
        for run in runs:
            run.stop.set(asked_at=now)
        await self._book.request_stops(until, asked_at=now)
        self._feed.ring_house(HouseTopic.STOPS)
        # The row of a run may be newer than `until`, although its user asked for it before.
        await asyncio.gather(*(self._stop(run, now) for run in runs))

    async def _stop(self, run: Run, asked_at: int) -> None:
        """Stop a run here at once: nobody who waits for the disk may keep it going."""
        run.stop.set(asked_at=asked_at)
        await self._write(run.context.run_key, asked_at)

    async def _write(self, key: RunKey, asked_at: int) -> None:
        if key in self._deleted_runs:
            return
        try:
            await self._book.request_stop(key, asked_at=asked_at)
            run = self._live.get(key)
            if run is None or run.waits:
                self._feed.ring_house(HouseTopic.STOPS)
        except IsolaneError as error:  # it is stopped here all the same
            _log.warning("stop_write_failed", run_id=key.run_id, reason=str(error))

    async def remember(self, key: RunKey) -> None:
        """Keep an abort that overtook its run; see `AgentService.remember_abort`."""
        if key not in self._deleted_runs:
            await self._book.request_stop(key, asked_at=self._clock())

    def note_deleted(self, keys: Iterable[RunKey]) -> None:
        """Remember runs that went with their thread: an abort of one comes too late."""
        for key in keys:
            self._deleted_runs.remember(key)


def check_thread(context: UserExecutionContext, thread_id: str) -> None:
    """Check that a run is of the context's thread. A run's thread is the one that is on record.

    Raises:
        InvalidContext: The run is of another thread.
    """
    if context.thread_id != thread_id:
        raise InvalidContext("runId", "must name a run of the context's own thread", context.run_id)
