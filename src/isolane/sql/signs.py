"""What there is to do for a node: one statement for what it would else ask one by one."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection

from isolane.contracts import Signs
from isolane.sql.driver import execute

# Each is a look at one index. The conditions of partial indexes are spelled as there.
_SIGNS: Final = """
SELECT EXISTS (
    SELECT 1 FROM runs INDEXED BY runs_waiting WHERE state = 'queued' AND NOT EXISTS (
        SELECT 1 FROM runs AS holder INDEXED BY runs_in_turn
        WHERE holder.thread_no = runs.thread_no AND holder.state IN ('ready', 'running')
    )
), EXISTS (
    SELECT 1 FROM runs INDEXED BY runs_ready WHERE state = 'ready'
    AND (node_id IS NULL OR node_id NOT IN (SELECT node_id FROM nodes))
), EXISTS (
    SELECT 1 FROM runs INDEXED BY runs_in_turn
    WHERE state IN ('ready', 'running') AND node_id = ?
), EXISTS (
    SELECT 1 FROM runs INDEXED BY runs_stopping
    WHERE stop_at IS NOT NULL AND state != 'ended' AND stop_seen_at IS NULL AND node_id = ?
), EXISTS (
    SELECT 1 FROM runs INDEXED BY runs_stopping
    WHERE stop_at IS NOT NULL AND state != 'ended' AND stop_seen_at IS NULL AND node_id != ?
), EXISTS (
    SELECT 1 FROM runs INDEXED BY runs_in_turn WHERE state IN ('ready', 'running')
    AND node_id != ? AND node_id NOT IN (SELECT node_id FROM nodes)
)
"""


def load_signs(connection: Connection, node_id: str) -> Signs:
    """Return what there is to do for a node; runs of deleted threads may be told as well."""
    row = execute(connection, _SIGNS, (node_id,) * 4).fetchone()
    return Signs(*map(bool, row))
