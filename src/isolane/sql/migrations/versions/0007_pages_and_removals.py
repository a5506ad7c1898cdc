"""An index for pages of a thread's messages, and tables of what deleted threads leave to remove."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Make the index and the tables."""
    op.create_index(
        "messages_by_place",
        "messages",
        ["user_id", "thread_id", "since_seq", "number", "until_seq"],
    )
    op.create_table(
        "thread_names",
        sa.Column("user_id", sa.String, primary_key=True),
        sa.Column("thread_id", sa.String, primary_key=True),
        sa.Column("stored_id", sa.String, nullable=False),
    )
    op.create_table(
        "removals",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("user_id", sa.String, nullable=False),
        sa.Column("thread_id", sa.String, nullable=False),
    )
    op.create_index("removals_by_thread", "removals", ["user_id", "thread_id"])
