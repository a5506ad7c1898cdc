"""A run's row keeps the code, and the public text, of the error that its agent ended it with."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Add the columns; of runs that have ended already nobody knows."""
    op.add_column("runs", sa.Column("agent_code", sa.String))
    op.add_column("runs", sa.Column("agent_message", sa.LargeBinary))
