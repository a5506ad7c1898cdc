"""What accounts may do, sessions that their users can look at, and what was revoked.

Sessions that are open end with this: their users sign in again.
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the column, and make the tables."""
    op.add_column(
        "accounts",
        sa.Column("scopes", sa.String, nullable=False, server_default="runs:write threads:read"),
    )
    op.drop_table("sessions")
    op.create_table(
        "sessions",
        sa.Column("session_id", sa.String, primary_key=True),
        sa.Column("user_id", sa.String, nullable=False),
        sa.Column("device", sa.String, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("last_seen_at", sa.BigInteger, nullable=False),
    )
    op.create_index("sessions_by_user", "sessions", ["user_id"])
    op.create_table(
        "revocations",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("user_id", sa.String, nullable=False),
        sa.Column("session_id", sa.String),
        sa.Column("revoked_at", sa.BigInteger, nullable=False),
        sa.Column("scopes", sa.String, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("revocations_by_user", "revocations", ["user_id", "revoked_at"])
