"""Admission of runs: a run attaches to another one, or gets its place on its thread."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from dataclasses import replace

from isolane.context import RunKey, ThreadKey, UserExecutionContext
from isolane.contracts import (
    Admitted,
    Disposition,
    KnownMessage,
    RunDraft,
    RunTicket,
    StoredRun,
    Terms,
)
from isolane.errors import InvalidInput, RunConflict
from isolane.events.left_out import LeftOut
from isolane.events.transcript import Message
from isolane.runs.deletion import Deletion
from isolane.runs.draft import differs
from isolane.runs.driver import RunDriver
from isolane.runs.ground import Ground
from isolane.runs.locks import KeyedLocks
from isolane.runs.lookup import RunLookup
from isolane.runs.question import Offer
from isolane.runs.run import Run
from isolane.runs.unread import UnreadRuns


class Admission:
    """Takes runs on: each thread's one after the other, each user's within limits."""

    def __init__(
        self,
        ground: Ground,
        *,
        lookup: RunLookup,
        unread: UnreadRuns,
        deletion: Deletion,
        driver: RunDriver,
        placing: KeyedLocks[ThreadKey],
        check_room: Callable[[], None],
    ) -> None:
        """Hand runs that begin to `driver`; `check_room` raises while no new one has room."""
        self._live = ground.live
        self._draining = ground.draining
        self._store = ground.store
        self._book = ground.book
        self._maker = ground.maker
        self._node = ground.node
        self._roster = ground.roster
        self._settings = ground.settings
        self._lookup = lookup
        self._unread = unread
        self._deletion = deletion
        self._driver = driver
        self._placing = placing
        self._check_room = check_room
        self._starting = ground.starting

    async def take_on(
        self, context: UserExecutionContext, offer: Offer, told: asyncio.Event, left_out: LeftOut
    ) -> RunTicket:
        """Attach to the run of that id, or place a new one; it begins to live once `told` is set.

        Frames of one thread are placed one after the other: each finds what the one before asked.
        """
        async with self._starting.hold(context.run_key):
            stored = await self._store.load_run(context.run_key)
            if stored is not None:
                return await self._attach(context, stored, offer)
            async with self._placing.hold(context.thread_key):
                return await self._place(context, offer, told, left_out)

    async def _attach(
        self, context: UserExecutionContext, stored: StoredRun, offer: Offer
    ) -> RunTicket:
        known = await self._store.load_known_ids(context.thread_key)
        if stored.thread_id != context.thread_id or differs(offer.draft, stored.asked, known):
            raise RunConflict("this runId was used with another thread or other messages")
        run = self._live.get(stored.key)
        if run is not None:
            run.note_asked_again(offer.on_disconnect)
        return await self._ticket_of(context, stored.run_id)

    async def _ticket_of(self, context: UserExecutionContext, run_id: str) -> RunTicket:
        own = context if run_id == context.run_id else context.for_run(run_id)
        return RunTicket(own, Disposition.ATTACHED, await self._lookup.load_start(own))

    async def _place(
        self, context: UserExecutionContext, offer: Offer, told: asyncio.Event, left_out: LeftOut
    ) -> RunTicket:
        """Attach to the unfinished run that holds the frame's question, or admit a new run."""
        key = context.thread_key
        await self._check_rewind(context, offer.draft)
        asks = offer.question is not None and offer.on_disconnect is not None
        known = await self._load_known(key, offer)
        offer.check_content(known)
        await self._check_results(key, offer)
        is_known = known is not None or self._find_holder(key, offer) is not None
        if is_known and await self._brings_more(key, offer):
            offer = replace(offer, question=None)
        await self._deletion.under_way.until_free(key)
        if offer.draft.seed is not None and self._live.get_of_thread(key):
            raise RunConflict("a thread that has a run takes no history from outside")
        # Nothing is awaited from here until the book is asked, with the run held here.
        holder = self._find_holder(key, offer)
        agent = offer.draft.agent
        if holder is not None and offer.may_ask_again and holder.is_answered_by(agent):
            return await self._attach_to(context, holder, offer)
        draft = offer.settle(known, is_last=self._is_last(key, known, holder))
        policy = offer.policy_for(draft, default=self._settings.policy)
        run = self._maker.make(context, draft)
        run.left_out.add(left_out)
        run.on_disconnect = offer.on_disconnect
        ticket = await self._admit(run, offer, policy, told=told)
        if asks and not (offer.policy or self._settings.names_policy):
            self._unread.stop_before(run)
        self._unread.watch(run)  # its reader may have left already
        return ticket

    async def _load_known(self, key: ThreadKey, offer: Offer) -> KnownMessage | None:
        if offer.question is None:
            return None
        return await self._store.load_known(
            key, offer.question.message_id, rewind_to=offer.draft.rewind_to
        )

    async def _check_results(self, key: ThreadKey, offer: Offer) -> None:
        """Check that no answer of a tool has the id of another message: it would be lost.

        Raises:
            InvalidInput: An answer has such an id.
        """
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
        held = {one["id"] for run in self._live.get_of_thread(key) for one in run.asked}
        return not known.union(held).issuperset(one["id"] for one in others)

    def _find_holder(self, key: ThreadKey, offer: Offer) -> Run | None:
        """Return the unfinished run that asks the frame's question, one that goes on if possible.

        A frame that rewinds takes the question back, so it has no holder.

        Raises:
            InvalidInput: The run asks something else under that id.
        """
        if offer.question is None or offer.draft.rewind_to is not None:
            return None
        found: Run | None = None
        for run, asked in self._live.get_holders(key, offer.question.message_id):
            if found is None or run.is_answered_by(offer.draft.agent):
                offer.question.check_same(asked)
                found = run
        return found

    def _is_last(self, key: ThreadKey, known: KnownMessage | None, holder: Run | None) -> bool:
        """Say whether the frame's question is the thread's last one.

        The run whose turn it is may not have begun, and then the store doesn't have its question.
        """
        if known is None or not known.is_last_question:
            return False
        having_turn = (
            run for run in self._live.get_of_thread(key) if run.has_turn or run.begun is not None
        )
        return not any(run is not holder and run.has_question for run in having_turn)

    async def _attach_to(
        self, context: UserExecutionContext, holder: Run, offer: Offer
    ) -> RunTicket:
        """Let the context's run id lead to `holder` from now on, also after a restart."""
        holder.note_asked_again(offer.on_disconnect)
        repeated = [one for one in offer.draft.messages if holder.get_asked(one["id"]) is not None]
        stop_at = await self._book.attach(context, run_id=holder.run_id, asked=repeated)
        if stop_at is not None:
            holder.stop.set(asked_at=stop_at)
        return await self._ticket_of(context, holder.run_id)

    async def _admit(
        self, run: Run, offer: Offer, policy: str, *, told: asyncio.Event
    ) -> RunTicket:
        """Let a run in, and return its ticket: it begins to live once its caller was told."""
        self._check_open()
        self._live.hold(run)
        try:
            admitted = await self._book.admit(run.context, run.draft, self._terms(run, policy))
        except BaseException:
            self._driver.leave(run)
            raise
        if isinstance(admitted, StoredRun):  # another process let it in meanwhile
            self._driver.leave(run)
            return await self._attach(run.context, admitted, offer)
        run.draft = admitted.draft
        if admitted.stop_at is not None:
            run.stop.set(asked_at=admitted.stop_at)
        if admitted.begun is not None:
            run.begun = admitted.begun
            self._driver.start_begun(run, told)
            return RunTicket(run.context, Disposition.STARTED, admitted.after)
        self._follow_up(run, admitted, policy)
        if not admitted.position:  # another node begins it
            return RunTicket(run.context, Disposition.STARTED, admitted.after)
        return RunTicket(run.context, Disposition.QUEUED, admitted.after, admitted.position)

    def _terms(self, run: Run, policy: str) -> Terms:
        settings = self._settings
        return Terms(
            policy,
            runs_per_user=settings.limit_runs_per_user,
            queued_per_thread=settings.limit_queued_runs_per_thread,
            asked_at=run.taken_on_at if settings.revoked_runs == "abort" else None,
            node_id=self._node.id,
            is_restartable=run.is_restartable,
            may_begin=self._roster.is_own(run.draft.agent),
        )

    def _follow_up(self, run: Run, admitted: Admitted, policy: str) -> None:
        """Stop here what a run interrupts; look for who is next when nobody had the turn."""
        if admitted.ahead is None:
            self._driver.hand_on()
            return
        ahead = self._live.get(RunKey(run.context.user_id, admitted.ahead))
        if ahead is not None and policy == "interrupt":
            ahead.stop.set()

    async def _check_rewind(self, context: UserExecutionContext, draft: RunDraft) -> None:
        target = draft.rewind_to
        if target is not None and not await self._store.has_message(context.thread_key, target):
            raise InvalidInput("forwardedProps.rewindTo", "must be the id of a message that stands")

    def _check_open(self) -> None:
        """Return while new runs are taken on.

        Raises:
            Unavailable: The gateway drains, or has no room for new runs.
        """
        self._draining.check_open()
        self._check_room()
