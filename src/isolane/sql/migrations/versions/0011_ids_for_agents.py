"""Ids by which agents know threads and runs: random, because clients choose their own.

What an agent keeps by the ids that it was given before is not found by these.
"""

from typing import Any
from uuid import uuid4

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Add the columns, and give each row a random UUID of its own."""
    raw: Any = op.get_bind().connection.driver_connection
    raw.create_function("new_agent_id", 0, lambda: str(uuid4()))
    for table, column in (("threads", "agent_thread_id"), ("runs", "agent_run_id")):
        op.add_column(table, sa.Column(column, sa.String))
        op.execute(f"UPDATE {table} SET {column} = new_agent_id()")  # noqa: S608 - named above
