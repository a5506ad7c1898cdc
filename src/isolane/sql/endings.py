"""The end of a run in the database: its row, messages and state, with its last events."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from sqlalchemy import Connection

from isolane.contracts import RunEnd, RunLease, RunState
from isolane.sql import attachments, usage
from isolane.sql.address import StoredThread
from isolane.sql.drafts import narrow_draft
from isolane.sql.driver import execute
from isolane.sql.messages import add_messages
from isolane.sql.run_queue import hand_on
from isolane.sql.runs import find_first, to_failure_columns, update_run
from isolane.sql.states import keep_state
from isolane.sql.turns import find_turn

# As text: each is a look at one row, and SQLAlchemy's expressions cost as much again.
_ROW: Final = "SELECT first_seq, turn_id, draft FROM runs WHERE run_no = ?"
_TOUCH: Final = "UPDATE threads SET updated_at = ? WHERE thread_no = ?"


def settle(
    connection: Connection, lease: RunLease, end: RunEnd, *, first_seq: int, last_seq: int
) -> None:
    """Write a run's end and what it left, and hand the turn on, with the run's last events.

    `first_seq` is the first of those: where a run begins that ends without having begun.
    """
    key = lease.key
    begun, turn_id, draft = execute(connection, _ROW, (lease.run_no,)).fetchone()
    if begun is None:
        begun = find_first(connection, lease.thread_no, lease.run_no, first_seq)
        # A run that could not begin goes on with a turn all the same.
        turn_id = turn_id or find_turn(connection, key, lease.run_id)
    before = usage.load_run_bytes(connection, lease.run_key)
    add_messages(connection, key, lease.run_no, end.messages, since=begun)
    if end.state is not None:
        keep_state(connection, key, end.state, since=begun)
    stored = StoredThread(key.user_id, lease.thread_no)
    written = attachments.replace(connection, stored, draft, narrow_draft(draft))
    row = _to_row(end) | {"turn_id": turn_id, "draft": written}
    row |= {"first_seq": begun, "last_seq": last_seq}
    update_run(connection, lease.run_no, row)
    usage.count_run(connection, lease.run_key, before=before)
    execute(connection, _TOUCH, (end.ended_at, lease.thread_no))
    hand_on(connection, lease.thread_no)


def _to_row(end: RunEnd) -> dict[str, Any]:
    """Return what a run's row holds of its end."""
    return {
        "state": RunState.ENDED,
        "is_logged": 1,
        "ended_at": end.ended_at,
        "outcome": end.outcome,
        "error_id": end.error_id,
        **to_failure_columns(end.failure),
        "stop": None if end.stop is None else msgspec.json.encode(end.stop),
        "interrupts": msgspec.json.encode(end.interrupts) if end.interrupts else None,
    }
