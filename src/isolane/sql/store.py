"""Threads and messages in the database."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial

from sqlalchemy import Connection

from isolane.clock import Clock
from isolane.context import RunKey, ThreadKey
from isolane.contracts import (
    Conversation,
    KnownMessage,
    StoredRun,
    ThreadKind,
    ThreadPage,
    ThreadSnapshot,
    ThreadSummary,
)
from isolane.events.transcript import Message
from isolane.sql import usage
from isolane.sql.database import Database
from isolane.sql.heads import load_bounds
from isolane.sql.messages import (
    has_message,
    load_answered_calls,
    load_known_ids,
    load_known_message,
    load_messages,
)
from isolane.sql.openings import (
    load_ended_requests,
)
from isolane.sql.pages import (
    PAGE_BYTES,
    PAGE_MAX,
    LoadPage,
    LoadRuns,
    Place,
    check_place,
    load_page,
    load_runs,
    parse_place,
)
from isolane.sql.runs import (
    forget_run,
    load_moment,
    load_run,
    open_interrupts,
)
from isolane.sql.states import load_state
from isolane.sql.threads import (
    add_thread,
    load_found_thread,
    load_thread,
    load_threads,
    parse_cursor,
    set_title,
)
from isolane.sql.usage import Quotas


class DatabaseStore:
    """The tables `threads`, `runs` and `messages`."""

    def __init__(
        self,
        database: Database,
        *,
        clock: Clock,
        quotas: Quotas | None = None,
    ) -> None:
        """Keep everything in `database`; `quotas` bound what one user may keep, None nothing."""
        self._database = database
        self._quotas = quotas or Quotas()
        self._clock = clock

    async def load_run(self, key: RunKey) -> StoredRun | None:
        """Return the user's run of that id, whatever its thread; see `Store`."""
        return await self._database.read(partial(load_run, key), lane=key.user_id)

    async def forget_run(self, key: RunKey) -> None:
        """Keep that a run's id is to be told as unknown; see `Store`."""
        await self._database.write(partial(forget_run, key), lane=key.user_id)

    async def load_thread(self, key: ThreadKey) -> ThreadSummary | None:
        """Return the thread, or None when nobody used it yet."""
        return await self._database.read(partial(load_thread, key), lane=key.user_id)

    async def load_threads(self, user_id: str, *, before: str | None, limit: int) -> ThreadPage:
        """Return the user's threads, the newest change first; `before` is a page's own cursor."""
        place = None if before is None else parse_cursor(before)
        return await self._database.read(partial(load_threads, user_id, place, limit), lane=user_id)

    async def load_ended_requests(self, *, older_than: int, limit: int) -> list[ThreadKey]:
        """Return threads of requests that may be removed; see `Store`."""
        return await self._database.read(partial(load_ended_requests, older_than, limit))

    async def load_snapshot(
        self,
        key: ThreadKey,
        *,
        before: str | None = None,
        limit: int = PAGE_MAX,
        max_bytes: int = PAGE_BYTES,
    ) -> ThreadSnapshot | None:
        """Return the thread and a page of its messages, of one moment; see `Store`."""
        place = None if before is None else parse_place(before)
        page = partial(load_page, limit=limit, max_bytes=max_bytes)
        return await self._database.read(
            partial(self._load_snapshot, key, place, page), lane=key.user_id
        )

    async def load_conversation(
        self,
        key: ThreadKey,
        *,
        before: str | None = None,
        limit: int = PAGE_MAX,
        max_bytes: int = PAGE_BYTES,
    ) -> Conversation | None:
        """Return the thread's messages as they stand now, in whole runs; see `Store`."""
        place = None if before is None else parse_place(before)
        load = partial(load_runs, limit=limit, max_bytes=max_bytes)
        return await self._database.read(
            partial(self._load_conversation, key, place, load), lane=key.user_id
        )

    async def add_thread(self, key: ThreadKey, *, title: str) -> ThreadSummary:
        """Make a thread, or return the one there is."""
        return await self._database.write(partial(self._add_thread, key, title), lane=key.user_id)

    async def set_title(self, key: ThreadKey, title: str) -> ThreadSummary:
        """Name a thread; see `Store.set_title`."""
        return await self._database.write(partial(self._set_title, key, title), lane=key.user_id)

    async def load_known_ids(self, key: ThreadKey, *, before: str | None = None) -> frozenset[str]:
        """Return the ids of all messages that the thread ever had; see `Store`."""
        return await self._database.read(partial(load_known_ids, key, before), lane=key.user_id)

    async def load_answered_calls(
        self, key: ThreadKey, *, before: str | None = None
    ) -> frozenset[str]:
        """Return the ids of the calls that those messages answer; see `Store`."""
        return await self._database.read(
            partial(load_answered_calls, key, before), lane=key.user_id
        )

    async def has_message(self, key: ThreadKey, message_id: str) -> bool:
        """Say whether the message stands now."""
        return await self._database.read(partial(has_message, key, message_id), lane=key.user_id)

    async def load_known(
        self, key: ThreadKey, message_id: str, *, rewind_to: str | None = None
    ) -> KnownMessage | None:
        """Return what the thread knows of a message's id; see `Store`."""
        return await self._database.read(
            partial(load_known_message, key, message_id, rewind_to), lane=key.user_id
        )

    async def load_state(self, key: ThreadKey) -> bytes | None:
        """Return the thread's shared state now, as JSON; None when it has none."""
        return await self._database.read(lambda one: load_state(one, key), lane=key.user_id)

    async def load_messages_before(
        self, key: ThreadKey, seq: int, *, max_bytes: int = sys.maxsize
    ) -> list[Message]:
        """Return the messages as they stood before the log entry `seq`; see `Store`."""
        return await self._database.read(
            partial(load_messages, key, seq, max_bytes=max_bytes), lane=key.user_id
        )

    def _load_snapshot(
        self, key: ThreadKey, place: Place | None, page: LoadPage, connection: Connection
    ) -> ThreadSnapshot | None:
        thread = load_thread(key, connection)
        if thread is None:
            return None
        bounds = load_bounds(key, connection)
        if place is not None:  # older messages, as of the moment when the first page was read
            check_place(place, bounds)
            return page(connection, key, place).of(thread, place.head, ())
        head, active_run_id = load_moment(connection, key, bounds)
        interrupts = open_interrupts(key, connection)[1] if active_run_id is None else ()
        state = load_state(connection, key, at_seq=head.seq)
        newest = page(connection, key, Place.newest(head)).of(thread, head, interrupts)
        return replace(newest, state=state)

    def _load_conversation(
        self, key: ThreadKey, place: Place | None, load: LoadRuns, connection: Connection
    ) -> Conversation | None:
        if load_thread(key, connection) is None:
            return None
        bounds = load_bounds(key, connection)
        if place is not None:
            check_place(place, bounds)
            return Conversation(*load(connection, key, place))
        head, active_run_id = load_moment(connection, key, bounds)
        page = load(connection, key, Place.newest(head))
        if active_run_id is not None:
            return Conversation(*page, active_run_id)
        asking_run_id, interrupts = open_interrupts(key, connection)
        return Conversation(*page, None, asking_run_id or None, interrupts)

    def _add_thread(self, key: ThreadKey, title: str, connection: Connection) -> ThreadSummary:
        if load_thread(key, connection) is None:
            with usage.bounded(connection, key.user_id, self._quotas):
                now = self._clock()
                add_thread(connection, key, title=title, kind=ThreadKind.CHAT, now=now)
        return load_found_thread(key, connection)

    def _set_title(self, key: ThreadKey, title: str, connection: Connection) -> ThreadSummary:
        load_found_thread(key, connection)
        set_title(connection, key, title, now=self._clock())
        return load_found_thread(key, connection)
