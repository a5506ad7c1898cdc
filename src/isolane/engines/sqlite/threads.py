"""The rows of threads, and the pages in which their list is read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Connection, Row, Select, insert, select, text, tuple_

from isolane.context import ThreadKey
from isolane.contracts import ThreadKind, ThreadPage, ThreadSummary
from isolane.engines.sqlite import usage
from isolane.engines.sqlite.address import NO_THREAD, StoredThread, load_stored, rows_of
from isolane.engines.sqlite.deletion import note_removal
from isolane.engines.sqlite.driver import execute, load_column
from isolane.engines.sqlite.heads import add_head, delete_head
from isolane.engines.sqlite.runs import IS_UNDER_WAY
from isolane.engines.sqlite.tables import runs, threads
from isolane.errors import InvalidCursor, NotFound
from isolane.events.transcript import Message
from isolane.ids import new_agent_id, new_epoch

TITLE_MAX_CHARACTERS: Final = 80


_IS_LISTED: Final = text("threads.kind = 'chat'")
"""As text for the same reason."""


_CURSOR_TIME: Final = re.compile(r"[0-9]{1,15}")


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
    row = {
        "epoch": new_epoch(),
        "title": title,
        "kind": kind,
        "created_at": now,
        "updated_at": now,
        "agent_thread_id": new_agent_id(),
    }
    connection.execute(insert(threads).values(**key._asdict(), **row))
    add_head(connection, load_stored(connection, key).thread_no)
    usage.add(connection, key.user_id, threads=1, size=usage.ROW_BYTES)


def erase(connection: Connection, key: ThreadKey) -> tuple[frozenset[str], StoredThread]:
    """Delete a thread: nothing of it is there any more, and its rows are removed by and by.

    Its rows count as the user's until they are removed. Returns the ids of its runs that somebody
    may be about still: those that haven't ended, and the newest; and what its rows are found by.
    Raises `NotFound`.
    """
    stored = load_stored(connection, key)
    if stored.thread_no == NO_THREAD:
        raise NotFound(f"no thread {key.thread_id}")
    place = (stored.thread_no,)
    run_ids = frozenset(load_column(connection, _LATE_RUNS, (*stored, stored.thread_no)))
    execute(connection, _DELETE, place)
    delete_head(connection, stored.thread_no)
    usage.add(connection, key.user_id, threads=-1, size=-usage.ROW_BYTES)
    note_removal(connection, stored)
    return run_ids, stored


_DELETE: Final = "DELETE FROM threads WHERE thread_no = ?"
# By the indexes of open runs and of the newest: a thread may have ten thousand that have ended.
_LATE_RUNS: Final = """
SELECT run_id FROM runs INDEXED BY runs_open
WHERE state != 'ended' AND user_id = ? AND thread_no = ?
UNION SELECT run_id FROM (
    SELECT run_id FROM runs WHERE thread_no = ? ORDER BY first_seq DESC LIMIT 1
)
"""
_RENUMBER: Final = "UPDATE threads SET epoch = lower(hex(randomblob(8)))"


def renumber(connection: Connection) -> int:
    """Give every thread another epoch; return how many there are.

    For a database that was put back from a backup: it ends earlier than what clients have seen, and
    would give the same ids to other events.
    """
    return execute(connection, _RENUMBER).rowcount


def load_thread(key: ThreadKey, connection: Connection) -> ThreadSummary | None:
    """Return the thread, or None when nobody used it yet."""
    found = rows_of(threads, load_stored(connection, key))
    row = connection.execute(_select_threads().where(found)).one_or_none()
    return None if row is None else _summary(row)


def load_found_thread(key: ThreadKey, connection: Connection) -> ThreadSummary:
    """Return the thread; raises `NotFound`."""
    thread = load_thread(key, connection)
    if thread is None:
        raise NotFound(f"no thread {key.thread_id}")
    return thread


def _select_threads() -> Select[Any]:
    active = (
        select(runs.c.run_id)
        .where(runs.c.thread_no == threads.c.thread_no, IS_UNDER_WAY)
        .limit(1)
        .scalar_subquery()
    )
    return select(threads, active.label("active_run_id"))


def _summary(row: Row[Any]) -> ThreadSummary:
    return ThreadSummary(
        row.thread_id,
        row.title,
        row.created_at,
        row.updated_at,
        row.active_run_id,
        ThreadKind(row.kind),
    )


def load_threads(
    user_id: str, before: tuple[int, str] | None, limit: int, connection: Connection
) -> ThreadPage:
    """Return a page of the threads of a user, the newest change first."""
    place = tuple_(threads.c.updated_at, threads.c.thread_id)
    query = _select_threads().where(threads.c.user_id == user_id, _IS_LISTED)
    if before is not None:
        query = query.where(place < before)
    newest = query.order_by(threads.c.updated_at.desc(), threads.c.thread_id.desc())
    found = connection.execute(newest.limit(limit + 1)).all()
    page, rest = found[:limit], found[limit:]
    cursor = f"{page[-1].updated_at}~{page[-1].thread_id}" if rest else None
    return ThreadPage([_summary(row) for row in page], cursor)


def parse_cursor(cursor: str) -> tuple[int, str]:
    """Return the place that a cursor of the list of threads names; raises `InvalidCursor`."""
    updated_at, separator, thread_id = cursor.partition("~")
    if not separator or not _CURSOR_TIME.fullmatch(updated_at):
        raise InvalidCursor("cursor: must be as a page gave it")
    return int(updated_at), thread_id
