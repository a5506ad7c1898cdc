"""Starts, follows, aborts and recovers runs, and owns their tasks."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

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
    AgentLost,
    GoingAway,
    InvalidInput,
    NoActiveRun,
    NotFound,
    RunConflict,
    Unavailable,
    UnknownAgent,
)
from isolane.events import Record, decode_event, run_started
from isolane.feed import Feed
from isolane.service.draft import differs, policy_of, to_draft
from isolane.service.run import Ending, Run, RunLife, end_run
from isolane.service.writer import RunWriter
from isolane.settings import Settings
from isolane.tasks import TaskOwner
from isolane.transcript import Message

ABORTS_REMEMBERED_MS: Final = 10_000
ABORTS_REMEMBERED: Final = 100

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
    ) -> None:
        """Serve `agents`, the first as the default."""
        self._agents = agents
        self._feed = feed
        self._store = store
        self._queue = queue
        self._limits = limits
        self._settings = settings
        self._tasks = tasks
        self._clock = clock
        self._notify = notify
        self._runs: dict[RunKey, Run] = {}
        self._starting: dict[RunKey, asyncio.Event] = {}
        self._early_aborts: defaultdict[str, OrderedDict[str, int]] = defaultdict(OrderedDict)
        self._is_draining = False

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
        async with self._alone(context.run_key):
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

    async def load_start(self, context: UserExecutionContext, stored: StoredRun) -> EventId:
        """Return the place in the log before the first event of a run.

        A run that waits for its turn begins after what the log has now.
        """
        head = (await self._feed.load_bounds(context.thread_key)).head
        if stored.first_seq is None:
            return head
        return EventId(head.epoch, stored.first_seq - 1)

    async def follow(
        self, context: UserExecutionContext, *, after: EventId | None = None
    ) -> AsyncIterator[Record]:
        """Yield the records of the context's run to its end, or of its whole thread, live.

        Raises `NotFound`, `CursorExpired`, `InvalidCursor`.
        """
        if after is not None:
            start = after
        elif context.run_id is None:
            start = EventId("0", 0)
        else:
            start = await self.load_start(context, await self.load_run(context, context.run_id))
        async for record in self._feed.follow(context.thread_key, after=start):
            if context.run_id in {None, record.run_id}:
                yield record
            if record.is_end and record.run_id == context.run_id:
                return

    async def abort(self, context: UserExecutionContext) -> None:
        """Stop the context's run; its own end follows. A run that has ended stays as it is."""
        run = self._runs.get(context.run_key)
        if run is not None:
            run.stop.set()

    def remember_abort(self, user_id: str, run_id: str) -> None:
        """Keep an abort that overtook its run, for 10 s, 100 a user."""
        aborts = self._early_aborts[user_id]
        aborts.pop(run_id, None)
        aborts[run_id] = self._clock()
        while len(aborts) > ABORTS_REMEMBERED:
            aborts.popitem(last=False)

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
        """Take no more runs; let those under way go on for `timeout_s`, then end them."""
        self._is_draining = True
        active = [run for run in self._runs.values() if run.begun is not None]
        if not active:
            return
        ended = [self._tasks.start(run.ended.wait(), name="drain") for run in active]
        await asyncio.wait(ended, timeout=timeout_s)
        for run in active:
            run.stop.set(GoingAway("the gateway is shutting down"))
        await asyncio.wait(ended)

    # --- taking a run on -------------------------------------------------------------------------

    @asynccontextmanager
    async def _alone(self, key: RunKey) -> AsyncIterator[None]:
        """Let one start of a run id happen at a time; the second finds what the first made."""
        while key in self._starting:
            await self._starting[key].wait()
        self._starting[key] = asyncio.Event()
        try:
            yield
        finally:
            self._starting.pop(key).set()

    async def _attach(
        self, context: UserExecutionContext, stored: StoredRun, draft: RunDraft
    ) -> RunTicket:
        known = await self._store.load_known_ids(context.thread_key)
        if stored.thread_id != context.thread_id or differs(draft, stored.draft, known):
            raise RunConflict("this runId was used with another thread or other messages")
        return RunTicket(context, Disposition.ATTACHED, await self.load_start(context, stored))

    async def _admit(
        self, context: UserExecutionContext, draft: RunDraft, policy: str
    ) -> RunTicket:
        await self._check_rewind(context, draft)
        self._check_policy(context, policy)
        self._limits.take(context.user_id, "runsPerUser")
        run = Run(context, draft, self._agents[draft.agent])
        try:
            position = self._enter(run)
            if position == 0:
                run.begun = await self._store.begin_run(context, draft)
            else:
                await self._store.add_run(context, draft)
        except BaseException:
            self._leave(run)
            raise
        if self._take_early_abort(context.run_key):
            run.stop.set()
        if position and policy == "interrupt":
            self._interrupt(context.thread_key)
        return await self._ticket(run, position)

    async def _ticket(self, run: Run, position: int) -> RunTicket:
        """Return the ticket; whoever's turn it is begins to live as the very last step."""
        if position == 0 and run.begun is not None:
            self._tasks.detach(self._live(run, run.begun), name=f"run {run.run_id}")
            return RunTicket(run.context, Disposition.STARTED, run.begun.after)
        head = (await self._feed.load_bounds(run.context.thread_key)).head
        return RunTicket(run.context, Disposition.QUEUED, head, position)

    async def _check_rewind(self, context: UserExecutionContext, draft: RunDraft) -> None:
        target = draft.rewind_to
        if target is not None and not await self._store.has_message(context.thread_key, target):
            raise InvalidInput("forwardedProps.rewindTo", "must be the id of a message that stands")

    def _check_policy(self, context: UserExecutionContext, policy: str) -> None:
        """Refuse before anything is taken; nothing is awaited between here and the queue."""
        if self._is_draining:
            raise Unavailable("the gateway is draining")
        if policy == "reject" and self._queue.get_active(context.thread_key) is not None:
            raise RunConflict("the thread has a run under way", retryable=True)

    def _enter(self, run: Run) -> int:
        most = self._settings.limit_queued_runs_per_thread
        position = self._queue.enter(run.context.thread_key, run.run_id, most=most)
        self._runs[run.context.run_key] = run
        return position

    def _take_early_abort(self, key: RunKey) -> bool:
        aborts = self._early_aborts.get(key.user_id, OrderedDict())
        at = aborts.pop(key.run_id, None)
        if not aborts:
            self._early_aborts.pop(key.user_id, None)
        return at is not None and self._clock() - at <= ABORTS_REMEMBERED_MS

    def _interrupt(self, key: ThreadKey) -> None:
        active = self._queue.get_active(key)
        run = self._runs.get(RunKey(key.user_id, active)) if active else None
        if run is not None:
            run.stop.set()

    # --- a run's life ----------------------------------------------------------------------------

    async def _live(self, run: Run, begun: BegunRun) -> None:
        try:
            run.writer = self._open_writer(run, begun.history)
            await self._announce(run.context, active=run.run_id)
            life = RunLife(
                run,
                begun,
                run.writer,
                tasks=self._tasks,
                timeout_s=self._settings.run_timeout_s,
            )
            await life.live()
        finally:
            self._leave(run)
        await self._announce(run.context, active=self._queue.get_active(run.context.thread_key))

    async def _take_turn(self, run: Run) -> None:
        """Begin a run that has waited; the disk may not be ready when its turn comes."""
        wait_s = 0.05
        while run.begun is None and not self._is_draining:
            try:
                run.begun = await self._store.begin_run(run.context, run.draft)
            except Unavailable as error:
                _log.error("run can't begin", run_id=run.run_id, reason=str(error))
                await asyncio.sleep(wait_s)  # between two tries
                wait_s = min(wait_s * 2, 2.0)
        if run.begun is not None:
            await self._live(run, run.begun)

    def _open_writer(self, run: Run, history: Sequence[Message]) -> RunWriter:
        return RunWriter(
            self._feed,
            run.context.thread_key,
            run.run_id,
            known_ids=[message["id"] for message in history],
            event_max_bytes=self._settings.limit_event_bytes,
            tasks=self._tasks,
            clock=self._clock,
        )

    def _leave(self, run: Run) -> None:
        """Free what the run held, and let the next one of its thread begin."""
        key = run.context.thread_key
        run.ended.set()
        if self._runs.pop(run.context.run_key, None) is not None:
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
            self._notify(
                context.user_id,
                {
                    "type": "thread",
                    "threadId": thread.thread_id,
                    "title": thread.title,
                    "updatedAt": thread.updated_at,
                    "activeRunId": active,
                    "deleted": False,
                },
            )

    # --- after a restart -------------------------------------------------------------------------

    async def _bury(self, stored: StoredRun) -> None:
        """End a run whose process died: close what is open in its log, and say it was lost."""
        run = Run(_context_of(stored), stored.draft, self._agents_or_none(stored.draft.agent))
        start = EventId("0", 0)
        if stored.first_seq is not None:
            start = await self.load_start(run.context, stored)
        written = [event async for event in self._written(run, start)]
        writer = self._open_writer(run, [])
        if not written:
            await writer.start(_started(run))
        writer.replay(written[1:])
        await end_run(run, writer, Ending(error=AgentLost("the process died under the run")))

    def _agents_or_none(self, name: str) -> Agent:
        return self._agents.get(name) or next(iter(self._agents.values()))

    async def _written(self, run: Run, start: EventId) -> AsyncIterator[dict[str, Any]]:
        head = (await self._feed.load_bounds(run.context.thread_key)).head
        if start.seq >= head.seq:
            return
        async for record in self._feed.follow(run.context.thread_key, after=start):
            if record.run_id == run.run_id:
                yield decode_event(record.payload)
            if record.id.seq >= head.seq:
                return

    def _requeue(self, stored: StoredRun) -> None:
        agent = self._agents.get(stored.draft.agent) or self._agents_or_none(stored.draft.agent)
        run = Run(_context_of(stored), stored.draft, agent)
        self._limits.take(run.context.user_id, "runsPerUser")
        if self._enter(run) == 0:
            self._tasks.detach(self._take_turn(run), name=f"run {run.run_id}")


def _started(run: Run) -> dict[str, Any]:
    return run_started(
        thread_id=run.thread_id,
        run_id=run.run_id,
        messages=run.draft.messages,
        rewind_to=run.draft.rewind_to,
    )


def _context_of(stored: StoredRun) -> UserExecutionContext:
    user = UserExecutionContext(user_id=stored.key.user_id)
    return user.for_thread(stored.thread_id).for_run(stored.key.run_id)
