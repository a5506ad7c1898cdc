"""The one SQLite file under the log and the store: its tables, and how they are read and written.

Work is a plain function over a SQLAlchemy connection and runs in a thread: one hop for a whole
transaction, not one for every statement as with an asynchronous driver, and nothing of SQLite ever
runs on the event loop. One thread writes, so writers never meet; a few read beside it (WAL).
Users take turns at both, each in a lane of their own.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
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
    delete,
    event,
    make_url,
    select,
    text,
)
from sqlalchemy.dialects.sqlite import pysqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import StaticPool

from isolane.engines.sqlite.commits import Commits, Outcome, Write
from isolane.engines.sqlite.lanes import HOUSE, Gate
from isolane.errors import DatabaseFailed, DatabaseInUse, IsolaneError, Unavailable

T = TypeVar("T")

READERS: Final = 4
BUSY_TIMEOUT_MS: Final = 30_000
BUSY_STEP_MS: Final = 100
"""To set it costs a statement, so smaller differences are let be."""
CACHE_KIB: Final = 512
"""Page cache per connection, in KiB. SQLite's own 2 MiB for each of five connections grew with the
log and made no append faster: the system caches the file as well."""
MEMORY: Final = ":memory:"
"""SQLite's name for a database that is in no file."""
_held: Final[set[tuple[int, int]]] = set()
"""Device and inode of the database files that gateways of this process have open."""
PASSING: Final = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
    }
)
"""SQLite's result codes for trouble around the file. The same statement may succeed later."""
_PRIMARY: Final = 0xFF
"""The bits of a result code that hold its kind; the others say more about it."""
_MIGRATIONS: Final = Path(__file__).parent / "migrations"

metadata = MetaData()

threads = Table(
    "threads",
    metadata,
    # Names the thread in every other table. Never used again, also when the thread is deleted.
    Column("thread_no", Integer, primary_key=True, autoincrement=True),
    Column("user_id", String, nullable=False),
    Column("thread_id", String, nullable=False),
    # Random, and made with the row: a thread that is deleted and made anew numbers apart.
    Column("epoch", String, nullable=False),
    Column("title", String, nullable=False, default=""),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    # By which its agent knows the thread: a random UUID that lives and dies with this row.
    Column("agent_thread_id", String),
    # What it is for: a `ThreadKind`.
    Column("kind", String, nullable=False, server_default="chat"),
    Index("threads_by_address", "user_id", "thread_id", unique=True),
    Index(
        "threads_by_change",
        "user_id",
        "updated_at",
        "thread_id",
        sqlite_where=text("kind = 'chat'"),
    ),
    Index("threads_of_requests", "updated_at", sqlite_where=text("kind = 'request'")),
    sqlite_autoincrement=True,
)
# Where each thread's log ends, and who may write on. Apart from `threads`, because every append
# changes it: the row is narrow, and no index has what changes.
heads = Table(
    "heads",
    metadata,
    Column("thread_no", Integer, primary_key=True, autoincrement=False),
    Column("head_seq", BigInteger, nullable=False, server_default="0"),
    # Entries up to here are gone.
    Column("trimmed_seq", BigInteger, nullable=False, server_default="0"),
    # Of those, entries up to here are deleted from the disk, too.
    Column("swept_seq", BigInteger, nullable=False, server_default="0"),
    # The run that may write, the token that its writer has, and how many batches that has written.
    Column("run_no", Integer, nullable=False, server_default="0"),
    Column("fence", BigInteger, nullable=False, server_default="0"),
    Column("batch", BigInteger, nullable=False, server_default="0"),
    Index("heads_to_sweep", "thread_no", sqlite_where=text("swept_seq < trimmed_seq")),
)
# Deleted threads whose rows are still there.
removals = Table(
    "removals",
    metadata,
    Column("thread_no", Integer, primary_key=True, autoincrement=False),
    Column("user_id", String, nullable=False),
)
events = Table(
    "events",
    metadata,
    Column("thread_no", Integer, primary_key=True),
    Column("seq", BigInteger, primary_key=True),
    Column("run_no", Integer, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)
runs = Table(
    "runs",
    metadata,
    Column("run_no", Integer, primary_key=True),
    Column("user_id", String, nullable=False),
    Column("run_id", String, nullable=False),
    Column("thread_no", Integer, nullable=False),
    Column("state", String, nullable=False),
    # Whole until the run ends; only its agent is left of it then.
    Column("draft", LargeBinary, nullable=False),
    # Fingerprints of the messages that it asked: they tell whether a second frame is the same.
    Column("asked", LargeBinary),
    Column("first_seq", BigInteger),
    Column("last_seq", BigInteger),
    Column("created_at", BigInteger, nullable=False),
    Column("started_at", BigInteger),
    Column("ended_at", BigInteger),
    Column("outcome", String),
    Column("error_id", String),
    # What its agent said of an error of its own: a code, and in UTF-8 the text that it made public.
    Column("agent_code", String),
    Column("agent_message", LargeBinary),
    Column("stop", LargeBinary),
    Column("interrupts", LargeBinary),
    Column("answered_by", String),
    # Whether it has ended and the log has its entries still.
    Column("is_logged", Integer, nullable=False, server_default="0"),
    # Of a frame that attached: the run that it attached to. The row has nothing else of a run.
    Column("attached_to", String),
    # By which its agent knows the run: a random UUID that lives and dies with this row.
    Column("agent_run_id", String),
    # The run that began its turn. None while it waits and adds no message of a user: such a run
    # goes on with the turn that it finds.
    Column("turn_id", String),
    # Whether a rewind took back all that it said.
    Column("is_rewound", Integer, nullable=False, server_default="0"),
    # Place among those that wait on its thread: the lowest is next.
    Column("place", BigInteger),
    # The node that drives it, or is about to.
    Column("node_id", String),
    # When it was asked to stop, and when its node obeyed.
    Column("stop_at", BigInteger),
    Column("stop_seen_at", BigInteger),
    Index("runs_by_address", "user_id", "run_id", unique=True),
    Index("runs_open", "user_id", sqlite_where=text("state != 'ended'")),
    # One run of a thread has the turn.
    Index(
        "runs_in_turn",
        "thread_no",
        unique=True,
        sqlite_where=text("state IN ('ready', 'running')"),
    ),
    Index("runs_ready", "run_no", sqlite_where=text("state = 'ready'")),
    Index(
        "runs_stopping",
        "node_id",
        sqlite_where=text("stop_at IS NOT NULL AND state != 'ended' AND stop_seen_at IS NULL"),
    ),
    Index("runs_standing", "thread_no", "first_seq", sqlite_where=text("is_rewound = 0")),
    Index("runs_waiting", "thread_no", "place", sqlite_where=text("state = 'queued'")),
    Index("runs_logged", "ended_at", "run_no", sqlite_where=text("is_logged")),
    Index("runs_by_thread", "thread_no", "first_seq"),
    Index("runs_under_way", "thread_no", sqlite_where=text("state = 'running'")),
)
# Aborts that came before the run that they mean. The number tells which is the oldest of a user's.
# Times are of the clock that nobody sets.
early_aborts = Table(
    "early_aborts",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("user_id", String, nullable=False),
    Column("run_id", String, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Index("early_aborts_by_run", "user_id", "run_id", unique=True),
    Index("early_aborts_by_user", "user_id", "number"),
    Index("early_aborts_by_expiry", "expires_at"),
    sqlite_autoincrement=True,
)
# The processes that serve this database: with SQLite it is one, under a new id after each start.
nodes = Table(
    "nodes",
    metadata,
    Column("node_id", String, primary_key=True),
    Column("beat_at", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
# A message stands from the run that added it until a rewind drops it; both are kept as places in
# the log, so that the messages as of any kept entry can be told.
messages = Table(
    "messages",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("thread_no", Integer, nullable=False),
    Column("message_id", String, nullable=False),
    # The run that added it; 0 for a message that was there before the first run.
    Column("run_no", Integer, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Column("since_seq", BigInteger, nullable=False),
    Column("until_seq", BigInteger),
    # Whether it is only a caller's word that it was said.
    Column("is_claimed", Integer, nullable=False, server_default="0"),
    Index("messages_by_thread", "thread_no", "number"),
    Index("messages_by_id", "thread_no", "message_id"),
    Index("messages_by_run", "thread_no", "run_no", "number", "until_seq"),
    # For pages. It says which messages stood at a moment, so that no payload is read for others.
    Index("messages_by_place", "thread_no", "since_seq", "number", "until_seq"),
    Index(
        "messages_dropped",
        "thread_no",
        "until_seq",
        sqlite_where=text("until_seq IS NOT NULL"),
    ),
)

# AG-UI's shared state of a thread. A row is what a run left; it counts from that run's first entry
# until a rewind takes it back, and the newest one counts.
states = Table(
    "states",
    metadata,
    Column("thread_no", Integer, primary_key=True),
    Column("since_seq", BigInteger, primary_key=True),
    Column("until_seq", BigInteger),
    Column("payload", LargeBinary, nullable=False),
)

# Large attachments of threads, and how many references there are.
attachments = Table(
    "attachments",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("thread_no", Integer, nullable=False),
    # SHA-256 of the bytes.
    Column("digest", LargeBinary, nullable=False),
    Column("uses", Integer, nullable=False),
    Index("attachments_by_digest", "thread_no", "digest", unique=True),
)
attachment_bytes = Table(
    "attachment_bytes",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("bytes", LargeBinary, nullable=False),
)

# Threads and bytes that each user keeps; a row with an empty name has the sums of all users.
# `isolane.engines.sqlite.usage` counts them.
usage = Table(
    "usage",
    metadata,
    Column("user_id", String, primary_key=True),
    Column("threads", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    sqlite_with_rowid=False,
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
    Index("sessions_by_age", "created_at"),
)
# Tickets for sockets and sign-in links, under digests of their secrets. Times here and in the next
# two tables are of the steady clock.
tickets = Table(
    "tickets",
    metadata,
    Column("digest", LargeBinary, primary_key=True),
    Column("kind", String, nullable=False),
    Column("user_id", String, nullable=False),
    # Whom the ticket stands for, as JSON.
    Column("identity", LargeBinary, nullable=False),
    Column("origin", String),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Index("tickets_by_user", "user_id", "kind", "created_at"),
    Index("tickets_by_expiry", "expires_at"),
    sqlite_with_rowid=False,
)
# Sign-ins that are under way at a provider, under digests of their states.
sign_ins = Table(
    "sign_ins",
    metadata,
    Column("digest", LargeBinary, primary_key=True),
    Column("provider", String, nullable=False),
    Column("redirect_uri", String, nullable=False),
    Column("nonce", String, nullable=False),
    Column("verifier", String, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Index("sign_ins_by_expiry", "expires_at"),
    sqlite_with_rowid=False,
)
# When somebody tried to sign in: at an account, from an address, or both.
attempts = Table(
    "attempts",
    metadata,
    Column("key", String, primary_key=True),
    # 64-bit integers, the oldest first.
    Column("moments", LargeBinary, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Index("attempts_by_expiry", "expires_at"),
    sqlite_with_rowid=False,
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
    Index("revocations_of_sessions", "revoked_at", sqlite_where=text("session_id IS NOT NULL")),
    sqlite_autoincrement=True,  # an id is never used again: readers ask for what is after the last
)


DEAD_AT_ONCE: Final = 100
"""More than come in with one write, and few enough to hold nobody up."""


def delete_dead(table: Table, now: int, connection: Connection) -> None:
    """Forget some rows of `table` whose `expires_at` has passed, within somebody's transaction."""
    key = next(iter(table.primary_key))
    dead = select(key).where(table.c.expires_at <= now).order_by(table.c.expires_at)
    connection.execute(delete(table).where(key.in_(dead.limit(DEAD_AT_ONCE))))


PRIVATE: Final = 0o600
"""The rights of the database's files: its owner's alone."""
_TOUCH: Final = text("UPDATE alembic_version SET version_num = version_num")
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

        # One thread less than there are: the house never waits for a user's reads.
        self._gate = Gate(max(readers - 1, 1), most_of_lane=max(readers // 2, 1))
        self._commits = Commits(self._submit, self._write_all)
        self._busy_timeout_ms = BUSY_TIMEOUT_MS
        self._is_refused = False

    async def probe(self) -> None:
        """Raise `Unavailable` when the file can't be read, or the last write to it was refused.

        It is written to again then, for nobody else may do so as long as it seems to be down.
        """
        await self.read(lambda connection: connection.execute(text("SELECT 1")).all())
        if self._is_refused:
            await self.write(lambda connection: connection.execute(_TOUCH))

    async def read(self, query: Callable[[Connection], T], *, lane: str = HOUSE) -> T:
        """Run `query` in one read transaction.

        `lane` is the user for whom it is; a few reads of users run at once, fewer of one. Raises
        `Unavailable` when the file can't be read now, `DatabaseFailed` when it never can. Safe to
        cancel.
        """
        work = partial(_read, self._engine, query)
        if lane == HOUSE:
            return await _as_ours(asyncio.get_running_loop().run_in_executor(self._readers, work))
        await self._gate.enter(lane)
        reading = asyncio.get_running_loop().run_in_executor(self._readers, work)
        reading.add_done_callback(partial(self._leave, lane))
        # A thread can't be cancelled: it counts until it is done.
        return await _as_ours(asyncio.shield(reading))

    def _leave(self, lane: str, reading: asyncio.Future[Any]) -> None:
        self._gate.leave(lane)
        if not reading.cancelled():
            _ = reading.exception()  # who asked may have gone, and nobody else wants to know

    async def write(self, work: Callable[[Connection], T], *, lane: str = HOUSE) -> T:
        """Run `work` in one transaction, committed on return, undone when it raises.

        `lane` is the user for whom it is. Transactions of one lane run one after the other in the
        order of the calls, and lanes take turns. Those of users may share a commit, so `work` may
        be run a second time when the first was undone, and does nothing but read and write.

        Cancelling the caller doesn't undo a transaction that has begun. Raises `Unavailable` when
        nothing can be written: the disk is full, or the file is locked for 30 s from the call, the
        time in line included. Raises `DatabaseFailed` for what will never succeed: a broken
        constraint, a missing table, a value that is too large, a damaged file.
        """
        deadline_s = time.monotonic() + BUSY_TIMEOUT_MS / 1000
        try:
            result = await _as_ours(self._commits.write(work, lane=lane, deadline_s=deadline_s))
        except Unavailable:
            self._is_refused = True
            raise
        self._is_refused = False
        return result

    def _submit(self, work: Callable[[], T]) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._writer, work)

    def _write_all(self, writes: Sequence[Write]) -> Sequence[Outcome]:
        """Carry writes out in one transaction, or each in its own where that can't be."""
        if len(writes) > 1:
            try:
                return self._write_together(writes)
            except Exception:  # noqa: BLE001, S110 - undone as a whole; each meets its own below
                pass
        return [_outcome_of(partial(self._write, each)) for each in writes]

    def _write_together(self, writes: Sequence[Write]) -> Sequence[Outcome]:
        self._bound_waiting(min(each.deadline_s for each in writes))
        with self._writing.begin():
            return [self._write_beside(each) for each in writes]

    def _write_beside(self, write: Write) -> Outcome:
        """Carry one of several writes out; what it did is undone alone when it fails.

        Raises what ended the transaction for all of them.
        """
        savepoint = self._writing.begin_nested()
        try:
            result = write.work(self._writing)
        except Exception as error:
            if _passes(error):  # SQLite may have undone everything, and the next try may succeed
                raise
            savepoint.rollback()
            return None, error
        savepoint.commit()
        return result, None

    def _write(self, write: Write) -> Any:  # noqa: ANN401 - whatever the work returns
        self._bound_waiting(write.deadline_s)
        with self._writing.begin():
            return write.work(self._writing)

    def _bound_waiting(self, deadline_s: float) -> None:
        """Wait for a lock for no longer than what is left of a write's time."""
        left_ms = round((deadline_s - time.monotonic()) * 1000)
        if left_ms <= 0:
            raise Unavailable("the database was busy for too long")
        if abs(left_ms - self._busy_timeout_ms) >= BUSY_STEP_MS:
            self._busy_timeout_ms = left_ms
            raw: Any = self._writing.connection.driver_connection
            raw.execute(f"PRAGMA busy_timeout={left_ms}")

    async def close(self) -> None:
        """Finish what was begun, fold the write-ahead log in, and close the file."""
        await self._commits.close()
        await asyncio.to_thread(self._shut)

    def _shut(self) -> None:
        self._readers.shutdown()
        self._writer.shutdown()
        self._writing.close()
        self._engine.dispose()


async def _as_ours(work: Awaitable[T]) -> T:
    """Return what a thread found, or raise what its error means."""
    try:
        return await work
    except (DBAPIError, sqlite3.Error, OverflowError) as error:
        raise to_error(error) from error


def _outcome_of(work: Callable[[], object]) -> Outcome:
    try:
        return work(), None
    except Exception as error:  # noqa: BLE001 - raised again where the caller waits
        return None, error


def to_error(error: Exception) -> IsolaneError:
    """Return what a database error means: `Unavailable` when it passes, else `DatabaseFailed`."""
    origin = error.orig if isinstance(error, DBAPIError) else error
    if _passes(error):
        return Unavailable(f"the database refused: {origin}")
    return DatabaseFailed(f"the database can't do this: {origin}")


def _passes(error: Exception) -> bool:
    """Say whether an error is of trouble around the file."""
    origin = error.orig if isinstance(error, DBAPIError) else error
    code = getattr(origin, "sqlite_errorcode", None)
    return code is not None and code & _PRIMARY in PASSING


def _read(engine: Engine, query: Callable[[Connection], T]) -> T:
    with engine.begin() as connection:
        return query(connection)


@contextmanager
def lock_database(url: str) -> Iterator[None]:
    """Be the one gateway of the database at `url` for the block's time; raise `DatabaseInUse`.

    Two locks are held: one beside the file's real path, so that a file that was put back meanwhile
    is guarded too, and one on the file itself, which has the same lock by whatever name it is
    opened. Both end with the process, however that ends. Databases in memory are nobody else's.
    """
    path = path_of(url)
    if path is None:
        yield
        return
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        _lock(path, path.with_name(f"{path.name}.lock")),
        _lock_file_itself(path),
    ):
        yield


@contextmanager
def _lock(database: Path, path: Path) -> Iterator[None]:
    """Lock the file at `path`, made when it is missing, on behalf of a database."""
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise _taken(database) from error
        yield


@contextmanager
def _lock_file_itself(path: Path) -> Iterator[None]:
    """Lock a database's own file, which may have other names: links to it, or mounts of it.

    SQLite's own locks are of another kind, and Linux keeps both kinds apart. Other systems let them
    meet, so nothing is locked there.
    """
    if sys.platform != "linux":
        yield
        return
    path.touch()
    inode = _inode_of(path)
    # To open the file and close it again would end the locks that SQLite has on it in this process.
    if inode in _held:
        raise _taken(path)
    _held.add(inode)
    try:
        with _lock(path, path):
            yield
    finally:
        _held.discard(inode)


def _inode_of(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


def _taken(path: Path) -> DatabaseInUse:
    return DatabaseInUse(
        f"another gateway has {path} open, by this name or another; stop it first, and serve with "
        "one worker: a data folder has one process"
    )


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
    # Errors are logged, and the values of a statement are what users wrote.
    options: dict[str, Any] = {
        "connect_args": {"check_same_thread": False},
        "hide_parameters": True,
    }
    if path is None:
        options["poolclass"] = StaticPool
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        _keep_private(path)
        options |= {"pool_size": READERS + 1, "max_overflow": 0}
    engine = create_engine(url, **options)
    event.listen(engine, "connect", _set_pragmas)
    event.listen(engine, "begin", _begin)
    return engine


def _keep_private(path: Path) -> None:
    """Let nobody else on the machine read the database: it holds what all users said.

    SQLite makes the files beside it with the rights that the database itself has.
    """
    path.touch(mode=PRIVATE)
    for file in (path, *(path.with_name(f"{path.name}-{side}") for side in ("wal", "shm"))):
        with suppress(
            FileNotFoundError, PermissionError
        ):  # another's file, whose rights are theirs
            file.chmod(PRIVATE)


def path_of(url: str) -> Path | None:
    """Return the file of a database, by its whole path; None for one in memory.

    It is what the driver is given, apart from the options in the URL.
    """
    arguments, options = pysqlite.dialect().create_connect_args(make_url(url))
    name = str(arguments[0])
    if not options.get("uri"):
        return None if name == MEMORY else Path(name).absolute()
    parts = urlsplit(name)
    asked = dict(parse_qsl(parts.query))
    if parts.path == MEMORY or asked.get("mode") == "memory" or asked.get("vfs") == "memdb":
        return None
    return Path(unquote(parts.path)).absolute()


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
    try:
        command.upgrade(config, "head")
    except CommandError as error:  # the version that the file has is none that we know
        raise DatabaseFailed(
            f"A newer version of Isolane wrote the database at {connection.engine.url.database}, "
            "and nothing of it was changed: start that version or a later one, or name another "
            "folder with --data."
        ) from error
