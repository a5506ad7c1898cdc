"""Numbers for threads and runs: rows are found by them, and not by the ids that clients chose.

All tables of threads are built anew, so this takes a while and space in a large database. Epochs
and numbers of entries stay, so that clients go on from where they are.
"""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"

_BEFORE = ("threads", "removals", "events", "runs", "messages", "states", "attachments")
# Deleted threads come first, because the newest number must be that of a row in `threads`. Their
# rows are stored under names that end in a mark; so may those of a thread that was made anew.
_NUMBERS = """
INSERT INTO numbers (user_id, stored_id, is_deleted)
SELECT user_id, thread_id, is_deleted FROM (
    SELECT number AS place, user_id, thread_id, 1 AS is_deleted FROM removals_before
    UNION ALL SELECT rowid, user_id, thread_id, 0 FROM threads_before
) ORDER BY is_deleted DESC, place
"""
_THREADS = """
INSERT INTO threads (
    thread_no, user_id, thread_id, epoch, title, created_at, updated_at, agent_thread_id, kind
)
SELECT number, user_id, CASE instr(thread_id, '#') WHEN 0 THEN thread_id
    ELSE substr(thread_id, 1, instr(thread_id, '#') - 1) END,
    epoch, title, created_at, updated_at, agent_thread_id, kind
FROM numbers CROSS JOIN threads_before USING (user_id)
WHERE is_deleted = 0 AND threads_before.thread_id = stored_id ORDER BY number
"""
# A number that a deleted thread has is never given again, also where no thread is left.
_NEVER_AGAIN = (
    "DELETE FROM sqlite_sequence WHERE name = 'threads'",
    """
    INSERT INTO sqlite_sequence (name, seq)
    SELECT 'threads', coalesce(max(number), 0) FROM numbers
    """,
)
_HEADS = """
INSERT INTO heads (thread_no, head_seq, trimmed_seq, swept_seq)
SELECT number, max(trimmed_seq, coalesce((
    SELECT max(seq) FROM events_before
    WHERE events_before.user_id = numbers.user_id AND events_before.thread_id = stored_id
), 0)), trimmed_seq, swept_seq
FROM numbers CROSS JOIN threads_before USING (user_id)
WHERE is_deleted = 0 AND threads_before.thread_id = stored_id ORDER BY number
"""
_REMOVALS = """
INSERT INTO removals (thread_no, user_id) SELECT number, user_id FROM numbers WHERE is_deleted = 1
"""
_EVENTS = """
INSERT INTO events (thread_no, seq, run_no, payload)
SELECT number, seq, coalesce(runs_before.rowid, -1), payload
FROM numbers CROSS JOIN events_before AS old
    ON old.user_id = numbers.user_id AND old.thread_id = numbers.stored_id
LEFT JOIN runs_before ON runs_before.user_id = old.user_id AND runs_before.run_id = old.run_id
ORDER BY number, seq
"""
_RUNS = """
INSERT INTO runs (
    run_no, user_id, run_id, thread_no, state, draft, asked, first_seq, last_seq, created_at,
    started_at, ended_at, outcome, error_id, agent_code, agent_message, stop, interrupts,
    answered_by, is_logged, attached_to, agent_run_id, turn_id, is_rewound
)
SELECT old.rowid, old.user_id, run_id, number, state, draft, asked, first_seq, last_seq, created_at,
    started_at, ended_at, outcome, error_id, agent_code, agent_message, stop, interrupts,
    answered_by, is_logged, attached_to, agent_run_id, turn_id, is_rewound
FROM runs_before AS old
JOIN numbers ON numbers.user_id = old.user_id AND numbers.stored_id = old.thread_id
ORDER BY old.rowid
"""
_MESSAGES = """
INSERT INTO messages (
    number, thread_no, message_id, run_no, payload, since_seq, until_seq, is_claimed
)
SELECT old.number, numbers.number, message_id, CASE old.run_id WHEN '' THEN 0 ELSE coalesce((
    SELECT runs_before.rowid FROM runs_before
    WHERE runs_before.user_id = old.user_id AND runs_before.run_id = old.run_id
), -1) END, payload, since_seq, until_seq, is_claimed
FROM messages_before AS old
JOIN numbers ON numbers.user_id = old.user_id AND numbers.stored_id = old.thread_id
ORDER BY old.number
"""
_STATES = """
INSERT INTO states (thread_no, since_seq, until_seq, payload)
SELECT number, since_seq, until_seq, payload FROM states_before AS old
JOIN numbers ON numbers.user_id = old.user_id AND numbers.stored_id = old.thread_id
"""
_ATTACHMENTS = """
INSERT INTO attachments (number, thread_no, digest, uses)
SELECT old.number, numbers.number, digest, uses FROM attachments_before AS old
JOIN numbers ON numbers.user_id = old.user_id AND numbers.stored_id = old.thread_id
"""


def upgrade() -> None:
    """Number the threads, and build their tables anew with the numbers."""
    for name in _BEFORE:
        op.rename_table(name, f"{name}_before")
    op.execute("""
    CREATE TEMP TABLE numbers (
        number INTEGER PRIMARY KEY, user_id TEXT, stored_id TEXT, is_deleted INTEGER
    )
    """)
    op.execute(_NUMBERS)
    op.execute("CREATE UNIQUE INDEX temp.numbers_by_name ON numbers (user_id, stored_id)")
    _create_threads()
    _create_runs()
    _create_messages()
    for statement in (
        _THREADS,
        *_NEVER_AGAIN,
        _HEADS,
        _REMOVALS,
        _EVENTS,
        _RUNS,
        _MESSAGES,
        _STATES,
        _ATTACHMENTS,
    ):
        op.execute(statement)
    for name in _BEFORE:
        op.drop_table(f"{name}_before")
    for name in ("thread_names", "deletions", "meta"):
        op.drop_table(name)
    op.execute("DROP TABLE temp.numbers")
    _create_indexes()


def _create_threads() -> None:
    op.create_table(
        "threads",
        sa.Column("thread_no", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("user_id", sa.String, nullable=False),
        sa.Column("thread_id", sa.String, nullable=False),
        sa.Column("epoch", sa.String, nullable=False),
        sa.Column("title", sa.String, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.Column("agent_thread_id", sa.String),
        sa.Column("kind", sa.String, nullable=False, server_default="chat"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "heads",
        sa.Column("thread_no", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("head_seq", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("trimmed_seq", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("swept_seq", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("run_no", sa.Integer, nullable=False, server_default="0"),
        sa.Column("fence", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("batch", sa.BigInteger, nullable=False, server_default="0"),
    )
    op.create_table(
        "removals",
        sa.Column("thread_no", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("user_id", sa.String, nullable=False),
    )
    op.create_table(
        "events",
        sa.Column("thread_no", sa.Integer, primary_key=True),
        sa.Column("seq", sa.BigInteger, primary_key=True),
        sa.Column("run_no", sa.Integer, nullable=False),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        sqlite_with_rowid=False,
    )


def _create_runs() -> None:
    op.create_table(
        "runs",
        sa.Column("run_no", sa.Integer, primary_key=True),
        sa.Column("user_id", sa.String, nullable=False),
        sa.Column("run_id", sa.String, nullable=False),
        sa.Column("thread_no", sa.Integer, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("draft", sa.LargeBinary, nullable=False),
        sa.Column("asked", sa.LargeBinary),
        sa.Column("first_seq", sa.BigInteger),
        sa.Column("last_seq", sa.BigInteger),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("started_at", sa.BigInteger),
        sa.Column("ended_at", sa.BigInteger),
        sa.Column("outcome", sa.String),
        sa.Column("error_id", sa.String),
        sa.Column("agent_code", sa.String),
        sa.Column("agent_message", sa.LargeBinary),
        sa.Column("stop", sa.LargeBinary),
        sa.Column("interrupts", sa.LargeBinary),
        sa.Column("answered_by", sa.String),
        sa.Column("is_logged", sa.Integer, nullable=False, server_default="0"),
        sa.Column("attached_to", sa.String),
        sa.Column("agent_run_id", sa.String),
        sa.Column("turn_id", sa.String),
        sa.Column("is_rewound", sa.Integer, nullable=False, server_default="0"),
    )


def _create_messages() -> None:
    op.create_table(
        "messages",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("thread_no", sa.Integer, nullable=False),
        sa.Column("message_id", sa.String, nullable=False),
        sa.Column("run_no", sa.Integer, nullable=False),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        sa.Column("since_seq", sa.BigInteger, nullable=False),
        sa.Column("until_seq", sa.BigInteger),
        sa.Column("is_claimed", sa.Integer, nullable=False, server_default="0"),
    )
    op.create_table(
        "states",
        sa.Column("thread_no", sa.Integer, primary_key=True),
        sa.Column("since_seq", sa.BigInteger, primary_key=True),
        sa.Column("until_seq", sa.BigInteger),
        sa.Column("payload", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "attachments",
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("thread_no", sa.Integer, nullable=False),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("uses", sa.Integer, nullable=False),
    )


_INDEXES = (
    ("threads_by_change", "threads (user_id, updated_at, thread_id) WHERE kind = 'chat'"),
    ("threads_of_requests", "threads (updated_at) WHERE kind = 'request'"),
    ("heads_to_sweep", "heads (thread_no) WHERE swept_seq < trimmed_seq"),
    ("runs_standing", "runs (thread_no, first_seq) WHERE is_rewound = 0"),
    ("runs_waiting", "runs (thread_no, created_at) WHERE state = 'queued'"),
    ("runs_logged", "runs (ended_at, run_no) WHERE is_logged"),
    ("runs_by_thread", "runs (thread_no, first_seq)"),
    ("runs_by_state", "runs (state)"),
    ("runs_under_way", "runs (thread_no) WHERE state = 'running'"),
    ("messages_by_thread", "messages (thread_no, number)"),
    ("messages_by_id", "messages (thread_no, message_id)"),
    ("messages_by_run", "messages (thread_no, run_no, number, until_seq)"),
    ("messages_by_place", "messages (thread_no, since_seq, number, until_seq)"),
    ("messages_dropped", "messages (thread_no, until_seq) WHERE until_seq IS NOT NULL"),
)
_UNIQUE = (
    ("threads_by_address", "threads (user_id, thread_id)"),
    ("runs_by_address", "runs (user_id, run_id)"),
    ("attachments_by_digest", "attachments (thread_no, digest)"),
)


def _create_indexes() -> None:
    for name, rows in _INDEXES:
        op.execute(f"CREATE INDEX {name} ON {rows}")
    for name, rows in _UNIQUE:
        op.execute(f"CREATE UNIQUE INDEX {name} ON {rows}")
