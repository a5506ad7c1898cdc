"""Starts, follows, aborts and recovers runs, and owns their tasks."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import Final, TypeVar

import structlog
from ag_ui.core import RunAgentInput

from isolane.clock import Clock
from isolane.context import START, EventId, RunKey, ThreadKey, UserExecutionContext
from isolane.contracts import (
    NO_DRAFT,
    Agent,
    BegunRun,
    Disposition,
    KnownMessage,
    RunDraft,
    RunLease,
    RunQueue,
    RunState,
    RunTicket,
    Store,
    StoredRun,
    ThreadKind,
)
from isolane.errors import (
    DatabaseFailed,
    GoingAway,
    InvalidContext,
    InvalidInput,
    IsolaneError,
    LimitExceeded,
    NoActiveRun,
    NotFound,
    RunConflict,
    Unavailable,
    UnknownAgent,
)
from isolane.events.calls import answer_calls
from isolane.events.event import Event, Record
from isolane.events.left_out import Kind, LeftOut
from isolane.events.shared_state import SharedState
from isolane.events.transcript import Message
from isolane.log.feed import Feed
from isolane.runs.aborts import RecentRuns
from isolane.runs.draft import differs, in_line, to_offer
from isolane.runs.question import Offer
from isolane.runs.readers import UNREAD_S, HttpReader, OnDisconnect, Readers
from isolane.runs.recovery import end_lost_run, end_unbegun
from isolane.runs.run import Ending, Run, RunLife, Stop, end_run
from isolane.runs.writer import RunWriter, Share
from isolane.settings import Settings
from isolane.subjects import Subject, Subjects
from isolane.tasks import TaskOwner
from isolane.wire.frames import thread_frame
from isolane.wire.lists import Known

DRAIN_MARGIN_S: Final = 10.0
"""How long ended runs may take to write their end; the agents' own grace is well below."""

RECOVERY_PATIENCE_S: Final = 1.0
"""Seconds that a start waits for the ends of lost runs. What takes longer goes on beside."""
BURIALS_AT_ONCE: Final = 4
"""Lost runs whose events are in memory at a time while they are ended."""

Notify = Callable[[str, Mapping[str, object]], None]
"""Tells all of a user's sockets, without waiting."""

IsFollowed = Callable[[ThreadKey, str], bool]
"""Says whether an open socket follows the run of that id."""

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
        settings: Settings,
        tasks: TaskOwner,
        clock: Clock,
        timer: Clock | None = None,
        notify: Notify,
        is_followed: IsFollowed = lambda _key, _run_id: False,
        check_room: Callable[[], None] = lambda: None,
        subjects: Subjects | None = None,
    ) -> None:
        """Serve `agents`, the first as the default.

        `is_followed` says whether a socket reads a run: then nobody's leaving stops it.
        `check_room` raises `Unavailable` while there is no room for new runs. `timer` is a clock
        that nobody sets, for what lasts seconds. `subjects` know how the outside names the users of
        runs that have waited over a restart.
        """
        self._agents = agents
        self._feed = feed
        self._store = store
        self._queue = queue
        self._slots = Counter[str]()
        """Runs that each user has at once, waiting ones among them."""
        self._settings = settings
        self._tasks = tasks
        self._clock = clock
        self._subjects = subjects or Subjects()
        self._notify = notify
        self._is_followed = is_followed
        self._readers = Readers()
        self._check_room = check_room
        self._runs: dict[RunKey, Run] = {}
        self._of_thread: dict[ThreadKey, dict[str, Run]] = {}
        """The same runs by thread: those that aren't over, by their ids."""
        self._admitting: dict[ThreadKey, asyncio.Event] = {}
        self._starting: dict[RunKey, asyncio.Event] = {}
        self._beginning: dict[RunKey, asyncio.Event] = {}
        """Runs that have waited, and whose turn is being written down."""
        self._deleting: dict[ThreadKey, asyncio.Event] = {}
        self._early_aborts = RecentRuns(timer or clock)
        self._deleted_runs = RecentRuns(timer or clock)
        self._burying = asyncio.Semaphore(BURIALS_AT_ONCE)
        self._ending: dict[ThreadKey, asyncio.Event] = {}
        """Threads of which a lost run is being ended."""
        self._is_draining = False
        self._hurried = asyncio.Event()
        self.abandoned_count = 0
        """Agents so far that swallowed their cancellation."""
        self.left_out = Counter[Kind]()
        """What all runs so far left out, by what it was."""

    @property
    def active_count(self) -> int:
        """How many runs are under way; queued ones don't count."""
        return sum(run.begun is not None for run in self._runs.values())

    def get_active_runs(self, user_id: str) -> list[UserExecutionContext]:
        """Return the contexts of the user's runs that are under way, in chats."""
        return [
            run.context
            for key, run in self._runs.items()
            if key.user_id == user_id
            and run.begun is not None
            and run.begun.kind is ThreadKind.CHAT
        ]

    def get_head(self, context: UserExecutionContext) -> EventId | None:
        """Return where the log ends that the context's run writes; None when it isn't under way."""
        run = self._runs.get(context.run_key)
        if run is None or run.begun is None:
            return None
        return (run.writer.head if run.writer is not None else None) or run.begun.after

    @property
    def agent_names(self) -> tuple[str, ...]:
        """The names of the agents, the default's first."""
        return tuple(self._agents)

    def find_run_of(self, context: UserExecutionContext, message_id: str) -> str | None:
        """Return the unfinished run, under way or waiting, that adds a message to the thread.

        `message_id` is the id that the message's client gave it. Of several such runs it is the
        newest that nobody stopped, and of those that were stopped the oldest. Also finds runs that
        waited over a restart. None for a message that no unfinished run adds.
        """
        found: Run | None = None
        for run, _ in self._get_holders(context.thread_key, message_id):
            if found is None or run.goes_on:
                found = run
        return None if found is None else found.run_id

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
        left_out: LeftOut | None = None,
        over_http: bool = False,
        must_add: bool = False,
    ) -> RunTicket:
        """Take a run on; the same run id attaches to the one there is, and so does its question.

        A question that a run under way or in line holds already attaches to that run, whose context
        is in the ticket. One that is the thread's last and was answered is asked again: what
        followed it is taken back.

        `left_out` is what its client sent beside `run_input`, for the run's warning. What is asked
        `over_http` may be stopped when its readers leave (see `enter`), and comes in the place of
        runs that its user has left, unless frame or settings name a policy. A run that `must_add`
        is a `RunConflict` when the thread has all its messages. Raises
        `RunConflict`, `LimitExceeded`, `InvalidInput`, `Unavailable`, `UnknownAgent`. The run's
        first event comes only after the caller had a chance to say so. Cancelling the caller
        changes nothing for the run: it is taken on, and the same id attaches to it.
        """
        offer = to_offer(run_input, self.check_agent(agent))
        offer = replace(offer, draft=replace(offer.draft, must_add=must_add))
        return await self.start_offer(context, offer, left_out=left_out, over_http=over_http)

    async def start_offer(
        self,
        context: UserExecutionContext,
        offer: Offer,
        *,
        left_out: LeftOut | None = None,
        over_http: bool = False,
    ) -> RunTicket:
        """Take on what `make_offer` has made; all else is as in `start`."""
        self.check_agent(offer.draft.agent)
        chosen = offer.on_disconnect or OnDisconnect(self._settings.on_disconnect)
        offer = replace(offer, on_disconnect=chosen if over_http else None)
        told = asyncio.Event()
        try:
            return await self._tasks.complete(
                self._take_on(context, offer, told, left_out or LeftOut()),
                name=f"start of {context.run_key.run_id}",
            )
        finally:
            told.set()

    async def load_run(self, context: UserExecutionContext, run_id: str) -> StoredRun:
        """Return one of the user's runs, whatever its thread. Raises `NotFound`."""
        stored = await self._store.load_run(RunKey(context.user_id, run_id))
        if stored is None:
            raise NotFound(f"no run {run_id}")
        return stored

    async def locate(self, context: UserExecutionContext, run_id: str) -> UserExecutionContext:
        """Return the context of one of the user's runs: its thread is the one that is on record.

        The id of a run that attached leads to the run that it attached to. Raises `NotFound`. Finds
        a run from the moment it is taken on, before it is stored.
        """
        key = RunKey(context.user_id, run_id)
        stored = None if key in self._runs else await self._store.load_run(key)
        found = self._runs.get(key) or stored
        if found is None:
            raise NotFound(f"no run {run_id}")
        return context.for_thread(found.thread_id).for_run(found.run_id)

    async def load_known(
        self, context: UserExecutionContext, *, rewind_to: object = None, has_results: bool = False
    ) -> Known:
        """Return what a frame of the context's run needn't bring: what its thread has.

        What the frame's own rewind takes back may come anew, and what the same run brought before
        is compared. Which calls were answered is looked up where a list `has_results`.
        """
        key, before = context.thread_key, rewind_to if isinstance(rewind_to, str) else None
        stored = await self._store.load_run(context.run_key)
        calls = frozenset[str]()
        if has_results:
            calls = await self._store.load_answered_calls(key, before=before)
        return Known(
            ids=await self._store.load_known_ids(key, before=before),
            calls=calls,
            asked=frozenset() if stored is None else frozenset(stored.asked),
        )

    async def load_start(self, context: UserExecutionContext) -> EventId:
        """Return the place in the log before the first event of the context's run.

        A run that waits for its turn begins after what the log has now. Raises `NotFound`.
        """
        head = (await self._feed.load_bounds(context.thread_key)).head
        # Looked up after the head: what a caller knows of it may be of before it began, or of a
        # thread that was deleted since.
        return _start_of(await self.load_run(context, context.run_key.run_id), head)

    async def follow(
        self, context: UserExecutionContext, *, after: EventId | None = None
    ) -> AsyncGenerator[Record, None]:
        """Yield the records of the context's run to its end, or of its whole thread, live.

        Raises `NotFound`, `CursorExpired`, `InvalidCursor`, and `InvalidContext` when the run
        belongs to another thread.
        """
        async with aclosing(self.follow_batches(context, after=after)) as batches:
            async for batch in batches:
                for record in batch:
                    yield record

    async def follow_batches(
        self, context: UserExecutionContext, *, after: EventId | None = None
    ) -> AsyncGenerator[Sequence[Record], None]:
        """Yield the same records, as many at once as are there already. None is empty."""
        start, run_id = after or START, context.run_id
        # Listens first: a deletion that comes while the place is looked up ends this as well.
        async with self._feed.reading(context.thread_key) as tail:
            if context.run_id is not None:
                # The end of the log first, as in `load_start`.
                head = after or (await self._feed.load_bounds(context.thread_key)).head
                stored = await self.load_run(context, context.run_id)
                _check_thread(context, stored.thread_id)
                run_id = stored.run_id  # another one, when this one attached to it
                start = after or _start_of(stored, head)
                if stored.last_seq is not None and start.seq >= stored.last_seq:
                    return
            async with aclosing(tail.follow(start)) as batches:
                async for batch in batches:
                    own = [record for record in batch if run_id in {None, record.run_id}]
                    if own:
                        yield own
                    if run_id is not None and own and own[-1].is_end:
                        return

    async def abort(self, context: UserExecutionContext) -> None:
        """Stop the context's run; its own end follows. A run that has ended stays as it is.

        The id of a run that attached stops the one that it attached to. Raises `InvalidContext`
        when the run belongs to another thread.
        """
        run = self._runs.get(context.run_key)
        if run is None and (stored := await self._store.load_run(context.run_key)):
            run = self._runs.get(stored.key)
        if run is not None:
            _check_thread(context, run.thread_id)
            self._halt(run)

    def stop(self, key: RunKey, *, asked_at: int) -> bool:
        """Stop a run that was taken on, as of when that was asked for; False when there is none."""
        run = self._runs.get(key)
        if run is not None:
            self._halt(run, asked_at=asked_at)
        return run is not None

    def _halt(self, run: Run, *, asked_at: int | None = None) -> None:
        """Stop a run; of one that waits that is kept, for the gateway may start anew meanwhile."""
        when = self._clock() if asked_at is None else asked_at
        if run.begun is None and not run.stop.is_set():
            self._tasks.detach(self._note_stop(run, when), name=f"stop of {run.run_id}")
        run.stop.set(asked_at=when)

    async def _note_stop(self, run: Run, asked_at: int) -> None:
        try:
            await self._store.note_stop(run.context.run_key, asked_at=asked_at)
        except IsolaneError as error:  # it is stopped here all the same
            _log.warning("stop_write_failed", run_id=run.run_id, reason=str(error))

    def stop_thread(self, key: ThreadKey) -> list[str]:
        """Stop every run of a thread that hasn't ended, also those in line; return their ids."""
        runs = list(self._of_thread.get(key, {}).values())
        for run in runs:
            self._halt(run)
        return [run.run_id for run in runs]

    def abort_all(self, user_id: str, *, until: int) -> None:
        """Stop every run of a user that was taken on until then, those that wait too."""
        for key, run in self._runs.items():
            if key.user_id == user_id and run.taken_on_at <= until:
                self._halt(run)

    # --- who reads -------------------------------------------------------------------------------

    def enter(self, key: ThreadKey, run_id: str | None = None) -> HttpReader:
        """Count a request that reads a run, or all of its thread, until it leaves."""
        return self._readers.enter(key, run_id)

    def leave(self, reader: HttpReader) -> None:
        """Count a request no longer. A run that it leaves unread may be stopped soon. Idempotent.

        That is a run which was asked over HTTP with `OnDisconnect.STOP`, and which neither a
        request nor a socket reads 2 s later. A closed socket stops nothing: it may come back.
        """
        if self._readers.leave(reader):
            for run in tuple(self._of_thread.get(reader.key, {}).values()):
                if reader.reads(run.run_id):
                    self._watch(run)

    def _is_read(self, run: Run) -> bool:
        key = run.context.thread_key
        return self._readers.has_reader(key, run.run_id) or self._is_followed(key, run.run_id)

    def _watch(self, run: Run) -> None:
        """Look in 2 s whether somebody reads a run, if it is to be stopped without a reader."""
        if run.unread is not None:
            run.unread.cancel()
        key = run.context.thread_key
        may_stop = run.on_disconnect is OnDisconnect.STOP and not run.ended.is_set()
        if may_stop and not self._readers.has_reader(key, run.run_id):
            loop = asyncio.get_running_loop()
            run.unread = loop.call_later(UNREAD_S, self._stop_unread, run)

    def _stop_unread(self, run: Run) -> None:
        """Stop a run that nobody reads. A shutdown cuts all readers off: that says nothing."""
        if not (run.stop.is_set() or self._is_draining or self._is_read(run)):
            _log.info("unread_run_stopped", run_id=run.run_id, user_id=run.context.user_id)
            self._halt(run)

    def _stop_unread_before(self, run: Run) -> None:
        """Stop what was asked over HTTP on a run's thread and is read by nobody any more."""
        for other in tuple(self._of_thread.get(run.context.thread_key, {}).values()):
            if other is not run and other.on_disconnect is not None:
                self._stop_unread(other)

    async def delete_thread(self, context: UserExecutionContext) -> None:
        """Remove the context's thread: its runs end without another event. Raises `NotFound`.

        Cancelling the caller doesn't take it back.
        """
        name = f"deletion of {context.thread_key.thread_id}"
        await self._tasks.complete(self._delete_thread(context), name=name)

    async def _delete_thread(self, context: UserExecutionContext) -> None:
        key = context.thread_key
        await self._until_deleted(key)
        self._deleting[key] = asyncio.Event()
        try:
            thread = await self._store.load_thread(key)
            self._let_go(key, await self._feed.delete(key))
        finally:
            self._deleting.pop(key).set()
        if thread is None or thread.kind is ThreadKind.REQUEST:
            return
        frame = thread_frame(
            thread_id=key.thread_id,
            title="",
            updated_at=self._clock(),
            active_run_id=None,
            is_deleted=True,
        )
        self._notify(context.user_id, frame)

    async def remove_request(self, key: ThreadKey, *, older_than: int) -> bool:
        """Delete a thread of a request, unless it is in use; say whether it was deleted.

        It is in use while it has an unfinished run, and when it has changed since `older_than`, in
        milliseconds since 1970. Cancelling the caller doesn't take it back.
        """
        work = self._remove_request(key, older_than)
        return await self._tasks.complete(work, name=f"removal of {key.thread_id}")

    async def _remove_request(self, key: ThreadKey, older_than: int) -> bool:
        async with _alone(self._admitting, key):  # no run is placed there meanwhile
            thread = await self._store.load_thread(key)
            if thread is None or thread.updated_at >= older_than or key in self._of_thread:
                return False
            user = UserExecutionContext(user_id=key.user_id)
            await self._delete_thread(user.for_thread(key.thread_id))
            return True

    def _let_go(self, key: ThreadKey, run_ids: Iterable[str]) -> None:
        """End runs that were deleted with their thread, without another event."""
        for run_id in run_ids:
            run = self._runs.get(RunKey(key.user_id, run_id))
            if run is None:
                continue
            if run.writer is not None:
                run.writer.disown()
            run.is_deleted = True
            self._deleted_runs.remember(run.context.run_key)
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
        """Keep an abort that overtook its run, for 10 s, 100 a user.

        Not when a run with this id was deleted just now: that one was meant, and it is over.
        """
        key = RunKey(user_id, run_id)
        if key not in self._deleted_runs:
            self._early_aborts.remember(key)

    async def emit(self, key: ThreadKey, event_type: str, data: Mapping[str, object]) -> EventId:
        """Put a CUSTOM event into the run under way, and return its id once it is committed.

        Raises `NoActiveRun`, and `NotFound` when the thread is deleted meanwhile. Cancelling
        doesn't take it back.
        """
        run_id = self._queue.get_active(key)
        run = self._runs.get(RunKey(key.user_id, run_id)) if run_id else None
        if run is None or run.writer is None:
            raise NoActiveRun("no run is under way on this thread")
        return await run.writer.emit({"type": "CUSTOM", "name": event_type, "value": dict(data)})

    async def recover(self) -> int:
        """End the runs that another life left open, and take the queued ones on again.

        Returns how many were open. A run whose end takes longer than 1 s to write, or can't be
        written at all, keeps nobody from starting: its end goes on beside.
        """
        stored = await self._store.load_open_runs()
        lost = [each for each in stored if each.state is RunState.RUNNING]
        burials = {self._start_burial(each) for each in lost}
        queued = [each for each in stored if each.state is RunState.QUEUED]
        for each in in_line(queued, default=self._settings.policy):
            self._requeue(each)
        if burials:
            await asyncio.wait(burials, timeout=RECOVERY_PATIENCE_S)
        return len(lost)

    async def drain(self, *, timeout_s: float) -> None:
        """Take no more runs; let those under way go on for `timeout_s`, then end them.

        `hurry` ends the wait. Runs that wait for their turn stay on record for the next start.
        Cancelling the caller doesn't take it back.
        """
        self._is_draining = True
        await self._tasks.complete(self._drain(timeout_s), name="shutdown of runs")

    async def _drain(self, timeout_s: float) -> None:
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

    async def _take_on(
        self, context: UserExecutionContext, offer: Offer, told: asyncio.Event, left_out: LeftOut
    ) -> RunTicket:
        """Attach to the run of that id, or place a new one; it begins to live once `told` is set.

        Frames of one thread are placed one after the other: each finds what the one before asked.
        """
        async with _alone(self._starting, context.run_key):
            stored = await self._store.load_run(context.run_key)
            if stored is not None:
                return await self._attach(context, stored, offer)
            async with _alone(self._admitting, context.thread_key):
                return await self._place(context, offer, told, left_out)

    async def _attach(
        self, context: UserExecutionContext, stored: StoredRun, offer: Offer
    ) -> RunTicket:
        known = await self._store.load_known_ids(context.thread_key)
        if stored.thread_id != context.thread_id or differs(offer.draft, stored.asked, known):
            raise RunConflict("this runId was used with another thread or other messages")
        run = self._runs.get(stored.key)
        if run is not None:
            run.note_asked_again(offer.on_disconnect)
        return await self._ticket_of(context, stored.run_id)

    async def _ticket_of(self, context: UserExecutionContext, run_id: str) -> RunTicket:
        own = context if run_id == context.run_id else context.for_run(run_id)
        return RunTicket(own, Disposition.ATTACHED, await self.load_start(own))

    async def _place(
        self, context: UserExecutionContext, offer: Offer, told: asyncio.Event, left_out: LeftOut
    ) -> RunTicket:
        """Attach to the unfinished run that holds the frame's question, or admit a new run."""
        await self._check_rewind(context, offer.draft)
        asks = offer.question is not None and offer.on_disconnect is not None
        known = await self._load_known(context.thread_key, offer)
        offer.check_content(known)
        await self._check_results(context.thread_key, offer)
        is_known = known is not None or self._find_holder(context.thread_key, offer) is not None
        if is_known and await self._brings_more(context.thread_key, offer):
            offer = replace(offer, question=None)
        head = await self._load_head(context.thread_key)
        if offer.draft.seed is not None and context.thread_key in self._of_thread:
            raise RunConflict("a thread that has a run takes no history from outside")
        # Nothing is awaited from here until the run has its place in line.
        holder = self._find_holder(context.thread_key, offer)
        agent = offer.draft.agent
        if holder is not None and offer.may_ask_again and holder.is_answered_by(agent):
            return await self._attach_to(context, holder, offer)
        is_last = known is not None and known.is_last_question
        is_last = is_last and not self._holds_newer(context.thread_key, holder)
        draft = offer.settle(known, is_last=is_last)
        policy = offer.policy_for(draft, default=self._settings.policy)
        run = self._make_run(context, draft, self._agents[draft.agent])
        run.left_out.add(left_out)
        run.on_disconnect = offer.on_disconnect
        ticket = await self._admit(run, policy, head, told=told)
        if asks and not (offer.policy or self._settings.names_policy):
            self._stop_unread_before(run)
        self._watch(run)  # its reader may have left already
        return ticket

    def _make_run(self, context: UserExecutionContext, draft: RunDraft, agent: Agent) -> Run:
        return Run(context, draft, agent, Stop(self._clock), left_out=LeftOut(self.left_out))

    async def _load_known(self, key: ThreadKey, offer: Offer) -> KnownMessage | None:
        if offer.question is None:
            return None
        return await self._store.load_known(
            key, offer.question.message_id, rewind_to=offer.draft.rewind_to
        )

    async def _check_results(self, key: ThreadKey, offer: Offer) -> None:
        """Raise `InvalidInput` for a tool's answer that would be lost: its id is another's."""
        fresh: dict[str, Message] = {}
        for result in offer.results:
            found = await self._store.load_known(
                key, result.message_id, rewind_to=offer.draft.rewind_to
            )
            known = fresh.setdefault(result.message_id, result.message)
            if found is not None and (found.stands or offer.draft.rewind_to is None):
                known = found.message or result.message
            if not result.is_same(known):
                result.check_answered(await self._store.load_messages_before(key, sys.maxsize))

    async def _brings_more(self, key: ThreadKey, offer: Offer) -> bool:
        """Say whether a list has a new question before a known one: it is asked as any other."""
        others = offer.get_others()
        if not others:
            return False
        known = await self._store.load_known_ids(key)
        held = {one["id"] for run in self._of_thread.get(key, {}).values() for one in run.asked}
        return not known.union(held).issuperset(one["id"] for one in others)

    def _find_holder(self, key: ThreadKey, offer: Offer) -> Run | None:
        """Return the unfinished run that asks the frame's question, one that goes on if possible.

        Raises `InvalidInput` when it asks something else under that id. Who rewinds takes the
        question back, and so nobody is asked.
        """
        if offer.question is None or offer.draft.rewind_to is not None:
            return None
        found: Run | None = None
        for run, asked in self._get_holders(key, offer.question.message_id):
            if found is None or run.is_answered_by(offer.draft.agent):
                offer.question.check_same(asked)
                found = run
        return found

    def _get_holders(self, key: ThreadKey, message_id: str) -> Iterator[tuple[Run, Message]]:
        """Yield the unfinished runs that ask the message of that id, with the message."""
        for run in self._of_thread.get(key, {}).values():
            asked = run.get_asked(message_id)
            if asked is not None:
                yield run, asked

    def _holds_newer(self, key: ThreadKey, holder: Run | None) -> bool:
        """Say whether the run whose turn it is asks a question, and is not `holder`.

        It may not have begun yet, and then the store doesn't have its question.
        """
        active = self._of_thread.get(key, {}).get(self._queue.get_active(key) or "")
        return active is not None and active is not holder and active.has_question

    async def _attach_to(
        self, context: UserExecutionContext, holder: Run, offer: Offer
    ) -> RunTicket:
        """Let the context's run id lead to `holder` from now on, also after a restart."""
        holder.note_asked_again(offer.on_disconnect)
        repeated = [one for one in offer.draft.messages if holder.get_asked(one["id"]) is not None]
        await self._store.add_attached(context, run_id=holder.run_id, asked=repeated)
        self._take_early_abort(context.run_key, holder)
        return await self._ticket_of(context, holder.run_id)

    async def _admit(
        self, run: Run, policy: str, head: EventId, *, told: asyncio.Event
    ) -> RunTicket:
        context, draft = run.context, run.draft
        self._check_policy(context, policy)
        ahead = self._queue.get_active(context.thread_key)
        position = self._enter(run, is_next=policy == "interrupt")
        try:
            if position == 0:
                run.begun = await self._store.begin_run(context, draft)
            else:
                run.draft = await self._store.add_run(context, draft)
        except BaseException:
            self._leave(run)
            raise
        self._take_early_abort(context.run_key, run)
        if ahead is not None and policy == "interrupt":
            self.stop(RunKey(context.user_id, ahead), asked_at=self._clock())
        return self._ticket(run, position, head, told)

    def _take_early_abort(self, key: RunKey, run: Run) -> None:
        """Stop a run where an abort of the id `key` overtook the frame that leads to it."""
        age_ms = self._early_aborts.take(key)
        if age_ms is not None:
            self._halt(run, asked_at=self._clock() - age_ms)

    def _ticket(self, run: Run, position: int, head: EventId, told: asyncio.Event) -> RunTicket:
        """Return the ticket; a run whose turn it is begins to live once its caller was told."""
        if position == 0 and run.begun is not None:
            self._tasks.detach(self._live_after(told, run, run.begun), name=f"run {run.run_id}")
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

    def _enter(self, run: Run, *, is_next: bool) -> int:
        """Take a slot and a place for the run; raises `LimitExceeded` and then holds neither."""
        user_id, most = run.context.user_id, self._settings.limit_queued_runs_per_thread
        if self._slots[user_id] >= self._settings.limit_runs_per_user:
            raise LimitExceeded("runsPerUser", self._settings.limit_runs_per_user)
        key = run.context.thread_key
        position = self._queue.enter(key, run.run_id, most=most, is_next=is_next)
        self._slots[user_id] += 1
        run.has_slot = True
        self._hold(run)
        return position

    def _release_slot(self, user_id: str) -> None:
        self._slots[user_id] -= 1
        if not self._slots[user_id]:
            del self._slots[user_id]

    def _hold(self, run: Run) -> None:
        """Keep a run until it is over."""
        self._runs[run.context.run_key] = run
        self._of_thread.setdefault(run.context.thread_key, {})[run.run_id] = run

    # --- a run's life ----------------------------------------------------------------------------

    async def _live_after(self, told: asyncio.Event, run: Run, begun: BegunRun) -> None:
        await told.wait()
        if not run.is_deleted:
            await self._live(run, begun)

    async def _live(self, run: Run, begun: BegunRun) -> None:
        news = self._tasks.start(
            self._announce(run.context, active=run.run_id), name=f"news of {run.run_id}"
        )
        try:
            resumes = bool(run.draft.request.get("resume"))
            history = answer_calls(begun.history, added=begun.added, resumes=resumes)
            begun = replace(begun, history=history)
            known_ids = begun.rewound.union(message["id"] for message in begun.history)
            state = SharedState.of(run.draft.request.get("state"), kept=begun.state)
            run.writer = self._open_writer(run, begun.lease, known_ids, state)
            life = RunLife(
                run,
                begun,
                run.writer,
                tasks=self._tasks,
                timeout_s=self._settings.run_timeout_s,
            )
            self._tell_unwritten(run, await life.live())
        except Exception as error:  # noqa: BLE001 - the top of the task that owns a run
            await self._end_broken(run, begun, error)
        finally:
            self.abandoned_count += run.is_abandoned
            if run.writer is not None:
                run.writer.close()
            # No await since the end was committed, so who answers to it finds the thread free.
            self._leave(run)
        await news
        if not run.is_deleted:
            await self.tell_thread(run.context)

    async def _end_broken(self, run: Run, begun: BegunRun, error: Exception) -> None:
        """End a run that nobody could drive, as far as it came."""
        if run.writer is None:
            end = await end_unbegun(run, self._open_writer(run, begun.lease, ()), error)
        else:
            broken = IsolaneError("the run broke")
            broken.__cause__ = error
            end = await end_run(run, run.writer, Ending(error=broken, share=Share.END))
        self._tell_unwritten(run, end)

    def _tell_unwritten(self, run: Run, end: Event | None) -> None:
        """Tell the user's sockets an end that no log could take: nothing else says it."""
        if end is not None and not run.is_deleted:
            self._notify(run.context.user_id, end)

    async def _take_turn(self, run: Run) -> None:
        """Begin a run that has waited; the disk may not be ready when its turn comes."""
        if run.draft is NO_DRAFT:
            await self._end_unbegun(run, DatabaseFailed("what the run asks for can't be read"))
            return
        wait_s = 0.05
        while run.begun is None and not (self._is_draining or run.is_deleted):
            try:
                async with _alone(self._beginning, run.context.run_key):
                    run.begun = await self._store.begin_queued_run(run.context, run.draft)
            except NotFound:  # deleted with its thread while its turn came
                self._leave(run)
                return
            except Unavailable as error:
                _log.error("run_start_failed", run_id=run.run_id, reason=str(error))
                await asyncio.sleep(wait_s)  # between two tries
                wait_s = min(wait_s * 2, 2.0)
            except Exception as error:  # noqa: BLE001 - whatever it is, the run must end
                await self._end_unbegun(run, error)
                return
        if run.begun is not None:
            await self._live(run, run.begun)

    async def _end_unbegun(self, run: Run, error: Exception) -> None:
        """End a run that waited and can never begin, and let the next one of its thread go on."""
        try:
            end = await end_unbegun(run, self._open_writer(run, None, ()), error)
            self._tell_unwritten(run, end)
        finally:
            self._leave(run)
        await self.tell_thread(run.context)

    def _open_writer(
        self,
        run: Run,
        lease: RunLease | None,
        known_ids: Iterable[str],
        state: SharedState | None = None,
    ) -> RunWriter:
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

    def _leave(self, run: Run) -> None:
        """Free what the run held, and let the next one of its thread begin."""
        key = run.context.thread_key
        if run.ended.is_set():
            return
        run.ended.set()
        if run.unread is not None:
            run.unread.cancel()
        self._runs.pop(run.context.run_key, None)
        of_thread = self._of_thread.get(key, {})
        of_thread.pop(run.run_id, None)
        if not of_thread:
            self._of_thread.pop(key, None)
        if run.has_slot:
            self._release_slot(run.context.user_id)
        next_id = self._queue.leave(key, run.run_id)
        following = self._runs.get(RunKey(key.user_id, next_id)) if next_id else None
        # A lost run is being ended already.
        if following is not None and not (following.is_lost or self._is_draining):
            self._tasks.detach(self._take_turn(following), name=f"run {following.run_id}")

    async def _announce(self, context: UserExecutionContext, *, active: str | None) -> None:
        """Tell the user's sockets that the thread changed."""
        try:
            thread = await self._store.load_thread(context.thread_key)
        except IsolaneError as error:  # news is no reason for a run to fail
            _log.warning("thread_news_failed", reason=str(error))
            return
        if thread is not None and thread.kind is ThreadKind.CHAT:
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

    def _start_burial(self, stored: StoredRun) -> asyncio.Task[None]:
        """Begin to end a lost run. Until that is done, its thread's next run waits."""
        run = self._revive(stored)
        run.is_lost = True
        self._hold(run)
        self._queue.enter(run.context.thread_key, run.run_id, most=sys.maxsize)
        return self._tasks.start(self._bury(run, stored), name=f"recovery of {run.run_id}")

    async def _bury(self, run: Run, stored: StoredRun) -> None:
        try:
            # Of two lost runs of a thread, each has the lease until its end is written.
            async with _alone(self._ending, run.context.thread_key), self._burying:
                open_writer = partial(self._open_writer, run)
                end = await end_lost_run(run, stored, open_writer, self._feed, self._store)
                self._tell_unwritten(run, end)
        finally:
            self._leave(run)

    def _requeue(self, stored: StoredRun) -> None:
        """Take a queued run on again: it was admitted once, so no limit is asked."""
        run = self._revive(stored)
        self._hold(run)
        position = self._queue.enter(run.context.thread_key, run.run_id, most=sys.maxsize)
        if position == 0:
            self._tasks.detach(self._take_turn(run), name=f"run {run.run_id}")

    def _revive(self, stored: StoredRun) -> Run:
        """Return the run; when its agent is served no more, the default one takes it."""
        default = self._agents[self.check_agent(None)]
        agent = self._agents.get(stored.draft.agent, default)
        context = _context_of(stored, self._subjects.find(stored.key.user_id))
        run = self._make_run(context, stored.draft, agent)
        run.taken_on_at = stored.created_at
        run.is_revived = True
        if stored.draft.stopped_at is not None:
            run.stop.set(asked_at=stored.draft.stopped_at)
        return run


_Key = TypeVar("_Key", RunKey, ThreadKey)


@asynccontextmanager
async def _alone(held: dict[_Key, asyncio.Event], key: _Key) -> AsyncIterator[None]:
    """Do one thing with a run id at a time: of two starts the second finds what the first made.

    The same for a thread.
    """
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


def _start_of(stored: StoredRun, head: EventId) -> EventId:
    """Return the place before a run's first event: `head`, read before the run, when it waits."""
    if stored.first_seq is None:
        return head
    return EventId(head.epoch, stored.first_seq - 1)


def _check_thread(context: UserExecutionContext, thread_id: str) -> None:
    """A run belongs to the thread that is on record, whatever a context says."""
    if context.thread_id != thread_id:
        raise InvalidContext("runId", "must name a run of the context's own thread", context.run_id)


def _context_of(stored: StoredRun, named: Subject) -> UserExecutionContext:
    user = UserExecutionContext(user_id=stored.key.user_id, **named._asdict())
    return user.for_thread(stored.thread_id).for_run(stored.key.run_id)
