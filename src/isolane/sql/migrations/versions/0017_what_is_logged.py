"""An index of the runs in the log whose condition every database understands."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    """Make the index anew: until now a number stood for the condition itself."""
    op.drop_index("runs_logged")
    columns = ["ended_at", "run_no"]
    op.create_index("runs_logged", "runs", columns, sqlite_where=sa.text("is_logged = 1"))
