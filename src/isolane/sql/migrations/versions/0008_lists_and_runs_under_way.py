"""Indexes of the newest threads, runs under way, and old sessions: nothing else is looked at."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Make the indexes."""
    op.create_index("threads_by_change", "threads", ["user_id", "updated_at", "thread_id"])
    op.create_index(
        "runs_under_way",
        "runs",
        ["user_id", "thread_id"],
        sqlite_where=sa.text("state = 'running'"),
    )
    op.create_index("sessions_by_age", "sessions", ["created_at"])
    op.create_index(
        "revocations_of_sessions",
        "revocations",
        ["revoked_at"],
        sqlite_where=sa.text("session_id IS NOT NULL"),
    )
