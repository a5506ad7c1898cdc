"""Who is let in: the transaction that admits a run, or lets its id lead to another one."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from isolane.clock import Clock
from isolane.context import RunKey, UserExecutionContext
from isolane.contracts import Admitted, RunDraft, RunState, StoredRun, Terms
from isolane.errors import RunConflict
from isolane.events.transcript import Message
from isolane.sql import run_queue, stops, usage
from isolane.sql.address import load_stored
from isolane.sql.drafts import to_fingerprints
from isolane.sql.heads import load_bounds, lock_thread
from isolane.sql.joining import Joining, Values, insert_run
from isolane.sql.new_messages import has_question
from isolane.sql.runs import load_run
from isolane.sql.threads import load_found_thread
from isolane.sql.usage import Quotas


class Admissions:
    """Lets runs in, within somebody's transaction."""

    def __init__(self, joining: Joining, *, clock: Clock, timer: Clock, quotas: Quotas) -> None:
        """Let `joining` write runs into their threads, as long as `quotas` have room."""
        self._joining = joining
        self._clock = clock
        self._timer = timer
        self._quotas = quotas

    def admit(
        self,
        context: UserExecutionContext,
        draft: RunDraft,
        terms: Terms,
        connection: Connection,
    ) -> Admitted | StoredRun:
        """Let a run in, or return the one that has its id already; see `RunBook.admit`."""
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
        asked: Values = {
            "stop_at": stop_at,
            "agent": draft.agent,
            "is_restartable": int(terms.is_restartable),
        }
        with usage.bounded(connection, context.user_id, self._quotas):
            self._joining.enter(connection, context, draft)
            if terms.may_begin and not is_busy:
                begun, row = self._joining.begin_new(connection, context, draft)
                insert_run(connection, context, {**row, **asked, "node_id": terms.node_id})
                return Admitted(draft, begun, 0, begun.after, stop_at=stop_at)
            is_next = terms.policy == "interrupt"
            asked |= run_queue.place_of(waiting, is_next=is_next)
            kept = self._keep(connection, context, draft, asked, holder=holder)
        # Where runs waited although nobody had the turn, or where another node begins this one.
        run_queue.hand_on(connection, load_stored(connection, context.thread_key).thread_no)
        ahead = None if holder is None else holder.run_id
        if ahead is not None and is_next:
            key = RunKey(context.user_id, ahead)
            stops.stop_run(connection, key, asked_at=self._clock())
        position = 0
        if is_busy:
            position = 1 if is_next else waiting.length + 1
        after = load_bounds(context.thread_key, connection).head
        return Admitted(kept, None, position, after, ahead=ahead, stop_at=stop_at)

    def _keep(
        self,
        connection: Connection,
        context: UserExecutionContext,
        draft: RunDraft,
        row: Values,
        *,
        holder: run_queue.Holder | None,
    ) -> RunDraft:
        """Write the row of a run that doesn't begin now; return what is kept of its draft."""
        kept, added = self._joining.keep(connection, context, draft)
        self._check_asked_again(connection, context, draft, holder)
        insert_run(connection, context, {**added, **row})
        return kept

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

    def attach(
        self,
        context: UserExecutionContext,
        run_id: str,
        asked: Sequence[Message],
        connection: Connection,
    ) -> int | None:
        """Let the context's run id lead to another run; see `RunBook.attach`."""
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
