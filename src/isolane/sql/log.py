"""The event log in the database: what its rows say, and how they are written, read and let go."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from functools import partial
from typing import Final

import structlog
from sqlalchemy import Connection

from isolane.context import EventId, ThreadKey
from isolane.contracts import Batch, BatchSource, LogBounds, RunEnd, RunLease
from isolane.errors import IsolaneError, NotFound
from isolane.events.event import Record
from isolane.sql import attachments, heads, retention, usage
from isolane.sql.address import StoredThread, load_stored
from isolane.sql.database import Database
from isolane.sql.deletion import load_removal, remove_some
from isolane.sql.driver import execute_many, load_value, stream
from isolane.sql.endings import settle
from isolane.sql.log_commits import LogCommits, Outcome
from isolane.sql.steps import PAUSE_S
from isolane.sql.threads import erase
from isolane.tasks import TaskOwner

STEPS_AT_ONCE: Final = 16
"""Steps of a deletion before it is answered, 256 KiB each at most; the others follow beside."""

_log = structlog.get_logger(__name__)


class _Caller:
    """A caller of `append`: the source of one batch."""

    __slots__ = ("_batch", "done")

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self.done: asyncio.Future[list[Record]] = asyncio.get_running_loop().create_future()

    def take_batch(self) -> Batch:
        return self._batch

    def settle(self, outcome: list[Record] | Exception) -> None:
        if self.done.done():  # the caller has gone
            return
        if isinstance(outcome, Exception):
            self.done.set_exception(outcome)
        else:
            self.done.set_result(outcome)


class DatabaseEventLog:
    """The logs of all threads, in the tables `heads` and `events`."""

    def __init__(self, database: Database, *, tasks: TaskOwner, max_events: int) -> None:
        """Write through `database`.

        When a run ends and its thread holds more than `max_events`, its oldest runs go.
        """
        self._max_events = max_events
        self._database = database
        self._tasks = tasks
        self._commits = LogCommits(
            database, tasks=tasks, write=self._write, committed=self._sweep_soon
        )
        self._sweeping = asyncio.Lock()
        self._has_cut = False
        """Whether entries of a thread over its maximum were let go since the last sweep began."""

    async def append(
        self,
        lease: RunLease,
        payloads: Sequence[bytes],
        *,
        batch: int,
        end: RunEnd | None = None,
    ) -> list[Record]:
        """Commit `payloads` with the next commit; see `EventLog.append`."""
        caller = _Caller(Batch(lease, payloads, batch, end))
        self.commit_soon(caller)
        return await caller.done

    def commit_soon(self, source: BatchSource) -> None:
        """Take a batch of `source` with the next commit; see `EventLog.commit_soon`."""
        self._commits.put(source)

    async def append_beside(self, key: ThreadKey, payload: bytes) -> Record:
        """Commit an entry of the run under way from beside its writer; see `EventLog`."""
        work = partial(_append_beside, key, payload)
        return await self._database.write(work, lane=key.user_id)

    async def take_over(self, key: ThreadKey, run_id: str) -> RunLease:
        """Return a new lease of a run that hasn't ended; see `EventLog.take_over`."""
        return await self._database.write(partial(heads.take_over, key, run_id))

    def _sweep_soon(self) -> None:
        """Delete what was let go from the disk, if a commit let something go."""
        if self._has_cut:
            self._has_cut = False
            self._tasks.detach(self._sweep_beside(), name="log sweep")

    def _write(self, batches: Sequence[Batch], connection: Connection) -> list[Outcome]:
        outcomes: list[Outcome] = []
        fresh: list[tuple[Batch, list[Record]]] = []
        for batch in batches:
            outcome, is_new = _number(batch, connection)
            outcomes.append(outcome)
            if is_new and isinstance(outcome, list):
                fresh.append((batch, outcome))
        rows = [row for batch, records in fresh for row in _to_rows(connection, batch, records)]
        if rows:
            execute_many(connection, _INSERT, [row for _, row in rows])
            usage.add_rows(connection, ((user_id, len(row[-1])) for user_id, row in rows))
        for batch, records in fresh:
            if batch.end is not None:
                self._end(connection, batch.lease, batch.end, records)
        return outcomes

    def _end(
        self, connection: Connection, lease: RunLease, end: RunEnd, records: Sequence[Record]
    ) -> None:
        first_seq, last_seq = records[0].id.seq, records[-1].id.seq
        settle(connection, lease, end, first_seq=first_seq, last_seq=last_seq)
        cut = retention.trim_thread(connection, lease.thread_no, 0, self._max_events)
        self._has_cut = self._has_cut or cut > 0

    async def read(
        self, key: ThreadKey, *, after: EventId, limit: int, max_bytes: int = sys.maxsize
    ) -> list[Record]:
        """Return up to `limit` records strictly after `after`; see `EventLog.read`."""
        return await self._database.read(
            partial(_read, key, after, limit, max_bytes), lane=key.user_id
        )

    async def load_bounds(self, key: ThreadKey) -> LogBounds:
        """Return what the log holds now."""
        return await self._database.read(partial(heads.load_bounds, key), lane=key.user_id)

    async def load_heads(self, keys: Sequence[ThreadKey]) -> dict[ThreadKey, EventId]:
        """Return where the logs of threads end; see `EventLog.load_heads`."""
        return await self._database.look(partial(heads.load_heads, keys))

    async def delete(self, key: ThreadKey) -> frozenset[str]:
        """Remove a thread with everything it has; see `EventLog.delete`."""
        run_ids, stored = await self._database.write(
            lambda connection: erase(connection, key), lane=key.user_id
        )
        if not await self._remove_at_once(stored):
            self._tasks.detach(self._sweep_beside(), name="log sweep")
        return run_ids

    async def _remove_at_once(self, stored: StoredThread) -> bool:
        """Remove what a small thread has, so that its bytes count no more; say whether all went."""
        if self._sweeping.locked():
            return False
        remove = partial(remove_some, stored)
        with suppress(IsolaneError):  # the thread is deleted, whatever becomes of its rows
            for _ in range(STEPS_AT_ONCE):
                if not await self._database.write(remove, lane=stored.user_id):
                    return True
        return False

    async def trim(
        self, *, older_than: int, told: Callable[[ThreadKey], None] | None = None
    ) -> int:
        """Let go of finished runs that ended before `older_than`; see `EventLog.trim`."""
        gone, place = 0, retention.FIRST
        while due := await self._database.read(partial(retention.load_due, older_than, place)):
            place = due[-1].place
            thread_nos = {each.stored.thread_no for each in due}
            try:
                gone += await self._database.write(
                    partial(retention.trim_threads, thread_nos, older_than, self._max_events)
                )
            finally:
                for key in {each.key for each in due}:
                    if told is not None and key is not None:
                        told(key)
            await asyncio.sleep(PAUSE_S)  # between two steps, for those who append
        await self.sweep()
        return gone

    async def sweep(self) -> None:
        """Delete from the disk what was let go and what was deleted; see `EventLog.sweep`."""
        async with self._sweeping:
            while (removal := await self._database.read(load_removal)) is not None:
                await self._database.write(partial(remove_some, removal))
                await asyncio.sleep(PAUSE_S)  # between two steps, for those who append
            while (stored := await self._database.read(retention.load_swept_next)) is not None:
                await self._database.write(partial(retention.sweep, stored))
                await asyncio.sleep(PAUSE_S)  # between two steps, for those who append

    async def _sweep_beside(self) -> None:
        try:
            await self.sweep()
        except IsolaneError as error:  # the next round of retention goes on
            _log.warning("retention_postponed", reason=str(error))


def _number(batch: Batch, connection: Connection) -> tuple[Outcome, bool]:
    """Return the records of a batch and whether they are to be written, or why it is refused."""
    is_end = batch.end is not None
    try:
        first_seq, is_new = heads.advance(
            connection, batch.lease, batch.payloads, batch=batch.number, is_end=is_end
        )
    except NotFound as error:
        return error, False
    return _to_records(batch, first_seq), is_new


def _to_records(batch: Batch, first_seq: int) -> list[Record]:
    """Return the records of a batch, the first of which has the number `first_seq`."""
    lease = batch.lease
    return [
        Record(lease.key, EventId(lease.epoch, seq), lease.run_id, payload)
        for seq, payload in enumerate(batch.payloads, first_seq)
    ]


def _append_beside(key: ThreadKey, payload: bytes, connection: Connection) -> Record:
    stored = load_stored(connection, key)
    seq, run_no = heads.advance_beside(connection, stored.thread_no)
    kept = attachments.keep(connection, stored, payload)
    execute_many(connection, _INSERT, [(stored.thread_no, seq, run_no, kept)])
    usage.add_rows(connection, [(key.user_id, len(kept))])
    epoch = heads.load_bounds_of(connection, stored).head.epoch
    run_id = load_value(connection, _RUN_ID, (run_no,))
    return Record(key, EventId(epoch, seq), run_id, payload)


_INSERT: Final = "INSERT INTO events (thread_no, seq, run_no, payload) VALUES (?, ?, ?, ?)"
_READ: Final = """
SELECT seq, run_no, payload FROM events WHERE thread_no = ? AND seq > ? ORDER BY seq LIMIT ?
"""
_RUN_ID: Final = "SELECT run_id FROM runs WHERE run_no = ?"

_Row = tuple[int, int, int, bytes]


def _to_rows(
    connection: Connection, batch: Batch, records: Sequence[Record]
) -> Iterator[tuple[str, _Row]]:
    """Yield the rows of a batch, each with the user whom it counts for."""
    lease = batch.lease
    stored = StoredThread(lease.key.user_id, lease.thread_no)
    for record in records:
        payload = attachments.keep(connection, stored, record.payload)
        yield stored.user_id, (lease.thread_no, record.id.seq, lease.run_no, payload)


def _read(
    key: ThreadKey, after: EventId, limit: int, max_bytes: int, connection: Connection
) -> list[Record]:
    stored = load_stored(connection, key)
    bounds = heads.load_bounds_of(connection, stored)
    bounds.check_cursor(after)
    epoch = bounds.head.epoch
    run_ids: dict[int, str] = {}
    records: list[Record] = []
    size = 0
    place = (stored.thread_no, after.seq, limit)
    with closing(stream(connection, _READ, place)) as rows:
        for seq, run_no, written in rows:
            if run_no not in run_ids:  # a page has few runs
                run_ids[run_no] = load_value(connection, _RUN_ID, (run_no,))
            is_whole = written[:1] == b"{"  # as nearly all are, and a call costs more than this
            payload = written if is_whole else attachments.load_whole(connection, stored, written)
            records.append(Record(key, EventId(epoch, seq), run_ids[run_no], payload))
            size += len(payload)
            if size >= max_bytes:
                break
    return records
