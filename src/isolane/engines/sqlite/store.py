"""Threads, messages and runs in the database."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final, NamedTuple

import msgspec
import structlog
from sqlalchemy import (
    Connection,
    Row,
    Select,
    and_,
    delete,
    exists,
    func,
    insert,
    or_,
    select,
    text,
    tuple_,
    update,
)

from isolane.clock import Clock
from isolane.context import EventId, RunIds, RunKey, ThreadKey, UserExecutionContext
from isolane.contracts import (
    NO_DRAFT,
    BegunRun,
    Conversation,
    KnownMessage,
    LogBounds,
    RunDraft,
    RunEnd,
    RunState,
    RunStop,
    Seed,
    StoredRun,
    ThreadKind,
    ThreadPage,
    ThreadSnapshot,
    ThreadSummary,
)
from isolane.engines.sqlite import attachments, usage
from isolane.engines.sqlite.deletion import load_stored, note_removal, rows_of, to_thread_id
from isolane.engines.sqlite.file import Database, events, messages, runs, threads
from isolane.engines.sqlite.openings import (
    BEFORE_THE_LOG,
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
    RoleOf,
    check_place,
    load_page,
    load_runs,
    parse_place,
)
from isolane.engines.sqlite.states import keep_state, load_state, take_back_states
from isolane.engines.sqlite.turns import NO_RUN, find_turn, move_question, take_back_turns
from isolane.engines.sqlite.usage import Quotas
from isolane.errors import (
    AgentFailed,
    DatabaseFailed,
    InvalidCursor,
    NotFound,
    RunConflict,
    TooLarge,
)
from isolane.events.interrupts import Interrupt, check_answers
from isolane.events.packing import bare, size_of
from isolane.events.shared_state import decode_state, is_sent
from isolane.events.transcript import FINGERPRINT_BYTES, Message, calls_of, fingerprint
from isolane.ids import derive_stand_in, new_agent_id

TITLE_MAX_CHARACTERS: Final = 80
_IS_UNDER_WAY: Final = text("runs.state = 'running'")
"""As text: the condition of a partial index has to be spelled as there."""
_IS_LISTED: Final = text("threads.kind = 'chat'")
"""As text for the same reason."""
_CURSOR_TIME: Final = re.compile(r"[0-9]{1,15}")

_log = structlog.get_logger(__name__)

CheckQuestion = Callable[[UserExecutionContext, RunDraft], None]
"""Raises when the messages of a draft are more than may be shown of a run's question."""
LoadBounds = Callable[[ThreadKey, Connection], LogBounds]
"""Tells where a log ends, within the transaction of the asker."""


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
        load_bounds: LoadBounds,
        clock: Clock,
        quotas: Quotas | None = None,
        check_question: CheckQuestion = lambda _context, _draft: None,
    ) -> None:
        """Keep everything in `database`; `load_bounds` ties a run to its place in the log.

        `quotas` bound what one user may keep; None bounds nothing. `check_question` sees what a run
        adds to its thread, before that is kept.
        """
        self._database = database
        self._quotas = quotas or Quotas()
        self._load_bounds = load_bounds
        self._clock = clock
        self._check_question = check_question

    async def load_run(self, key: RunKey) -> StoredRun | None:
        """Return the user's run of that id, whatever its thread; see `Store`."""
        return await self._database.read(partial(_load_run, key), lane=key.user_id)

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
        await self._database.write(partial(_note_stop, key, asked_at), lane=key.user_id)

    async def forget_run(self, key: RunKey) -> None:
        """Keep that a run's id is to be told as unknown; see `Store`."""
        await self._database.write(partial(_forget_run, key), lane=key.user_id)

    async def load_open_runs(self) -> list[StoredRun]:
        """Return every run that isn't ended, of all users, oldest first. For recovery only."""
        return await self._database.read(_load_open_runs)

    async def load_thread(self, key: ThreadKey) -> ThreadSummary | None:
        """Return the thread, or None when nobody used it yet."""
        return await self._database.read(partial(_load_thread, key), lane=key.user_id)

    async def load_threads(self, user_id: str, *, before: str | None, limit: int) -> ThreadPage:
        """Return the user's threads, the newest change first; `before` is a page's own cursor."""
        place = None if before is None else _parse_cursor(before)
        return await self._database.read(
            partial(_load_threads, user_id, place, limit), lane=user_id
        )

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
        return await self._database.read(partial(_load_known_ids, key, before), lane=key.user_id)

    async def load_answered_calls(
        self, key: ThreadKey, *, before: str | None = None
    ) -> frozenset[str]:
        """Return the ids of the calls that those messages answer; see `Store`."""
        return await self._database.read(partial(_load_answered, key, before), lane=key.user_id)

    async def has_message(self, key: ThreadKey, message_id: str) -> bool:
        """Say whether the message stands now."""
        return await self._database.read(partial(_has_message, key, message_id), lane=key.user_id)

    async def load_known(
        self, key: ThreadKey, message_id: str, *, rewind_to: str | None = None
    ) -> KnownMessage | None:
        """Return what the thread knows of a message's id; see `Store`."""
        return await self._database.read(
            partial(_load_known, key, message_id, rewind_to), lane=key.user_id
        )

    async def load_state(self, key: ThreadKey) -> bytes | None:
        """Return the thread's shared state now, as JSON; None when it has none."""
        return await self._database.read(lambda one: load_state(one, key), lane=key.user_id)

    async def load_messages_before(
        self, key: ThreadKey, seq: int, *, max_bytes: int = sys.maxsize
    ) -> list[Message]:
        """Return the messages as they stood before the log entry `seq`; see `Store`."""
        return await self._database.read(
            partial(_load_messages, key, seq, max_bytes=max_bytes), lane=key.user_id
        )

    def settle(
        self, connection: Connection, key: ThreadKey, end: RunEnd, first_seq: int, last_seq: int
    ) -> None:
        """Write a run's end and what it left behind, in the transaction of its last events.

        `first_seq` is the first of those: where a run begins that ends without having begun.
        """
        run_key = RunKey(key.user_id, end.run_id)
        begun, draft = connection.execute(
            select(runs.c.first_seq, runs.c.draft).where(_run(run_key))
        ).one()
        if begun is None:  # a run that could not begin goes on with a turn all the same
            turn_id = func.coalesce(runs.c.turn_id, find_turn(connection, key, end.run_id))
            connection.execute(update(runs).where(_run(run_key)).values(turn_id=turn_id))
        first_seq = _find_first(connection, key, end.run_id, first_seq) if begun is None else begun
        before = usage.load_run_bytes(connection, run_key)
        stored = load_stored(connection, key)
        _add_messages(connection, key, end.run_id, end.messages, since=first_seq)
        if end.state is not None:
            keep_state(connection, key, end.state, since=first_seq)
        connection.execute(
            update(runs)
            .where(_run(run_key))
            .values(
                state=RunState.ENDED,
                is_logged=1,
                draft=attachments.replace(connection, stored, draft, _narrowed(draft)),
                first_seq=first_seq,
                last_seq=last_seq,
                ended_at=end.ended_at,
                outcome=end.outcome,
                error_id=end.error_id,
                **_told(end.failure),
                stop=None if end.stop is None else msgspec.json.encode(end.stop),
                interrupts=msgspec.json.encode(end.interrupts) if end.interrupts else None,
            )
        )
        _count_run(connection, run_key, before=before)
        connection.execute(update(threads).where(_thread(key)).values(updated_at=end.ended_at))

    def _add_run(
        self, context: UserExecutionContext, draft: RunDraft, connection: Connection
    ) -> RunDraft:
        with usage.bounded(connection, context.user_id, self._quotas):
            self._enter(connection, context, draft)
            key = context.thread_key
            standing = _load_messages(key, None, connection)
            rewound = _load_rewound(key, draft, standing, connection)
            history = _before(draft.rewind_to, standing)  # what is dropped may be brought anew
            fresh = new_messages(draft.messages, history, rewound=rewound)
            _check_added(draft, fresh)
            kept = replace(draft, messages=fresh, opening=None)
            self._check_question(context, kept)
            row = {
                "created_at": self._clock(),
                "state": RunState.QUEUED,
                "draft": msgspec.json.encode(kept),
                "asked": _fingerprints(fresh),
                "agent_run_id": new_agent_id(),
                "turn_id": context.run_id if _has_question(fresh) else None,
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
        _found(context.thread_key, connection)
        now = self._clock()
        row = {
            "created_at": now,
            "ended_at": now,
            "state": RunState.ENDED,
            "draft": b"",
            "asked": _fingerprints(asked),
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
            _add_seed(connection, key, draft.seed)
        _take_answers(connection, context, draft.request.get("resume", ()))

    def _insert_run(
        self, connection: Connection, context: UserExecutionContext, row: Mapping[str, Any]
    ) -> None:
        # The id may be that of a run whose thread was deleted, and whose row is still there.
        before = usage.load_run_bytes(connection, context.run_key)
        connection.execute(delete(runs).where(_run(context.run_key), ~_IS_ALIVE))
        stored = load_stored(connection, context.thread_key)
        keys = {**context.run_key._asdict(), "thread_id": stored.thread_id}
        draft = attachments.keep(connection, stored, row["draft"])
        connection.execute(insert(runs).values({**keys, **row, "draft": draft}))
        _count_run(connection, context.run_key, before=before)

    def _begin_queued_run(
        self, context: UserExecutionContext, draft: RunDraft, connection: Connection
    ) -> BegunRun:
        if _load_run(context.run_key, connection) is None:
            raise NotFound(f"run {context.run_id} was deleted with its thread")
        return self._begin_run(context, draft, connection)

    def _begin_run(
        self, context: UserExecutionContext, draft: RunDraft, connection: Connection
    ) -> BegunRun:
        stored = _load_run(context.run_key, connection)
        if stored is not None:  # it waited, and was let in when it came
            draft = replace(draft, is_forgotten=stored.draft.is_forgotten)
            before = usage.load_run_bytes(connection, context.run_key)
            begun, row = self._join(context, draft, connection)
            row["draft"] = _replace_draft(connection, context, row["draft"])
            connection.execute(update(runs).where(_run(context.run_key)).values(**row))
            _count_run(connection, context.run_key, before=before)
            return begun
        with usage.bounded(connection, context.user_id, self._quotas):
            self._enter(connection, context, draft)
            begun, row = self._join(context, draft, connection)
            _check_added(draft, begun.added)
            self._insert_run(connection, context, {**row, "created_at": row["started_at"]})
        return begun

    def _join(
        self, context: UserExecutionContext, draft: RunDraft, connection: Connection
    ) -> tuple[BegunRun, dict[str, Any]]:
        """Apply a run's rewind and add its messages; return what its row holds from now on."""
        key = context.thread_key
        head = self._load_bounds(key, connection).head
        ask = self._ask_again if draft.asks_again else self._ask
        asked = ask(connection, context, draft, head)
        self._touch_thread(connection, key, title=_title_of(asked.added))
        agent_ids = _load_agent_ids(connection, context, draft)
        row = {
            "state": RunState.RUNNING,
            "draft": _joined(draft, asked.place),
            "asked": _fingerprints(_asked_of(draft, asked.added)),
            "first_seq": head.seq + 1,
            "started_at": self._clock(),
            "agent_run_id": agent_ids.run_id,
            "turn_id": _turn_for(connection, context, asked.added),
        }
        state = _state_for(draft, key, connection)
        kind, is_claimed = load_kind(connection, key), is_history_claimed(connection, key)
        begun = BegunRun(
            asked.added, asked.history, head, agent_ids, asked.rewound, state, kind, is_claimed
        )
        return begun, row

    def _ask(
        self, connection: Connection, context: UserExecutionContext, draft: RunDraft, head: EventId
    ) -> _Asked:
        """Apply a run's rewind and add what is new."""
        key, run_key = context.thread_key, context.run_key
        if draft.rewind_to is not None:
            _rewind(connection, key, draft.rewind_to, until=head.seq + 1)
        if draft.seed is None:
            history = _load_messages(key, None, connection)
        else:  # it was written just now, and nothing else stands in a thread that takes one
            history = list(draft.seed.messages)
        rewound = _load_rewound(key, draft, history, connection)
        added = new_messages(draft.messages, history, rewound=rewound)
        self._check_question(context, replace(draft, messages=added))
        place = _add_messages(connection, key, run_key.run_id, added, since=head.seq + 1)
        return _Asked(added, [*history, *added], place, rewound)

    def _ask_again(
        self, connection: Connection, context: UserExecutionContext, draft: RunDraft, head: EventId
    ) -> _Asked:
        """Take back what followed the thread's last question; else as `_ask`.

        The question itself stays as it is: its row is neither dropped nor written anew.
        """
        key = context.thread_key
        question = _load_last_question(key, connection)
        if question is None or question.message_id != draft.rewind_to:
            raise RunConflict("another question was asked after the one that is asked again")
        number, since = question.number, question.since_seq
        move_question(connection, number, context.run_key.run_id)
        _take_back(connection, key, number + 1, since=since, until=head.seq + 1)
        history = _load_messages(key, None, connection)
        return _Asked(history[-1:], history, (number, number))

    def _load_snapshot(
        self, key: ThreadKey, place: Place | None, page: LoadPage, connection: Connection
    ) -> ThreadSnapshot | None:
        thread = _load_thread(key, connection)
        if thread is None:
            return None
        bounds = self._load_bounds(key, connection)
        if place is not None:  # older messages, as of the moment when the first page was read
            check_place(place, bounds)
            return page(connection, key, place).of(thread, place.head, ())
        head, active_run_id = _load_moment(connection, key, bounds)
        interrupts = _open_interrupts(key, connection)[1] if active_run_id is None else ()
        state = load_state(connection, key, at_seq=head.seq)
        newest = page(connection, key, Place.newest(head)).of(thread, head, interrupts)
        return replace(newest, state=state)

    def _load_conversation(
        self, key: ThreadKey, place: Place | None, load: LoadRuns, connection: Connection
    ) -> Conversation | None:
        if _load_thread(key, connection) is None:
            return None
        bounds = self._load_bounds(key, connection)
        if place is not None:
            check_place(place, bounds)
            return Conversation(*load(connection, key, place))
        head, active_run_id = _load_moment(connection, key, bounds)
        page = load(connection, key, Place.newest(head))
        if active_run_id is not None:
            return Conversation(*page, active_run_id)
        asking_run_id, interrupts = _open_interrupts(key, connection)
        return Conversation(*page, None, asking_run_id or None, interrupts)

    def _add_thread(self, key: ThreadKey, title: str, connection: Connection) -> ThreadSummary:
        if _load_thread(key, connection) is None:
            with usage.bounded(connection, key.user_id, self._quotas):
                self._touch_thread(connection, key, title=title)
        return _found(key, connection)

    def _set_title(self, key: ThreadKey, title: str, connection: Connection) -> ThreadSummary:
        _found(key, connection)
        values = {"title": title, "updated_at": self._clock()}
        connection.execute(update(threads).where(_thread(key)).values(values))
        return _found(key, connection)

    def _touch_thread(
        self,
        connection: Connection,
        key: ThreadKey,
        *,
        title: str = "",
        kind: ThreadKind = ThreadKind.CHAT,
    ) -> None:
        now = self._clock()
        found = _load_thread(key, connection)
        if found is None:
            epoch = self._load_bounds(key, connection).head.epoch
            row = {"epoch": epoch, "trimmed_seq": 0, "created_at": now, "updated_at": now}
            row |= load_stored(connection, key)._asdict()
            row |= {"title": title, "agent_thread_id": new_agent_id(), "kind": kind}
            connection.execute(insert(threads).values(**row))
            usage.add(connection, key.user_id, threads=1, size=usage.ROW_BYTES)
            return
        # A row that another program made has no id yet.
        agent_id = func.coalesce(threads.c.agent_thread_id, new_agent_id())
        values = {"updated_at": now, "title": found.title or title, "agent_thread_id": agent_id}
        connection.execute(update(threads).where(_thread(key)).values(values))


def _load_moment(
    connection: Connection, key: ThreadKey, bounds: LogBounds
) -> tuple[EventId, str | None]:
    """Return where the log ended before the run under way, and that run's id, if there is one."""
    # Two can be there after a run whose end the database refused; the newer one is under way.
    # Not by SQL's max(): for that SQLite walks through all runs that the thread ever had.
    under_way = connection.execute(
        select(runs.c.first_seq, runs.c.run_id).where(_runs(key), _IS_UNDER_WAY)
    )
    newest = max(map(tuple, under_way), default=None)
    if newest is None:
        return bounds.head, None
    first_seq, run_id = newest
    return EventId(bounds.head.epoch, first_seq - 1), run_id


def new_messages(
    offered: Sequence[Message],
    history: Iterable[Message],
    *,
    rewound: frozenset[str] = frozenset(),
) -> list[Message]:
    """Return those of `offered` that `history` doesn't have yet, in order, each id once.

    `rewound` are ids, of messages and of calls, that were edited away: they don't come back.

    A tool's answer is known by the call it answers, too: clients that rebuild their history give
    tool messages ids of their own, and a call answered twice is no conversation. Some models count
    their calls anew in each turn, and then an id that was answered names a call that waits.
    """
    known: set[str] = set(rewound)
    answered: set[str] = set(rewound)
    reopened: set[str] = set()
    for message in history:
        known.add(message["id"])
        again = answered.intersection(call["id"] for call in calls_of(message))
        call_id = message.get("toolCallId", "")
        answered -= again
        answered.add(call_id)
        reopened |= again
        reopened.discard(call_id)
    earlier = _find_earlier(offered, known, reopened)
    fresh: list[Message] = []
    for place, message in enumerate(offered):
        call_id = message.get("toolCallId")
        if message["id"] in known or place in earlier or (call_id and call_id in answered):
            continue
        known.add(message["id"])
        answered.add(call_id or "")
        fresh.append(message)
    return fresh


def _find_earlier(
    offered: Sequence[Message], known: Collection[str], reopened: Collection[str]
) -> frozenset[int]:
    """Return the places of answers to the earlier calls of ids that name another call now.

    A list that begins with the conversation has them before what the thread knows, or before the
    answer to the newer call.
    """
    found: set[int] = set()
    seen: set[str] = set()
    for place in reversed(range(len(offered))):
        message = offered[place]
        call_id = message.get("toolCallId", "")
        if message["id"] in known:
            seen.update(reopened)
        elif call_id in reopened:
            if call_id in seen:
                found.add(place)
            seen.add(call_id)
    return frozenset(found)


def _check_added(draft: RunDraft, added: Sequence[Message]) -> None:
    """Raise `RunConflict` when a run that brings answers only comes too late with all of them."""
    if draft.must_add and not added:
        raise RunConflict("the calls that it answers were answered already")


def _has_question(added: Iterable[Message]) -> bool:
    return any(message["role"] == "user" for message in added)


def _turn_for(
    connection: Connection, context: UserExecutionContext, added: Iterable[Message]
) -> str:
    """Return the turn of a run that begins now, whose messages have joined the thread."""
    run_id = context.run_key.run_id
    if _has_question(added):
        return run_id
    return find_turn(connection, context.thread_key, run_id)


def _before(message_id: str | None, history: Sequence[Message]) -> Sequence[Message]:
    """Return what a rewind to that message leaves standing; all of it without one."""
    ids = [message["id"] for message in history]
    return history[: ids.index(message_id)] if message_id in ids else history


def _title_of(added: Sequence[Message]) -> str:
    """Return the first words of the first question, as a thread's name until it gets another."""
    for message in added:
        content = message.get("content")
        if message["role"] == "user" and isinstance(content, str):
            return " ".join(content.split())[:TITLE_MAX_CHARACTERS]
    return ""


def _thread(key: ThreadKey) -> Any:  # noqa: ANN401 - SQLAlchemy's columns are untyped
    return rows_of(threads, key)


def _run(key: RunKey) -> Any:  # noqa: ANN401 - as above
    return and_(runs.c.user_id == key.user_id, runs.c.run_id == key.run_id)


def _runs(key: ThreadKey) -> Any:  # noqa: ANN401 - as above
    return rows_of(runs, key)


def _messages(key: ThreadKey) -> Any:  # noqa: ANN401 - as above
    return rows_of(messages, key)


_IS_ALIVE: Final = exists().where(
    threads.c.user_id == runs.c.user_id, threads.c.thread_id == runs.c.thread_id
)
"""Of a run: its thread wasn't deleted. The rows of a deleted thread go one after the other."""


def _load_run(key: RunKey, connection: Connection) -> StoredRun | None:
    row = connection.execute(select(runs).where(_run(key), _IS_ALIVE)).one_or_none()
    if row is None or row.attached_to is None:
        return None if row is None else _stored(row, connection)
    found = _load_run(RunKey(key.user_id, row.attached_to), connection)
    return None if found is None else replace(found, asked=_to_asked(row.asked))


def _load_open_runs(connection: Connection) -> list[StoredRun]:
    open_states = [RunState.QUEUED, RunState.RUNNING]  # by an index, which "not ended" has none of
    is_open = and_(runs.c.state.in_(open_states), _IS_ALIVE)
    query = select(runs).where(is_open).order_by(runs.c.created_at)
    return [_stored(row, connection) for row in connection.execute(query)]


def _stored(row: Row[Any], connection: Connection) -> StoredRun:
    return StoredRun(
        key=RunKey(row.user_id, row.run_id),
        thread_id=to_thread_id(row.thread_id),
        state=RunState(row.state),
        draft=_to_draft(row, connection),
        first_seq=row.first_seq,
        last_seq=row.last_seq,
        created_at=row.created_at,
        started_at=row.started_at,
        ended_at=row.ended_at,
        outcome=row.outcome,
        error_id=row.error_id,
        stop=None if row.stop is None else msgspec.json.decode(row.stop, type=RunStop),
        agent_code=row.agent_code,
        agent_message=None if row.agent_message is None else row.agent_message.decode(),
        asked=_to_asked(row.asked or b""),
    )


def _told(failure: AgentFailed | None) -> dict[str, Any]:
    """Return what a run's row holds of the error that its agent ended it with."""
    if failure is None:
        return {}
    message = failure.agent_message
    return {
        "agent_code": failure.agent_code,
        "agent_message": None if message is None else message.encode(),
    }


# As text: each is a look at one index, and SQLAlchemy's binding costs as much again.
_AGENT_THREAD: Final = "SELECT agent_thread_id FROM threads WHERE user_id = ? AND thread_id = ?"
_AGENT_RUN: Final = """
SELECT coalesce(agent_run_id, (
    SELECT joined.agent_run_id FROM runs AS joined
    WHERE joined.user_id = runs.user_id AND joined.run_id = runs.attached_to
))
FROM runs JOIN threads USING (user_id, thread_id) WHERE user_id = ? AND run_id = ?
"""


def _load_agent_ids(
    connection: Connection, context: UserExecutionContext, draft: RunDraft
) -> RunIds:
    """Return by which ids an agent knows the run, whose thread is there; a new run gets its own."""
    stored = load_stored(connection, context.thread_key)
    thread_id = str(connection.exec_driver_sql(_AGENT_THREAD, stored).scalar_one())
    run_id = _load_agent_run_id(connection, context.run_key) or new_agent_id()
    parent = draft.request.get("parentRunId")
    if parent is None or parent == context.run_id:
        return RunIds(thread_id, run_id, parent and run_id)
    known = _load_agent_run_id(connection, RunKey(context.user_id, parent))
    return RunIds(thread_id, run_id, known or derive_stand_in(thread_id, parent))


def _load_agent_run_id(connection: Connection, key: RunKey) -> str | None:
    """Return by which id an agent knows one of the user's runs; None when there is no such run."""
    return connection.exec_driver_sql(_AGENT_RUN, key).scalar_one_or_none()


class _KeptDraft(msgspec.Struct):
    """A draft as it stands in its run's row."""

    agent: str
    messages: list[Message]
    rewind_to: str | None
    request: dict[str, Any]
    stopped_at: int | None = None
    asks_again: bool = False
    is_forgotten: bool = False
    place: tuple[int, int] | None = None
    """First and last number of its messages in their table, once they have joined the thread."""


def _joined(draft: RunDraft, place: tuple[int, int] | None) -> bytes:
    """Return what is kept of a draft whose messages stand in their own table."""
    return msgspec.json.encode(
        _KeptDraft(
            draft.agent,
            [],
            draft.rewind_to,
            dict(draft.request),
            asks_again=draft.asks_again,
            is_forgotten=draft.is_forgotten,
            place=place,
        )
    )


def _to_draft(row: Row[Any], connection: Connection) -> RunDraft:
    """Return what a run asks for; one run that is damaged must not hide the others."""
    try:
        key = ThreadKey(row.user_id, row.thread_id)
        written = attachments.load_whole(connection, key, row.draft)
        kept = msgspec.json.decode(written, type=_KeptDraft)
        found = kept.messages if kept.place is None else _load_added(key, kept.place, connection)
    except (msgspec.DecodeError, DatabaseFailed) as error:
        _log.error("draft_unreadable", run_id=row.run_id, reason=str(error))
        return NO_DRAFT
    return RunDraft(
        kept.agent,
        found,
        kept.rewind_to,
        kept.request,
        kept.stopped_at,
        kept.asks_again,
        kept.is_forgotten,
    )


def _note_stop(key: RunKey, asked_at: int, connection: Connection) -> None:
    is_waiting = and_(_run(key), runs.c.state == RunState.QUEUED, _IS_ALIVE)
    waiting = select(runs.c.thread_id, runs.c.draft).where(is_waiting)
    found = connection.execute(waiting).one_or_none()
    if found is None:  # it has begun meanwhile, or is gone
        return
    kept = _load_kept(connection, key, found.thread_id, found.draft)
    kept.stopped_at = asked_at
    _write_kept(connection, key, found.thread_id, found.draft, kept)


def _forget_run(key: RunKey, connection: Connection) -> None:
    is_known = and_(_run(key), runs.c.attached_to.is_(None), _IS_ALIVE)
    query = select(runs.c.thread_id, runs.c.draft).where(is_known)
    found = connection.execute(query).one_or_none()
    if found is None:
        return
    kept = _load_kept(connection, key, found.thread_id, found.draft)
    kept.is_forgotten = True
    _write_kept(connection, key, found.thread_id, found.draft, kept)


def _load_kept(connection: Connection, key: RunKey, thread_id: str, draft: bytes) -> _KeptDraft:
    """Return what a run's row has of its draft, whole."""
    whole = attachments.load_whole(connection, ThreadKey(key.user_id, thread_id), draft)
    return msgspec.json.decode(whole, type=_KeptDraft)


def _write_kept(
    connection: Connection, key: RunKey, thread_id: str, old: bytes, kept: _KeptDraft
) -> None:
    """Write a draft in the place of what a run's row had of it."""
    before = usage.load_run_bytes(connection, key)
    stored = ThreadKey(key.user_id, thread_id)
    draft = attachments.replace(connection, stored, old, msgspec.json.encode(kept))
    connection.execute(update(runs).where(_run(key)).values(draft=draft))
    _count_run(connection, key, before=before)


def _replace_draft(connection: Connection, context: UserExecutionContext, draft: bytes) -> bytes:
    """Keep what a run asks for in the place of what its row has, and return it to be written."""
    query = select(runs.c.draft).where(_run(context.run_key))
    old = connection.execute(query).scalar_one()
    return attachments.replace(connection, load_stored(connection, context.thread_key), old, draft)


class _AgentOf(msgspec.Struct):
    """As much of a draft as outlives its run."""

    agent: str
    is_forgotten: bool = False


def _narrowed(draft: bytes) -> bytes:
    """Return what stays of a draft when its run has ended: mostly the name of its agent."""
    try:
        kept = msgspec.json.decode(bare(draft), type=_AgentOf)
    except msgspec.DecodeError:
        kept = _AgentOf(NO_DRAFT.agent)
    return msgspec.json.encode(RunDraft(kept.agent, (), None, {}, is_forgotten=kept.is_forgotten))


def _fingerprints(asked: Iterable[Message]) -> bytes:
    return b"".join(part for message in asked for part in fingerprint(message))


def _asked_of(draft: RunDraft, added: Sequence[Message]) -> Sequence[Message]:
    """Return what tells a second frame of a run from another: what it added, and its seed."""
    return added if draft.seed is None else [*added, draft.seed.to_stand_in()]


def _to_asked(prints: bytes) -> dict[bytes, bytes]:
    size = FINGERPRINT_BYTES
    parts = [prints[place : place + size] for place in range(0, len(prints), size)]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def _find_first(connection: Connection, key: ThreadKey, run_id: str, known: int) -> int:
    """Return the first log entry of a run that ends now without having begun; `known` is its own.

    It may have written its start already. A thread has one run at a time, so its entries are the
    last ones.
    """
    ours = select(events.c.seq).where(rows_of(events, key), events.c.seq < known)
    newest = ours.add_columns(events.c.run_id).order_by(events.c.seq.desc())
    with connection.execute(newest) as rows:
        for seq, writer in rows:
            if writer != run_id:
                break
            known = seq
    return known


def _take_answers(
    connection: Connection, context: UserExecutionContext, resume: Sequence[Mapping[str, Any]]
) -> None:
    """Let the run answer what the thread's last run asked; the first one that does has answered."""
    if not resume:
        return
    asking_id, interrupts = _open_interrupts(context.thread_key, connection)
    check_answers(resume, interrupts)
    connection.execute(
        update(runs)
        .where(_run(RunKey(context.user_id, asking_id)))
        .values(answered_by=context.run_id)
    )


def _open_interrupts(key: ThreadKey, connection: Connection) -> tuple[str, Sequence[Interrupt]]:
    """Return the thread's last run and what it asks, nothing when it asks nothing any more."""
    last = connection.execute(
        select(runs.c.run_id, runs.c.interrupts, runs.c.answered_by)
        .where(_runs(key), runs.c.first_seq.is_not(None))
        .order_by(runs.c.first_seq.desc())
        .limit(1)
    ).one_or_none()
    if last is None or last.interrupts is None or last.answered_by is not None:
        return "", ()
    return last.run_id, msgspec.json.decode(last.interrupts)


def erase(connection: Connection, key: ThreadKey) -> frozenset[str]:
    """Delete a thread: nothing of it is there any more, and its rows are removed by and by.

    Its rows count as the user's until they are removed. Returns the ids of its runs that somebody
    may be about still: those that haven't ended, and the newest. Counts the deletion, so that the
    thread's next numbering is of another epoch. Raises `NotFound`.
    """
    stored = load_stored(connection, key)
    run_ids = frozenset(connection.exec_driver_sql(_LATE_RUNS, (*stored, *stored)).scalars())
    if connection.execute(delete(threads).where(_thread(key))).rowcount == 0:
        raise NotFound(f"no thread {key.thread_id}")
    usage.add(connection, key.user_id, threads=-1, size=-usage.ROW_BYTES)
    generation = connection.exec_driver_sql(_COUNT_DELETION, (key.user_id,)).scalar_one()
    note_removal(connection, key, stored, generation=generation)
    return run_ids


# By the indexes of open runs and of the newest: a thread may have ten thousand that have ended.
_LATE_RUNS: Final = """
SELECT run_id FROM runs INDEXED BY runs_by_state
WHERE state IN ('queued', 'running') AND user_id = ? AND thread_id = ?
UNION SELECT run_id FROM (
    SELECT run_id FROM runs WHERE user_id = ? AND thread_id = ? ORDER BY first_seq DESC LIMIT 1
)
"""
_COUNT_DELETION: Final = """
INSERT INTO deletions (user_id, generation) VALUES (?, 1)
ON CONFLICT (user_id) DO UPDATE SET generation = generation + 1 RETURNING generation
"""


def _load_thread(key: ThreadKey, connection: Connection) -> ThreadSummary | None:
    row = connection.execute(_select_threads().where(_thread(key))).one_or_none()
    return None if row is None else _summary(row)


def _found(key: ThreadKey, connection: Connection) -> ThreadSummary:
    thread = _load_thread(key, connection)
    if thread is None:
        raise NotFound(f"no thread {key.thread_id}")
    return thread


def _select_threads() -> Select[Any]:
    active = (
        select(runs.c.run_id)
        .where(
            runs.c.user_id == threads.c.user_id,
            runs.c.thread_id == threads.c.thread_id,
            _IS_UNDER_WAY,
        )
        .limit(1)
        .scalar_subquery()
    )
    return select(threads, active.label("active_run_id"))


def _summary(row: Row[Any]) -> ThreadSummary:
    return ThreadSummary(
        to_thread_id(row.thread_id),
        row.title,
        row.created_at,
        row.updated_at,
        row.active_run_id,
        ThreadKind(row.kind),
    )


def _load_threads(
    user_id: str, before: tuple[int, str] | None, limit: int, connection: Connection
) -> ThreadPage:
    place = tuple_(threads.c.updated_at, threads.c.thread_id)
    query = _select_threads().where(threads.c.user_id == user_id, _IS_LISTED)
    if before is not None:
        query = query.where(place < before)
    newest = query.order_by(threads.c.updated_at.desc(), threads.c.thread_id.desc())
    found = connection.execute(newest.limit(limit + 1)).all()
    page, rest = found[:limit], found[limit:]
    cursor = f"{page[-1].updated_at}~{page[-1].thread_id}" if rest else None
    return ThreadPage([_summary(row) for row in page], cursor)


def _parse_cursor(cursor: str) -> tuple[int, str]:
    updated_at, separator, thread_id = cursor.partition("~")
    if not separator or not _CURSOR_TIME.fullmatch(updated_at):
        raise InvalidCursor("cursor: must be as a page gave it")
    return int(updated_at), thread_id


def _load_messages(
    key: ThreadKey, before: int | None, connection: Connection, *, max_bytes: int = sys.maxsize
) -> list[Message]:
    """Return what stands now, or stood before the log entry `before`.

    Raises `TooLarge` when that has more than `max_bytes` as a list.
    """
    query = select(messages.c.payload).where(_messages(key)).order_by(messages.c.number)
    if before is None:
        query = query.where(messages.c.until_seq.is_(None))
    else:
        query = query.where(
            messages.c.since_seq < before,
            messages.c.payload != b"",  # of these retention has kept the id only
            or_(messages.c.until_seq.is_(None), messages.c.until_seq >= before),
        )
    payloads: list[bytes] = []
    size = 0
    with connection.execute(query) as result:
        rows: Any = result.cursor  # the driver's own: SQLAlchemy's takes longer for a row
        for (payload,) in rows:
            size += size_of(payload) + 1
            if size > max_bytes:
                raise TooLarge(f"the messages have more than {max_bytes} bytes")
            payloads.append(payload)
    return [_to_message(connection, key, payload) for payload in payloads]


def _to_message(connection: Connection, key: ThreadKey, written: bytes) -> Message:
    message: Message = msgspec.json.decode(attachments.load_whole(connection, key, written))
    return message


def _load_added(key: ThreadKey, place: tuple[int, int], connection: Connection) -> list[Message]:
    """Return the thread's messages from one number to another."""
    query = select(messages.c.payload).where(_messages(key), messages.c.number.between(*place))
    payloads = connection.execute(query.order_by(messages.c.number)).scalars().all()
    return [_to_message(connection, key, payload) for payload in payloads]


def _load_known_ids(key: ThreadKey, before: str | None, connection: Connection) -> frozenset[str]:
    query = select(messages.c.message_id).where(_ever(connection, key, before))
    return frozenset(connection.execute(query).scalars())


def _load_answered(key: ThreadKey, before: str | None, connection: Connection) -> frozenset[str]:
    query = select(messages.c.payload).where(
        _ever(connection, key, before),
        messages.c.payload != b"",  # of these retention has kept the id only
    )
    answered: set[str] = set()
    with connection.execute(query.order_by(messages.c.number)) as rows:
        for payload in rows.scalars():
            found = msgspec.json.decode(bare(payload), type=_Calls)
            answered.difference_update(call.id for call in found.made)
            if found.answered is not None:
                answered.add(found.answered)
    return frozenset(answered)


def _ever(connection: Connection, key: ThreadKey, before: str | None) -> Any:  # noqa: ANN401 - SQLAlchemy's columns are untyped
    """Select all that a thread ever had, or what stands before a message that stands."""
    cut = None if before is None else _find_standing(connection, key, before)
    return _messages(key) if cut is None else and_(_standing(key), messages.c.number < cut.number)


def _load_rewound(
    key: ThreadKey, draft: RunDraft, history: Iterable[Message], connection: Connection
) -> frozenset[str]:
    """Return the ids that a run may not bring back; one that rewinds itself may bring any.

    Another device offers its old list in good faith. The calls of rewound messages are among the
    ids, for devices give results ids of their own.
    """
    if draft.rewind_to is not None:
        return frozenset()
    query = select(messages.c.message_id, messages.c.payload)
    ids: set[str] = set()
    for message_id, payload in connection.execute(
        query.where(_messages(key), messages.c.until_seq.is_not(None))
    ):
        ids.add(message_id)
        if payload:  # else only the id is kept
            ids.update(_calls_in(msgspec.json.decode(bare(payload))))
    if not ids:  # as mostly: then what stands need not be gone through
        return frozenset()
    standing = {one for message in history for one in (message["id"], *_calls_in(message))}
    return frozenset(ids - standing)


def _calls_in(message: Message) -> list[str]:
    """Return the calls that a message makes or answers."""
    answered = message.get("toolCallId")
    return [call["id"] for call in calls_of(message)] + ([answered] if answered else [])


def _load_known(
    key: ThreadKey, message_id: str, rewind_to: str | None, connection: Connection
) -> KnownMessage | None:
    found = connection.execute(
        select(messages.c.number, messages.c.payload, messages.c.until_seq)
        .where(_messages(key), messages.c.message_id == message_id)
        .order_by(messages.c.until_seq.is_not(None), messages.c.number.desc())
        .limit(1)
    ).one_or_none()
    if found is None:
        return None
    cut = None if rewind_to is None else _find_standing(connection, key, rewind_to)
    is_cut = cut is not None and found.number >= cut.number
    stands = found.until_seq is None and not is_cut
    last = _load_last_question(key, connection) if stands and cut is None else None
    return KnownMessage(
        _to_message(connection, key, found.payload) if found.payload else None,
        stands,
        last is not None and last.number == found.number,
    )


_PLACE: Final = (messages.c.number, messages.c.since_seq, messages.c.message_id)


class _Call(msgspec.Struct):
    id: str


class _Calls(msgspec.Struct):
    """As much of a message as tells which calls it makes, and which one it answers."""

    made: list[_Call] = msgspec.field(name="toolCalls", default_factory=list[_Call])
    answered: str | None = msgspec.field(name="toolCallId", default=None)


class _Standing(NamedTuple):
    """Where a message stands: its number, and the first log entry of the run that added it."""

    number: int
    since_seq: int
    message_id: str


def _load_last_question(key: ThreadKey, connection: Connection) -> _Standing | None:
    """Return where the newest message of a user stands."""
    newest = select(*_PLACE, messages.c.payload).where(_standing(key))
    with connection.execute(newest.order_by(messages.c.number.desc())) as rows:
        for *place, payload in rows:
            if msgspec.json.decode(bare(payload), type=RoleOf).role == "user":
                return _Standing(*place)
    return None


def _state_for(draft: RunDraft, key: ThreadKey, connection: Connection) -> Any:  # noqa: ANN401
    """Return the shared state for a run's agent; None when neither run nor thread has any."""
    sent = draft.request.get("state")
    if is_sent(sent):
        return sent
    kept = load_state(connection, key)
    try:
        return None if kept is None else decode_state(kept)
    except (ValueError, RecursionError) as error:  # a damaged row must not end each run here
        _log.error("state_unreadable", thread_id=key.thread_id, reason=str(error))
        return None


def _has_message(key: ThreadKey, message_id: str, connection: Connection) -> bool:
    return _find_standing(connection, key, message_id) is not None


def _standing(key: ThreadKey) -> Any:  # noqa: ANN401 - SQLAlchemy's columns are untyped
    return and_(_messages(key), messages.c.until_seq.is_(None))


def _find_standing(connection: Connection, key: ThreadKey, message_id: str) -> _Standing | None:
    """Return where the first message of that id stands: an agent may use one id twice."""
    first = select(*_PLACE).where(_standing(key), messages.c.message_id == message_id)
    found = connection.execute(first.order_by(messages.c.number).limit(1)).one_or_none()
    return None if found is None else _Standing(*found)


def _add_seed(connection: Connection, key: ThreadKey, seed: Seed) -> None:
    """Add what was said before the first run of a thread."""
    is_claimed = seed.is_claimed
    _add_messages(
        connection, key, NO_RUN, seed.messages, since=BEFORE_THE_LOG, is_claimed=is_claimed
    )


# As text: a seed may have a thousand messages, and SQLAlchemy takes longer for them than SQLite.
_ADD: Final = """
INSERT INTO messages (user_id, thread_id, message_id, run_id, payload, since_seq, is_claimed)
VALUES (?, ?, ?, ?, ?, ?, ?)
"""


def _add_messages(
    connection: Connection,
    key: ThreadKey,
    run_id: str,
    added: Sequence[Message],
    *,
    since: int,
    is_claimed: bool = False,
) -> tuple[int, int] | None:
    """Add messages and return the numbers of the first and the last one; None when none came."""
    if not added:
        return None
    stored = load_stored(connection, key)
    payloads = [
        attachments.keep(connection, stored, msgspec.json.encode(message)) for message in added
    ]
    rows = [
        (*stored, message["id"], run_id, payload, since, is_claimed)
        for message, payload in zip(added, payloads, strict=True)
    ]
    connection.exec_driver_sql(_ADD, rows)
    usage.add(connection, key.user_id, size=usage.weigh(map(len, payloads)))
    # Nobody else writes meanwhile, so they stand in a row.
    last: int = connection.execute(select(func.max(messages.c.number))).scalar_one()
    return last - len(rows) + 1, last


def _count_run(connection: Connection, key: RunKey, *, before: int) -> None:
    """Count a run's row anew, which counted `before` bytes until now."""
    now = usage.load_run_bytes(connection, key)
    usage.add(connection, key.user_id, size=now - before)


def _rewind(connection: Connection, key: ThreadKey, message_id: str, *, until: int) -> None:
    """Drop the message and what follows it, as of the log entry `until`."""
    found = _find_standing(connection, key, message_id)
    if found is not None:
        _take_back(connection, key, found.number, since=found.since_seq, until=until)


def _take_back(
    connection: Connection, key: ThreadKey, number: int, *, since: int, until: int
) -> None:
    """Take messages back from `number` on, and the shared state from the log entry `since` on."""
    connection.execute(
        update(messages).where(_standing(key), messages.c.number >= number).values(until_seq=until)
    )
    take_back_states(connection, key, since=since, until=until)
    take_back_turns(connection, key, since=since)
