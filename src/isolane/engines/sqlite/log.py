"""The event log in the database: appends of all runs, batched into one commit.

One batch is in flight. The first append starts it at the end of the loop's tick; what comes while
it commits is the next one. So a lone event waits for nobody, and a thousand share one fsync.
"""

from __future__ import annotations

import asyncio
import sys
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NamedTuple

import structlog
from sqlalchemy import Connection, insert, select, update

from isolane.context import EventId, ThreadKey
from isolane.contracts import LogBounds, RunEnd
from isolane.engines.sqlite import attachments, retention, usage
from isolane.engines.sqlite.deletion import (
    Removal,
    find_removal,
    load_removal,
    load_stored,
    remove_some,
    rows_of,
    to_thread_id,
)
from isolane.engines.sqlite.file import Database, deletions, meta, threads
from isolane.engines.sqlite.steps import PAUSE_S
from isolane.errors import IsolaneError, NotFound
from isolane.events.event import Record
from isolane.ids import derive_epoch, new_seed
from isolane.tasks import TaskOwner

HEADS_MAX: Final = 10_000
BATCH_MAX: Final = 2_000
STEPS_AT_ONCE: Final = 16
"""Steps of a deletion before it is answered, 256 KiB each at most; the others follow beside."""

_log = structlog.get_logger(__name__)

Settle = Callable[[Connection, ThreadKey, RunEnd, int, int], None]
"""Writes a run's end into the store, in the log's own transaction.

The numbers are those of the first and the last entry that come with it.
"""


Erase = Callable[[Connection, ThreadKey], frozenset[str]]
"""Deletes a thread in one transaction, and returns the runs that somebody may be about still."""


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
        self._sweeping = asyncio.Lock()
        self._has_cut = False
        """Whether entries of a thread over its maximum were let go since the last sweep began."""
        # The writing thread's own: where each log ends, so that an append reads nothing.
        self._heads: OrderedDict[ThreadKey, _Head] = OrderedDict()

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
            if self._has_cut:
                self._has_cut = False
                self._tasks.detach(self._sweep_beside(), name="log sweep")

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
        numbered = [self._number(append, connection) for append in batch]
        rows = [
            _row(connection, stored, record) for stored, records in numbered for record in records
        ]
        if rows:
            connection.exec_driver_sql(_INSERT, rows)
            usage.add_rows(connection, ((row[0], len(row[-1])) for row in rows))
        for append, (stored, records) in zip(batch, numbered, strict=True):
            if append.end is not None:
                first, last = records[0].id.seq, records[-1].id.seq
                self._settle(connection, append.key, append.end, first, last)
                cut = retention.trim_thread(connection, stored, 0, self._max_events)
                self._has_cut = self._has_cut or cut > 0
        return [records for _, records in numbered]

    def _number(self, append: _Append, connection: Connection) -> tuple[ThreadKey, list[Record]]:
        """Return the records of an append, and the key under which they are stored."""
        head, stored = self._heads.get(append.key) or _load_head(connection, append.key)
        if append.epoch not in {None, head.epoch}:
            raise NotFound(f"thread {append.key.thread_id} was deleted, and made anew")
        first = head.seq + 1
        ids = [EventId(head.epoch, first + place) for place in range(len(append.payloads))]
        if ids:
            self._heads[append.key] = _Head(ids[-1], stored)
            self._heads.move_to_end(append.key)
        if len(self._heads) > HEADS_MAX:
            self._heads.popitem(last=False)
        return stored, [
            Record(append.key, event_id, append.run_id, payload)
            for event_id, payload in zip(ids, append.payloads, strict=True)
        ]

    async def read(
        self, key: ThreadKey, *, after: EventId, limit: int, max_bytes: int = sys.maxsize
    ) -> list[Record]:
        """Return up to `limit` records strictly after `after`; see `EventLog.read`."""
        return await self._database.read(
            partial(_read, key, after, limit, max_bytes), lane=key.user_id
        )

    async def load_bounds(self, key: ThreadKey) -> LogBounds:
        """Return what the log holds now."""
        return await self._database.read(partial(load_bounds, key), lane=key.user_id)

    async def delete(self, key: ThreadKey) -> frozenset[str]:
        """Remove a thread with everything it has; see `EventLog.delete`."""
        run_ids, removal = await self._database.write(partial(self._delete, key), lane=key.user_id)
        if not await self._remove_at_once(removal, key.user_id):
            self._tasks.detach(self._sweep_beside(), name="log sweep")
        return run_ids

    def _delete(self, key: ThreadKey, connection: Connection) -> tuple[frozenset[str], Removal]:
        stored = load_stored(connection, key)
        run_ids = self._erase(connection, key)
        self._heads.pop(key, None)
        return run_ids, find_removal(connection, stored)

    async def _remove_at_once(self, removal: Removal, user_id: str) -> bool:
        """Remove what a small thread has, so that its bytes count no more; say whether all went."""
        if self._sweeping.locked():
            return False
        with suppress(IsolaneError):  # the thread is deleted, whatever becomes of its rows
            for _ in range(STEPS_AT_ONCE):
                if not await self._database.write(partial(remove_some, removal), lane=user_id):
                    return True
        return False

    async def trim(
        self, *, older_than: int, told: Callable[[ThreadKey], None] | None = None
    ) -> int:
        """Let go of finished runs that ended before `older_than`; see `EventLog.trim`."""
        gone, place = 0, retention.FIRST
        while due := await self._database.read(partial(retention.load_due, older_than, place)):
            place = due[-1].place
            keys = {each.key for each in due}
            try:
                gone += await self._database.write(
                    partial(retention.trim_threads, keys, older_than, self._max_events)
                )
            finally:
                if told is not None:
                    for user_id, stored in keys:
                        told(ThreadKey(user_id, to_thread_id(stored)))
            await asyncio.sleep(PAUSE_S)  # between two steps, for those who append
        await self.sweep()
        return gone

    async def sweep(self) -> None:
        """Delete from the disk what was let go and what was deleted; see `EventLog.sweep`."""
        async with self._sweeping:
            while (removal := await self._database.read(load_removal)) is not None:
                await self._database.write(partial(remove_some, removal))
                await asyncio.sleep(PAUSE_S)  # between two steps, for those who append
            while (key := await self._database.read(retention.load_swept_next)) is not None:
                await self._database.write(partial(retention.sweep, key))
                await asyncio.sleep(PAUSE_S)  # between two steps, for those who append

    async def _sweep_beside(self) -> None:
        try:
            await self.sweep()
        except IsolaneError as error:  # the next round of retention goes on
            _log.warning("retention_postponed", reason=str(error))


def _resolve(append: _Append, records: list[Record]) -> None:
    if not append.done.done():
        append.done.set_result(records)


def _reject(append: _Append, error: Exception) -> None:
    if not append.done.done():
        append.done.set_exception(error)


# As text: this is what runs for every event and every read. SQLAlchemy's expressions cost as much
# as the insert itself, and ten times as much as a look at where a log ends.
_INSERT: Final = (
    "INSERT INTO events (user_id, thread_id, seq, run_id, payload) VALUES (?, ?, ?, ?, ?)"
)
_READ: Final = """
SELECT seq, run_id, payload FROM events WHERE user_id = ? AND thread_id = ? AND seq > ?
ORDER BY seq LIMIT ?
"""
_BOUNDS: Final = """
SELECT epoch, trimmed_seq, (
    SELECT max(seq) FROM events
    WHERE events.user_id = threads.user_id AND events.thread_id = threads.thread_id
) FROM threads WHERE user_id = ? AND thread_id = ?
"""


_KEYS: Final = select(threads.c.user_id, threads.c.thread_id)


class _Head(NamedTuple):
    """Where a log ends, and the key under which its rows are stored."""

    id: EventId
    stored: ThreadKey


_Row = tuple[str, str, int, str, bytes]


def _row(connection: Connection, stored: ThreadKey, record: Record) -> _Row:
    payload = attachments.keep(connection, stored, record.payload)
    return stored.user_id, stored.thread_id, record.id.seq, record.run_id, payload


def _load_head(connection: Connection, key: ThreadKey) -> _Head:
    bounds = _load_kept_bounds(key, connection)
    if bounds is None:
        raise NotFound(f"thread {key.thread_id} was deleted")
    return _Head(bounds.head, load_stored(connection, key))


def _load_kept_bounds(key: ThreadKey, connection: Connection) -> LogBounds | None:
    stored = load_stored(connection, key)
    row = connection.exec_driver_sql(_BOUNDS, stored).one_or_none()
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


def create_seed(connection: Connection) -> None:
    """Give a new database the secret that its epochs come from."""
    if connection.execute(select(meta).where(meta.c.name == "seed")).first() is None:
        connection.execute(insert(meta).values(name="seed", value=new_seed()))


def renumber(connection: Connection) -> int:
    """Give every thread another epoch, also those to come; return how many there are.

    For a database that was put back from a backup: it ends earlier than what clients have seen, and
    would give the same ids to other events.
    """
    connection.execute(update(meta).where(meta.c.name == "seed").values(value=new_seed()))
    keys = [ThreadKey(row[0], to_thread_id(row[1])) for row in connection.execute(_KEYS)]
    for key in keys:
        connection.execute(
            update(threads).where(rows_of(threads, key)).values(epoch=next_epoch(connection, key))
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
    place = (*load_stored(connection, key), after.seq, limit)
    with connection.exec_driver_sql(_READ, place) as result:
        rows: Any = result.cursor  # the driver's own: SQLAlchemy's takes twice as long for a row
        for seq, run_id, written in rows:
            payload = attachments.load_whole(connection, key, written)
            records.append(Record(key, EventId(epoch, seq), run_id, payload))
            size += len(payload)
            if size >= max_bytes:
                break
    return records
