"""The book of runs in the database: who is let in, whose turn it is, and who is stopped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from sqlalchemy import Connection

from isolane.clock import Clock
from isolane.context import RunKey, ThreadKey, UserExecutionContext
from isolane.contracts import (
    NO_DRAFT,
    ActiveRun,
    Admitted,
    BegunRun,
    ClaimedRun,
    HeldRun,
    RunDraft,
    RunLease,
    RunState,
    StoredRun,
    Terms,
)
from isolane.errors import DatabaseFailed, NotFound, RunConflict
from isolane.events.transcript import Message
from isolane.sql import run_queue, stops, usage
from isolane.sql.address import load_stored
from isolane.sql.database import Database
from isolane.sql.drafts import to_fingerprints
from isolane.sql.heads import check_unused, claim, load_bounds, lock_thread
from isolane.sql.joining import CheckQuestion, Joining, Values, insert_run
from isolane.sql.lost_runs import load_lost, load_orphans, load_unheard, set_owner, write_broken
from isolane.sql.new_messages import has_question
from isolane.sql.runs import find_run_no, load_active, load_open_runs, load_run
from isolane.sql.threads import load_found_thread
from isolane.sql.usage import Quotas


class DatabaseRunBook:
    """The rows of runs that haven't ended, in the table `runs`."""

    def __init__(
        self,
        database: Database,
        *,
        clock: Clock,
        timer: Clock | None = None,
        quotas: Quotas | None = None,
        check_question: CheckQuestion = lambda _context, _draft: None,
    ) -> None:
        """Keep everything in `database`.

        `timer` is a clock that nobody sets, for what lasts seconds. `quotas` bound what one user
        may keep; None bounds nothing. `check_question` sees what a run adds to its thread, before
        that is kept.
        """
        self._database = database
        self._clock = clock
        self._timer = timer or clock
        self._quotas = quotas or Quotas()
        self._joining = Joining(clock=clock, check_question=check_question)

    async def admit(
        self, context: UserExecutionContext, draft: RunDraft, terms: Terms
    ) -> Admitted | StoredRun:
        """Let a run in, or return the one that has its id already; see `RunBook`."""
        work = partial(self._admit, context, draft, terms)
        return await self._database.write(work, lane=context.user_id)

    async def attach(
        self, context: UserExecutionContext, *, run_id: str, asked: Sequence[Message]
    ) -> int | None:
        """Let the context's run id lead to another run of its thread; see `RunBook`."""
        work = partial(self._attach, context, run_id, asked)
        return await self._database.write(work, lane=context.user_id)

    async def begin(self, context: UserExecutionContext, lease: RunLease) -> BegunRun:
        """Begin a claimed run; see `RunBook`."""
        work = partial(self._begin, context, lease)
        return await self._database.write(work, lane=context.user_id)

    async def claim(self, node_id: str, *, room: int) -> list[ClaimedRun]:
        """Claim runs whose turn has come, for a node to begin them; see `RunBook`."""
        # Mostly there are none, and a read holds up nobody who writes.
        if not await self._database.read(
            lambda one: run_queue.find_claimable(one, node_id, room=1)
        ):
            return []
        return await self._database.write(partial(_claim, node_id, room))

    async def load_held(self, node_id: str) -> list[HeldRun]:
        """Return the runs that have the turn in the name of a node; see `RunBook`."""
        return await self._database.read(lambda one: run_queue.load_held(one, node_id))

    async def give_back(self, lease: RunLease) -> bool:
        """Let any node claim a run without an event; see `RunBook`."""
        user_id = lease.key.user_id
        return await self._database.write(lambda one: run_queue.give_back(one, lease), lane=user_id)

    async def give_up(self, key: RunKey) -> None:
        """Hand the turn on from a run whose end can't be written; see `RunBook`."""
        try:
            await self._database.write(partial(_give_up, key, is_anew=False), lane=key.user_id)
        except DatabaseFailed:  # the row itself can't be changed; perhaps it can be written anew
            await self._database.write(partial(_give_up, key, is_anew=True), lane=key.user_id)

    async def mend_turns(self) -> int:
        """Hand the turn on where runs wait and nobody has it; see `RunBook`."""
        if not await self._database.read(run_queue.find_without_turn):
            return 0
        return await self._database.write(run_queue.mend_turns)

    async def request_stop(self, key: RunKey, *, asked_at: int) -> bool:
        """Write that a run is to stop, or keep that for one to come; see `RunBook`."""
        work = partial(self._request_stop, key, asked_at)
        return await self._database.write(work, lane=key.user_id)

    async def request_stops(self, until: Mapping[str, int], *, asked_at: int) -> None:
        """Write that all runs of some users are to stop; see `RunBook`."""
        # Most of the users have no run, and none is let in that was asked for before.
        busy = await self._database.read(partial(stops.load_busy, until))
        if busy:
            await self._database.write(lambda one: stops.stop_all(one, busy, asked_at=asked_at))

    async def load_stops(self, node_id: str) -> list[tuple[RunKey, int]]:
        """Return the runs of a node that were stopped, unseen by it; see `RunBook`."""
        return await self._database.read(lambda one: stops.load_unseen(one, node_id))

    async def note_stops(self, keys: Sequence[RunKey]) -> None:
        """Write that a node has obeyed these stops; see `RunBook`."""
        now, seen = self._clock(), list(keys)
        await self._database.write(lambda one: stops.note_seen(one, seen, now=now))

    async def find_unheard(self, node_id: str) -> list[StoredRun]:
        """Return the stopped runs of other nodes that haven't obeyed; see `RunBook`."""
        return await self._database.read(lambda one: load_unheard(one, node_id))

    async def take_over(self, key: RunKey, node_id: str, *, is_unheard: bool = False) -> bool:
        """Make a run under way the node's own; see `RunBook`."""
        work = partial(set_owner, key, node_id, is_unheard=is_unheard)
        return await self._database.write(work, lane=key.user_id)

    async def find_lost(self) -> list[StoredRun]:
        """Return the runs whose node lives no more; see `RunBook`."""
        return await self._database.read(load_lost)

    async def find_orphans(self, node_id: str) -> list[StoredRun]:
        """Return the runs of other nodes that live no more; see `RunBook`."""
        return await self._database.read(lambda one: load_orphans(one, node_id))

    async def find_waiting(self) -> frozenset[RunKey]:
        """Return the keys of all runs that haven't begun; see `RunBook`."""
        return await self._database.read(run_queue.find_waiting)

    async def find_active(self, user_id: str) -> list[ActiveRun]:
        """Return the user's runs that are under way, in chats; see `RunBook`."""
        return await self._database.read(partial(load_active, user_id), lane=user_id)

    async def load_open_runs(self) -> list[StoredRun]:
        """Return every run that hasn't ended; see `RunBook`."""
        return await self._database.read(load_open_runs)

    def _admit(
        self,
        context: UserExecutionContext,
        draft: RunDraft,
        terms: Terms,
        connection: Connection,
    ) -> Admitted | StoredRun:
        known = load_run(context.run_key, connection)
        if known is not None:
            return known
        thread_no = load_stored(connection, context.thread_key).thread_no
        lock_thread(connection, thread_no)
        holder = run_queue.load_holder(connection, thread_no)
        waiting = run_queue.load_waiting(connection, thread_no)
        is_busy = holder is not None or waiting.length > 0
        run_queue.check_terms(
            connection, context.user_id, terms, is_busy=is_busy, waiting=waiting.length
        )
        stop_at = self._load_stop(connection, context, terms)
        owned = {"node_id": terms.node_id, "stop_at": stop_at}
        with usage.bounded(connection, context.user_id, self._quotas):
            self._joining.enter(connection, context, draft)
            if not is_busy:
                begun, row = self._joining.begin_new(connection, context, draft)
                insert_run(connection, context, {**row, **owned})
                return Admitted(draft, begun, 0, begun.after, stop_at=stop_at)
            kept, row = self._joining.keep(connection, context, draft)
            self._check_asked_again(connection, context, draft, holder)
            row |= run_queue.place_of(waiting, is_next=terms.policy == "interrupt")
            insert_run(connection, context, {**row, "stop_at": stop_at})
        run_queue.hand_on(connection, thread_no)  # where runs waited although nobody had the turn
        position = 1 if terms.policy == "interrupt" else waiting.length + 1
        ahead = None if holder is None else holder.run_id
        if ahead is not None and terms.policy == "interrupt":
            key = RunKey(context.user_id, ahead)
            stops.stop_run(connection, key, asked_at=self._clock())
        after = load_bounds(context.thread_key, connection).head
        return Admitted(kept, None, position, after, ahead=ahead, stop_at=stop_at)

    def _load_stop(
        self, connection: Connection, context: UserExecutionContext, terms: Terms
    ) -> int | None:
        """Return when a run that is let in now was asked to stop; None when nobody asked.

        That is an abort that overtook it, or a revocation that came after it was asked for.
        """
        age_ms = stops.take_early(connection, context.run_key, now=self._timer())
        if age_ms is not None:
            return self._clock() - age_ms
        if terms.asked_at is None:
            return None
        revoked_at = stops.load_revoked(connection, context.user_id)
        return revoked_at if revoked_at >= terms.asked_at else None

    def _check_asked_again(
        self,
        connection: Connection,
        context: UserExecutionContext,
        draft: RunDraft,
        holder: run_queue.Holder | None,
    ) -> None:
        """Refuse to ask a question again while the run before asks another one and hasn't begun."""
        if not draft.asks_again or holder is None or holder.has_begun:
            return
        ahead = load_run(RunKey(context.user_id, holder.run_id), connection)
        if ahead is None or not has_question(ahead.draft.messages):
            return
        if all(message["id"] != draft.rewind_to for message in ahead.draft.messages):
            raise RunConflict("another question was asked after the one that is asked again")

    def _attach(
        self,
        context: UserExecutionContext,
        run_id: str,
        asked: Sequence[Message],
        connection: Connection,
    ) -> int | None:
        load_found_thread(context.thread_key, connection)
        now = self._clock()
        row: Values = {
            "created_at": now,
            "ended_at": now,
            "state": RunState.ENDED,
            "draft": b"",
            "asked": to_fingerprints(asked),
            "attached_to": run_id,
        }
        with usage.bounded(connection, context.user_id, self._quotas):
            insert_run(connection, context, row)
        age_ms = stops.take_early(connection, context.run_key, now=self._timer())
        if age_ms is None:
            return None
        stops.stop_run(connection, context.run_key, asked_at=now - age_ms)
        return now - age_ms

    def _begin(
        self, context: UserExecutionContext, lease: RunLease, connection: Connection
    ) -> BegunRun:
        stored = load_run(context.run_key, connection)
        if stored is None:
            raise NotFound(f"run {context.run_id} was deleted with its thread")
        if stored.draft is NO_DRAFT:
            raise DatabaseFailed("what the run asks for can't be read")
        check_unused(connection, lease)
        if stored.first_seq is None:
            return self._joining.begin_waiting(connection, context, stored, lease)
        return self._joining.begin_again(connection, context, stored, lease)

    def _request_stop(self, key: RunKey, asked_at: int, connection: Connection) -> bool:
        if stops.stop_run(connection, key, asked_at=asked_at):
            return True
        stops.keep_early(connection, key, now=self._timer())
        return False


def _claim(node_id: str, room: int, connection: Connection) -> list[ClaimedRun]:
    keys = run_queue.claim(connection, node_id, room=room)
    found = (load_run(key, connection) for key in keys)
    return [ClaimedRun(run, _lease(connection, run)) for run in found if run is not None]


def _lease(connection: Connection, run: StoredRun) -> RunLease:
    """Return a new lease of a run; an older one has ended."""
    key = ThreadKey(run.key.user_id, run.thread_id)
    return claim(connection, key, run.run_id, find_run_no(connection, run.key))


def _give_up(key: RunKey, connection: Connection, *, is_anew: bool) -> None:
    thread_no = write_broken(connection, key, is_anew=is_anew)
    if thread_no is not None:
        run_queue.hand_on(connection, thread_no)
