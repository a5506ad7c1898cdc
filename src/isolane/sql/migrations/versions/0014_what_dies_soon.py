"""Tickets, sign-in links, sign-ins that are under way at a provider, and attempts to sign in.

They were kept in memory and lost with each restart. There are none to begin with.
"""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    """Add the tables."""
    op.create_table(
        "tickets",
        sa.Column("digest", sa.LargeBinary, primary_key=True),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("user_id", sa.String, nullable=False),
        sa.Column("identity", sa.LargeBinary, nullable=False),
        sa.Column("origin", sa.String),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("tickets_by_user", "tickets", ["user_id", "kind", "created_at"])
    op.create_index("tickets_by_expiry", "tickets", ["expires_at"])
    op.create_table(
        "sign_ins",
        sa.Column("digest", sa.LargeBinary, primary_key=True),
        sa.Column("provider", sa.String, nullable=False),
        sa.Column("redirect_uri", sa.String, nullable=False),
        sa.Column("nonce", sa.String, nullable=False),
        sa.Column("verifier", sa.String, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("sign_ins_by_expiry", "sign_ins", ["expires_at"])
    op.create_table(
        "attempts",
        sa.Column("key", sa.String, primary_key=True),
        sa.Column("moments", sa.LargeBinary, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("attempts_by_expiry", "attempts", ["expires_at"])
