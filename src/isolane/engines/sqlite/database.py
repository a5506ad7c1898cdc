"""The database under the log and the store: how it is opened, read and written.

Work is a plain function over a connection, and runs in a thread. A whole transaction is one hop to
that thread; an asynchronous driver would take one hop per statement. Nothing of SQLite runs on the
event loop. One thread writes, so writers never meet. A few threads read at the same time (WAL).
Users take turns at both, each in a lane of their own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.pool import StaticPool

from isolane.engines.sqlite.commits import Commits, Outcome, Write
from isolane.engines.sqlite.failures import passes, to_error, translated
from isolane.engines.sqlite.file import keep_private, path_of
from isolane.errors import Unavailable
from isolane.sql.driver import driver_of, execute, load_value, transaction
from isolane.sql.lanes import HOUSE, Gate
from isolane.sql.schema import bring_up_to_date

T = TypeVar("T")

READERS: Final = 4
BUSY_TIMEOUT_MS: Final = 30_000
BUSY_STEP_MS: Final = 100
"""Smallest change of the busy timeout that is set, in milliseconds, because setting it costs a
statement."""
CACHE_KIB: Final = 512
"""Page cache of a connection that reads, in KiB. The system caches the file as well."""
WRITER_CACHE_KIB: Final = 8 * 1024
"""Page cache of the connection that writes: what an append changes is read less often again."""
WAL_PAGES: Final = 4_000
"""Pages of the write-ahead log, 4 KiB each, after which a commit merges them into the file. A page
that changes often is merged once. With this and the cache, events in bursts take a tenth less CPU
than with SQLite's own 1,000 pages."""
_IS_EMPTY: Final = "SELECT NOT EXISTS (SELECT 1 FROM sqlite_master)"
_TOUCH: Final = "UPDATE alembic_version SET version_num = version_num"
"""A write that changes nothing. It succeeds when other writes would."""


class SqliteDatabase:
    """An open SQLite file. `open_database` makes it, and the app closes it."""

    def __init__(self, engine: Engine, *, readers: int) -> None:
        """Start the writing thread and `readers` reading threads.

        With 0 readers the writing thread reads, too.
        """
        self._engine = engine
        # Connections stay open, because the pool costs more per transaction than its statements.
        self._writing = engine.connect()
        execute(self._writing, f"PRAGMA cache_size=-{WRITER_CACHE_KIB}")
        self._idle: list[Connection] = []
        """Connections of reading threads that don't read now."""
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="isolane-write")
        self._readers = (
            ThreadPoolExecutor(readers, thread_name_prefix="isolane-read")
            if readers
            else self._writer
        )

        # One thread is left to the house, which never waits for the reads of users.
        self._gate = Gate(max(readers - 1, 1), most_of_lane=max(readers // 2, 1))
        self._commits = Commits(self._submit, self._write_all)
        self._busy_timeout_ms = BUSY_TIMEOUT_MS
        self._is_refused = False

    async def probe(self) -> None:
        """Check that the file can be read, and written if the last write was refused.

        The probe writes because nobody else does while the database seems to be down. Safe to
        cancel.

        Raises:
            Unavailable: The file can't be read or written now.
            DatabaseFailed: It never can.
        """
        await self.read(lambda connection: execute(connection, "SELECT 1").fetchone())
        if self._is_refused:
            await self.write(lambda connection: execute(connection, _TOUCH))

    async def read(self, query: Callable[[Connection], T], *, lane: str = HOUSE) -> T:
        """Run `query` in one read transaction.

        `lane` is the id of the user who reads. A few reads of users run at once, and fewer of one
        user. Safe to cancel.

        Raises:
            Unavailable: The file can't be read now.
            DatabaseFailed: The query can never succeed.
        """
        work = partial(self._read, query)
        return await translated(self._gate.run(self._readers, work, lane=lane))

    async def look(self, query: Callable[[Connection], T]) -> T:
        """Run `query`, a single statement, for the house; see `Database`."""
        return await self.read(query)

    def _read(self, query: Callable[[Connection], T]) -> T:
        try:
            connection = self._idle.pop()
        except IndexError:  # each thread has one soon
            connection = self._engine.connect()
        try:
            with transaction(connection):
                return query(connection)
        finally:
            self._idle.append(connection)

    async def write(self, work: Callable[[Connection], T], *, lane: str = HOUSE) -> T:
        """Run `work` in one transaction: committed when it returns, undone when it raises.

        `lane` is the id of the user who writes. Transactions of one lane run in the order of the
        calls, and lanes take turns. Writes of users may share a commit. `work` may run a second
        time after its first run was undone, so it does nothing but read and write the database.

        Cancelling the caller doesn't undo a transaction that has begun.

        Raises:
            Unavailable: Nothing can be written now. The disk is full, or the file stays locked
                until 30 s after the call, the time in line included.
            DatabaseFailed: The write can never succeed. It breaks a constraint, a table is missing,
                a value is too large, or the file is damaged.
        """
        return await self._write_soon(work, lane)

    def commit_log(self, work: Callable[[Connection], T]) -> asyncio.Future[T]:
        """Append to logs, as a write of the house; see `Database`."""
        return self._write_soon(work, HOUSE)

    def _write_soon(self, work: Callable[[Connection], T], lane: str) -> asyncio.Future[T]:
        deadline_s = time.monotonic() + BUSY_TIMEOUT_MS / 1000
        return self._commits.put(work, lane=lane, deadline_s=deadline_s)

    def _submit(self, work: Callable[[], T]) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._writer, work)

    def _write_all(self, writes: Sequence[Write]) -> Sequence[Outcome]:
        """Carry writes out in one transaction; if that fails, each in its own."""
        outcomes: Sequence[Outcome] | None = None
        if len(writes) > 1:
            with suppress(Exception):  # all was undone; each write gets its own error
                outcomes = self._write_together(writes)
        if outcomes is None:
            outcomes = [_outcome_of(partial(self._write, each)) for each in writes]
        self._is_refused = isinstance(outcomes[-1][1], Unavailable)
        return outcomes

    def _write_together(self, writes: Sequence[Write]) -> Sequence[Outcome]:
        self._bound_waiting(min(each.deadline_s for each in writes))
        with transaction(self._writing, "BEGIN IMMEDIATE"):
            return [self._write_beside(each) for each in writes]

    def _write_beside(self, write: Write) -> Outcome:
        """Carry one of several writes out; a failure undoes this write alone.

        Raises what ends the transaction for all of them.
        """
        driver = driver_of(self._writing)
        driver.execute("SAVEPOINT one")
        outcome: Outcome
        try:
            outcome = write.work(self._writing), None
        except Exception as error:
            if passes(error):  # SQLite may have undone all writes, and the next try may succeed
                raise
            driver.execute("ROLLBACK TO one")
            outcome = None, to_error(error)
        driver.execute("RELEASE one")
        return outcome

    def _write(self, write: Write) -> Any:  # noqa: ANN401 - whatever the work returns
        self._bound_waiting(write.deadline_s)
        with transaction(self._writing, "BEGIN IMMEDIATE"):
            return write.work(self._writing)

    def _bound_waiting(self, deadline_s: float) -> None:
        """Set how long SQLite waits for a lock: the rest of the write's time."""
        left_ms = round((deadline_s - time.monotonic()) * 1000)
        if left_ms <= 0:
            raise Unavailable("the database was busy for too long")
        if abs(left_ms - self._busy_timeout_ms) >= BUSY_STEP_MS:
            self._busy_timeout_ms = left_ms
            execute(self._writing, f"PRAGMA busy_timeout={left_ms}")

    async def close(self) -> None:
        """Finish what was begun, merge the write-ahead log, and close the file.

        Cancelling leaves it half closed.
        """
        await self._commits.close()
        await asyncio.to_thread(self._shut)

    def _shut(self) -> None:
        self._readers.shutdown()
        self._writer.shutdown()
        for connection in (self._writing, *self._idle):
            connection.close()
        self._engine.dispose()


def _outcome_of(work: Callable[[], object]) -> Outcome:
    try:
        return work(), None
    except Exception as error:  # noqa: BLE001 - raised again where the caller waits
        return None, to_error(error)


async def open_database(url: str) -> SqliteDatabase:
    """Open the database at `url`: make its folder, and migrate its tables.

    Raises:
        DatabaseFailed: A newer version of Isolane wrote the database. Nothing was changed.
    """
    return await asyncio.to_thread(_open, url)


def _open(url: str) -> SqliteDatabase:
    engine = _create_engine(url)
    with engine.connect() as connection, transaction(connection):
        bring_up_to_date(connection, is_empty=load_value(connection, _IS_EMPTY))
    return SqliteDatabase(engine, readers=0 if isinstance(engine.pool, StaticPool) else READERS)


def _create_engine(url: str) -> Engine:
    path = path_of(url)
    # Errors are logged, so they mustn't show the values of a statement: users wrote them.
    options: dict[str, Any] = {
        "connect_args": {"check_same_thread": False},
        "hide_parameters": True,
    }
    if path is None:
        options["poolclass"] = StaticPool
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        keep_private(path)
        options |= {"pool_size": READERS + 1, "max_overflow": 0}
    engine = create_engine(url, **options)
    event.listen(engine, "connect", _set_pragmas)
    return engine


def _set_pragmas(raw: Any, _record: object) -> None:  # noqa: ANN401 - the driver's own type
    raw.isolation_level = None  # `transaction` begins them
    cursor = raw.cursor()
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        f"busy_timeout={BUSY_TIMEOUT_MS}",
        "foreign_keys=ON",
        f"cache_size=-{CACHE_KIB}",
        f"wal_autocheckpoint={WAL_PAGES}",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
