"""Deleted threads: they are invisible at once, and leave the disk later, in small steps.

A thread's rows are stored under a name, which is the thread's id at first. To delete the thread is
to delete its own row, which everything else is found by, and to note that name. A later thread of
the same id is stored under another name, so the rows of both can be there at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection, and_, column, func, select, table

from isolane.context import ThreadKey
from isolane.engines.sqlite import usage
from isolane.engines.sqlite.steps import load_some

MARK: Final = "#"
"""Stands in stored names behind the thread's id, in which it can't be."""

_names = table("thread_names", column("user_id"), column("thread_id"), column("stored_id"))

# As text: each is a look at one index, and SQLAlchemy's binding costs as much again.
_STORED: Final = "SELECT stored_id FROM thread_names WHERE user_id = ? AND thread_id = ?"
_NOTE: Final = "INSERT INTO removals (user_id, thread_id) VALUES (?, ?)"
_NAME: Final = """
INSERT INTO thread_names (user_id, thread_id, stored_id) VALUES (?, ?, ?)
ON CONFLICT (user_id, thread_id) DO UPDATE SET stored_id = excluded.stored_id
"""
_NEXT: Final = "SELECT number, user_id, thread_id FROM removals ORDER BY number LIMIT 1"
_FIND: Final = "SELECT number FROM removals WHERE user_id = ? AND thread_id = ?"
_SOME_EVENTS: Final = """
SELECT seq, length(payload) FROM events WHERE user_id = ? AND thread_id = ? ORDER BY seq LIMIT ?
"""
_DELETE_EVENTS: Final = "DELETE FROM events WHERE user_id = ? AND thread_id = ? AND seq <= ?"
_SOME_MESSAGES: Final = """
SELECT number, length(payload) FROM messages
WHERE user_id = ? AND thread_id = ? ORDER BY number LIMIT ?
"""
_DELETE_MESSAGES: Final = """
DELETE FROM messages WHERE user_id = ? AND thread_id = ? AND number <= ?
"""
_SOME_STATES: Final = """
SELECT since_seq, length(payload) FROM states
WHERE user_id = ? AND thread_id = ? ORDER BY since_seq LIMIT ?
"""
_DELETE_STATES: Final = """
DELETE FROM states WHERE user_id = ? AND thread_id = ? AND since_seq <= ?
"""
_SOME_RUNS: Final = f"""
SELECT rowid, {usage.RUN_PAYLOAD} FROM runs WHERE user_id = ? AND thread_id = ? LIMIT ?
"""  # noqa: S608 - no user's words
_DELETE_RUN: Final = "DELETE FROM runs WHERE rowid = ?"
_SOME_ATTACHMENTS: Final = """
SELECT number, length(bytes) FROM attachments JOIN attachment_bytes USING (number)
WHERE user_id = ? AND thread_id = ? LIMIT ?
"""
_FORGET: Final = "DELETE FROM removals WHERE number = ?"
_UNNAME: Final = """
DELETE FROM thread_names WHERE user_id = ? AND thread_id = ?
AND NOT EXISTS (
    SELECT 1 FROM threads
    WHERE threads.user_id = thread_names.user_id AND threads.thread_id = thread_names.stored_id
) AND NOT EXISTS (
    SELECT 1 FROM removals
    WHERE removals.user_id = thread_names.user_id AND removals.thread_id = thread_names.thread_id
)
"""


class Removal(NamedTuple):
    """A deleted thread that has rows on the disk still."""

    number: int
    stored: ThreadKey


def rows_of(table: Any, key: ThreadKey) -> Any:  # noqa: ANN401 - SQLAlchemy's columns are untyped
    """Return the condition that a row of `table` is of a thread."""
    return and_(table.c.user_id == key.user_id, table.c.thread_id == _stored_id(key))


def _stored_id(key: ThreadKey) -> Any:  # noqa: ANN401 - SQLAlchemy's expressions are untyped
    """Return the name of a thread's rows, as an expression of a query."""
    named = select(_names.c.stored_id).where(
        _names.c.user_id == key.user_id, _names.c.thread_id == key.thread_id
    )
    return func.coalesce(named.scalar_subquery(), key.thread_id)


def load_stored(connection: Connection, key: ThreadKey) -> ThreadKey:
    """Return the key of a thread's rows."""
    found = connection.exec_driver_sql(_STORED, key).scalar_one_or_none()
    return key if found is None else ThreadKey(key.user_id, found)


def to_thread_id(stored: str) -> str:
    """Return the id of the thread whose rows have that name."""
    return stored.partition(MARK)[0]


def note_removal(
    connection: Connection, key: ThreadKey, stored: ThreadKey, *, generation: int
) -> None:
    """Leave the rows of a deleted thread to be removed, and name those of the next one apart.

    `stored` is the key of its rows. `generation` is how many threads the user has deleted: no name
    of theirs is used twice.
    """
    connection.exec_driver_sql(_NOTE, stored)
    connection.exec_driver_sql(_NAME, (*key, f"{key.thread_id}{MARK}{generation}"))


def load_removal(connection: Connection) -> Removal | None:
    """Return the thread that was deleted first and has rows still; None when there is none."""
    found = connection.exec_driver_sql(_NEXT).one_or_none()
    return None if found is None else Removal(found[0], ThreadKey(found[1], found[2]))


def find_removal(connection: Connection, stored: ThreadKey) -> Removal:
    """Return the note of a thread that was just deleted, by the key of its rows."""
    return Removal(connection.exec_driver_sql(_FIND, stored).scalar_one(), stored)


def delete_attachments(connection: Connection, numbers: Sequence[int]) -> None:
    """Delete attachments and the counts of their references, by their numbers."""
    for table_name in ("attachments", "attachment_bytes"):
        statement = f"DELETE FROM {table_name} WHERE number = ?"  # noqa: S608 - named above
        connection.exec_driver_sql(statement, [(number,) for number in numbers])


def remove_some(removal: Removal, connection: Connection) -> bool:
    """Delete a few rows of a deleted thread, one table after the other, and in the end the note.

    References to attachments aren't counted down, for all of them go. Return whether anything is
    left.
    """
    stored = removal.stored
    if rows := load_some(connection, _SOME_EVENTS, stored):
        connection.exec_driver_sql(_DELETE_EVENTS, (*stored, rows[-1].place))
    elif rows := load_some(connection, _SOME_MESSAGES, stored):
        connection.exec_driver_sql(_DELETE_MESSAGES, (*stored, rows[-1].place))
    elif rows := load_some(connection, _SOME_STATES, stored):
        connection.exec_driver_sql(_DELETE_STATES, (*stored, rows[-1].place))
    elif rows := load_some(connection, _SOME_RUNS, stored):
        connection.exec_driver_sql(_DELETE_RUN, [(row.place,) for row in rows])
    elif rows := load_some(connection, _SOME_ATTACHMENTS, stored):
        delete_attachments(connection, [row.place for row in rows])
    else:
        connection.exec_driver_sql(_FORGET, (removal.number,))
        own = ThreadKey(stored.user_id, to_thread_id(stored.thread_id))
        connection.exec_driver_sql(_UNNAME, own)
        return False
    usage.add(connection, stored.user_id, size=-usage.weigh(row.size for row in rows))
    return True
