"""Whose turn it is on each thread, which runs are stopped, and aborts that came before their run.

Until now a process remembered that, and derived the order of runs that wait after a restart.
"""

from typing import Any

import msgspec
import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"

# One run of a thread has the turn. Of several the newest was under way.
_BREAK = """
UPDATE runs SET state = 'broken' WHERE state = 'running' AND EXISTS (
    SELECT 1 FROM runs AS newer
    WHERE newer.thread_no = runs.thread_no AND newer.state = 'running'
    AND (newer.first_seq, newer.run_no) > (runs.first_seq, runs.run_no)
)
"""
# The newest that interrupts is next; the others stand in the order in which they came.
_PLACES = """
UPDATE runs SET stop_at = stopped_at(draft), place = (
    SELECT CASE WHEN is_next(runs.draft) THEN -count(*) ELSE count(*) END FROM runs AS earlier
    WHERE earlier.thread_no = runs.thread_no AND earlier.state = 'queued'
    AND (earlier.created_at, earlier.run_no) <= (runs.created_at, runs.run_no)
) WHERE state = 'queued'
"""


class _Props(msgspec.Struct, rename="camel"):
    policy: Any = None


class _Request(msgspec.Struct, rename="camel"):
    forwarded_props: Any = None


class _Draft(msgspec.Struct):
    """As much of a draft as tells its place."""

    request: _Request
    asks_again: bool = False
    stopped_at: int | None = None


def upgrade() -> None:
    """Add the columns and tables, and fill the columns for runs that haven't ended."""
    op.add_column("runs", sa.Column("place", sa.BigInteger))
    op.add_column("runs", sa.Column("node_id", sa.String))
    op.add_column("runs", sa.Column("stop_at", sa.BigInteger))
    op.add_column("runs", sa.Column("stop_seen_at", sa.BigInteger))
    raw: Any = op.get_bind().connection.driver_connection
    raw.create_function("is_next", 1, _is_next)
    raw.create_function("stopped_at", 1, _stopped_at)
    op.execute(_BREAK)
    op.execute(_PLACES)
    _change_indexes()
    op.create_table(
        "early_aborts",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("user_id", sa.String, nullable=False),
        sa.Column("run_id", sa.String, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("early_aborts_by_run", "early_aborts", ["user_id", "run_id"], unique=True)
    op.create_index("early_aborts_by_user", "early_aborts", ["user_id", "number"])
    op.create_index("early_aborts_by_expiry", "early_aborts", ["expires_at"])
    op.create_table(
        "nodes",
        sa.Column("node_id", sa.String, primary_key=True),
        sa.Column("beat_at", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )


def _change_indexes() -> None:
    """Index the runs that haven't ended, and no others: those are few."""
    op.drop_index("runs_by_state")
    op.drop_index("runs_waiting")
    for name, columns, condition in (
        ("runs_waiting", ["thread_no", "place"], "state = 'queued'"),
        ("runs_open", ["user_id"], "state != 'ended'"),
        ("runs_ready", ["run_no"], "state = 'ready'"),
        (
            "runs_stopping",
            ["node_id"],
            "stop_at IS NOT NULL AND state != 'ended' AND stop_seen_at IS NULL",
        ),
    ):
        op.create_index(name, "runs", columns, sqlite_where=sa.text(condition))
    op.create_index(
        "runs_in_turn",
        "runs",
        ["thread_no"],
        unique=True,
        sqlite_where=sa.text("state IN ('ready', 'running')"),
    )


def _decode(draft: bytes) -> _Draft | None:
    """Return what a draft tells. One with large attachments has its JSON behind a head."""
    start = draft.find(b'{"agent"')
    try:
        return msgspec.json.decode(draft[max(start, 0) :], type=_Draft)
    except msgspec.DecodeError:  # it can't be read any more
        return None


def _is_next(draft: bytes) -> bool:
    found = _decode(draft)
    if found is None:
        return False
    props = found.request.forwarded_props
    return found.asks_again or (isinstance(props, dict) and props.get("policy") == "interrupt")


def _stopped_at(draft: bytes) -> int | None:
    found = _decode(draft)
    return None if found is None else found.stopped_at
