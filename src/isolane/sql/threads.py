"""The rows of threads, and the pages in which their list is read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Connection

from isolane.context import ThreadKey
from isolane.contracts import ThreadKind, ThreadPage, ThreadSummary
from isolane.errors import InvalidCursor, NotFound
from isolane.events.transcript import Message
from isolane.ids import new_agent_id, new_epoch
from isolane.sql import usage
from isolane.sql.address import NO_THREAD, StoredThread, load_stored
from isolane.sql.deletion import note_removal
from isolane.sql.driver import execute, execute_many, load_column, load_value
from isolane.sql.heads import add_head, delete_head, lock_thread

TITLE_MAX_CHARACTERS: Final = 80


_CURSOR_TIME: Final = re.compile(r"[0-9]{1,15}")
_ADD: Final = """
INSERT INTO threads
    (user_id, thread_id, epoch, title, kind, created_at, updated_at, agent_thread_id)
VALUES (?, ?, ?, ?, ?, ?, ?, ?) RETURNING thread_no
"""
# The conditions of partial indexes are spelled as there.
_SUMMARY: Final = """
thread_id, title, threads.created_at, updated_at, (
    SELECT run_id FROM runs WHERE runs.thread_no = threads.thread_no AND runs.state = 'running'
    LIMIT 1
), kind
"""
_LOAD: Final = f"SELECT {_SUMMARY} FROM threads WHERE thread_no = ?"  # noqa: S608 - no user's words
_LIST: Final = f"""
SELECT {_SUMMARY} FROM threads
WHERE user_id = ? AND threads.kind = 'chat' AND (updated_at, thread_id) < (?, ?)
ORDER BY updated_at DESC, thread_id DESC LIMIT ?
"""  # noqa: S608 - no user's words
_NEWEST: Final = (2**63 - 1, "")
"""A place behind all threads of a list."""
_TITLE: Final = "UPDATE threads SET title = ?, updated_at = ? WHERE thread_no = ?"
_TOUCH: Final = """
UPDATE threads SET updated_at = ?, title = CASE title WHEN '' THEN ? ELSE title END,
    agent_thread_id = coalesce(agent_thread_id, ?)
WHERE thread_no = ?
"""
_DELETE: Final = "DELETE FROM threads WHERE thread_no = ?"
# By the indexes of open runs and of the newest: a thread may have ten thousand that have ended.
_LATE_RUNS: Final = """
SELECT run_id FROM runs INDEXED BY runs_open
WHERE state != 'ended' AND user_id = ? AND thread_no = ?
UNION SELECT run_id FROM (
    SELECT run_id FROM runs WHERE thread_no = ? ORDER BY first_seq DESC LIMIT 1
) AS newest
"""
_NUMBERS: Final = "SELECT thread_no FROM threads"
_RENUMBER: Final = "UPDATE threads SET epoch = ? WHERE thread_no = ?"


def title_of(added: Sequence[Message]) -> str:
    """Return the first words of the first question, as a thread's name until it gets another."""
    for message in added:
        content = message.get("content")
        if message["role"] == "user" and isinstance(content, str):
            return " ".join(content.split())[:TITLE_MAX_CHARACTERS]
    return ""


def add_thread(
    connection: Connection, key: ThreadKey, *, title: str, kind: ThreadKind, now: int
) -> None:
    """Make a thread with an empty log, and count it as its user's. `now` is in ms since 1970."""
    row = (*key, new_epoch(), title, kind, now, now, new_agent_id())
    add_head(connection, load_value(connection, _ADD, row))
    usage.add(connection, key.user_id, threads=1, size=usage.ROW_BYTES)


def erase(connection: Connection, key: ThreadKey) -> tuple[frozenset[str], StoredThread]:
    """Delete a thread at once; its rows leave the disk later, and count as the user's until then.

    Returns the ids of its unfinished runs and of its newest run, whose end its writer may not know
    yet. Returns also what its rows are found by.

    Raises:
        NotFound: The user has no such thread.
    """
    stored = load_stored(connection, key)
    if stored.thread_no == NO_THREAD:
        raise NotFound(f"no thread {key.thread_id}")
    lock_thread(connection, stored.thread_no)
    place = (stored.thread_no,)
    run_ids = frozenset(load_column(connection, _LATE_RUNS, (*stored, stored.thread_no)))
    execute(connection, _DELETE, place)
    delete_head(connection, stored.thread_no)
    usage.add(connection, key.user_id, threads=-1, size=-usage.ROW_BYTES)
    note_removal(connection, stored)
    return run_ids, stored


def renumber(connection: Connection) -> int:
    """Give every thread another epoch; return how many threads there are.

    A database that is put back from a backup needs it. It ends earlier than what clients have seen,
    so it would give the same ids to other events.
    """
    thread_nos = load_column(connection, _NUMBERS)
    execute_many(connection, _RENUMBER, [(new_epoch(), each) for each in thread_nos])
    return len(thread_nos)


def load_thread(key: ThreadKey, connection: Connection) -> ThreadSummary | None:
    """Return the thread, or None when nobody used it yet."""
    row = execute(connection, _LOAD, (load_stored(connection, key).thread_no,)).fetchone()
    return None if row is None else _summary(row)


def load_found_thread(key: ThreadKey, connection: Connection) -> ThreadSummary:
    """Return a thread that must exist.

    Raises:
        NotFound: The user has no such thread.
    """
    thread = load_thread(key, connection)
    if thread is None:
        raise NotFound(f"no thread {key.thread_id}")
    return thread


def _summary(row: Sequence[Any]) -> ThreadSummary:
    thread_id, title, created_at, updated_at, active_run_id, kind = row
    return ThreadSummary(thread_id, title, created_at, updated_at, active_run_id, ThreadKind(kind))


def set_title(connection: Connection, key: ThreadKey, title: str, *, now: int) -> None:
    """Name a thread, if it exists. `now` is in milliseconds since 1970."""
    execute(connection, _TITLE, (title, now, load_stored(connection, key).thread_no))


def touch_thread(
    connection: Connection,
    key: ThreadKey,
    now: int,
    *,
    title: str = "",
    kind: ThreadKind = ThreadKind.CHAT,
) -> None:
    """Make a thread, or date an existing one anew; a thread that has a title keeps it."""
    # A row of an older version has no id for the agent yet.
    values = (now, title, new_agent_id(), load_stored(connection, key).thread_no)
    if not execute(connection, _TOUCH, values).rowcount:
        add_thread(connection, key, title=title, kind=kind, now=now)


def load_threads(
    user_id: str, before: tuple[int, str] | None, limit: int, connection: Connection
) -> ThreadPage:
    """Return a page of the threads of a user, the newest change first."""
    place = (user_id, *(before or _NEWEST), limit + 1)
    found = [_summary(row) for row in execute(connection, _LIST, place)]
    page = found[:limit]
    cursor = f"{page[-1].updated_at}~{page[-1].thread_id}" if len(found) > limit else None
    return ThreadPage(page, cursor)


def parse_cursor(cursor: str) -> tuple[int, str]:
    """Return the place that a cursor of the list of threads names.

    Raises:
        InvalidCursor: No page gave this cursor out.
    """
    updated_at, separator, thread_id = cursor.partition("~")
    if not separator or not _CURSOR_TIME.fullmatch(updated_at):
        raise InvalidCursor("cursor: must be as a page gave it")
    return int(updated_at), thread_id
