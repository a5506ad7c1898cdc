"""The one SQLite file under the log and the store: its tables, and how they are read and written.

Work is a plain function over a SQLAlchemy connection and runs in a thread: one hop for a whole
transaction, not one for every statement as with an asynchronous driver, and nothing of SQLite ever
runs on the event loop. One thread writes, so writers never meet; a few read beside it (WAL).
"""

from __future__ import annotations

import asyncio
import fcntl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from alembic import command
from alembic.config import Config
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Engine,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    create_engine,
    event,
    text,
    update,
)
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.pool import StaticPool

from isolane.errors import PlaceTaken, Unavailable

T = TypeVar("T")

READERS: Final = 4
BUSY_TIMEOUT_MS: Final = 30_000
BUSY_STEP_MS: Final = 100
"""To set it costs a statement, so smaller differences are let be."""
CACHE_KIB: Final = 512
"""Of pages that each connection keeps; the system has the rest at hand. Five times SQLite's own
2 MiB is memory that grows with the log and does nothing for an append."""
_MIGRATIONS: Final = Path(__file__).parent / "store" / "migrations"

metadata = MetaData()

meta = Table(
    "meta",
    metadata,
    Column("name", String, primary_key=True),
    Column("value", LargeBinary, nullable=False),
)
threads = Table(
    "threads",
    metadata,
    Column("user_id", String, primary_key=True),
    Column("thread_id", String, primary_key=True),
    Column("epoch", String, nullable=False),
    # Entries up to here are gone. It keeps the numbering when nothing else is left to count from.
    Column("trimmed_seq", BigInteger, nullable=False, default=0),
    Column("title", String, nullable=False, default=""),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
)
# How often a user deleted a thread: what makes the next numbering of an id another epoch.
deletions = Table(
    "deletions",
    metadata,
    Column("user_id", String, primary_key=True),
    Column("generation", Integer, nullable=False),
)
events = Table(
    "events",
    metadata,
    Column("user_id", String, primary_key=True),
    Column("thread_id", String, primary_key=True),
    Column("seq", BigInteger, primary_key=True),
    Column("run_id", String, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)
runs = Table(
    "runs",
    metadata,
    Column("user_id", String, primary_key=True),
    Column("run_id", String, primary_key=True),
    Column("thread_id", String, nullable=False),
    Column("state", String, nullable=False),
    Column("draft", LargeBinary, nullable=False),
    Column("first_seq", BigInteger),
    Column("last_seq", BigInteger),
    Column("created_at", BigInteger, nullable=False),
    Column("started_at", BigInteger),
    Column("ended_at", BigInteger),
    Column("outcome", String),
    Column("error_id", String),
    Column("stop", LargeBinary),
    Column("interrupts", LargeBinary),
    Column("answered_by", String),
    Index("runs_by_thread", "user_id", "thread_id", "first_seq"),
    Index("runs_by_state", "state"),
)
# A message stands from the run that added it until a rewind drops it; both are kept as places in
# the log, so that the messages as of any kept entry can be told.
messages = Table(
    "messages",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("user_id", String, nullable=False),
    Column("thread_id", String, nullable=False),
    Column("message_id", String, nullable=False),
    Column("run_id", String, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Column("since_seq", BigInteger, nullable=False),
    Column("until_seq", BigInteger),
    Index("messages_by_thread", "user_id", "thread_id", "number"),
)

accounts = Table(
    "accounts",
    metadata,
    Column("user_id", String, primary_key=True),
    Column("password_hash", String, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("scopes", String, nullable=False),
)
# Under a digest of the cookie, so that who reads the file can't sign in with it.
sessions = Table(
    "sessions",
    metadata,
    Column("session_id", String, primary_key=True),
    Column("user_id", String, nullable=False),
    Column("device", String, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("last_seen_at", BigInteger, nullable=False),
    Index("sessions_by_user", "user_id"),
)
# What was issued before and may do more than `scopes` opens nothing any more.
revocations = Table(
    "revocations",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("user_id", String, nullable=False),
    Column("session_id", String),
    Column("revoked_at", BigInteger, nullable=False),
    Column("scopes", String, nullable=False),
    Index("revocations_by_user", "user_id", "revoked_at"),
    sqlite_autoincrement=True,  # an id is never used again: readers ask for what is after the last
)


_TOUCH: Final = update(meta).where(meta.c.name == "seed").values(value=meta.c.value)
"""A write that changes nothing, and needs what any other needs."""


class Database:
    """An open SQLite file. Made by `open_database`, owned by the app."""

    def __init__(self, engine: Engine, *, readers: int) -> None:
        """Start the writing thread and `readers` reading ones; 0 reads on the writing thread."""
        self._engine = engine
        # Kept open: taking a connection from the pool and giving it back costs more than a commit's
        # own statements.
        self._writing = engine.connect().execution_options(begin="BEGIN IMMEDIATE")
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="isolane-write")
        self._readers = (
            ThreadPoolExecutor(readers, thread_name_prefix="isolane-read")
            if readers
            else self._writer
        )

        self._busy_timeout_ms = BUSY_TIMEOUT_MS
        self._is_refused = False

    async def probe(self) -> None:
        """Raise `Unavailable` when the file can't be read, or the last write to it was refused.

        It is written to again then, for nobody else may do so as long as it seems to be down.
        """
        await self.read(lambda connection: connection.execute(text("SELECT 1")).all())
        if self._is_refused:
            await self.write(lambda connection: connection.execute(_TOUCH))

    async def read(self, query: Callable[[Connection], T]) -> T:
        """Run `query` in one read transaction. Raises `Unavailable` when the file can't be read."""
        return await self._run(self._readers, partial(_read, self._engine, query))

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in one transaction, committed on return, undone when it raises.

        Transactions run one after the other in the order of the calls. Cancelling the caller
        doesn't undo a transaction that has begun. Raises `Unavailable` when nothing can be
        written: the disk is full, or the file is locked for 30 s from the call, the time in line
        included.
        """
        deadline_s = time.monotonic() + BUSY_TIMEOUT_MS / 1000
        try:
            result = await self._run(self._writer, partial(self._write, work, deadline_s))
        except Unavailable:
            self._is_refused = True
            raise
        self._is_refused = False
        return result

    def _write(self, work: Callable[[Connection], T], deadline_s: float) -> T:
        self._bound_waiting(round((deadline_s - time.monotonic()) * 1000))
        with self._writing.begin():
            return work(self._writing)

    def _bound_waiting(self, left_ms: int) -> None:
        """Wait for a lock for no longer than what is left of a write's time."""
        if left_ms <= 0:
            raise Unavailable("the database was busy for too long")
        if abs(left_ms - self._busy_timeout_ms) >= BUSY_STEP_MS:
            self._busy_timeout_ms = left_ms
            raw: Any = self._writing.connection.driver_connection
            raw.execute(f"PRAGMA busy_timeout={left_ms}")

    async def close(self) -> None:
        """Finish what was begun, fold the write-ahead log in, and close the file."""
        await asyncio.to_thread(self._shut)

    def _shut(self) -> None:
        self._readers.shutdown()
        self._writer.shutdown()
        self._writing.close()
        self._engine.dispose()

    @staticmethod
    async def _run(pool: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, work)
        except (OperationalError, DBAPIError) as error:
            raise Unavailable(f"the database refused: {error.orig}") from error


def _read(engine: Engine, query: Callable[[Connection], T]) -> T:
    with engine.begin() as connection:
        return query(connection)


@contextmanager
def hold_place(url: str) -> Iterator[None]:
    """Be the one gateway of the database at `url` for the block's time; raise `PlaceTaken`.

    The lock ends with the process, however that ends. Databases in memory are nobody else's.
    """
    path = path_of(url)
    if path is None:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f"{path.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise PlaceTaken(f"another gateway has {path} open; stop it first") from error
        yield


async def open_database(url: str) -> Database:
    """Open the database at `url`, make its folder, and bring its tables up to date."""
    return await asyncio.to_thread(_open, url)


def _open(url: str) -> Database:
    engine = _create_engine(url)
    with engine.begin() as connection:
        _migrate(connection)
    return Database(engine, readers=0 if isinstance(engine.pool, StaticPool) else READERS)


def _create_engine(url: str) -> Engine:
    path = path_of(url)
    options: dict[str, Any] = {"connect_args": {"check_same_thread": False}}
    if path is None:
        options["poolclass"] = StaticPool
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        options |= {"pool_size": READERS + 1, "max_overflow": 0}
    engine = create_engine(url, **options)
    event.listen(engine, "connect", _set_pragmas)
    event.listen(engine, "begin", _begin)
    return engine


def path_of(url: str) -> Path | None:
    """Return the file of a database, None for one in memory."""
    path = url.removeprefix("sqlite://").removeprefix("/")
    return None if path in {"", ":memory:"} else Path(path)


def _begin(connection: Connection) -> None:
    # The driver's own BEGIN comes late and never before a SELECT: reads would not be one snapshot.
    connection.exec_driver_sql(connection.get_execution_options().get("begin", "BEGIN"))


def _set_pragmas(raw: Any, _record: object) -> None:  # noqa: ANN401 - the driver's own type
    raw.isolation_level = None  # transactions begin where we say so
    cursor = raw.cursor()
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        f"busy_timeout={BUSY_TIMEOUT_MS}",
        "foreign_keys=ON",
        f"cache_size=-{CACHE_KIB}",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _migrate(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
