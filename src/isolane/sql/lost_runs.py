"""Runs whose node lives no more, and runs whose end can't be written."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, and_, delete, insert, select, text, update

from isolane.context import RunKey
from isolane.contracts import RunLease, RunState, StoredRun
from isolane.sql.driver import execute
from isolane.sql.heads import release
from isolane.sql.run_queue import BROKEN, load_holder
from isolane.sql.runs import ROWS, load_all
from isolane.sql.tables import runs

ATTEMPTS_MAX: Final = 3
"""Times that a restartable run is begun whose nodes die. The run itself may be what kills them."""
_ORPHANS: Final = f"""
{ROWS} WHERE runs.state != 'ended' AND state = 'running' AND node_id != ?
AND NOT EXISTS (SELECT 1 FROM nodes WHERE nodes.node_id = runs.node_id)
"""  # noqa: S608 - no user's words
_LOST: Final = f"""
{ROWS} WHERE runs.state != 'ended' AND (state = 'running' OR state = 'broken' AND NOT EXISTS (
    SELECT 1 FROM runs AS held
    WHERE held.thread_no = runs.thread_no AND held.state IN ('ready', 'running')
)) AND NOT EXISTS (SELECT 1 FROM nodes WHERE nodes.node_id = runs.node_id)
ORDER BY runs.created_at
"""  # noqa: S608 - no user's words
_STATE: Final = """
SELECT state, thread_no FROM runs JOIN threads USING (thread_no)
WHERE runs.user_id = ? AND run_id = ?
"""
_OWN: Final = """
UPDATE runs SET state = 'running', node_id = ? WHERE user_id = ? AND run_id = ?
AND (node_id = ? OR NOT EXISTS (SELECT 1 FROM nodes WHERE nodes.node_id = runs.node_id))
"""

_OWN_UNHEARD: Final = """
UPDATE runs SET state = 'running', node_id = ? WHERE user_id = ? AND run_id = ?
AND (node_id = ? OR stop_at IS NOT NULL AND stop_seen_at IS NULL)
"""
_UNHEARD: Final = f"""
{ROWS} WHERE stop_at IS NOT NULL AND state != 'ended' AND stop_seen_at IS NULL
AND state = 'running' AND node_id != ?
"""
_HAND_OVER: Final = """
UPDATE runs SET state = 'ready', node_id = NULL
WHERE run_no = ? AND state = 'running' AND is_restartable = 1 AND stop_at IS NULL
AND EXISTS (SELECT 1 FROM heads WHERE heads.run_no = runs.run_no AND heads.fence = ?)
"""
_BEGIN_ANEW: Final = """
UPDATE runs SET state = 'ready', node_id = NULL, attempt = attempt + 1
WHERE user_id = ? AND run_id = ? AND state = 'running' AND is_restartable = 1
AND stop_at IS NULL AND attempt < ?
AND NOT EXISTS (SELECT 1 FROM nodes WHERE nodes.node_id = runs.node_id)
RETURNING thread_no, run_no
"""
_LET_GO: Final = "UPDATE heads SET run_no = 0 WHERE thread_no = ? AND run_no = ?"


def hand_over(connection: Connection, lease: RunLease) -> bool:
    """Let any node begin a restartable run anew that goes on here; False when that can't be.

    It was stopped, or has ended, or isn't restartable, or the lease isn't the run's.
    """
    if not execute(connection, _HAND_OVER, (lease.run_no, lease.fence)).rowcount:
        return False
    release(connection, lease)
    return True


def begin_anew(connection: Connection, key: RunKey) -> bool:
    """Let any node begin a restartable run anew whose node lives no more; False when it is to end.

    Nothing more is written by its lease. After `ATTEMPTS_MAX` attempts it ends.
    """
    row = execute(connection, _BEGIN_ANEW, (*key, ATTEMPTS_MAX)).fetchone()
    if row is None:
        return False
    execute(connection, _LET_GO, row)
    return True


def load_lost(connection: Connection) -> list[StoredRun]:
    """Return the runs under way whose node lives no more, the oldest first.

    A run whose end could not be written is among them once nobody else has the turn on its thread.
    """
    return load_all(connection, _LOST)


def load_orphans(connection: Connection, node_id: str) -> list[StoredRun]:
    """Return the runs under way of other nodes that live no more."""
    return load_all(connection, _ORPHANS, (node_id,))


def load_unheard(connection: Connection, node_id: str) -> list[StoredRun]:
    """Return the stopped runs under way of other nodes, which haven't obeyed."""
    return load_all(connection, _UNHEARD, (node_id,))


def set_owner(
    key: RunKey, node_id: str, connection: Connection, *, is_unheard: bool = False
) -> bool:
    """Make a run under way the node's own; False when it isn't to be had.

    Another run has the turn on its thread then, or its node lives. With `is_unheard` it is had from
    a node that lives as well, if that one hasn't obeyed its stop.
    """
    row = execute(connection, _STATE, key).fetchone()
    if row is None:
        return False
    state, thread_no = row
    if state not in {RunState.RUNNING, BROKEN}:
        return False
    if state == BROKEN and load_holder(connection, thread_no) is not None:
        return False
    statement = _OWN_UNHEARD if is_unheard else _OWN
    return execute(connection, statement, (node_id, *key, node_id)).rowcount > 0


def write_broken(connection: Connection, key: RunKey, *, is_anew: bool) -> int | None:
    """Write that a run's end can't be written; return the number of its thread, if it is there.

    With `is_anew` its row is deleted and written again: a row that can't be changed may be damaged.
    """
    is_run = and_(runs.c.user_id == key.user_id, runs.c.run_id == key.run_id)
    query = select(runs).where(is_run, text("runs.state != 'ended'"))
    found = connection.execute(query).mappings().one_or_none()
    if found is None:
        return None
    if is_anew:
        connection.execute(delete(runs).where(is_run))
        connection.execute(insert(runs).values({**found, "state": BROKEN}))
    else:
        connection.execute(update(runs).where(is_run).values(state=BROKEN))
    thread_no: int = found["thread_no"]
    return thread_no
