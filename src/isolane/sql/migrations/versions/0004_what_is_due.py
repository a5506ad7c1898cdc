"""Indexes of what retention has to do, so that it looks at nothing else."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_LOGGED = """
UPDATE runs SET is_logged = 1
WHERE state = 'ended' AND first_seq > coalesce((
    SELECT trimmed_seq FROM threads
    WHERE threads.user_id = runs.user_id AND threads.thread_id = runs.thread_id
), 0)
"""


def upgrade() -> None:
    """Add the columns, fill them from what there is, and make the indexes."""
    op.add_column(
        "threads", sa.Column("swept_seq", sa.BigInteger, nullable=False, server_default="0")
    )
    op.add_column("runs", sa.Column("is_logged", sa.Integer, nullable=False, server_default="0"))
    op.execute("UPDATE threads SET swept_seq = trimmed_seq WHERE trimmed_seq > 0")
    op.execute(_LOGGED)
    _add_index("threads_to_sweep", "threads", "user_id", "thread_id", "swept_seq < trimmed_seq")
    _add_index("runs_logged", "runs", "ended_at", "user_id", "run_id", "is_logged")
    _add_index(
        "messages_dropped", "messages", "user_id", "thread_id", "until_seq", "until_seq IS NOT NULL"
    )


def _add_index(name: str, table: str, *columns_and_condition: str) -> None:
    *columns, condition = columns_and_condition
    op.create_index(name, table, columns, sqlite_where=sa.text(condition))
