"""Deleted threads: they are invisible at once, and leave the disk later, in small steps.

To delete a thread is to delete its own row, which its number is found by, and to note that number.
No other thread gets it, so the rows of a deleted thread meet nobody.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from sqlalchemy import Connection

from isolane.sql import usage
from isolane.sql.address import StoredThread
from isolane.sql.driver import execute, execute_many
from isolane.sql.steps import load_some

_NOTE: Final = "INSERT INTO removals (user_id, thread_no) VALUES (?, ?)"
_NEXT: Final = "SELECT user_id, thread_no FROM removals ORDER BY thread_no LIMIT 1"
_SOME_EVENTS: Final = """
SELECT seq, length(payload) FROM events WHERE thread_no = ? ORDER BY seq LIMIT ?
"""
_DELETE_EVENTS: Final = "DELETE FROM events WHERE thread_no = ? AND seq <= ?"
_SOME_MESSAGES: Final = """
SELECT number, length(payload) FROM messages WHERE thread_no = ? ORDER BY number LIMIT ?
"""
_DELETE_MESSAGES: Final = "DELETE FROM messages WHERE thread_no = ? AND number <= ?"
_SOME_STATES: Final = """
SELECT since_seq, length(payload) FROM states WHERE thread_no = ? ORDER BY since_seq LIMIT ?
"""
_DELETE_STATES: Final = "DELETE FROM states WHERE thread_no = ? AND since_seq <= ?"
_SOME_RUNS: Final = f"""
SELECT run_no, {usage.RUN_PAYLOAD} FROM runs WHERE thread_no = ? LIMIT ?
"""  # noqa: S608 - no user's words
_DELETE_RUN: Final = "DELETE FROM runs WHERE run_no = ?"
_SOME_ATTACHMENTS: Final = """
SELECT number, length(bytes) FROM attachments JOIN attachment_bytes USING (number)
WHERE thread_no = ? LIMIT ?
"""
_FORGET: Final = "DELETE FROM removals WHERE thread_no = ?"


def note_removal(connection: Connection, stored: StoredThread) -> None:
    """Leave the rows of a deleted thread to be removed."""
    execute(connection, _NOTE, stored)


def load_removal(connection: Connection) -> StoredThread | None:
    """Return a deleted thread that has rows still; None when there is none."""
    found = execute(connection, _NEXT).fetchone()
    return None if found is None else StoredThread(*found)


def delete_attachments(connection: Connection, numbers: Sequence[int]) -> None:
    """Delete attachments and the counts of their references, by their numbers."""
    for table_name in ("attachments", "attachment_bytes"):
        statement = f"DELETE FROM {table_name} WHERE number = ?"  # noqa: S608 - named above
        execute_many(connection, statement, [(number,) for number in numbers])


def remove_some(stored: StoredThread, connection: Connection) -> bool:
    """Delete a few rows of a deleted thread, one table after the other, and in the end the note.

    References to attachments aren't counted down, for all of them go. Return whether anything is
    left.
    """
    number = (stored.thread_no,)
    if rows := load_some(connection, _SOME_EVENTS, number):
        execute(connection, _DELETE_EVENTS, (*number, rows[-1].place))
    elif rows := load_some(connection, _SOME_MESSAGES, number):
        execute(connection, _DELETE_MESSAGES, (*number, rows[-1].place))
    elif rows := load_some(connection, _SOME_STATES, number):
        execute(connection, _DELETE_STATES, (*number, rows[-1].place))
    elif rows := load_some(connection, _SOME_RUNS, number):
        execute_many(connection, _DELETE_RUN, [(row.place,) for row in rows])
    elif rows := load_some(connection, _SOME_ATTACHMENTS, number):
        delete_attachments(connection, [row.place for row in rows])
    else:
        execute(connection, _FORGET, number)
        return False
    usage.add(connection, stored.user_id, size=-usage.weigh(row.size for row in rows))
    return True
