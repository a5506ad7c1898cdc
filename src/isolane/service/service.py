"""Starts, follows, aborts and recovers runs, and owns their tasks."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Final

import structlog
from ag_ui.core import RunAgentInput

from isolane.clock import Clock
from isolane.context import EventId, RunKey, ThreadKey, UserExecutionContext
from isolane.contracts import (
    Agent,
    BegunRun,
    Disposition,
    Limits,
    RunDraft,
    RunQueue,
    RunState,
    RunTicket,
    Store,
    StoredRun,
)
from isolane.errors import (
    GoingAway,
    InvalidContext,
    InvalidInput,
    LimitExceeded,
    NoActiveRun,
    NotFound,
    RunConflict,
    Unavailable,
    UnknownAgent,
)
from isolane.events import Record
from isolane.feed import Feed
from isolane.frames import thread_frame
from isolane.service.aborts import EarlyAborts
from isolane.service.draft import differs, policy_of, to_draft
from isolane.service.recovery import bury
from isolane.service.run import Run, RunLife, Stop
from isolane.service.writer import RunWriter
from isolane.settings import Settings
from isolane.tasks import TaskOwner

DRAIN_MARGIN_S: Final = 10.0
"""How long ended runs may take to write their end; the agents' own grace is well below."""

Notify = Callable[[str, Mapping[str, object]], None]
"""Tells all of a user's sockets, without waiting."""

_log = structlog.get_logger(__name__)


class AgentService:
    """The runs of this process: each thread's one after the other, each user's within limits."""

    def __init__(
        self,
        agents: Mapping[str, Agent],
        *,
        feed: Feed,
        store: Store,
        queue: RunQueue,
        limits: Limits,
        settings: Settings,
        tasks: TaskOwner,
        clock: Clock,
        notify: Notify,
        check_room: Callable[[], None] = lambda: None,
    ) -> None:
        """Serve `agents`, the first as the default.

        `check_room` raises `Unavailable` while there is no room for new runs.
        """
        self._agents = agents
        self._feed = feed
        self._store = store
        self._queue = queue
        self._limits = limits
        self._settings = settings
        self._tasks = tasks
        self._clock = clock
        self._notify = notify
        self._check_room = check_room
        self._runs: dict[RunKey, Run] = {}
        self._starting: dict[RunKey, asyncio.Event] = {}
        self._beginning: dict[RunKey, asyncio.Event] = {}
        """Runs that have waited, and whose turn is being written down."""
        self._deleting: dict[ThreadKey, asyncio.Event] = {}
        self._early_aborts = EarlyAborts(clock)
        self._is_draining = False
        self._hurried = asyncio.Event()
        self.abandoned_count = 0
        """Agents so far that swallowed their cancellation."""

    @property
    def active_count(self) -> int:
        """How many runs are under way; queued ones don't count."""
        return sum(run.begun is not None for run in self._runs.values())

    def get_active_runs(self, user_id: str) -> list[UserExecutionContext]:
        """Return the contexts of the user's runs that are under way."""
        return [
            run.context
            for key, run in self._runs.items()
            if key.user_id == user_id and run.begun is not None
        ]

    def get_head(self, context: UserExecutionContext) -> EventId | None:
        """Return where the log ends that the context's run writes; None when it isn't under way."""
        run = self._runs.get(context.run_key)
        if run is None or run.begun is None:
            return None
        return (run.writer.head if run.writer is not None else None) or run.begun.after

    def check_agent(self, name: str | None) -> str:
        """Return the agent's name, the default's for None; raises `UnknownAgent`."""
        found = next(iter(self._agents), None) if name is None else name
        if found not in self._agents or found is None:
            raise UnknownAgent(f"no agent is called {name}")
        return found

    async def start(
        self,
        context: UserExecutionContext,
        run_input: RunAgentInput,
        *,
        agent: str | None = None,
    ) -> RunTicket:
        """Take a run on; the same run id attaches to the one there is.

        Raises `RunConflict`, `LimitExceeded`, `InvalidInput`, `Unavailable`, `UnknownAgent`.
        The run's first event comes only after the caller had a chance to say so: nothing is
        awaited between the making of its task and the return. Not safe to cancel: a run may have
        been started; the same id attaches to it.
        """
        draft = to_draft(run_input, self.check_agent(agent))
        policy = policy_of(run_input, default=self._settings.policy)
        async with _alone(self._starting, context.run_key):
            stored = await self._store.load_run(context.run_key)
            if stored is not None:
                return await self._attach(context, stored, draft)
            return await self._admit(context, draft, policy)

    async def load_run(self, context: UserExecutionContext, run_id: str) -> StoredRun:
        """Return one of the user's runs, whatever its thread. Raises `NotFound`."""
        stored = await self._store.load_run(RunKey(context.user_id, run_id))
        if stored is None:
            raise NotFound(f"no run {run_id}")
        return stored

    async def locate(self, context: UserExecutionContext, run_id: str) -> UserExecutionContext:
        """Return the context of one of the user's runs: its thread is the one that is on record.

        Raises `NotFound`. Finds a run from the moment it is taken on, before it is stored.
        """
        key = RunKey(context.user_id, run_id)
        stored = None if key in self._runs else await self._store.load_run(key)
        found = self._runs.get(key) or stored
        if found is None:
            raise NotFound(f"no run {run_id}")
        return context.for_thread(found.thread_id).for_run(run_id)

    async def load_start(self, context: UserExecutionContext) -> EventId:
        """Return the place in the log before the first event of the context's run.

        A run that waits for its turn begins after what the log has now. Raises `NotFound`.
        """
        head = (await self._feed.load_bounds(context.thread_key)).head
        # Looked up after the head: what a caller knows of it may be of before it began, or of a
        # thread that was deleted since.
        stored = await self.load_run(context, context.run_key.run_id)
        if stored.first_seq is None:
            return head
        return EventId(head.epoch, stored.first_seq - 1)

    async def follow(
        self, context: UserExecutionContext, *, after: EventId | None = None
    ) -> AsyncGenerator[Record, None]:
        """Yield the records of the context's run to its end, or of its whole thread, live.

        Raises `NotFound`, `CursorExpired`, `InvalidCursor`, and `InvalidContext` when the run
        belongs to another thread.
        """
        start = after or EventId("0", 0)
        # Listens first: a deletion that comes while the place is looked up ends this as well.
        async with self._feed.reading(context.thread_key) as tail:
            if context.run_id is not None:
                stored = await self.load_run(context, context.run_id)
                _check_thread(context, stored.thread_id)
                start = after or await self.load_start(context)
                if stored.last_seq is not None and start.seq >= stored.last_seq:
                    return
            async with aclosing(tail.follow(start)) as batches:
                async for batch in batches:
                    for record in batch:
                        if context.run_id in {None, record.run_id}:
                            yield record
                        if record.is_end and record.run_id == context.run_id:
                            return

    async def abort(self, context: UserExecutionContext) -> None:
        """Stop the context's run; its own end follows. A run that has ended stays as it is.

        Raises `InvalidContext` when the run belongs to another thread.
        """
        run = self._runs.get(context.run_key)
        if run is not None:
            _check_thread(context, run.thread_id)
            run.stop.set()

    def abort_all(self, user_id: str, *, until: int) -> None:
        """Stop every run of a user that was taken on until then, those that wait too."""
        for key, run in self._runs.items():
            if key.user_id == user_id and run.taken_on_at <= until:
                run.stop.set()

    async def delete_thread(self, context: UserExecutionContext) -> None:
        """Remove the context's thread: its runs end without another event. Raises `NotFound`."""
        key = context.thread_key
        await self._until_deleted(key)
        self._deleting[key] = asyncio.Event()
        try:
            self._let_go(key, await self._feed.delete(key))
        finally:
            self._deleting.pop(key).set()
        frame = thread_frame(
            thread_id=key.thread_id,
            title="",
            updated_at=self._clock(),
            active_run_id=None,
            is_deleted=True,
        )
        self._notify(context.user_id, frame)

    def _let_go(self, key: ThreadKey, run_ids: Iterable[str]) -> None:
        """End runs that were deleted with their thread, without another event."""
        for run_id in run_ids:
            run = self._runs.get(RunKey(key.user_id, run_id))
            if run is None:
                continue
            if run.writer is not None:
                run.writer.disown()
            run.is_deleted = True
            run.stop.set()
            self._leave(run)  # at once: its agent may take its time, and its ids are free now

    async def _until_deleted(self, key: ThreadKey) -> None:
        """Wait while the thread is being deleted: its runs must be gone before another comes."""
        while key in self._deleting:
            await self._deleting[key].wait()

    async def _load_head(self, key: ThreadKey) -> EventId:
        """Return where the log ends; no deletion of the thread is under way then."""
        while True:
            await self._until_deleted(key)
            head = (await self._feed.load_bounds(key)).head
            if key not in self._deleting:
                return head

    async def tell_thread(self, context: UserExecutionContext) -> None:
        """Tell the user's sockets how the thread is now."""
        await self._announce(context, active=self._get_active(context.thread_key))

    def remember_abort(self, user_id: str, run_id: str) -> None:
        """Keep an abort that overtook its run, for 10 s, 100 a user."""
        self._early_aborts.remember(RunKey(user_id, run_id))

    async def emit(self, key: ThreadKey, event_type: str, data: Mapping[str, object]) -> EventId:
        """Put a CUSTOM event into the run under way; raises `NoActiveRun`."""
        run_id = self._queue.get_active(key)
        run = self._runs.get(RunKey(key.user_id, run_id)) if run_id else None
        if run is None or run.writer is None:
            raise NoActiveRun("no run is under way on this thread")
        return await run.writer.emit({"type": "CUSTOM", "name": event_type, "value": dict(data)})

    async def recover(self) -> int:
        """End the runs that another life left open, and take the queued ones on again."""
        ended = 0
        queued: list[StoredRun] = []
        for stored in await self._store.load_open_runs():
            if stored.state is RunState.RUNNING:
                await self._bury(stored)
                ended += 1
            else:
                queued.append(stored)
        for stored in queued:
            self._requeue(stored)
        return ended

    async def drain(self, *, timeout_s: float) -> None:
        """Take no more runs; let those under way go on for `timeout_s`, then end them.

        `hurry` ends the wait. Runs that wait for their turn stay on record for the next start.
        """
        self._is_draining = True
        with suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_MARGIN_S):
                for start in (*self._starting.values(), *self._beginning.values()):
                    await start.wait()  # it may be a run under way then
        active = [run for run in self._runs.values() if run.begun is not None]
        if not active:
            return
        ended = self._tasks.start(_until_ended(active), name="drain")
        hurried = self._tasks.start(self._hurried.wait(), name="hurry")
        await asyncio.wait({ended, hurried}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        for run in active:
            run.stop.set(GoingAway("the gateway is shutting down"))
        await asyncio.wait({ended}, timeout=DRAIN_MARGIN_S)

    def hurry(self) -> None:
        """End the wait of a drain, now or to come; runs under way still get their end."""
        self._hurried.set()

    # --- taking a run on -------------------------------------------------------------------------

    async def _attach(
        self, context: UserExecutionContext, stored: StoredRun, draft: RunDraft
    ) -> RunTicket:
        known = await self._store.load_known_ids(context.thread_key)
        if stored.thread_id != context.thread_id or differs(draft, stored.draft, known):
            raise RunConflict("this runId was used with another thread or other messages")
        return RunTicket(context, Disposition.ATTACHED, await self.load_start(context))

    async def _admit(
        self, context: UserExecutionContext, draft: RunDraft, policy: str
    ) -> RunTicket:
        await self._check_rewind(context, draft)
        head = await self._load_head(context.thread_key)
        self._check_policy(context, policy)
        run = Run(context, draft, self._agents[draft.agent], Stop(self._clock))
        ahead = self._queue.get_active(context.thread_key)
        position = self._enter(run)
        try:
            if position == 0:
                run.begun = await self._store.begin_run(context, draft)
            else:
                await self._store.add_run(context, draft)
        except BaseException:
            self._leave(run)
            raise
        if self._early_aborts.take(context.run_key):
            run.stop.set()
        if ahead is not None and policy == "interrupt":
            self._stop(RunKey(context.user_id, ahead))
        return self._ticket(run, position, head)

    def _ticket(self, run: Run, position: int, head: EventId) -> RunTicket:
        """Return the ticket; whoever's turn it is begins to live as the very last step."""
        if position == 0 and run.begun is not None:
            self._tasks.detach(self._live(run, run.begun), name=f"run {run.run_id}")
            return RunTicket(run.context, Disposition.STARTED, run.begun.after)
        return RunTicket(run.context, Disposition.QUEUED, head, position)

    async def _check_rewind(self, context: UserExecutionContext, draft: RunDraft) -> None:
        target = draft.rewind_to
        if target is not None and not await self._store.has_message(context.thread_key, target):
            raise InvalidInput("forwardedProps.rewindTo", "must be the id of a message that stands")

    def _check_policy(self, context: UserExecutionContext, policy: str) -> None:
        """Refuse before anything is taken; nothing is awaited between here and the queue."""
        if self._is_draining:
            raise Unavailable("the gateway is draining")
        self._check_room()
        if policy == "reject" and self._queue.get_active(context.thread_key) is not None:
            raise RunConflict("the thread has a run under way", retryable=True)

    def _enter(self, run: Run) -> int:
        """Take a slot and a place for the run; raises `LimitExceeded` and then holds neither."""
        user_id, most = run.context.user_id, self._settings.limit_queued_runs_per_thread
        self._limits.take(user_id, "runsPerUser")
        try:
            position = self._queue.enter(run.context.thread_key, run.run_id, most=most)
        except LimitExceeded:
            self._limits.give_back(user_id, "runsPerUser")
            raise
        run.has_slot = True
        self._runs[run.context.run_key] = run
        return position

    def _stop(self, key: RunKey) -> None:
        run = self._runs.get(key)
        if run is not None:
            run.stop.set()

    # --- a run's life ----------------------------------------------------------------------------

    async def _live(self, run: Run, begun: BegunRun) -> None:
        news = self._tasks.start(
            self._announce(run.context, active=run.run_id), name=f"news of {run.run_id}"
        )
        try:
            known_ids = [message["id"] for message in begun.history]
            run.writer = self._open_writer(run, begun.after.epoch, known_ids)
            life = RunLife(
                run,
                begun,
                run.writer,
                tasks=self._tasks,
                timeout_s=self._settings.run_timeout_s,
            )
            await life.live()
        finally:
            self.abandoned_count += run.is_abandoned
            # No await since the end was committed, so who answers to it finds the thread free.
            self._leave(run)
        await news
        if not run.is_deleted:
            await self.tell_thread(run.context)

    async def _take_turn(self, run: Run) -> None:
        """Begin a run that has waited; the disk may not be ready when its turn comes."""
        wait_s = 0.05
        while run.begun is None and not (self._is_draining or run.is_deleted):
            try:
                async with _alone(self._beginning, run.context.run_key):
                    run.begun = await self._store.begin_queued_run(run.context, run.draft)
            except NotFound:  # deleted with its thread while its turn came
                self._leave(run)
                return
            except Unavailable as error:
                _log.error("run can't begin", run_id=run.run_id, reason=str(error))
                await asyncio.sleep(wait_s)  # between two tries
                wait_s = min(wait_s * 2, 2.0)
            except Exception:
                self._leave(run)  # nobody foresaw this: the next one shall not wait for it
                raise
        if run.begun is not None:
            await self._live(run, run.begun)

    def _open_writer(self, run: Run, epoch: str, known_ids: Iterable[str]) -> RunWriter:
        return RunWriter(
            self._feed,
            run.context.thread_key,
            run.run_id,
            epoch=epoch,
            known_ids=known_ids,
            event_max_bytes=self._settings.limit_event_bytes,
            tasks=self._tasks,
            clock=self._clock,
        )

    def _leave(self, run: Run) -> None:
        """Free what the run held, and let the next one of its thread begin."""
        key = run.context.thread_key
        if run.ended.is_set():
            return
        run.ended.set()
        self._runs.pop(run.context.run_key, None)
        if run.has_slot:
            self._limits.give_back(run.context.user_id, "runsPerUser")
        next_id = self._queue.leave(key, run.run_id)
        following = self._runs.get(RunKey(key.user_id, next_id)) if next_id else None
        if following is not None and not self._is_draining:
            self._tasks.detach(self._take_turn(following), name=f"run {following.run_id}")

    async def _announce(self, context: UserExecutionContext, *, active: str | None) -> None:
        """Tell the user's sockets that the thread changed."""
        try:
            thread = await self._store.load_thread(context.thread_key)
        except Unavailable as error:  # news is no reason for a run to fail
            _log.warning("thread's change not told", reason=str(error))
            return
        if thread is not None:
            frame = thread_frame(
                thread_id=thread.thread_id,
                title=thread.title,
                updated_at=thread.updated_at,
                active_run_id=active,
                is_deleted=False,
            )
            self._notify(context.user_id, frame)

    def _get_active(self, key: ThreadKey) -> str | None:
        """Return the run that is under way: begun, not just next in line."""
        run_id = self._queue.get_active(key)
        run = self._runs.get(RunKey(key.user_id, run_id)) if run_id else None
        return run_id if run is not None and run.begun is not None else None

    # --- after a restart -------------------------------------------------------------------------

    async def _bury(self, stored: StoredRun) -> None:
        run = self._revive(stored)
        known_ids = await self._store.load_known_ids(run.context.thread_key)
        epoch = (await self._feed.load_bounds(run.context.thread_key)).head.epoch
        await bury(run, stored, self._open_writer(run, epoch, known_ids), self._feed)

    def _requeue(self, stored: StoredRun) -> None:
        """Take a queued run on again: it was admitted once, so no limit is asked."""
        run = self._revive(stored)
        self._runs[run.context.run_key] = run
        position = self._queue.enter(run.context.thread_key, run.run_id, most=sys.maxsize)
        if position == 0:
            self._tasks.detach(self._take_turn(run), name=f"run {run.run_id}")

    def _revive(self, stored: StoredRun) -> Run:
        """Return the run; when its agent is served no more, the default one takes it."""
        default = self._agents[self.check_agent(None)]
        agent = self._agents.get(stored.draft.agent, default)
        run = Run(_context_of(stored), stored.draft, agent, Stop(self._clock))
        run.taken_on_at = stored.created_at
        return run


@asynccontextmanager
async def _alone(held: dict[RunKey, asyncio.Event], key: RunKey) -> AsyncIterator[None]:
    """Do one thing with a run id at a time: of two starts the second finds what the first made."""
    while key in held:
        await held[key].wait()
    held[key] = asyncio.Event()
    try:
        yield
    finally:
        held.pop(key).set()


async def _until_ended(runs: Iterable[Run]) -> None:
    for run in runs:
        await run.ended.wait()


def _check_thread(context: UserExecutionContext, thread_id: str) -> None:
    """A run belongs to the thread that is on record, whatever a context says."""
    if context.thread_id != thread_id:
        raise InvalidContext("runId", "must name a run of the context's own thread", context.run_id)


def _context_of(stored: StoredRun) -> UserExecutionContext:
    user = UserExecutionContext(user_id=stored.key.user_id)
    return user.for_thread(stored.thread_id).for_run(stored.key.run_id)
