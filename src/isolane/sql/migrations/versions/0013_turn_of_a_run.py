"""The turn of each run, whether a rewind took it back, and how its thread began.

The first two are found out for older runs, as far as their messages still tell. A run whose
messages were all taken back was rewound. So was each run between a message that was taken back and
the run that took it back. A message of which only the id is left counts as a user's: it was rewound
anyway.
"""

from typing import Any

import msgspec
import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"

_REWOUND_WITH_ITS_MESSAGES = """
UPDATE runs SET is_rewound = 1 WHERE first_seq IS NOT NULL AND EXISTS (
    SELECT 1 FROM messages INDEXED BY messages_by_run
    WHERE messages.user_id = runs.user_id AND messages.thread_id = runs.thread_id
    AND messages.run_id = runs.run_id
) AND NOT EXISTS (
    SELECT 1 FROM messages INDEXED BY messages_by_run
    WHERE messages.user_id = runs.user_id AND messages.thread_id = runs.thread_id
    AND messages.run_id = runs.run_id AND until_seq IS NULL
)
"""
_REWOUND_BEHIND_A_MESSAGE = """
UPDATE runs SET is_rewound = 1 WHERE is_rewound = 0 AND first_seq IS NOT NULL AND EXISTS (
    SELECT 1 FROM messages INDEXED BY messages_dropped
    WHERE messages.user_id = runs.user_id AND messages.thread_id = runs.thread_id
    AND messages.until_seq IS NOT NULL AND messages.until_seq > runs.first_seq
    AND messages.since_seq < runs.first_seq
)
"""
_TURNS = """
CREATE TEMP TABLE turns AS
WITH asking AS (
    SELECT rowid AS place, user_id, thread_id, first_seq, is_rewound, EXISTS (
        SELECT 1 FROM messages INDEXED BY messages_by_run
        WHERE messages.user_id = runs.user_id AND messages.thread_id = runs.thread_id
        AND messages.run_id = runs.run_id AND is_question(payload)
    ) AS asks
    FROM runs WHERE first_seq IS NOT NULL
)
SELECT place, user_id, thread_id, coalesce(
    max(CASE WHEN asks THEN first_seq END) OVER earlier, min(first_seq) OVER earlier
) AS turn_seq
FROM asking WINDOW earlier AS (
    PARTITION BY user_id, thread_id, is_rewound ORDER BY first_seq
)
"""
_FILL = """
UPDATE runs SET turn_id = (
    SELECT began.run_id FROM turns
    JOIN runs AS began ON began.user_id = turns.user_id AND began.thread_id = turns.thread_id
        AND began.first_seq = turns.turn_seq
    WHERE turns.place = runs.rowid LIMIT 1
) WHERE first_seq IS NOT NULL
"""


class _RoleOf(msgspec.Struct):
    """As much of a message as tells who said it."""

    role: str


def upgrade() -> None:
    """Add the columns and the indexes, and fill the columns."""
    op.add_column("runs", sa.Column("turn_id", sa.String))
    op.add_column("runs", sa.Column("is_rewound", sa.Integer, nullable=False, server_default="0"))
    op.create_index(
        "messages_by_run", "messages", ["user_id", "thread_id", "run_id", "number", "until_seq"]
    )
    raw: Any = op.get_bind().connection.driver_connection
    raw.create_function("is_question", 1, _is_question)
    for statement in (_REWOUND_WITH_ITS_MESSAGES, _REWOUND_BEHIND_A_MESSAGE, _TURNS):
        op.execute(statement)
    op.execute("CREATE UNIQUE INDEX temp.turns_by_place ON turns (place)")
    op.execute(_FILL)
    op.execute("DROP TABLE temp.turns")
    op.create_index(
        "runs_standing",
        "runs",
        ["user_id", "thread_id", "first_seq"],
        sqlite_where=sa.text("is_rewound = 0"),
    )
    op.add_column("threads", sa.Column("kind", sa.String, nullable=False, server_default="chat"))
    op.add_column(
        "messages", sa.Column("is_claimed", sa.Integer, nullable=False, server_default="0")
    )
    op.drop_index("threads_by_change")
    op.create_index(
        "threads_by_change",
        "threads",
        ["user_id", "updated_at", "thread_id"],
        sqlite_where=sa.text("kind = 'chat'"),
    )
    op.create_index(
        "threads_of_requests",
        "threads",
        ["updated_at"],
        sqlite_where=sa.text("kind = 'request'"),
    )
    op.create_index(
        "runs_waiting",
        "runs",
        ["user_id", "thread_id", "created_at"],
        sqlite_where=sa.text("state = 'queued'"),
    )


def _is_question(payload: bytes) -> bool:
    try:
        return not payload or msgspec.json.decode(payload, type=_RoleOf).role == "user"
    except msgspec.DecodeError:  # it can't be read any more
        return True
