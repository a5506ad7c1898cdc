"""Runs that attached to another one, the shared state of threads, and messages by their ids."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Add the column, and make the table and the index."""
    op.add_column("runs", sa.Column("attached_to", sa.String))
    op.create_table(
        "states",
        sa.Column("user_id", sa.String, primary_key=True),
        sa.Column("thread_id", sa.String, primary_key=True),
        sa.Column("since_seq", sa.BigInteger, primary_key=True),
        sa.Column("until_seq", sa.BigInteger),
        sa.Column("payload", sa.LargeBinary, nullable=False),
    )
    op.create_index("messages_by_id", "messages", ["user_id", "thread_id", "message_id"])
