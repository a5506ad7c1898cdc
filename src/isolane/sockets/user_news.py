"""What other processes do with a user's threads, told to the user's sockets here.

A ring says only that something has changed. So the newest threads are read and compared with what
the sockets were told last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import structlog

from isolane.clock import Clock
from isolane.contracts import Store, ThreadSummary
from isolane.errors import IsolaneError
from isolane.log.feed import Feed
from isolane.tasks import TaskOwner
from isolane.wire.frames import thread_frame

NEWEST: Final = 50
"""Threads of a user that are compared. What changes is among the newest; a thread that is deleted
elsewhere may be older, and is missed."""

Post = Callable[[str, Mapping[str, object]], None]
"""Puts a frame in line at all sockets of a user, without waiting."""
Threads = Mapping[str, ThreadSummary]

_log = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False)
class _Watched:
    """A user who has sockets here."""

    hang_up: Callable[[], None] | None = None
    known: Threads | None = None
    """The newest threads as they were told; None before the first look."""
    is_rung: bool = True
    is_looking: bool = False


class UserNews:
    """Watches the threads of users who have sockets here."""

    def __init__(
        self, store: Store, feed: Feed, post: Post, *, tasks: TaskOwner, clock: Clock
    ) -> None:
        """Read threads from `store` when `feed` rings for their user, and `post` what is new."""
        self._store = store
        self._feed = feed
        self._post = post
        self._tasks = tasks
        self._clock = clock
        self._watched: dict[str, _Watched] = {}

    def watch(self, user_id: str) -> None:
        """Tell the user's sockets from now on. Plain, and doesn't wait."""
        watched = self._watched[user_id] = _Watched()
        self._look_soon(user_id, watched)

    def leave(self, user_id: str) -> None:
        """Tell nothing more, because the user's last socket has gone. Idempotent."""
        watched = self._watched.pop(user_id, None)
        if watched is not None and watched.hang_up is not None:
            watched.hang_up()

    def _ring(self, user_id: str, watched: _Watched) -> None:
        watched.is_rung = True
        self._look_soon(user_id, watched)

    def _look_soon(self, user_id: str, watched: _Watched) -> None:
        if not watched.is_looking:
            watched.is_looking = True
            self._tasks.detach(self._look(user_id, watched), name=f"threads of {user_id}")

    async def _look(self, user_id: str, watched: _Watched) -> None:
        try:
            if watched.hang_up is None:
                watched.hang_up = await self._feed.hear_user(
                    user_id, lambda: self._ring(user_id, watched)
                )
            while watched.is_rung and self._watched.get(user_id) is watched:
                watched.is_rung = False
                await self._tell(user_id, watched)
        except IsolaneError as error:  # the next ring tells this as well
            _log.warning("thread_news_failed", reason=str(error))
        finally:
            watched.is_looking = False
            if self._watched.get(user_id) is not watched and watched.hang_up is not None:
                watched.hang_up()

    async def _tell(self, user_id: str, watched: _Watched) -> None:
        page = await self._store.load_threads(user_id, before=None, limit=NEWEST)
        now = {thread.thread_id: thread for thread in page.threads}
        await self._feed.sight.wait()
        before, watched.known = watched.known, now
        if before is not None and self._watched.get(user_id) is watched:
            for frame in self._compare(before, now):
                self._post(user_id, frame)

    def _compare(self, before: Threads, now: Threads) -> Iterator[Mapping[str, object]]:
        """Yield a frame for each thread that is new, changed or gone, the newest first."""
        for thread in now.values():
            if before.get(thread.thread_id) != thread:
                yield thread_frame(
                    thread_id=thread.thread_id,
                    title=thread.title,
                    updated_at=thread.updated_at,
                    active_run_id=thread.active_run_id,
                    is_deleted=False,
                )
        is_whole = len(now) < NEWEST
        oldest = min((thread.updated_at for thread in now.values()), default=0)
        for thread in before.values():
            # An older thread may only have been pushed off the page.
            if thread.thread_id not in now and (is_whole or thread.updated_at > oldest):
                yield thread_frame(
                    thread_id=thread.thread_id,
                    title="",
                    updated_at=self._clock(),
                    active_run_id=None,
                    is_deleted=True,
                )
