"""What the log lets go: whole ended runs, from each thread's old end, in small steps.

To let go is to move the place where a thread's log begins. What lies before it is invisible from
then on, and is deleted from the disk later, a few rows in each transaction. An index leads to the
runs that are due and to the threads that have something to delete: nothing else is looked at.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from sqlalchemy import Connection

from isolane.context import ThreadKey
from isolane.contracts import RunState
from isolane.events.packing import MARK
from isolane.sql import attachments, usage
from isolane.sql.address import StoredThread
from isolane.sql.driver import execute, execute_many
from isolane.sql.heads import lock_thread
from isolane.sql.steps import load_some

DUE_AT_ONCE: Final = 8
"""Runs that are due, of as many threads at most, for one transaction."""
RUNS_AT_ONCE: Final = 64
"""Runs of one thread that one transaction lets go."""

Place = tuple[int, int]
"""A place among the runs in the log: when the run ended, and its number."""
FIRST: Final[Place] = (-1, 0)


class DueRun(NamedTuple):
    """A run whose time in the log is over."""

    place: Place
    stored: StoredThread
    key: ThreadKey | None
    """Address of its thread; None when that was deleted."""


# As text: conditions of partial indexes have to be spelled as there.
_DUE: Final = """
SELECT ended_at, run_no, runs.user_id, runs.thread_no, thread_id
FROM runs INDEXED BY runs_logged LEFT JOIN threads USING (thread_no)
WHERE is_logged = 1 AND ended_at < ? AND (ended_at, run_no) > (?, ?)
ORDER BY ended_at, run_no LIMIT ?
"""
_BOUNDS: Final = "SELECT trimmed_seq, head_seq FROM heads WHERE thread_no = ?"
_OLDEST: Final = """
SELECT state, ended_at, first_seq, last_seq FROM runs
WHERE thread_no = ? AND first_seq > ? ORDER BY first_seq LIMIT ?
"""
_CUT: Final = "UPDATE heads SET trimmed_seq = ? WHERE thread_no = ?"
_UNLOG: Final = """
UPDATE runs SET is_logged = 0 WHERE thread_no = ? AND first_seq > ? AND first_seq <= ?
"""
_NEXT: Final = """
SELECT user_id, thread_no FROM heads INDEXED BY heads_to_sweep JOIN threads USING (thread_no)
WHERE swept_seq < trimmed_seq LIMIT 1
"""
_SWEPT: Final = "SELECT swept_seq, trimmed_seq FROM heads WHERE thread_no = ?"
# The payload itself is taken only where it refers to attachments: it begins with NUL then.
_ENTRIES: Final = """
SELECT seq, length(payload), CASE WHEN substr(payload, 1, 1) = ? THEN payload END FROM events
WHERE thread_no = ? AND seq > ? AND seq <= ? ORDER BY seq LIMIT ?
"""
_DELETE_ENTRIES: Final = "DELETE FROM events WHERE thread_no = ? AND seq > ? AND seq <= ?"
_DROPPED: Final = """
SELECT number, length(payload), CASE WHEN substr(payload, 1, 1) = ? THEN payload END
FROM messages WHERE thread_no = ? AND until_seq <= ? AND length(payload) > 0
ORDER BY until_seq LIMIT ?
"""
_EMPTY_MESSAGE: Final = "UPDATE messages SET payload = ? WHERE number = ?"
_SET_SWEPT: Final = "UPDATE heads SET swept_seq = ? WHERE thread_no = ?"


def load_due(older_than: int, after: Place, connection: Connection) -> list[DueRun]:
    """Return some runs that ended before `older_than` and are in the log, from `after` on."""
    found = execute(connection, _DUE, (older_than, *after, DUE_AT_ONCE))
    return [
        DueRun(
            (ended_at, run_no),
            StoredThread(user_id, thread_no),
            None if thread_id is None else ThreadKey(user_id, thread_id),
        )
        for ended_at, run_no, user_id, thread_no, thread_id in found
    ]


def trim_threads(
    thread_nos: Iterable[int], older_than: int, max_events: int, connection: Connection
) -> int:
    """Let go of what is due of these threads; return how many entries went."""
    return sum(trim_thread(connection, each, older_than, max_events) for each in thread_nos)


def trim_thread(connection: Connection, thread_no: int, older_than: int, max_events: int) -> int:
    """Let go of the thread's oldest runs: the old ones, and what exceeds `max_events`.

    The newest run stays whatever its size: somebody may be in the middle of it.
    """
    lock_thread(connection, thread_no)
    bounds = execute(connection, _BOUNDS, (thread_no,)).fetchone()
    if bounds is None:  # deleted meanwhile
        return 0
    trimmed_seq, head_seq = bounds
    floor = head_seq - max_events
    cut = trimmed_seq
    for state, ended_at, first_seq, last_seq in execute(
        connection, _OLDEST, (thread_no, trimmed_seq, RUNS_AT_ONCE)
    ):
        is_surplus = first_seq <= floor and last_seq != head_seq
        if state != RunState.ENDED or not (ended_at < older_than or is_surplus):
            break
        cut = last_seq
    if cut > trimmed_seq:
        execute(connection, _CUT, (cut, thread_no))
        execute(connection, _UNLOG, (thread_no, trimmed_seq, cut))
    return int(cut - trimmed_seq)


def load_swept_next(connection: Connection) -> StoredThread | None:
    """Return a thread that has something to delete; None when there is none."""
    found = execute(connection, _NEXT).fetchone()
    return None if found is None else StoredThread(*found)


def sweep(stored: StoredThread, connection: Connection) -> None:
    """Delete a little of what the thread has let go: its entries first, then its messages."""
    thread_no = stored.thread_no
    found = execute(connection, _SWEPT, (thread_no,)).fetchone()
    if found is None:  # deleted meanwhile
        return
    swept_seq, trimmed_seq = found
    span = (thread_no, swept_seq, trimmed_seq)
    entries = load_some(connection, _ENTRIES, (MARK, *span))
    if entries:
        last_seq = entries[-1].place
        usage.add(connection, stored.user_id, size=-usage.weigh(entry.size for entry in entries))
        attachments.release(connection, stored, (entry.packed for entry in entries))
        execute(connection, _DELETE_ENTRIES, (thread_no, swept_seq, last_seq))
        # One less while messages are left: the thread has to come here again for them.
        execute(connection, _SET_SWEPT, (min(last_seq, trimmed_seq - 1), thread_no))
        return
    # No kept entry is older than the cut, so nobody can ask for a message that was dropped before.
    # Its id stays, because other devices may still offer it in their lists.
    dropped = load_some(connection, _DROPPED, (MARK, thread_no, trimmed_seq))
    if dropped:
        size = sum(row.size for row in dropped)  # the rows stay
        usage.add(connection, stored.user_id, size=-size)
        attachments.release(connection, stored, (row.packed for row in dropped))
        execute_many(connection, _EMPTY_MESSAGE, [(b"", row.place) for row in dropped])
        return
    execute(connection, _SET_SWEPT, (trimmed_seq, thread_no))
