"""Frames about threads and runs that all sockets of a user get beside the log."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import structlog

from isolane.clock import Clock
from isolane.context import ThreadKey, UserExecutionContext
from isolane.contracts import Store, ThreadKind
from isolane.errors import IsolaneError
from isolane.events.event import Event
from isolane.runs.run import Run
from isolane.wire.frames import thread_frame

Notify = Callable[[str, Mapping[str, object]], None]
"""Tells all of a user's sockets, without waiting."""

_log = structlog.get_logger(__name__)


class ThreadNews:
    """Tells a user's sockets how a thread of theirs is now. Threads of requests are no news."""

    def __init__(
        self, store: Store, notify: Notify, *, ring: Callable[[str], None] | None, clock: Clock
    ) -> None:
        """Read threads from `store`, and hand frames to `notify`.

        Where a user may have sockets at other nodes, `ring` tells all nodes to look; else None.
        """
        self._store = store
        self._ring = ring
        self._notify = notify
        self._clock = clock

    async def tell(self, context: UserExecutionContext, *, active: str | None) -> None:
        """Tell that the context's thread changed; `active` is the id of its run under way."""
        if self._ring is not None:
            self._ring(context.user_id)
            return
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

    def tell_deleted(self, key: ThreadKey) -> None:
        """Tell that a thread was deleted."""
        if self._ring is not None:
            self._ring(key.user_id)
            return
        frame = thread_frame(
            thread_id=key.thread_id,
            title="",
            updated_at=self._clock(),
            active_run_id=None,
            is_deleted=True,
        )
        self._notify(key.user_id, frame)

    def tell_unwritten(self, run: Run, end: Event) -> None:
        """Tell a run's end that no log could take: nothing else says it."""
        self._notify(run.context.user_id, end)
