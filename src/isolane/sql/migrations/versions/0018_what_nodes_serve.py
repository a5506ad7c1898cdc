"""What each node serves, which agent a run waits for, and how many sockets users have at nodes."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"

_Text = sa.String().with_variant(sa.String(collation="C"), "postgresql")


def upgrade() -> None:
    """Add columns and a table. Runs that wait already are had by any node."""
    op.add_column("runs", sa.Column("agent", _Text))
    op.add_column("runs", sa.Column("attempt", sa.BigInteger, nullable=False, server_default="1"))
    op.add_column(
        "runs", sa.Column("is_restartable", sa.Integer, nullable=False, server_default="0")
    )
    op.add_column(
        "heads", sa.Column("batch_end", sa.BigInteger, nullable=False, server_default="0")
    )
    op.execute("UPDATE heads SET batch_end = head_seq")
    op.add_column("nodes", sa.Column("name", _Text))
    for name, kind, default in (
        ("role", _Text, "all"),
        ("agents", _Text, "[]"),
        ("version", _Text, ""),
        ("is_draining", sa.Integer, "0"),
        ("key_proof", _Text, ""),
    ):
        op.add_column("nodes", sa.Column(name, kind, nullable=False, server_default=default))
    op.create_index("nodes_by_name", "nodes", ["name"], unique=True)
    op.create_table(
        "slots",
        sa.Column("user_id", _Text, primary_key=True),
        sa.Column("node_id", _Text, primary_key=True),
        sa.Column("held", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
