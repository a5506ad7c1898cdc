"""The database on a PostgreSQL server: how it is opened, read and written.

Work is a plain function over a connection, and runs in a thread, as with a SQLite file. Writes of
one user are serial, on all nodes: each begins with a lock on the user. The house's own writes lock
everybody. Appends lock only the threads that they append to, by their rows in `heads`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from functools import partial
from hashlib import blake2b
from typing import Any, Final, TypeVar

import psycopg
from sqlalchemy import Connection, Engine, NullPool, create_engine

from isolane.engines.postgres.driver import connect
from isolane.engines.postgres.failures import (
    UnansweredError,
    is_lost,
    is_undone,
    passes,
    raise_for,
)
from isolane.engines.postgres.writes import Writes
from isolane.errors import DatabaseFailed, Unavailable
from isolane.sql.driver import driver_of, execute, load_value
from isolane.sql.lanes import HOUSE, Gate
from isolane.sql.schema import bring_up_to_date

T = TypeVar("T")
Work = Callable[[Connection], T]

READERS: Final = 4
WRITERS: Final = 4
OLDEST: Final = 15
"""Oldest version of PostgreSQL that is tested."""
PATIENCE_S: Final = 30.0
"""Seconds for which an append is tried again while the server is away."""
PAUSE_S: Final = 0.1
"""Seconds between two tries, while the server is away."""
TRIES: Final = 10
"""Tries of a transaction that is undone for the sake of others."""
_CLASS: Final = 0x150
"""The first half of the names of our locks; those of users have one number only."""
_HOUSE_LOCK: Final = f"{_CLASS}, 1"
_SCHEMA_LOCK: Final = f"{_CLASS}, 2"
_READ: Final = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_APPEND: Final = "BEGIN"
_WRITE_OF_HOUSE: Final = f"BEGIN; SELECT pg_advisory_xact_lock({_HOUSE_LOCK})"
_WRITE_OF_USER: Final = (
    f"BEGIN; SELECT pg_advisory_xact_lock_shared({_HOUSE_LOCK}); SELECT pg_advisory_xact_lock(%d)"
)
_TOUCH: Final = "UPDATE alembic_version SET version_num = version_num"
"""A write that changes nothing. It succeeds when other writes would."""
_NO_TRANSACTION: Final = ""
_IS_EMPTY: Final = """
SELECT NOT EXISTS (SELECT 1 FROM pg_tables WHERE schemaname = current_schema())
"""


class PostgresDatabase:
    """An open database. `open_database` makes it, and the app closes it; see `Database`."""

    def __init__(self, engine: Engine) -> None:
        """Start the threads that read and write. They connect when they have something to do."""
        self._engine = engine
        self._idle: list[Connection] = []
        """Connections that nothing runs on."""
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="isolane-read")
        self._writers = ThreadPoolExecutor(WRITERS, thread_name_prefix="isolane-write")
        self._appender = ThreadPoolExecutor(1, thread_name_prefix="isolane-append")
        self._gate = Gate(READERS - 1, most_of_lane=READERS // 2)
        self._writes = Writes(self._writers, self._write, most=WRITERS)
        self._is_refused = False

    async def probe(self) -> None:
        """Check that the server can be read, and written if the last write was refused."""
        await self.read(lambda connection: execute(connection, "SELECT 1").fetchone())
        if self._is_refused:
            await self.write(lambda connection: execute(connection, _TOUCH))

    async def read(self, query: Work[T], *, lane: str = HOUSE) -> T:
        """Run `query` in one read transaction; see `Database`."""
        return await self._gate.run(self._readers, partial(self._run, _READ, query), lane=lane)

    async def look(self, query: Work[T]) -> T:
        """Run `query`, a single statement, for the house; see `Database`."""
        run = partial(self._run, _NO_TRANSACTION, query)
        return await self._gate.run(self._readers, run, lane=HOUSE)

    async def write(self, work: Work[T], *, lane: str = HOUSE) -> T:
        """Run `work` in one transaction of its own; see `Database`."""
        return await self._writes.put(work, lane=lane)

    def commit_log(self, work: Work[T]) -> asyncio.Future[T]:
        """Append to logs, beside other writes; see `Database`."""
        run = partial(self._run, _APPEND, work, is_repeatable=True)
        return asyncio.get_running_loop().run_in_executor(self._appender, run)

    def _write(self, work: Work[T], lane: str) -> T:
        begin = _WRITE_OF_HOUSE if lane == HOUSE else _WRITE_OF_USER % lock_of(lane)
        try:
            result = self._run(begin, work)
        except Unavailable:
            self._is_refused = True
            raise
        self._is_refused = False
        return result

    def _run(self, begin: str, work: Work[T], *, is_repeatable: bool = False) -> T:
        """Run a transaction in a thread; again where that can do no harm."""
        deadline_s = time.monotonic() + (PATIENCE_S if is_repeatable else 0)
        tries = 0
        while True:
            tries += 1
            try:
                return self._try(begin, work)
            except Exception as error:  # noqa: BLE001 - raised again
                if is_undone(error):
                    is_again = tries < TRIES
                elif is_repeatable:
                    is_again = passes(error) and time.monotonic() < deadline_s
                    time.sleep(PAUSE_S * is_again)
                else:  # the server may have come back since this connection was used last
                    is_again = is_lost(error) and tries == 1
                if not is_again:
                    raise_for(error)

    def _try(self, begin: str, work: Work[T]) -> T:
        connection = self._take()
        try:
            result = _transact(connection, begin, work)
        except BaseException as error:
            self._idle.append(connection)
            if is_lost(error):
                self._drop_idle()
            raise
        self._idle.append(connection)
        return result

    def _take(self) -> Connection:
        try:
            return self._idle.pop()
        except IndexError:
            return self._engine.connect()

    def _drop_idle(self) -> None:
        """Close connections that nothing runs on: when one is lost, the others mostly are."""
        with suppress(IndexError):
            while True:
                self._idle.pop().close()

    async def close(self) -> None:
        """Finish what was begun, and end all connections. Cancelling leaves it half closed."""
        await self._writes.close()
        await asyncio.to_thread(self._shut)

    def _shut(self) -> None:
        for executor in (self._readers, self._writers, self._appender):
            executor.shutdown()
        for connection in self._idle:
            connection.close()
        self._engine.dispose()


def _transact(connection: Connection, begin: str, work: Work[T]) -> T:
    """Run `work` in a transaction.

    Raises:
        UnansweredError: Nobody knows whether it was committed.
    """
    driver: Any = driver_of(connection)
    try:
        if begin:
            driver.begin(begin)
        result = work(connection)
    except BaseException:
        with suppress(psycopg.Error):  # a connection that ended has nothing to undo
            connection.rollback()
            driver.rollback()
        raise
    try:
        connection.commit()
        driver.commit()
    except Exception as error:
        if is_lost(error):
            raise UnansweredError("the database gave no answer to a commit") from error
        raise
    return result


def lock_of(user_id: str) -> int:
    """Return the number of the lock that the writes of a user take."""
    return int.from_bytes(blake2b(user_id.encode(), digest_size=8).digest(), signed=True)


async def open_database(url: str) -> PostgresDatabase:
    """Open the database at `url`, and make or migrate its tables.

    Raises:
        Unavailable: The server can't be reached.
        DatabaseFailed: It is no PostgreSQL, too old, or promises less than it must; or a newer
            version of Isolane wrote the database. Nothing was changed.
    """
    return await asyncio.to_thread(_open, url)


def _open(url: str) -> PostgresDatabase:
    engine = _create_engine(url)
    try:
        with closing(engine.connect()) as connection:
            _check(connection)
            _transact(connection, f"BEGIN; SELECT pg_advisory_xact_lock({_SCHEMA_LOCK})", _prepare)
    except Exception as error:  # noqa: BLE001 - raised again
        raise_for(error)
    return PostgresDatabase(engine)


def _prepare(connection: Connection) -> None:
    bring_up_to_date(connection, is_empty=load_value(connection, _IS_EMPTY))


def _create_engine(url: str) -> Engine:
    # Errors are logged, so they mustn't show the values of a statement: users wrote them.
    return create_engine(
        "postgresql+psycopg://",
        creator=partial(connect, url),
        poolclass=NullPool,
        pool_reset_on_return=None,  # each transaction has ended when its connection is let go
        hide_parameters=True,
        use_native_hstore=False,
    )


def _check(connection: Connection) -> None:
    """Check that the server is one whose promises ours can stand on.

    Raises:
        DatabaseFailed: It isn't.
    """
    version = load_value(connection, "SELECT version()")
    number = load_value(connection, "SELECT current_setting('server_version_num')::int")
    if not version.startswith("PostgreSQL ") or number < OLDEST * 10_000:
        raise DatabaseFailed(f"Isolane needs PostgreSQL {OLDEST} or newer, and this is {version}")
    encoding = load_value(connection, "SHOW server_encoding")
    if encoding != "UTF8":
        raise DatabaseFailed(
            f"the database has the encoding {encoding}, and Isolane needs UTF8: "
            "createdb -E UTF8 -T template0 makes one"
        )
    if load_value(connection, "SHOW synchronous_commit") == "off":
        raise DatabaseFailed(
            "the server has synchronous_commit=off: it would acknowledge what a power cut can take "
            "away. Set it to on for this database or its role"
        )
