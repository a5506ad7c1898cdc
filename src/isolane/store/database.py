"""Threads, messages and runs in the database."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final

import msgspec
from sqlalchemy import (
    Connection,
    Row,
    Select,
    and_,
    delete,
    func,
    insert,
    or_,
    select,
    tuple_,
    update,
)

from isolane.clock import Clock
from isolane.context import EventId, RunKey, ThreadKey, UserExecutionContext
from isolane.contracts import (
    BegunRun,
    LogBounds,
    RunDraft,
    RunEnd,
    RunState,
    RunStop,
    StoredRun,
    ThreadPage,
    ThreadSnapshot,
    ThreadSummary,
)
from isolane.database import Database, deletions, messages, runs, threads
from isolane.errors import InvalidCursor, NotFound
from isolane.interrupts import Interrupt, check_answers
from isolane.transcript import Message

TITLE_MAX_CHARACTERS: Final = 80
_CURSOR_TIME: Final = re.compile(r"[0-9]{1,15}")

LoadBounds = Callable[[ThreadKey, Connection], LogBounds]
"""Tells where a log ends, within the transaction of the asker."""


class DatabaseStore:
    """The tables `threads`, `runs` and `messages`."""

    def __init__(self, database: Database, *, load_bounds: LoadBounds, clock: Clock) -> None:
        """Keep everything in `database`; `load_bounds` ties a run to its place in the log."""
        self._database = database
        self._load_bounds = load_bounds
        self._clock = clock

    async def load_run(self, key: RunKey) -> StoredRun | None:
        """Return the user's run of that id, whatever its thread."""
        return await self._database.read(partial(_load_run, key))

    async def add_run(self, context: UserExecutionContext, draft: RunDraft) -> None:
        """Keep a run that waits for its turn; its thread comes into being with it."""
        await self._database.write(partial(self._add_run, context, draft))

    async def begin_run(self, context: UserExecutionContext, draft: RunDraft) -> BegunRun:
        """Mark the run as running, apply its rewind, and join its new messages to the thread."""
        return await self._database.write(partial(self._begin_run, context, draft))

    async def begin_queued_run(self, context: UserExecutionContext, draft: RunDraft) -> BegunRun:
        """Do the same for a run that waited; raises `NotFound` when its thread is gone."""
        return await self._database.write(partial(self._begin_queued_run, context, draft))

    async def load_open_runs(self) -> list[StoredRun]:
        """Return every run that isn't ended, of all users, oldest first. For recovery only."""
        return await self._database.read(_load_open_runs)

    async def load_thread(self, key: ThreadKey) -> ThreadSummary | None:
        """Return the thread, or None when nobody used it yet."""
        return await self._database.read(partial(_load_thread, key))

    async def load_threads(self, user_id: str, *, before: str | None, limit: int) -> ThreadPage:
        """Return the user's threads, the newest change first; `before` is a page's own cursor."""
        place = None if before is None else _parse_cursor(before)
        return await self._database.read(partial(_load_threads, user_id, place, limit))

    async def load_snapshot(self, key: ThreadKey) -> ThreadSnapshot | None:
        """Return the thread, its messages and the place to follow it from, of one moment."""
        return await self._database.read(partial(self._load_snapshot, key))

    async def add_thread(self, key: ThreadKey, *, title: str) -> ThreadSummary:
        """Make a thread, or return the one there is."""
        return await self._database.write(partial(self._add_thread, key, title))

    async def set_title(self, key: ThreadKey, title: str) -> ThreadSummary:
        """Name a thread; raises `NotFound`."""
        return await self._database.write(partial(self._set_title, key, title))

    async def load_known_ids(self, key: ThreadKey) -> frozenset[str]:
        """Return the ids of all messages that the thread ever had, rewound ones included."""
        return await self._database.read(partial(_load_known_ids, key))

    async def has_message(self, key: ThreadKey, message_id: str) -> bool:
        """Say whether the message stands now."""
        return await self._database.read(partial(_has_message, key, message_id))

    async def load_messages_before(self, key: ThreadKey, seq: int) -> list[Message]:
        """Return the messages as they stood before the log entry `seq`."""
        return await self._database.read(partial(_load_messages, key, seq))

    def settle(self, connection: Connection, key: ThreadKey, end: RunEnd, last_seq: int) -> None:
        """Write a run's end and what it left behind, in the transaction of its last event."""
        run_key = RunKey(key.user_id, end.run_id)
        first_seq = connection.execute(select(runs.c.first_seq).where(_run(run_key))).scalar_one()
        _add_messages(connection, key, end.run_id, end.messages, since=first_seq)
        connection.execute(
            update(runs)
            .where(_run(run_key))
            .values(
                state=RunState.ENDED,
                last_seq=last_seq,
                ended_at=end.ended_at,
                outcome=end.outcome,
                error_id=end.error_id,
                stop=None if end.stop is None else msgspec.json.encode(end.stop),
                interrupts=msgspec.json.encode(end.interrupts) if end.interrupts else None,
            )
        )
        connection.execute(update(threads).where(_thread(key)).values(updated_at=end.ended_at))

    def _add_run(
        self, context: UserExecutionContext, draft: RunDraft, connection: Connection
    ) -> None:
        key = context.thread_key
        self._touch_thread(connection, key)
        _take_answers(connection, context, draft.request.get("resume", ()))
        fresh = new_messages(draft.messages, _load_messages(key, None, connection))
        connection.execute(
            insert(runs).values(
                user_id=context.user_id,
                run_id=context.run_id,
                thread_id=context.thread_id,
                state=RunState.QUEUED,
                draft=msgspec.json.encode(replace(draft, messages=fresh)),
                created_at=self._clock(),
            )
        )

    def _begin_queued_run(
        self, context: UserExecutionContext, draft: RunDraft, connection: Connection
    ) -> BegunRun:
        if _load_run(context.run_key, connection) is None:
            raise NotFound(f"run {context.run_id} was deleted with its thread")
        return self._begin_run(context, draft, connection)

    def _begin_run(
        self, context: UserExecutionContext, draft: RunDraft, connection: Connection
    ) -> BegunRun:
        key, run_key = context.thread_key, context.run_key
        if _load_run(run_key, connection) is None:
            self._add_run(context, draft, connection)
        head = self._load_bounds(key, connection).head
        if draft.rewind_to is not None:
            _rewind(connection, key, draft.rewind_to, until=head.seq + 1)
        history = _load_messages(key, None, connection)
        added = new_messages(draft.messages, history)
        _add_messages(connection, key, run_key.run_id, added, since=head.seq + 1)
        self._touch_thread(connection, key, title=_title_of(added))
        connection.execute(
            update(runs)
            .where(_run(run_key))
            .values(
                state=RunState.RUNNING,
                draft=msgspec.json.encode(replace(draft, messages=added)),
                first_seq=head.seq + 1,
                started_at=self._clock(),
            )
        )
        return BegunRun(added, [*history, *added], head)

    def _load_snapshot(self, key: ThreadKey, connection: Connection) -> ThreadSnapshot | None:
        thread = _load_thread(key, connection)
        if thread is None:
            return None
        head = self._load_bounds(key, connection).head
        first_seq = connection.execute(
            select(runs.c.first_seq).where(_runs(key), runs.c.state == RunState.RUNNING)
        ).scalar_one_or_none()
        if first_seq is None:
            standing = _load_messages(key, None, connection)
            return ThreadSnapshot(thread, standing, head, _open_interrupts(key, connection)[1])
        standing = _load_messages(key, first_seq, connection)
        return ThreadSnapshot(thread, standing, EventId(head.epoch, first_seq - 1), ())

    def _add_thread(self, key: ThreadKey, title: str, connection: Connection) -> ThreadSummary:
        if _load_thread(key, connection) is None:
            self._touch_thread(connection, key, title=title)
        return _found(key, connection)

    def _set_title(self, key: ThreadKey, title: str, connection: Connection) -> ThreadSummary:
        _found(key, connection)
        values = {"title": title, "updated_at": self._clock()}
        connection.execute(update(threads).where(_thread(key)).values(values))
        return _found(key, connection)

    def _touch_thread(self, connection: Connection, key: ThreadKey, *, title: str = "") -> None:
        now = self._clock()
        found = _load_thread(key, connection)
        if found is None:
            epoch = self._load_bounds(key, connection).head.epoch
            row = {"epoch": epoch, "trimmed_seq": 0, "created_at": now, "updated_at": now}
            connection.execute(insert(threads).values(**key._asdict(), title=title, **row))
            return
        values = {"updated_at": now, "title": found.title or title}
        connection.execute(update(threads).where(_thread(key)).values(values))


def new_messages(offered: Sequence[Message], history: Iterable[Message]) -> list[Message]:
    """Return those of `offered` that `history` doesn't have yet, in order, each id once.

    A tool's answer is known by the call it answers, too: clients that rebuild their history give
    tool messages ids of their own, and a call answered twice is no conversation.
    """
    known: set[str] = set()
    answered: set[str] = set()
    for message in history:
        known.add(message["id"])
        answered.add(message.get("toolCallId", ""))
    fresh: list[Message] = []
    for message in offered:
        call_id = message.get("toolCallId")
        if message["id"] in known or (call_id and call_id in answered):
            continue
        known.add(message["id"])
        answered.add(call_id or "")
        fresh.append(message)
    return fresh


def _title_of(added: Sequence[Message]) -> str:
    """Return the first words of the first question, as a thread's name until it gets another."""
    for message in added:
        content = message.get("content")
        if message["role"] == "user" and isinstance(content, str):
            return " ".join(content.split())[:TITLE_MAX_CHARACTERS]
    return ""


def _thread(key: ThreadKey) -> Any:  # noqa: ANN401 - SQLAlchemy's columns are untyped
    return and_(threads.c.user_id == key.user_id, threads.c.thread_id == key.thread_id)


def _run(key: RunKey) -> Any:  # noqa: ANN401 - as above
    return and_(runs.c.user_id == key.user_id, runs.c.run_id == key.run_id)


def _runs(key: ThreadKey) -> Any:  # noqa: ANN401 - as above
    return and_(runs.c.user_id == key.user_id, runs.c.thread_id == key.thread_id)


def _messages(key: ThreadKey) -> Any:  # noqa: ANN401 - as above
    return and_(messages.c.user_id == key.user_id, messages.c.thread_id == key.thread_id)


def _load_run(key: RunKey, connection: Connection) -> StoredRun | None:
    row = connection.execute(select(runs).where(_run(key))).one_or_none()
    return None if row is None else _stored(row)


def _load_open_runs(connection: Connection) -> list[StoredRun]:
    query = select(runs).where(runs.c.state != RunState.ENDED).order_by(runs.c.created_at)
    return [_stored(row) for row in connection.execute(query)]


def _stored(row: Row[Any]) -> StoredRun:
    return StoredRun(
        key=RunKey(row.user_id, row.run_id),
        thread_id=row.thread_id,
        state=RunState(row.state),
        draft=msgspec.json.decode(row.draft, type=RunDraft),
        first_seq=row.first_seq,
        last_seq=row.last_seq,
        created_at=row.created_at,
        started_at=row.started_at,
        ended_at=row.ended_at,
        outcome=row.outcome,
        error_id=row.error_id,
        stop=None if row.stop is None else msgspec.json.decode(row.stop, type=RunStop),
    )


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
    """Remove a thread's row, runs and messages, in the transaction that removes its log.

    Returns the ids of the runs. Counts the deletion, so that the thread's next numbering is of
    another epoch. Raises `NotFound`.
    """
    if connection.execute(delete(threads).where(_thread(key))).rowcount == 0:
        raise NotFound(f"no thread {key.thread_id}")
    run_ids = frozenset(connection.execute(select(runs.c.run_id).where(_runs(key))).scalars())
    connection.execute(delete(runs).where(_runs(key)))
    connection.execute(delete(messages).where(_messages(key)))
    counted = (
        update(deletions)
        .where(deletions.c.user_id == key.user_id)
        .values(generation=deletions.c.generation + 1)
    )
    if connection.execute(counted).rowcount == 0:
        connection.execute(insert(deletions).values(user_id=key.user_id, generation=1))
    return run_ids


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
            runs.c.state == RunState.RUNNING,
        )
        .limit(1)
        .scalar_subquery()
    )
    return select(threads, active.label("active_run_id"))


def _summary(row: Row[Any]) -> ThreadSummary:
    return ThreadSummary(
        row.thread_id, row.title, row.created_at, row.updated_at, row.active_run_id
    )


def _load_threads(
    user_id: str, before: tuple[int, str] | None, limit: int, connection: Connection
) -> ThreadPage:
    place = tuple_(threads.c.updated_at, threads.c.thread_id)
    query = _select_threads().where(threads.c.user_id == user_id)
    if before is not None:
        query = query.where(place < before)
    newest = query.order_by(threads.c.updated_at.desc(), threads.c.thread_id.desc())
    found = [_summary(row) for row in connection.execute(newest.limit(limit + 1))]
    page, rest = found[:limit], found[limit:]
    cursor = f"{page[-1].updated_at}~{page[-1].thread_id}" if rest else None
    return ThreadPage(page, cursor)


def _parse_cursor(cursor: str) -> tuple[int, str]:
    updated_at, separator, thread_id = cursor.partition("~")
    if not separator or not _CURSOR_TIME.fullmatch(updated_at):
        raise InvalidCursor("cursor: must be as a page gave it")
    return int(updated_at), thread_id


def _load_messages(key: ThreadKey, before: int | None, connection: Connection) -> list[Message]:
    """Return what stands now, or stood before the log entry `before`."""
    query = select(messages.c.payload).where(_messages(key)).order_by(messages.c.number)
    if before is None:
        query = query.where(messages.c.until_seq.is_(None))
    else:
        query = query.where(
            messages.c.since_seq < before,
            or_(messages.c.until_seq.is_(None), messages.c.until_seq >= before),
        )
    return [msgspec.json.decode(payload) for payload in connection.execute(query).scalars()]


def _load_known_ids(key: ThreadKey, connection: Connection) -> frozenset[str]:
    query = select(messages.c.message_id).where(_messages(key))
    return frozenset(connection.execute(query).scalars())


def _has_message(key: ThreadKey, message_id: str, connection: Connection) -> bool:
    standing = and_(_messages(key), messages.c.until_seq.is_(None))
    query = select(messages.c.number).where(standing, messages.c.message_id == message_id)
    return connection.execute(query).first() is not None


def _add_messages(
    connection: Connection, key: ThreadKey, run_id: str, added: Sequence[Message], *, since: int
) -> None:
    rows = [
        {
            **key._asdict(),
            "message_id": message["id"],
            "run_id": run_id,
            "payload": msgspec.json.encode(message),
            "since_seq": since,
        }
        for message in added
    ]
    if rows:
        connection.execute(insert(messages), rows)


def _rewind(connection: Connection, key: ThreadKey, message_id: str, *, until: int) -> None:
    """Drop the message and what follows it, as of the log entry `until`."""
    standing = and_(_messages(key), messages.c.until_seq.is_(None))
    number = connection.execute(
        select(func.min(messages.c.number)).where(standing, messages.c.message_id == message_id)
    ).scalar_one()
    if number is not None:
        connection.execute(
            update(messages).where(standing, messages.c.number >= number).values(until_seq=until)
        )
