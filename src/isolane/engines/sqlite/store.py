"""Threads, messages and runs in the database."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import msgspec
import structlog
from sqlalchemy import (
    Connection,
    delete,
    func,
    insert,
    update,
)

from isolane.clock import Clock
from isolane.context import EventId, RunKey, ThreadKey, UserExecutionContext
from isolane.contracts import (
    BegunRun,
    Conversation,
    KnownMessage,
    RunDraft,
    RunState,
    StoredRun,
    ThreadKind,
    ThreadPage,
    ThreadSnapshot,
    ThreadSummary,
)
from isolane.engines.sqlite import attachments, usage
from isolane.engines.sqlite.address import load_stored, rows_of
from isolane.engines.sqlite.drafts import (
    asked_of,
    encode_joined,
    to_fingerprints,
)
from isolane.engines.sqlite.file import Database, runs, threads
from isolane.engines.sqlite.heads import claim, load_bounds, next_run_no
from isolane.engines.sqlite.messages import (
    add_messages,
    add_seed,
    has_message,
    load_answered_calls,
    load_known_ids,
    load_known_message,
    load_last_question,
    load_messages,
    load_rewound,
    rewind,
    state_for,
    take_back,
)
from isolane.engines.sqlite.new_messages import (
    check_added,
    has_question,
    new_messages,
    standing_before,
)
from isolane.engines.sqlite.openings import (
    check_seed,
    is_history_claimed,
    kind_of,
    load_ended_requests,
    load_kind,
)
from isolane.engines.sqlite.pages import (
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
from isolane.engines.sqlite.runs import (
    IS_ALIVE,
    find_run_no,
    forget_run,
    load_agent_ids,
    load_moment,
    load_open_runs,
    load_run,
    note_stop,
    open_interrupts,
    replace_draft,
    row_of_run,
    take_answers,
)
from isolane.engines.sqlite.states import load_state
from isolane.engines.sqlite.threads import (
    add_thread,
    load_found_thread,
    load_thread,
    load_threads,
    parse_cursor,
    title_of,
)
from isolane.engines.sqlite.turns import find_turn, move_question
from isolane.engines.sqlite.usage import Quotas
from isolane.errors import (
    NotFound,
    RunConflict,
)
from isolane.events.transcript import Message
from isolane.ids import new_agent_id

_log = structlog.get_logger(__name__)

CheckQuestion = Callable[[UserExecutionContext, RunDraft], None]
"""Raises when the messages of a draft are more than may be shown of a run's question."""


class _Asked(NamedTuple):
    """What a run adds to its thread, and what stands there then."""

    added: Sequence[Message]
    history: Sequence[Message]
    place: tuple[int, int] | None
    """The numbers of the first and the last of its messages' rows; None without any."""
    rewound: frozenset[str] = frozenset()


class DatabaseStore:
    """The tables `threads`, `runs` and `messages`."""

    def __init__(
        self,
        database: Database,
        *,
        clock: Clock,
        quotas: Quotas | None = None,
        check_question: CheckQuestion = lambda _context, _draft: None,
    ) -> None:
        """Keep everything in `database`.

        `quotas` bound what one user may keep; None bounds nothing. `check_question` sees what a run
        adds to its thread, before that is kept.
        """
        self._database = database
        self._quotas = quotas or Quotas()
        self._clock = clock
        self._check_question = check_question

    async def load_run(self, key: RunKey) -> StoredRun | None:
        """Return the user's run of that id, whatever its thread; see `Store`."""
        return await self._database.read(partial(load_run, key), lane=key.user_id)

    async def add_run(self, context: UserExecutionContext, draft: RunDraft) -> RunDraft:
        """Keep a run that waits for its turn, and return what is kept; see `Store`."""
        return await self._database.write(
            partial(self._add_run, context, draft), lane=context.user_id
        )

    async def begin_run(self, context: UserExecutionContext, draft: RunDraft) -> BegunRun:
        """Mark the run as running, apply its rewind, and join its new messages to the thread."""
        return await self._database.write(
            partial(self._begin_run, context, draft), lane=context.user_id
        )

    async def begin_queued_run(self, context: UserExecutionContext, draft: RunDraft) -> BegunRun:
        """Do the same for a run that waited; raises `NotFound` when its thread is gone."""
        return await self._database.write(
            partial(self._begin_queued_run, context, draft), lane=context.user_id
        )

    async def add_attached(
        self, context: UserExecutionContext, *, run_id: str, asked: Sequence[Message]
    ) -> None:
        """Let the context's run id lead to another run of its thread; see `Store`."""
        work = partial(self._add_attached, context, run_id, asked)
        await self._database.write(work, lane=context.user_id)

    async def note_stop(self, key: RunKey, *, asked_at: int) -> None:
        """Keep that a run was stopped while it waits; see `Store`."""
        await self._database.write(partial(note_stop, key, asked_at), lane=key.user_id)

    async def forget_run(self, key: RunKey) -> None:
        """Keep that a run's id is to be told as unknown; see `Store`."""
        await self._database.write(partial(forget_run, key), lane=key.user_id)

    async def load_open_runs(self) -> list[StoredRun]:
        """Return every run that isn't ended, of all users, oldest first. For recovery only."""
        return await self._database.read(load_open_runs)

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
        """Name a thread; raises `NotFound`."""
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

    def _add_run(
        self, context: UserExecutionContext, draft: RunDraft, connection: Connection
    ) -> RunDraft:
        with usage.bounded(connection, context.user_id, self._quotas):
            self._enter(connection, context, draft)
            key = context.thread_key
            standing = load_messages(key, None, connection)
            rewound = load_rewound(key, draft, standing, connection)
            history = standing_before(
                draft.rewind_to, standing
            )  # what is dropped may be brought anew
            fresh = new_messages(draft.messages, history, rewound=rewound)
            check_added(draft, fresh)
            kept = replace(draft, messages=fresh, opening=None)
            self._check_question(context, kept)
            row = {
                "created_at": self._clock(),
                "state": RunState.QUEUED,
                "draft": msgspec.json.encode(kept),
                "asked": to_fingerprints(fresh),
                "agent_run_id": new_agent_id(),
                "turn_id": context.run_id if has_question(fresh) else None,
            }
            self._insert_run(connection, context, row)
        return kept

    def _add_attached(
        self,
        context: UserExecutionContext,
        run_id: str,
        asked: Sequence[Message],
        connection: Connection,
    ) -> None:
        load_found_thread(context.thread_key, connection)
        now = self._clock()
        row = {
            "created_at": now,
            "ended_at": now,
            "state": RunState.ENDED,
            "draft": b"",
            "asked": to_fingerprints(asked),
            "attached_to": run_id,
        }
        with usage.bounded(connection, context.user_id, self._quotas):
            self._insert_run(connection, context, row)

    def _enter(
        self, connection: Connection, context: UserExecutionContext, draft: RunDraft
    ) -> None:
        """Make the thread of a new run, and let the run answer what is asked there."""
        key = context.thread_key
        self._touch_thread(connection, key, kind=kind_of(draft.opening))
        if draft.seed is not None:
            check_seed(connection, key)
            add_seed(connection, key, draft.seed)
        take_answers(connection, context, draft.request.get("resume", ()))

    def _insert_run(
        self, connection: Connection, context: UserExecutionContext, row: Mapping[str, Any]
    ) -> None:
        # The id may be that of a run whose thread was deleted, and whose row is still there.
        before = usage.load_run_bytes(connection, context.run_key)
        connection.execute(delete(runs).where(row_of_run(context.run_key), ~IS_ALIVE))
        stored = load_stored(connection, context.thread_key)
        keys = {**context.run_key._asdict(), "thread_no": stored.thread_no}
        draft = attachments.keep(connection, stored, row["draft"])
        connection.execute(insert(runs).values({**keys, **row, "draft": draft}))
        usage.count_run(connection, context.run_key, before=before)

    def _begin_queued_run(
        self, context: UserExecutionContext, draft: RunDraft, connection: Connection
    ) -> BegunRun:
        if load_run(context.run_key, connection) is None:
            raise NotFound(f"run {context.run_id} was deleted with its thread")
        return self._begin_run(context, draft, connection)

    def _begin_run(
        self, context: UserExecutionContext, draft: RunDraft, connection: Connection
    ) -> BegunRun:
        stored = load_run(context.run_key, connection)
        if stored is not None:  # it waited, and was let in when it came
            draft = replace(draft, is_forgotten=stored.draft.is_forgotten)
            before = usage.load_run_bytes(connection, context.run_key)
            run_no = find_run_no(connection, context.run_key)
            begun, row = self._join(context, draft, run_no, connection)
            row["draft"] = replace_draft(connection, context, row["draft"])
            connection.execute(update(runs).where(row_of_run(context.run_key)).values(**row))
            usage.count_run(connection, context.run_key, before=before)
            return begun
        with usage.bounded(connection, context.user_id, self._quotas):
            self._enter(connection, context, draft)
            run_no = next_run_no(connection)
            begun, row = self._join(context, draft, run_no, connection)
            check_added(draft, begun.added)
            created = {"run_no": run_no, "created_at": row["started_at"]}
            self._insert_run(connection, context, {**row, **created})
        return begun

    def _join(
        self, context: UserExecutionContext, draft: RunDraft, run_no: int, connection: Connection
    ) -> tuple[BegunRun, dict[str, Any]]:
        """Apply a run's rewind and add its messages; return what its row holds from now on."""
        key = context.thread_key
        lease = claim(connection, key, context.run_key.run_id, run_no)
        head = load_bounds(key, connection).head
        ask = self._ask_again if draft.asks_again else self._ask
        asked = ask(connection, context, draft, head, run_no)
        self._touch_thread(connection, key, title=title_of(asked.added))
        agent_ids = load_agent_ids(connection, context, draft)
        row = {
            "state": RunState.RUNNING,
            "draft": encode_joined(draft, asked.place),
            "asked": to_fingerprints(asked_of(draft, asked.added)),
            "first_seq": head.seq + 1,
            "started_at": self._clock(),
            "agent_run_id": agent_ids.run_id,
            "turn_id": _turn_for(connection, context, asked.added),
        }
        state = state_for(draft, key, connection)
        kind, is_claimed = load_kind(connection, key), is_history_claimed(connection, key)
        begun = BegunRun(
            added=asked.added,
            history=asked.history,
            after=head,
            lease=lease,
            agent_ids=agent_ids,
            rewound=asked.rewound,
            state=state,
            kind=kind,
            is_history_claimed=is_claimed,
        )
        return begun, row

    def _ask(
        self,
        connection: Connection,
        context: UserExecutionContext,
        draft: RunDraft,
        head: EventId,
        run_no: int,
    ) -> _Asked:
        """Apply a run's rewind and add what is new."""
        key = context.thread_key
        if draft.rewind_to is not None:
            rewind(connection, key, draft.rewind_to, until=head.seq + 1)
        if draft.seed is None:
            history = load_messages(key, None, connection)
        else:  # it was written just now, and nothing else stands in a thread that takes one
            history = list(draft.seed.messages)
        rewound = load_rewound(key, draft, history, connection)
        added = new_messages(draft.messages, history, rewound=rewound)
        self._check_question(context, replace(draft, messages=added))
        place = add_messages(connection, key, run_no, added, since=head.seq + 1)
        return _Asked(added, [*history, *added], place, rewound)

    def _ask_again(
        self,
        connection: Connection,
        context: UserExecutionContext,
        draft: RunDraft,
        head: EventId,
        run_no: int,
    ) -> _Asked:
        """Take back what followed the thread's last question; else as `_ask`.

        The question itself stays as it is: its row is neither dropped nor written anew.
        """
        key = context.thread_key
        question = load_last_question(key, connection)
        if question is None or question.message_id != draft.rewind_to:
            raise RunConflict("another question was asked after the one that is asked again")
        number, since = question.number, question.since_seq
        move_question(connection, number, run_no)
        take_back(connection, key, number + 1, since=since, until=head.seq + 1)
        history = load_messages(key, None, connection)
        return _Asked(history[-1:], history, (number, number))

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
                self._touch_thread(connection, key, title=title)
        return load_found_thread(key, connection)

    def _set_title(self, key: ThreadKey, title: str, connection: Connection) -> ThreadSummary:
        load_found_thread(key, connection)
        values = {"title": title, "updated_at": self._clock()}
        connection.execute(
            update(threads).where(rows_of(threads, load_stored(connection, key))).values(values)
        )
        return load_found_thread(key, connection)

    def _touch_thread(
        self,
        connection: Connection,
        key: ThreadKey,
        *,
        title: str = "",
        kind: ThreadKind = ThreadKind.CHAT,
    ) -> None:
        now = self._clock()
        found = load_thread(key, connection)
        if found is None:
            add_thread(connection, key, title=title, kind=kind, now=now)
            return
        # A row that another program made has no id yet.
        agent_id = func.coalesce(threads.c.agent_thread_id, new_agent_id())
        values = {"updated_at": now, "title": found.title or title, "agent_thread_id": agent_id}
        connection.execute(
            update(threads).where(rows_of(threads, load_stored(connection, key))).values(values)
        )


def _turn_for(
    connection: Connection, context: UserExecutionContext, added: Iterable[Message]
) -> str:
    """Return the turn of a run that begins now, whose messages have joined the thread."""
    run_id = context.run_key.run_id
    if has_question(added):
        return run_id
    return find_turn(connection, context.thread_key, run_id)
