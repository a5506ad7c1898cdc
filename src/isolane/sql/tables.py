"""The tables of the database, and their indexes."""

# Long because: the schema is read as a whole, and one number ties the tables of a thread together.

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    text,
)

metadata = MetaData()
_Number = BigInteger().with_variant(Integer, "sqlite")
"""Type of numbers that are given to rows. SQLite gives them to columns of one type only."""
_Text = String().with_variant(String(collation="C"), "postgresql")
"""Type of texts. They are ordered by their bytes in UTF-8, whatever the language of a server."""


def _partial_index(name: str, *columns: str, where: str, unique: bool = False) -> Index:
    """Return an index of the rows for which the condition `where` holds."""
    condition = text(where)
    return Index(name, *columns, unique=unique, sqlite_where=condition, postgresql_where=condition)


threads = Table(
    "threads",
    metadata,
    # Names the thread in every other table. Never used again, also when the thread is deleted.
    Column("thread_no", _Number, primary_key=True, autoincrement=True),
    Column("user_id", _Text, nullable=False),
    Column("thread_id", _Text, nullable=False),
    # Random, and made with the row: a thread that is deleted and made anew numbers apart.
    Column("epoch", _Text, nullable=False),
    Column("title", _Text, nullable=False, default=""),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    # By which its agent knows the thread: a random UUID that lives and dies with this row.
    Column("agent_thread_id", _Text),
    # What it is for: a `ThreadKind`.
    Column("kind", _Text, nullable=False, server_default="chat"),
    Index("threads_by_address", "user_id", "thread_id", unique=True),
    _partial_index(
        "threads_by_change", "user_id", "updated_at", "thread_id", where="kind = 'chat'"
    ),
    _partial_index("threads_of_requests", "updated_at", where="kind = 'request'"),
    sqlite_autoincrement=True,
)
# Where each thread's log ends, and who may write on. Apart from `threads`, because every append
# changes it: the row is narrow, and no index has what changes.
heads = Table(
    "heads",
    metadata,
    Column("thread_no", _Number, primary_key=True, autoincrement=False),
    Column("head_seq", BigInteger, nullable=False, server_default="0"),
    # Entries up to here are gone.
    Column("trimmed_seq", BigInteger, nullable=False, server_default="0"),
    # Of those, entries up to here are deleted from the disk, too.
    Column("swept_seq", BigInteger, nullable=False, server_default="0"),
    # The run that may write, the token that its writer has, and how many batches that has written.
    Column("run_no", _Number, nullable=False, server_default="0"),
    Column("fence", BigInteger, nullable=False, server_default="0"),
    Column("batch", BigInteger, nullable=False, server_default="0"),
    # Where the last of those batches ended: entries from beside the run's writer may follow it.
    Column("batch_end", BigInteger, nullable=False, server_default="0"),
    _partial_index("heads_to_sweep", "thread_no", where="swept_seq < trimmed_seq"),
)
# Deleted threads whose rows are still there.
removals = Table(
    "removals",
    metadata,
    Column("thread_no", _Number, primary_key=True, autoincrement=False),
    Column("user_id", _Text, nullable=False),
)
events = Table(
    "events",
    metadata,
    Column("thread_no", _Number, primary_key=True),
    Column("seq", BigInteger, primary_key=True),
    Column("run_no", _Number, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)
runs = Table(
    "runs",
    metadata,
    Column("run_no", _Number, primary_key=True),
    Column("user_id", _Text, nullable=False),
    Column("run_id", _Text, nullable=False),
    Column("thread_no", _Number, nullable=False),
    Column("state", _Text, nullable=False),
    # Whole until the run ends; only its agent is left of it then.
    Column("draft", LargeBinary, nullable=False),
    # Fingerprints of the messages that it asked: they tell whether a second frame is the same.
    Column("asked", LargeBinary),
    Column("first_seq", BigInteger),
    Column("last_seq", BigInteger),
    Column("created_at", BigInteger, nullable=False),
    Column("started_at", BigInteger),
    Column("ended_at", BigInteger),
    Column("outcome", _Text),
    Column("error_id", _Text),
    # What its agent said of an error of its own: a code, and in UTF-8 the text that it made public.
    Column("agent_code", _Text),
    Column("agent_message", LargeBinary),
    Column("stop", LargeBinary),
    Column("interrupts", LargeBinary),
    Column("answered_by", _Text),
    # Whether it has ended and the log has its entries still.
    Column("is_logged", Integer, nullable=False, server_default="0"),
    # Of a frame that attached: the run that it attached to. The row has nothing else of a run.
    Column("attached_to", _Text),
    # By which its agent knows the run: a random UUID that lives and dies with this row.
    Column("agent_run_id", _Text),
    # The run that began its turn. None while it waits and adds no message of a user: such a run
    # goes on with the turn that it finds.
    Column("turn_id", _Text),
    # Whether a rewind took back all that it said.
    Column("is_rewound", Integer, nullable=False, server_default="0"),
    # Place among those that wait on its thread: the lowest is next.
    Column("place", BigInteger),
    # The node that drives it, or is about to.
    Column("node_id", _Text),
    # When it was asked to stop, and when its node obeyed.
    Column("stop_at", BigInteger),
    Column("stop_seen_at", BigInteger),
    # The agent that it asks: a node claims runs of the agents that it serves.
    Column("agent", _Text),
    # How often its agent was begun; a hand-over isn't counted.
    Column("attempt", BigInteger, nullable=False, server_default="1"),
    # Whether another node may begin it anew.
    Column("is_restartable", Integer, nullable=False, server_default="0"),
    Index("runs_by_address", "user_id", "run_id", unique=True),
    _partial_index("runs_open", "user_id", where="state != 'ended'"),
    # One run of a thread has the turn.
    _partial_index("runs_in_turn", "thread_no", where="state IN ('ready', 'running')", unique=True),
    _partial_index("runs_ready", "run_no", where="state = 'ready'"),
    _partial_index(
        "runs_stopping",
        "node_id",
        where="stop_at IS NOT NULL AND state != 'ended' AND stop_seen_at IS NULL",
    ),
    _partial_index("runs_standing", "thread_no", "first_seq", where="is_rewound = 0"),
    _partial_index("runs_waiting", "thread_no", "place", where="state = 'queued'"),
    _partial_index("runs_logged", "ended_at", "run_no", where="is_logged = 1"),
    Index("runs_by_thread", "thread_no", "first_seq"),
    _partial_index("runs_under_way", "thread_no", where="state = 'running'"),
)
# Aborts that came before the run that they mean. The number tells which is the oldest of a user's.
# Times are of the clock that nobody sets.
early_aborts = Table(
    "early_aborts",
    metadata,
    Column("number", _Number, primary_key=True, autoincrement=True),
    Column("user_id", _Text, nullable=False),
    Column("run_id", _Text, nullable=False),
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
    Column("node_id", _Text, primary_key=True),
    Column("beat_at", BigInteger, nullable=False),
    # What operators call it. A process that takes the name of another one takes its place.
    Column("name", _Text),
    # What it does, as a `NodeRole`, and the names of its agents, as JSON.
    Column("role", _Text, nullable=False, server_default="all"),
    Column("agents", _Text, nullable=False, server_default="[]"),
    Column("version", _Text, nullable=False, server_default=""),
    Column("is_draining", Integer, nullable=False, server_default="0"),
    # Tells whether it signs with the same key as the others.
    Column("key_proof", _Text, nullable=False, server_default=""),
    Index("nodes_by_name", "name", unique=True),
    sqlite_with_rowid=False,
)
# How many sockets each user has at each node.
slots = Table(
    "slots",
    metadata,
    Column("user_id", _Text, primary_key=True),
    Column("node_id", _Text, primary_key=True),
    Column("held", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
# A message stands from the run that added it until a rewind drops it; both are kept as places in
# the log, so that the messages as of any kept entry can be told.
messages = Table(
    "messages",
    metadata,
    Column("number", _Number, primary_key=True, autoincrement=True),
    Column("thread_no", _Number, nullable=False),
    Column("message_id", _Text, nullable=False),
    # The run that added it; 0 for a message that was there before the first run.
    Column("run_no", _Number, nullable=False),
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
    _partial_index("messages_dropped", "thread_no", "until_seq", where="until_seq IS NOT NULL"),
)

# AG-UI's shared state of a thread. A row is what a run left; it counts from that run's first entry
# until a rewind takes it back, and the newest one counts.
states = Table(
    "states",
    metadata,
    Column("thread_no", _Number, primary_key=True),
    Column("since_seq", BigInteger, primary_key=True),
    Column("until_seq", BigInteger),
    Column("payload", LargeBinary, nullable=False),
)

# Large attachments of threads, and how many references there are.
attachments = Table(
    "attachments",
    metadata,
    Column("number", _Number, primary_key=True),
    Column("thread_no", _Number, nullable=False),
    # SHA-256 of the bytes.
    Column("digest", LargeBinary, nullable=False),
    Column("uses", Integer, nullable=False),
    Index("attachments_by_digest", "thread_no", "digest", unique=True),
)
attachment_bytes = Table(
    "attachment_bytes",
    metadata,
    Column("number", _Number, primary_key=True),
    Column("bytes", LargeBinary, nullable=False),
)

# Threads and bytes that each user keeps; a row with an empty name has the sums of all users.
# `isolane.sql.usage` counts them.
usage = Table(
    "usage",
    metadata,
    Column("user_id", _Text, primary_key=True),
    Column("threads", BigInteger, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

accounts = Table(
    "accounts",
    metadata,
    Column("user_id", _Text, primary_key=True),
    Column("password_hash", _Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("scopes", _Text, nullable=False, server_default="runs:write threads:read"),
)
# Under a digest of the cookie, so that who reads the file can't sign in with it.
sessions = Table(
    "sessions",
    metadata,
    Column("session_id", _Text, primary_key=True),
    Column("user_id", _Text, nullable=False),
    Column("device", _Text, nullable=False),
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
    Column("kind", _Text, nullable=False),
    Column("user_id", _Text, nullable=False),
    # Whom the ticket stands for, as JSON.
    Column("identity", LargeBinary, nullable=False),
    Column("origin", _Text),
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
    Column("provider", _Text, nullable=False),
    Column("redirect_uri", _Text, nullable=False),
    Column("nonce", _Text, nullable=False),
    Column("verifier", _Text, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Index("sign_ins_by_expiry", "expires_at"),
    sqlite_with_rowid=False,
)
# When somebody tried to sign in: at an account, from an address, or both.
attempts = Table(
    "attempts",
    metadata,
    Column("key", _Text, primary_key=True),
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
    Column("id", _Number, primary_key=True, autoincrement=True),
    Column("user_id", _Text, nullable=False),
    Column("session_id", _Text),
    Column("revoked_at", BigInteger, nullable=False),
    Column("scopes", _Text, nullable=False),
    Index("revocations_by_user", "user_id", "revoked_at"),
    _partial_index("revocations_of_sessions", "revoked_at", where="session_id IS NOT NULL"),
    sqlite_autoincrement=True,  # an id is never used again: readers ask for what is after the last
)
