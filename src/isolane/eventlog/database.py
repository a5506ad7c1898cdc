"""The event log in the database: appends of all runs, batched into one commit.

One batch is in flight. The first append starts it at the end of the loop's tick; what comes while
it commits is the next one. So a lone event waits for nobody, and a thousand share one fsync.
"""

from __future__ import annotations

import asyncio
import sys
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from sqlalchemy import Connection, and_, delete, func, insert, select, update

from isolane.context import EventId, ThreadKey
from isolane.contracts import LogBounds, RunEnd, RunState
from isolane.database import Database, deletions, events, messages, meta, runs, threads
from isolane.errors import NotFound
from isolane.events import Record
from isolane.ids import derive_epoch, new_seed
from isolane.tasks import TaskOwner

HEADS_MAX: Final = 10_000
BATCH_MAX: Final = 2_000

Settle = Callable[[Connection, ThreadKey, RunEnd, int], None]
"""Writes a run's end into the store, in the log's own transaction; the int is its last seq."""


Erase = Callable[[Connection, ThreadKey], frozenset[str]]
"""Removes a thread from the store, in the log's own transaction, and returns its run ids."""


@dataclass(slots=True)
class _Append:
    """One call of `append` that waits for its commit."""

    key: ThreadKey
    run_id: str
    payloads: Sequence[bytes]
    epoch: str | None
    end: RunEnd | None
    done: asyncio.Future[list[Record]]


class DatabaseEventLog:
    """The logs of all threads, in the tables `threads` and `events`."""

    def __init__(
        self,
        database: Database,
        *,
        settle: Settle,
        erase: Erase,
        tasks: TaskOwner,
        max_events: int,
    ) -> None:
        """Write through `database`; `settle` and `erase` join the store to its transactions.

        When a run ends and its thread holds more than `max_events`, its oldest runs go.
        """
        self._max_events = max_events
        self._database = database
        self._settle = settle
        self._erase = erase
        self._tasks = tasks
        self._waiting: list[_Append] = []
        self._batching: asyncio.Task[None] | None = None
        # The writing thread's own: where each log ends, so that an append reads nothing.
        self._heads: OrderedDict[ThreadKey, EventId] = OrderedDict()

    async def append(
        self,
        key: ThreadKey,
        run_id: str,
        payloads: Sequence[bytes],
        *,
        epoch: str | None = None,
        end: RunEnd | None = None,
    ) -> list[Record]:
        """Commit `payloads` with the next batch; see `EventLog.append`."""
        done: asyncio.Future[list[Record]] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Append(key, run_id, payloads, epoch, end, done))
        if self._batching is None or self._batching.done():
            self._batching = self._tasks.start(self._commit_batches(), name="log commits")
        return await done

    async def _commit_batches(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:BATCH_MAX], self._waiting[BATCH_MAX:]
            try:
                written = await self._commit(batch)
            except Exception as error:  # noqa: BLE001 - every waiter must hear of it
                await self._commit_singly(batch, error)
            else:
                for append, records in zip(batch, written, strict=True):
                    _resolve(append, records)

    async def _commit(self, batch: Sequence[_Append]) -> list[list[Record]]:
        try:
            return await self._database.write(partial(self._write, batch))
        except BaseException:
            # Also when only the commit failed: what was numbered is not there, so nobody counts on.
            for append in batch:
                self._heads.pop(append.key, None)
            raise

    async def _commit_singly(self, batch: list[_Append], error: Exception) -> None:
        """Give each append of a failed batch its own transaction: one that can't be is alone."""
        if len(batch) == 1:
            _reject(batch[0], error)
            return
        for append in batch:
            try:
                (records,) = await self._commit([append])
            except Exception as own_error:  # noqa: BLE001 - goes to the one who asked
                _reject(append, own_error)
            else:
                _resolve(append, records)

    def _write(self, batch: Sequence[_Append], connection: Connection) -> list[list[Record]]:
        written = [self._number(append, connection) for append in batch]
        rows = [_row(record) for records in written for record in records]
        if rows:
            connection.exec_driver_sql(_INSERT, rows)
        for append, records in zip(batch, written, strict=True):
            if append.end is not None:
                self._settle(connection, append.key, append.end, records[-1].id.seq)
                _trim_thread(connection, append.key, 0, self._max_events)
        return written

    def _number(self, append: _Append, connection: Connection) -> list[Record]:
        head = self._heads.get(append.key) or _load_head(connection, append.key)
        if append.epoch not in {None, head.epoch}:
            raise NotFound(f"thread {append.key.thread_id} was deleted, and made anew")
        first = head.seq + 1
        ids = [EventId(head.epoch, first + place) for place in range(len(append.payloads))]
        if ids:
            self._heads[append.key] = ids[-1]
            self._heads.move_to_end(append.key)
        if len(self._heads) > HEADS_MAX:
            self._heads.popitem(last=False)
        return [
            Record(append.key, event_id, append.run_id, payload)
            for event_id, payload in zip(ids, append.payloads, strict=True)
        ]

    async def read(
        self, key: ThreadKey, *, after: EventId, limit: int, max_bytes: int = sys.maxsize
    ) -> list[Record]:
        """Return up to `limit` records strictly after `after`; see `EventLog.read`."""
        return await self._database.read(partial(_read, key, after, limit, max_bytes))

    async def load_bounds(self, key: ThreadKey) -> LogBounds:
        """Return what the log holds now."""
        return await self._database.read(partial(load_bounds, key))

    async def delete(self, key: ThreadKey) -> frozenset[str]:
        """Remove a thread with everything it has; see `EventLog.delete`."""
        return await self._database.write(partial(self._delete, key))

    def _delete(self, key: ThreadKey, connection: Connection) -> frozenset[str]:
        run_ids = self._erase(connection, key)
        connection.execute(delete(events).where(_of(events, key)))
        self._heads.pop(key, None)
        return run_ids

    async def trim(self, *, older_than: int) -> int:
        """Let go of finished runs that ended before `older_than`; see `EventLog.trim`."""
        return await self._database.write(partial(_trim, older_than, self._max_events))


def _resolve(append: _Append, records: list[Record]) -> None:
    if not append.done.done():
        append.done.set_result(records)


def _reject(append: _Append, error: Exception) -> None:
    if not append.done.done():
        append.done.set_exception(error)


# As text: this is what runs for every event, and SQLAlchemy's binding of it costs as much again.
_INSERT: Final = (
    "INSERT INTO events (user_id, thread_id, seq, run_id, payload) VALUES (?, ?, ?, ?, ?)"
)


_KEYS: Final = select(threads.c.user_id, threads.c.thread_id)


def _row(record: Record) -> tuple[str | int | bytes, ...]:
    return (*record.key, record.id.seq, record.run_id, record.payload)


def _of(table: Any, key: ThreadKey) -> Any:  # noqa: ANN401 - SQLAlchemy's columns are untyped
    return and_(table.c.user_id == key.user_id, table.c.thread_id == key.thread_id)


def _load_head(connection: Connection, key: ThreadKey) -> EventId:
    bounds = _load_kept_bounds(key, connection)
    if bounds is None:
        raise NotFound(f"thread {key.thread_id} was deleted")
    return bounds.head


def _load_kept_bounds(key: ThreadKey, connection: Connection) -> LogBounds | None:
    newest = select(func.max(events.c.seq)).where(_of(events, key)).scalar_subquery()
    row = connection.execute(
        select(threads.c.epoch, threads.c.trimmed_seq, newest).where(_of(threads, key))
    ).one_or_none()
    if row is None:
        return None
    epoch, trimmed_seq, newest_seq = row
    return LogBounds(trimmed_seq, EventId(epoch, max(trimmed_seq, newest_seq or 0)))


def load_bounds(key: ThreadKey, connection: Connection) -> LogBounds:
    """Return the bounds of a log within a transaction; an unused log has its epoch already."""
    kept = _load_kept_bounds(key, connection)
    return kept or LogBounds(0, EventId(next_epoch(connection, key), 0))


def next_epoch(connection: Connection, key: ThreadKey) -> str:
    """Return the epoch that the thread has, or will have when it is used."""
    seed = connection.execute(select(meta.c.value).where(meta.c.name == "seed")).scalar_one()
    generation = connection.execute(
        select(deletions.c.generation).where(deletions.c.user_id == key.user_id)
    ).scalar_one_or_none()
    return derive_epoch(seed, key.user_id, key.thread_id, generation or 0)


def sow_seed(connection: Connection) -> None:
    """Give a new database the secret that its epochs come from."""
    if connection.execute(select(meta).where(meta.c.name == "seed")).first() is None:
        connection.execute(insert(meta).values(name="seed", value=new_seed()))


def renumber(connection: Connection) -> int:
    """Give every thread another epoch, also those to come; return how many there are.

    For a database that was put back from a backup: it ends earlier than what clients have seen, and
    would give the same ids to other events.
    """
    connection.execute(update(meta).where(meta.c.name == "seed").values(value=new_seed()))
    keys = [ThreadKey(*row) for row in connection.execute(_KEYS)]
    for key in keys:
        connection.execute(
            update(threads).where(_of(threads, key)).values(epoch=next_epoch(connection, key))
        )
    return len(keys)


def _read(
    key: ThreadKey, after: EventId, limit: int, max_bytes: int, connection: Connection
) -> list[Record]:
    bounds = load_bounds(key, connection)
    bounds.check_cursor(after)
    epoch = bounds.head.epoch
    records: list[Record] = []
    size = 0
    with connection.execute(
        select(events.c.seq, events.c.run_id, events.c.payload)
        .where(_of(events, key), events.c.seq > after.seq)
        .order_by(events.c.seq)
        .limit(limit)
    ) as rows:
        for seq, run_id, payload in rows:
            records.append(Record(key, EventId(epoch, seq), run_id, payload))
            size += len(payload)
            if size >= max_bytes:
                break
    return records


def _trim(older_than: int, max_events: int, connection: Connection) -> int:
    gone = 0
    for row in connection.execute(_KEYS):
        gone += _trim_thread(connection, ThreadKey(*row), older_than, max_events)
    return gone


def _trim_thread(connection: Connection, key: ThreadKey, older_than: int, max_events: int) -> int:
    """Let go of the thread's oldest runs: the old ones, and what exceeds `max_events`.

    The newest run stays whatever its size: somebody may be in the middle of it.
    """
    bounds = load_bounds(key, connection)
    floor = bounds.head.seq - max_events
    cut = bounds.trimmed_seq
    for state, ended_at, first_seq, last_seq in connection.execute(
        select(runs.c.state, runs.c.ended_at, runs.c.first_seq, runs.c.last_seq)
        .where(_of(runs, key), runs.c.first_seq > bounds.trimmed_seq)
        .order_by(runs.c.first_seq)
    ):
        is_surplus = first_seq <= floor and last_seq != bounds.head.seq
        if state != RunState.ENDED or not (ended_at < older_than or is_surplus):
            break
        cut = last_seq
    if cut > bounds.trimmed_seq:
        _cut(connection, key, cut)
    return int(cut - bounds.trimmed_seq)


def _cut(connection: Connection, key: ThreadKey, cut: int) -> None:
    connection.execute(delete(events).where(_of(events, key), events.c.seq <= cut))
    connection.execute(update(threads).where(_of(threads, key)).values(trimmed_seq=cut))
    # No kept entry is older than the cut, so nobody can ask for a message that was dropped before.
    connection.execute(delete(messages).where(_of(messages, key), messages.c.until_seq <= cut))
