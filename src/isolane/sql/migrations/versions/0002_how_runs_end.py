"""How a run was stopped, what it asked before it could go on, and who answered."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the columns."""
    op.add_column("runs", sa.Column("stop", sa.LargeBinary))
    op.add_column("runs", sa.Column("interrupts", sa.LargeBinary))
    op.add_column("runs", sa.Column("answered_by", sa.String))
