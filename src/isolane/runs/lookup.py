"""Look-ups of runs: in this process, in the store, and in the log."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from isolane.context import START, EventId, RunKey, UserExecutionContext
from isolane.contracts import ActiveRun, StoredRun
from isolane.errors import NotFound
from isolane.events.event import Record
from isolane.runs.ground import Ground
from isolane.runs.stopping import check_thread
from isolane.wire.lists import Known


class RunLookup:
    """Finds runs and follows their events. It changes nothing."""

    def __init__(self, ground: Ground) -> None:
        """Look among the runs of this process first, then in the store."""
        self._live = ground.live
        self._store = ground.store
        self._book = ground.book
        self._feed = ground.feed

    async def load_active_runs(self, user_id: str) -> list[ActiveRun]:
        """Return the user's runs that are under way; see `AgentService.load_active_runs`."""
        return await self._book.find_active(user_id)

    async def load_run(self, context: UserExecutionContext, run_id: str) -> StoredRun:
        """Return one of the user's runs, whatever its thread; see `AgentService.load_run`."""
        stored = await self._store.load_run(RunKey(context.user_id, run_id))
        if stored is None:
            raise NotFound(f"no run {run_id}")
        return stored

    async def locate(self, context: UserExecutionContext, run_id: str) -> UserExecutionContext:
        """Return the context of one of the user's runs; see `AgentService.locate`."""
        key = RunKey(context.user_id, run_id)
        stored = None if key in self._live else await self._store.load_run(key)
        found = self._live.get(key) or stored
        if found is None:
            raise NotFound(f"no run {run_id}")
        return context.for_thread(found.thread_id).for_run(found.run_id)

    async def load_known(
        self, context: UserExecutionContext, *, rewind_to: object = None, has_results: bool = False
    ) -> Known:
        """Return what a frame of the context's run needn't bring; see `AgentService.load_known`."""
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
        """Return the place before the first event of a run; see `AgentService.load_start`."""
        return (await self.load_run(context, context.run_key.run_id)).after

    async def follow_batches(
        self, context: UserExecutionContext, *, after: EventId | None = None
    ) -> AsyncGenerator[Sequence[Record], None]:
        """Yield records, as many at once as are there; see `AgentService.follow_batches`."""
        start, run_id = after or START, context.run_id
        # Listens first: a deletion that comes while the place is looked up ends this as well.
        async with self._feed.reading(context.thread_key) as tail:
            if context.run_id is not None:
                stored = await self.load_run(context, context.run_id)
                check_thread(context, stored.thread_id)
                run_id = stored.run_id  # another one, when this one attached to it
                start = after or stored.after
                if stored.last_seq is not None and start.seq >= stored.last_seq:
                    return
            async with aclosing(tail.follow(start)) as batches:
                async for batch in batches:
                    own = [record for record in batch if run_id in {None, record.run_id}]
                    if own:
                        yield own
                    if run_id is not None and own and own[-1].is_end:
                        return
