"""The book of runs in the database: who is let in, whose turn it is, and who is stopped."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
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
    Signs,
    StoredRun,
    Terms,
)
from isolane.errors import DatabaseFailed, NotFound
from isolane.events.transcript import Message
from isolane.sql import run_queue, stops
from isolane.sql.admissions import Admissions
from isolane.sql.database import Database
from isolane.sql.heads import check_unused, claim
from isolane.sql.joining import CheckQuestion, Joining
from isolane.sql.lost_runs import (
    begin_anew,
    hand_over,
    load_lost,
    load_orphans,
    load_unheard,
    set_owner,
    write_broken,
)
from isolane.sql.runs import find_run_no, load_active, load_open_runs, load_run, update_run
from isolane.sql.signs import load_signs
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
        self._joining = Joining(clock=clock, check_question=check_question)
        self._admissions = Admissions(
            self._joining, clock=clock, timer=self._timer, quotas=quotas or Quotas()
        )

    async def admit(
        self, context: UserExecutionContext, draft: RunDraft, terms: Terms
    ) -> Admitted | StoredRun:
        """Let a run in, or return the one that has its id already; see `RunBook`."""
        work = partial(self._admissions.admit, context, draft, terms)
        return await self._database.write(work, lane=context.user_id)

    async def attach(
        self, context: UserExecutionContext, *, run_id: str, asked: Sequence[Message]
    ) -> int | None:
        """Let the context's run id lead to another run of its thread; see `RunBook`."""
        work = partial(self._admissions.attach, context, run_id, asked)
        return await self._database.write(work, lane=context.user_id)

    async def begin(
        self, context: UserExecutionContext, lease: RunLease, *, is_restartable: bool = False
    ) -> BegunRun:
        """Begin a claimed run; see `RunBook`."""
        work = partial(self._begin, context, lease, is_restartable)
        return await self._database.write(work, lane=context.user_id)

    async def load_signs(self, node_id: str) -> Signs:
        """Return what there is to do for a node; see `RunBook`."""
        return await self._database.look(lambda one: load_signs(one, node_id))

    async def claim(
        self, node_id: str, *, room: int, agents: Collection[str] | None = None
    ) -> list[ClaimedRun]:
        """Claim runs whose turn has come, for a node to begin them; see `RunBook`."""
        # Mostly there are none, and a read holds up nobody who writes.
        if not await self._database.read(
            lambda one: run_queue.find_claimable(one, node_id, room=1, agents=agents)
        ):
            return []
        return await self._database.write(partial(_claim, node_id, room, agents))

    async def load_held(self, node_id: str) -> list[HeldRun]:
        """Return the runs that have the turn in the name of a node; see `RunBook`."""
        return await self._database.read(lambda one: run_queue.load_held(one, node_id))

    async def give_back(self, lease: RunLease) -> bool:
        """Let any node claim a run without an event; see `RunBook`."""
        user_id = lease.key.user_id
        return await self._database.write(lambda one: run_queue.give_back(one, lease), lane=user_id)

    async def hand_over(self, lease: RunLease) -> bool:
        """Let any node begin a restartable run anew; see `RunBook`."""
        user_id = lease.key.user_id
        return await self._database.write(lambda one: hand_over(one, lease), lane=user_id)

    async def begin_anew(self, key: RunKey) -> bool:
        """Let any node begin a run anew whose node lives no more; see `RunBook`."""
        return await self._database.write(lambda one: begin_anew(one, key), lane=key.user_id)

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

    async def find_wanted(self) -> frozenset[str]:
        """Return the agents of runs that no node has claimed; see `RunBook`."""
        return await self._database.read(run_queue.find_wanted)

    async def find_waiting(self) -> frozenset[RunKey]:
        """Return the keys of all runs that haven't begun; see `RunBook`."""
        return await self._database.read(run_queue.find_waiting)

    async def find_active(self, user_id: str) -> list[ActiveRun]:
        """Return the user's runs that are under way, in chats; see `RunBook`."""
        return await self._database.read(partial(load_active, user_id), lane=user_id)

    async def load_open_runs(self) -> list[StoredRun]:
        """Return every run that hasn't ended; see `RunBook`."""
        return await self._database.read(load_open_runs)

    def _begin(
        self,
        context: UserExecutionContext,
        lease: RunLease,
        is_restartable: bool,  # noqa: FBT001 - given by `begin`
        connection: Connection,
    ) -> BegunRun:
        stored = load_run(context.run_key, connection)
        if stored is None:
            raise NotFound(f"run {context.run_id} was deleted with its thread")
        if stored.draft is NO_DRAFT:
            raise DatabaseFailed("what the run asks for can't be read")
        check_unused(connection, lease)
        if is_restartable:
            update_run(connection, lease.run_no, {"is_restartable": 1})
        if stored.first_seq is None:
            return self._joining.begin_waiting(connection, context, stored, lease)
        return self._joining.begin_again(connection, context, stored, lease)

    def _request_stop(self, key: RunKey, asked_at: int, connection: Connection) -> bool:
        if stops.stop_run(connection, key, asked_at=asked_at):
            return True
        stops.keep_early(connection, key, now=self._timer())
        return False


def _claim(
    node_id: str, room: int, agents: Collection[str] | None, connection: Connection
) -> list[ClaimedRun]:
    keys = run_queue.claim(connection, node_id, room=room, agents=agents)
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
