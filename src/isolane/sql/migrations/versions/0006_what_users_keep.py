"""A row for each user of what they keep, filled from what there is, and one with the totals."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

_FILL = """
INSERT INTO usage (user_id, threads, bytes)
SELECT user_id, sum(threads), sum(bytes) FROM (
    SELECT user_id, count(*) AS threads, 100 * count(*) AS bytes FROM threads GROUP BY user_id
    UNION ALL
    SELECT user_id, 0, sum(100 + length(payload)) FROM events GROUP BY user_id
    UNION ALL
    SELECT user_id, 0, sum(100 + length(payload)) FROM messages GROUP BY user_id
    UNION ALL
    SELECT user_id, 0, sum(
        100 + length(draft) + coalesce(length(asked), 0) + coalesce(length(interrupts), 0)
    ) FROM runs GROUP BY user_id
) GROUP BY user_id
"""
_FILL_TOTALS = """
INSERT INTO usage (user_id, threads, bytes)
SELECT '', coalesce(sum(threads), 0), coalesce(sum(bytes), 0) FROM usage
"""


def upgrade() -> None:
    """Make the table and fill it."""
    op.create_table(
        "usage",
        sa.Column("user_id", sa.String, primary_key=True),
        sa.Column("threads", sa.BigInteger, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    op.execute(_FILL)
    op.execute(_FILL_TOTALS)
