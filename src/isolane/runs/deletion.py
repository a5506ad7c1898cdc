"""Threads that are deleted with their runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from isolane.context import RunKey, ThreadKey, UserExecutionContext
from isolane.contracts import ThreadKind
from isolane.runs.ground import Ground
from isolane.runs.locks import KeyedLocks
from isolane.runs.run import Run
from isolane.runs.stopping import Stopping

Leave = Callable[[Run], None]
"""Frees what a run holds in this process."""


class Deletion:
    """Deletes threads: their runs end without another event."""

    def __init__(
        self,
        ground: Ground,
        *,
        stopping: Stopping,
        placing: KeyedLocks[ThreadKey],
        leave: Leave,
    ) -> None:
        """Let `leave` free what a deleted run holds; `placing` are threads that get a run now."""
        self._live = ground.live
        self._store = ground.store
        self._feed = ground.feed
        self._news = ground.news
        self._tasks = ground.tasks
        self._stopping = stopping
        self._placing = placing
        self._leave = leave
        self.under_way = KeyedLocks[ThreadKey]()
        """Threads that are being deleted."""

    async def delete_thread(self, context: UserExecutionContext) -> None:
        """Remove the context's thread; see `AgentService.delete_thread`."""
        key = context.thread_key
        await self._tasks.complete(self._delete(key), name=f"deletion of {key.thread_id}")

    async def _delete(self, key: ThreadKey) -> None:
        async with self.under_way.hold(key):
            thread = await self._store.load_thread(key)
            self._let_go(key, await self._feed.delete(key))
        if thread is not None and thread.kind is not ThreadKind.REQUEST:
            self._news.tell_deleted(key)

    async def remove_request(self, key: ThreadKey, *, older_than: int) -> bool:
        """Delete a thread of a request, unless it is in use; see `AgentService.remove_request`."""
        work = self._remove_request(key, older_than)
        return await self._tasks.complete(work, name=f"removal of {key.thread_id}")

    async def _remove_request(self, key: ThreadKey, older_than: int) -> bool:
        async with self._placing.hold(key):  # no run is placed there meanwhile
            thread = await self._store.load_thread(key)
            is_due = thread is not None and thread.updated_at < older_than
            if not is_due or self._live.get_of_thread(key):
                return False
            await self._delete(key)
            return True

    def _let_go(self, key: ThreadKey, run_ids: Iterable[str]) -> None:
        """End runs that were deleted with their thread, without another event."""
        for run_id in run_ids:
            run = self._live.get(RunKey(key.user_id, run_id))
            if run is None:
                continue
            if run.writer is not None:
                run.writer.disown()
            run.is_deleted = True
            self._stopping.note_deleted([run.context.run_key])
            run.stop.set()
            self._leave(run)  # at once: its agent may take its time, and its ids are free now
