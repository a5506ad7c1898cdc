"""Large attachments, each once for a thread. What was kept before stays as it is, whole."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "attachments",
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("user_id", sa.String, nullable=False),
        sa.Column("thread_id", sa.String, nullable=False),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("uses", sa.Integer, nullable=False),
    )
    op.create_index(
        "attachments_by_digest", "attachments", ["user_id", "thread_id", "digest"], unique=True
    )
    op.create_table(
        "attachment_bytes",
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("bytes", sa.LargeBinary, nullable=False),
    )
