"""The end of each log and its writer: one narrow row per thread.

The row is the gate of an append. One update numbers the events, refuses a writer that has lost its
lease, and recognises a batch that was sent before.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Final

from sqlalchemy import Connection

from isolane.context import START, EventId, RunKey, ThreadKey
from isolane.contracts import LogBounds, RunLease
from isolane.errors import Fenced, NoActiveRun, NotFound
from isolane.sql.address import StoredThread, load_stored
from isolane.sql.driver import execute, has_one_writer, load_value

NO_RUN: Final = 0
"""Number that means no run. Numbers of runs count from 1."""
_FENCE_BITS: Final = 63
HEADS_AT_ONCE: Final = 500
"""Threads of one statement that looks where their logs end."""

_ADD: Final = "INSERT INTO heads (thread_no) VALUES (?)"
_DELETE: Final = "DELETE FROM heads WHERE thread_no = ?"
_BOUNDS: Final = """
SELECT trimmed_seq, epoch, head_seq FROM heads JOIN threads USING (thread_no) WHERE thread_no = ?
"""
_HEADS: Final = """
SELECT user_id, thread_id, epoch, head_seq FROM threads JOIN heads USING (thread_no)
WHERE (user_id, thread_id) IN
"""
_CLAIM: Final = "UPDATE heads SET run_no = ?, fence = ?, batch = 0 WHERE thread_no = ?"
_RELEASE: Final = "UPDATE heads SET run_no = 0 WHERE thread_no = ? AND run_no = ? AND fence = ?"
_ADVANCE: Final = """
UPDATE heads SET head_seq = head_seq + ?, batch = batch + 1, batch_end = head_seq + ?, run_no = ?
WHERE thread_no = ? AND run_no = ? AND fence = ? AND batch = ? RETURNING head_seq
"""
# Not before the run's first event, and not after its end.
_ADVANCE_BESIDE: Final = """
UPDATE heads SET head_seq = head_seq + 1 WHERE thread_no = ? AND run_no != 0 AND batch > 0
RETURNING head_seq, run_no
"""
_LAST: Final = "SELECT fence, batch, batch_end FROM heads WHERE thread_no = ?"
_LEASE: Final = "SELECT run_no, fence, batch FROM heads WHERE thread_no = ?"
_OPEN_RUN: Final = """
SELECT run_no FROM runs WHERE user_id = ? AND run_id = ? AND thread_no = ? AND state != 'ended'
"""
_NEXT_RUN: Final = "SELECT coalesce(max(run_no), 0) + 1 FROM runs"
# Where others write as well, a number is given once, also to a transaction that is undone.
_NEXT_RUN_OF_MANY: Final = "SELECT nextval(pg_get_serial_sequence('runs', 'run_no'))"
_LOCK: Final = "SELECT 1 FROM heads WHERE thread_no = ? FOR UPDATE"


def add_head(connection: Connection, thread_no: int) -> None:
    """Begin the log of a new thread."""
    execute(connection, _ADD, (thread_no,))


def delete_head(connection: Connection, thread_no: int) -> None:
    """End the log of a deleted thread, so that nothing is written into it any more."""
    execute(connection, _DELETE, (thread_no,))


def load_bounds(key: ThreadKey, connection: Connection) -> LogBounds:
    """Return where a thread's log begins and ends. The log of an unused thread ends at `START`."""
    return load_bounds_of(connection, load_stored(connection, key))


def load_bounds_of(connection: Connection, stored: StoredThread) -> LogBounds:
    """Return where the log of a thread begins and ends, whose number is known."""
    row = execute(connection, _BOUNDS, (stored.thread_no,)).fetchone()
    if row is None:
        return LogBounds(0, START)
    trimmed_seq, epoch, head_seq = row
    return LogBounds(trimmed_seq, EventId(epoch, head_seq))


def load_heads(keys: Sequence[ThreadKey], connection: Connection) -> dict[ThreadKey, EventId]:
    """Return where the logs of these threads end, without those that aren't there."""
    found: dict[ThreadKey, EventId] = {}
    for place in range(0, len(keys), HEADS_AT_ONCE):
        part = keys[place : place + HEADS_AT_ONCE]
        marks = ", ".join(["(?, ?)"] * len(part))
        statement = f"{_HEADS} (VALUES {marks})"
        values = [word for key in part for word in key]
        for user_id, thread_id, epoch, head_seq in execute(connection, statement, values):
            found[ThreadKey(user_id, thread_id)] = EventId(epoch, head_seq)
    return found


def next_run_no(connection: Connection) -> int:
    """Return the number of the next run. No other run gets it."""
    statement = _NEXT_RUN if has_one_writer(connection) else _NEXT_RUN_OF_MANY
    number: int = load_value(connection, statement)
    return number


def lock_thread(connection: Connection, thread_no: int) -> None:
    """Let nobody else append to a thread, or hand its turn on, before this transaction has ended.

    What is read of the thread before may be outdated. One writer needs no lock.
    """
    if not has_one_writer(connection):
        execute(connection, _LOCK, (thread_no,))


def new_fence() -> int:
    """Return a random token for a lease. Tokens have no order."""
    return secrets.randbits(_FENCE_BITS)


def claim(connection: Connection, key: ThreadKey, run_id: str, run_no: int) -> RunLease:
    """Give a run the lease of its thread's log; older leases end.

    Raises:
        NotFound: There is no such thread.
    """
    stored = load_stored(connection, key)
    fence = new_fence()
    if not execute(connection, _CLAIM, (run_no, fence, stored.thread_no)).rowcount:
        raise NotFound(f"no thread {key.thread_id}")
    epoch = load_bounds_of(connection, stored).head.epoch
    return RunLease(key, run_id, epoch, fence, stored.thread_no, run_no)


def release(connection: Connection, lease: RunLease) -> None:
    """End a lease: nothing is written by it any more. One that ended before stays ended."""
    place = (lease.thread_no, lease.run_no, lease.fence)
    execute(connection, _RELEASE, place)


def check_unused(connection: Connection, lease: RunLease) -> None:
    """Check that a lease is in force, and that nothing was written by it.

    Raises:
        NotFound: The thread was deleted.
        Fenced: The lease has ended, or a batch was written.
    """
    last = execute(connection, _LEASE, (lease.thread_no,)).fetchone()
    if last is None:
        raise NotFound(f"thread {lease.key.thread_id} was deleted")
    if last != (lease.run_no, lease.fence, 0):
        raise Fenced(f"the lease of run {lease.run_id} has ended, or was used")


def take_over(key: ThreadKey, run_id: str, connection: Connection) -> RunLease:
    """Return a new lease of a run that hasn't ended; see `EventLog.take_over`."""
    place = (*RunKey(key.user_id, run_id), load_stored(connection, key).thread_no)
    run_no: int | None = load_value(connection, _OPEN_RUN, place)
    if run_no is None:
        raise NotFound(f"no run {run_id} goes on in thread {key.thread_id}")
    return claim(connection, key, run_id, run_no)


def advance(
    connection: Connection, lease: RunLease, payloads: Sequence[bytes], *, batch: int, is_end: bool
) -> tuple[int, bool]:
    """Number a batch; return the number of its first entry, and whether it is new.

    The last batch of a lease may come twice; it then keeps the numbers that it has. Nothing is
    written after the end.

    Raises:
        NotFound: The thread was deleted.
        Fenced: Somebody else has the lease, the lease has ended, or a later batch was written.
    """
    count = len(payloads)
    run_no = NO_RUN if is_end else lease.run_no
    place = (count, count, run_no, lease.thread_no, lease.run_no, lease.fence, batch - 1)
    advanced = load_value(connection, _ADVANCE, place)
    if advanced is not None:
        return advanced - count + 1, True
    last = execute(connection, _LAST, (lease.thread_no,)).fetchone()
    if last is None:
        raise NotFound(f"thread {lease.key.thread_id} was deleted")
    fence, last_batch, batch_end = last
    if (fence, last_batch) != (lease.fence, batch):
        raise Fenced(f"batch {batch} of run {lease.run_id} comes too late")
    return batch_end - count + 1, False


def advance_beside(connection: Connection, thread_no: int) -> tuple[int, int]:
    """Number an entry that comes from beside the writer of the run under way.

    Return its number, and that of the run.

    Raises:
        NoActiveRun: No run is under way on the thread.
    """
    found = execute(connection, _ADVANCE_BESIDE, (thread_no,)).fetchone()
    if found is None:
        raise NoActiveRun("no run is under way on this thread")
    seq, run_no = found
    return seq, run_no
