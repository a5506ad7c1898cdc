"""The way of a run from its turn to its end; then the next run of its thread has the turn."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from functools import partial

import structlog

from isolane.backoff import Backoff
from isolane.context import RunKey, ThreadKey, UserExecutionContext
from isolane.contracts import NO_DRAFT, RunLease
from isolane.errors import DatabaseFailed, IsolaneError, NotFound, Unavailable, caused, chain_of
from isolane.events.calls import answer_calls
from isolane.events.event import Event
from isolane.events.shared_state import SharedState
from isolane.health.fairness import Turns
from isolane.log.feed import HouseTopic
from isolane.runs.dispatch import Dispatcher
from isolane.runs.ending import Ending, end_run
from isolane.runs.ground import Ground
from isolane.runs.life import RunLife
from isolane.runs.locks import KeyedLocks
from isolane.runs.lost import end_unbegun, load_written
from isolane.runs.run import Run
from isolane.runs.writer import RunWriter, Share

_log = structlog.get_logger(__name__)


class RunDriver:
    """Begins each run whose turn has come, leads it to its end, and lets the next one begin."""

    def __init__(self, ground: Ground) -> None:
        """Drive the runs that `ground` holds."""
        self._live_runs = ground.live
        self._draining = ground.draining
        self._feed = ground.feed
        self._book = ground.book
        self._news = ground.news
        self._settings = ground.settings
        self._tasks = ground.tasks
        self._clock = ground.clock
        self._turns = Turns()
        """Turns in which long histories are made into the input of agents."""
        self.beginning = KeyedLocks[RunKey]()
        """Held while the beginning of a run that waited is written."""
        self.abandoned_count = 0
        """Number of agents so far that swallowed their cancellation."""
        self.dispatcher = Dispatcher(ground, begin=self._start_waiting)
        """Finds the runs whose turn has come."""

    def start_begun(self, run: Run, told: asyncio.Event) -> None:
        """Drive a run that has begun, once `told` is set."""
        self._tasks.detach(self._live_after(told, run), name=f"run {run.run_id}")

    def _start_waiting(self, run: Run, lease: RunLease) -> None:
        """Begin a claimed run, and drive it."""
        self._tasks.detach(self._take_turn(run, lease), name=f"run {run.run_id}")

    async def _live_after(self, told: asyncio.Event, run: Run) -> None:
        await told.wait()
        if not run.is_deleted:
            await self._live(run)

    async def _live(self, run: Run) -> None:
        news = self._tasks.start(
            self._news.tell(run.context, active=run.run_id), name=f"news of {run.run_id}"
        )
        try:
            await self.give_up(run, await self._open_life(run).live())
        except Exception as error:  # noqa: BLE001 - the top of the task that owns a run
            await self._end_broken(run, error)
        finally:
            self.abandoned_count += run.is_abandoned
            if run.writer is not None:
                run.writer.close()
            # No await since the commit of the end, so clients that answer it find the thread free.
            self.leave(run)
        await news
        if not run.is_deleted:
            await self.tell_thread(run.context)

    def _open_life(self, run: Run) -> RunLife:
        """Return the life of a run that has begun, with its writer open."""
        begun, request = run.get_begun(), run.draft.request
        resumes = bool(request.get("resume"))
        history = answer_calls(run.take_history(), added=begun.added, resumes=resumes)
        known_ids = begun.rewound.union(message["id"] for message in history)
        state = SharedState.of(request.get("state"), kept=begun.state)
        run.writer = self.open_writer(run, begun.lease, known_ids, state)
        return RunLife(
            run,
            history,
            run.writer,
            load_written=partial(load_written, run, self._feed, first_seq=begun.after.seq + 1),
            hand_over=partial(self._book.hand_over, begun.lease),
            tasks=self._tasks,
            turns=self._turns,
            timeout_s=self._settings.run_timeout_s,
        )

    async def _end_broken(self, run: Run, error: Exception) -> None:
        """End a run whose life broke on an unforeseen error."""
        if run.writer is None:
            lease = run.get_begun().lease
            end = await end_unbegun(run, self.open_writer(run, lease, ()), error)
        else:
            broken = caused(IsolaneError("the run broke"), error)
            end = await end_run(run, run.writer, Ending(error=broken, share=Share.END))
        await self.give_up(run, end)

    async def give_up(self, run: Run, end: Event | None) -> None:
        """Tell clients an end that the log refused, and hand the turn on; None does nothing."""
        if end is None or run.is_deleted:
            return None
        self._news.tell_unwritten(run, end)
        backoff = Backoff()
        while True:
            try:
                return await self._book.give_up(run.context.run_key)
            except Unavailable as error:
                _log.error("run_give_up_postponed", run_id=run.run_id, reason=str(error))
                await backoff.pause()  # between two tries; the next runs of its thread wait
            except DatabaseFailed as error:
                _log.error("run_give_up_failed", run_id=run.run_id, chain=chain_of(error))
                return None

    async def _take_turn(self, run: Run, lease: RunLease) -> None:
        """Begin a run that has waited. While the database can't be written, try again."""
        if run.draft is NO_DRAFT:
            unreadable = DatabaseFailed("what the run asks for can't be read")
            await self._end_unbegun(run, lease, unreadable)
            return
        backoff = Backoff()
        while run.begun is None and not (self._draining.has_begun or run.is_deleted):
            try:
                async with self.beginning.hold(run.context.run_key):
                    run.begun = await self._book.begin(
                        run.context, lease, is_restartable=run.is_restartable
                    )
            except NotFound:  # deleted with its thread, or given back while its turn came
                self.leave(run)
                return
            except Unavailable as error:
                _log.error("run_start_failed", run_id=run.run_id, reason=str(error))
                await backoff.pause()  # between two tries
            except Exception as error:  # noqa: BLE001 - whatever it is, the run must end
                await self._end_unbegun(run, lease, error)
                return
        if run.begun is not None:
            await self._live(run)

    async def _end_unbegun(self, run: Run, lease: RunLease, error: Exception) -> None:
        """End a run that waited and can never begin, and let the next run of its thread begin."""
        try:
            end = await end_unbegun(run, self.open_writer(run, lease, ()), error)
            await self.give_up(run, end)
        finally:
            self.leave(run)
        await self.tell_thread(run.context)

    def open_writer(
        self,
        run: Run,
        lease: RunLease | None,
        known_ids: Iterable[str],
        state: SharedState | None = None,
    ) -> RunWriter:
        """Return the writer of the run's events, with the published limits.

        Without a lease the writer takes the run over with its first write.
        """
        return RunWriter(
            self._feed,
            run.context.thread_key,
            run.run_id,
            lease=lease,
            known_ids=known_ids,
            state=state,
            event_max_bytes=self._settings.event_max_bytes,
            run_max_bytes=self._settings.limit_run_bytes,
            run_max_events=self._settings.limit_run_events,
            tasks=self._tasks,
            clock=self._clock,
        )

    def leave(self, run: Run) -> None:
        """Free what the run held, and let the next run of its thread begin. Idempotent."""
        key = run.context.thread_key
        if run.ended.is_set():
            return
        run.ended.set()
        if run.unread is not None:
            run.unread.cancel()
        self._live_runs.drop(run)
        self._feed.ring_house(HouseTopic.TURNS)
        if self._live_runs.get_of_thread(key):
            self.dispatcher.wake()

    def hand_on(self) -> None:
        """Let a run begin that has the turn, here or at the node that serves its agent."""
        self._feed.ring_house(HouseTopic.TURNS)
        self.dispatcher.wake()

    async def tell_thread(self, context: UserExecutionContext) -> None:
        """Tell the user's sockets the state of the thread."""
        active = self.get_active(context.thread_key)
        await self._news.tell(context, active=None if active is None else active.run_id)

    def get_active(self, key: ThreadKey) -> Run | None:
        """Return the thread's run that has begun. None while the next one only has the turn."""
        runs = self._live_runs.get_of_thread(key)
        return next((run for run in runs if run.begun is not None), None)
