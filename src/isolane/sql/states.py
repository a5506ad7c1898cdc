"""A thread's shared state in the database: one row for each run that changed it.

The newest row counts. Older ones stay, so that a rewind finds the state that there was before.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection

from isolane.context import ThreadKey
from isolane.sql import attachments, usage
from isolane.sql.address import load_stored
from isolane.sql.driver import execute, load_column, load_value

# As text: these run with every run, and SQLAlchemy's binding of them would cost as much again.
_NEWEST: Final = """
SELECT payload FROM states
WHERE thread_no = ? AND since_seq <= ? AND (until_seq IS NULL OR until_seq > ?)
ORDER BY since_seq DESC LIMIT 1
"""
_INSERT: Final = """
INSERT INTO states (thread_no, since_seq, payload) VALUES (?, ?, ?)
"""
_TAKEN_BACK: Final = """
SELECT payload FROM states WHERE thread_no = ? AND until_seq IS NOT NULL
"""
_FORGET: Final = """
DELETE FROM states WHERE thread_no = ? AND until_seq IS NOT NULL
"""
_TAKE_BACK: Final = """
UPDATE states SET until_seq = ? WHERE thread_no = ? AND since_seq >= ?
"""
_NOW: Final = 2**63 - 1


def load_state(connection: Connection, key: ThreadKey, *, at_seq: int = _NOW) -> bytes | None:
    """Return the state as JSON: as it is now, or as it was at the log entry `at_seq`."""
    stored = load_stored(connection, key)
    place = (stored.thread_no, at_seq, at_seq)
    found = load_value(connection, _NEWEST, place)
    return None if found is None else attachments.load_whole(connection, stored, found)


def keep_state(connection: Connection, key: ThreadKey, payload: bytes, *, since: int) -> None:
    """Keep the state that the run left whose first log entry is `since`, if it is another one."""
    if load_state(connection, key) == payload:
        return
    stored = load_stored(connection, key)
    written = attachments.keep(connection, stored, payload)
    execute(connection, _INSERT, (stored.thread_no, since, written))
    usage.add(connection, key.user_id, size=usage.ROW_BYTES + len(written))


def take_back_states(connection: Connection, key: ThreadKey, *, since: int, until: int) -> None:
    """Take back what runs left from the log entry `since` on, as of the log entry `until`.

    It can be told until the next rewind as of before `until`: the run that rewinds is under way.
    """
    stored = load_stored(connection, key)
    gone = load_column(connection, _TAKEN_BACK, (stored.thread_no,))
    if gone:
        execute(connection, _FORGET, (stored.thread_no,))
        usage.add(connection, key.user_id, size=-usage.weigh(map(len, gone)))
        attachments.release(connection, stored, gone)
    execute(connection, _TAKE_BACK, (until, stored.thread_no, since))
