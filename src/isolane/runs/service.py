"""Starts, follows, aborts and recovers runs, and owns their tasks."""

# Long because: it is the face of the room, thirty calls with their promises and no work.

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace

from ag_ui.core import RunAgentInput

from isolane.clock import Clock
from isolane.context import EventId, RunKey, ThreadKey, UserExecutionContext
from isolane.contracts import ActiveRun, Agent, Members, RunBook, RunTicket, Store, StoredRun
from isolane.events.event import Record, encode_event
from isolane.events.left_out import Kind, LeftOut
from isolane.health.draining import Draining
from isolane.log.feed import Feed
from isolane.runs.admission import Admission
from isolane.runs.beat import Beat
from isolane.runs.deletion import Deletion
from isolane.runs.draft import to_offer
from isolane.runs.drain import Drain
from isolane.runs.driver import RunDriver
from isolane.runs.ground import Ground
from isolane.runs.locks import KeyedLocks
from isolane.runs.lookup import RunLookup
from isolane.runs.making import RunMaker
from isolane.runs.news import Notify, ThreadNews
from isolane.runs.question import Offer
from isolane.runs.readers import HttpReader, OnDisconnect
from isolane.runs.restart import Restart
from isolane.runs.roster import Roster
from isolane.runs.stopping import Stopping
from isolane.runs.unheard import UnheardStops
from isolane.runs.unread import IsFollowed, UnreadRuns
from isolane.settings import Settings
from isolane.subjects import Subjects
from isolane.tasks import TaskOwner
from isolane.wire.lists import Known


class AgentService:
    """The runs of this process: each thread's one after the other, each user's within limits."""

    def __init__(
        self,
        agents: Mapping[str, Agent],
        *,
        feed: Feed,
        store: Store,
        book: RunBook,
        members: Members,
        settings: Settings,
        tasks: TaskOwner,
        draining: Draining,
        clock: Clock,
        timer: Clock | None = None,
        notify: Notify,
        is_followed: IsFollowed = lambda _key, _run_id: False,
        check_room: Callable[[], None] = lambda: None,
        subjects: Subjects | None = None,
    ) -> None:
        """Serve `agents`, the first as the default, until `draining` has begun.

        `is_followed` says whether a socket reads a run. A run that a socket reads isn't stopped
        when its reader over HTTP leaves. `check_room` fails with `Unavailable` while there is no
        room for new runs. `timer` measures seconds and is never set. `subjects` know how the
        outside names the users of runs that have waited over a restart.
        """
        self._settings, self._feed, self._tasks = settings, feed, tasks
        self._roster = Roster(agents, members)
        ring = None if members.is_alone else feed.ring_user
        ground = Ground(
            feed=feed,
            store=store,
            book=book,
            members=members,
            settings=settings,
            tasks=tasks,
            draining=draining,
            clock=clock,
            timer=timer or clock,
            news=ThreadNews(store, notify, ring=ring, clock=clock),
            maker=RunMaker(self._roster, subjects=subjects, clock=clock),
            roster=self._roster,
        )
        placing = KeyedLocks[ThreadKey]()
        self._maker, self._live = ground.maker, ground.live
        self._lookup = RunLookup(ground)
        self._driver = RunDriver(ground)
        self._stopping = Stopping(ground)
        halt = self._stopping.halt_run
        self._unread = UnreadRuns(ground, is_followed=is_followed, halt=halt)
        self._deletion = Deletion(
            ground, stopping=self._stopping, placing=placing, leave=self._driver.leave
        )
        self._admission = Admission(
            ground,
            lookup=self._lookup,
            unread=self._unread,
            deletion=self._deletion,
            driver=self._driver,
            placing=placing,
            check_room=check_room,
        )
        self._restart = Restart(ground, driver=self._driver)
        self._unheard = UnheardStops(ground, restart=self._restart)
        self._beat = Beat(ground, driver=self._driver, restart=self._restart)
        self._drain = Drain(ground, driver=self._driver)

    @property
    def active_count(self) -> int:
        """How many runs are under way; queued ones don't count."""
        return self._live.active_count

    @property
    def abandoned_count(self) -> int:
        """Agents so far that swallowed their cancellation."""
        return self._driver.abandoned_count

    @property
    def left_out(self) -> Counter[Kind]:
        """What all runs so far left out, by what it was."""
        return self._maker.left_out

    async def load_active_runs(self, user_id: str) -> list[ActiveRun]:
        """Return the user's runs that are under way, in chats, whichever process drives them.

        Each has the end of its thread's log at the same moment. Safe to cancel.

        Raises:
            Unavailable: The database can't be reached.
        """
        return await self._lookup.load_active_runs(user_id)

    @property
    def agent_names(self) -> tuple[str, ...]:
        """The names of the agents, the default's first, also of those that other nodes serve."""
        return self._roster.names

    @property
    def node_count(self) -> int:
        """How many processes serve the database, this one included, as of the last beat."""
        return self._roster.node_count

    def find_run_of(self, context: UserExecutionContext, message_id: str) -> str | None:
        """Return the unfinished run, under way or waiting, that adds a message to the thread.

        `message_id` is the id that the message's client gave it. Of several such runs it is the
        newest that nobody stopped, and of those that were stopped the oldest. Also finds runs that
        waited over a restart. None for a message that no unfinished run adds.
        """
        return self._live.find_run_of(context.thread_key, message_id)

    def check_agent(self, name: str | None) -> str:
        """Return the agent's name, the default's for None.

        Raises:
            UnknownAgent: No agent has that name.
            Unavailable: This process serves no agent, and has seen no node that does.
        """
        return self._roster.check(name)

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
        """Take a run on. A run id that is known attaches to its run, and so does a question.

        A question that an unfinished run asks already attaches to that run, whose context is in the
        ticket. The thread's last question, once it was answered, is asked again: what followed it
        is taken back.

        `left_out` is what the client sent beside `run_input`, for the run's warning. A run that is
        asked `over_http` may be stopped when its readers leave (see `enter`). It also replaces runs
        that its user has left, unless frame or settings name a policy. A run that `must_add` is
        refused when the thread has all its messages.

        The run's first event comes only after the caller had a chance to say so. A cancelled caller
        changes nothing for the run: it is taken on, and the same id attaches to it.

        Raises:
            RunConflict: The thread is busy and the policy is `reject`. Or the id was used with
                other content. Or the run must add a message and adds none.
            LimitExceeded: The user has too many runs, or exceeds a quota.
            InvalidInput: A field of the input is wrong.
            Unavailable: The gateway drains, has no room, or can't reach its database.
            UnknownAgent: No agent has that name.
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
                self._admission.take_on(context, offer, told, left_out or LeftOut()),
                name=f"start of {context.run_key.run_id}",
            )
        finally:
            told.set()

    async def load_run(self, context: UserExecutionContext, run_id: str) -> StoredRun:
        """Return one of the user's runs, whatever its thread.

        Raises:
            NotFound: The user has no such run.
        """
        return await self._lookup.load_run(context, run_id)

    async def locate(self, context: UserExecutionContext, run_id: str) -> UserExecutionContext:
        """Return the context of one of the user's runs: its thread is the one that is on record.

        The id of a run that attached leads to the run that it attached to. A run is found from the
        moment it is taken on, before it is stored.

        Raises:
            NotFound: The user has no such run.
        """
        return await self._lookup.locate(context, run_id)

    async def load_known(
        self, context: UserExecutionContext, *, rewind_to: object = None, has_results: bool = False
    ) -> Known:
        """Return what a frame of the context's run needn't bring: what its thread has.

        Messages that the frame's own rewind takes back may come anew. Messages that the same run
        brought before are compared. Answered calls are looked up where a list `has_results`.
        """
        return await self._lookup.load_known(context, rewind_to=rewind_to, has_results=has_results)

    async def load_start(self, context: UserExecutionContext) -> EventId:
        """Return the place in the log before the first event of the context's run.

        A run that waits for its turn begins after the end that the log has now.

        Raises:
            NotFound: The user has no such run.
        """
        return await self._lookup.load_start(context)

    async def follow(
        self, context: UserExecutionContext, *, after: EventId | None = None
    ) -> AsyncGenerator[Record, None]:
        """Yield the records of the context's run to its end, or of its whole thread, live.

        A caller may cancel or close the iterator at any record.

        Raises:
            NotFound: The user has no such thread or run.
            CursorExpired: The log no longer keeps what came after `after`.
            InvalidCursor: The place `after` is ahead of the log.
            InvalidContext: The run belongs to another thread.
        """
        async with aclosing(self.follow_batches(context, after=after)) as batches:
            async for batch in batches:
                for record in batch:
                    yield record

    async def follow_batches(
        self, context: UserExecutionContext, *, after: EventId | None = None
    ) -> AsyncGenerator[Sequence[Record], None]:
        """Yield the same records, as many at once as are there already. None is empty."""
        async with aclosing(self._lookup.follow_batches(context, after=after)) as batches:
            async for batch in batches:
                yield batch

    async def abort(self, context: UserExecutionContext) -> None:
        """Stop the context's run; its own end follows. A run that has ended stays as it is.

        The id of a run that attached stops the run that it attached to.

        Raises:
            InvalidContext: The run belongs to another thread.
        """
        await self._stopping.abort(context)

    async def stop(self, key: RunKey, *, asked_at: int) -> bool:
        """Stop a run that was taken on, as of when that was asked for; False when there is none.

        The stop is on record once this returns, so that it outlives the process.
        """
        return await self._stopping.stop(key, asked_at=asked_at)

    def halt(self, key: RunKey, *, asked_at: int) -> bool:
        """Do the same without waiting: the stop is on record a moment later."""
        return self._stopping.halt(key, asked_at=asked_at)

    async def stop_thread(self, key: ThreadKey) -> list[str]:
        """Stop every run of a thread that hasn't ended, also those in line; return their ids."""
        return await self._stopping.stop_thread(key)

    async def abort_all(self, until: Mapping[str, int]) -> None:
        """Stop every run of some users that was taken on until a time, those that wait too.

        `until` has that time per user, in milliseconds since 1970. Runs of this process stop before
        the first wait. All stops are on record once this returns, whichever process drives the
        runs. Cancelling doesn't take a stop back.

        Raises:
            Unavailable: The stops can't be written now; the call can be repeated.
        """
        await self._stopping.stop_users(until)

    async def remember_abort(self, user_id: str, run_id: str) -> None:
        """Keep an abort that overtook its run, for 10 s, 100 per user.

        The abort isn't kept when a run with this id was deleted just now: that run was meant, and
        it is over. Cancelling doesn't take the abort back.

        Raises:
            Unavailable: The abort can't be written now.
        """
        await self._stopping.remember(RunKey(user_id, run_id))

    def enter(self, key: ThreadKey, run_id: str | None = None) -> HttpReader:
        """Count a request that reads a run, or all of its thread, until it leaves."""
        return self._unread.enter(key, run_id)

    def leave(self, reader: HttpReader) -> None:
        """Count a request no longer. A run that it leaves unread may be stopped soon. Idempotent.

        That is a run which was asked over HTTP with `OnDisconnect.STOP`, and which neither a
        request nor a socket reads 2 s later. A closed socket stops nothing: it may come back.
        """
        self._unread.leave(reader)

    async def delete_thread(self, context: UserExecutionContext) -> None:
        """Delete the context's thread. Its runs end without another event.

        Cancelling the caller doesn't take the deletion back.

        Raises:
            NotFound: The user has no such thread.
        """
        await self._deletion.delete_thread(context)

    async def remove_request(self, key: ThreadKey, *, older_than: int) -> bool:
        """Delete a thread of a request, unless it is in use; say whether it was deleted.

        It is in use while it has an unfinished run, and when it has changed since `older_than`, in
        milliseconds since 1970. Cancelling the caller doesn't take it back.
        """
        return await self._deletion.remove_request(key, older_than=older_than)

    async def tell_thread(self, context: UserExecutionContext) -> None:
        """Tell the user's sockets how the thread is now."""
        await self._driver.tell_thread(context)

    async def emit(self, key: ThreadKey, event_type: str, data: Mapping[str, object]) -> EventId:
        """Put a CUSTOM event into the run under way, and return its id once it is committed.

        The run may be that of another process. Cancelling doesn't take the event back.

        Raises:
            NoActiveRun: No run is under way on the thread.
            NotFound: The thread was deleted meanwhile.
            Unavailable: The log can't be written now.
        """
        event = {"type": "CUSTOM", "name": event_type, "value": dict(data)}
        run = self._driver.get_active(key)
        if run is not None and run.writer is not None:
            return await run.writer.emit(event)
        payload = encode_event(event, max_bytes=self._settings.event_max_bytes)
        work = self._feed.append_beside(key, payload)  # another process may drive the run
        return (await self._tasks.complete(work, name=f"event for {key.thread_id}")).id

    async def recover(self) -> int:
        """End the runs that another life left open, and take the queued ones on again.

        Returns how many runs were open. An end that takes longer than 1 s to write, or can't be
        written at all, goes on in a task of its own and delays no start.
        """
        return await self._restart.recover()

    async def drain(self, *, timeout_s: float) -> None:
        """Take no more runs; let those under way go on for `timeout_s`, then end them.

        `hurry` ends the wait. Runs that wait for their turn stay on record, and those that were
        claimed and haven't begun are given back: another process takes them, or the next start.
        Cancelling the caller doesn't take it back.
        """
        await self._drain.drain(timeout_s=timeout_s)

    async def close(self) -> None:
        """Be no node of the database any more: runs that are left are lost at once. Idempotent.

        To be called when nothing of the service runs any more.
        """
        await self._restart.leave()

    async def beat(self) -> None:
        """Say that this process lives, and do what only the rows of runs know of.

        Turns that were lost are handed on, and stops of other processes are obeyed. A run that this
        process holds and hasn't known for 1 s is given back; one that has an event ends. Its answer
        was lost. To be called each second. Safe to cancel: the next beat does the rest.

        Raises:
            Unavailable: The database can't be reached; the next beat does the rest.
        """
        await self._beat.beat()

    async def look_for_stops(self) -> None:
        """Obey stops that other processes wrote, and end runs whose own process doesn't obey.

        To be called twice a second where several processes share a database; `beat` obeys stops as
        well. Safe to cancel: the next look does the rest.

        Raises:
            Unavailable: The database can't be reached.
        """
        signs = await self._beat.load_signs()
        if signs.stops:
            await self._driver.dispatcher.obey_stops()
        await self._unheard.look(signs)

    def look_for_turns(self) -> None:
        """Begin runs whose turn has come, also those that have waited at another process."""
        self._driver.dispatcher.wake()

    def hurry(self) -> None:
        """End the wait of a drain, now or to come; runs under way still get their end."""
        self._drain.hurry()
