"""The rows of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any, Final, NamedTuple

import msgspec
from sqlalchemy import Connection

from isolane.context import EventId, RunKey, ThreadKey, UserExecutionContext
from isolane.contracts import ActiveRun, LogBounds, RunStop, StoredRun
from isolane.errors import AgentFailed
from isolane.events.interrupts import Interrupt, check_answers
from isolane.sql import attachments, usage
from isolane.sql.address import StoredThread, load_stored
from isolane.sql.drafts import KeptDraft, load_kept, to_asked, to_draft
from isolane.sql.driver import execute, load_value, stream, update_row
from isolane.sql.run_queue import to_run_state

# The join leaves the runs of deleted threads out, whose rows are removed later. The conditions of
# partial indexes are spelled as there.
ROWS: Final = """
SELECT runs.user_id, run_id, thread_no, thread_id, state, draft, first_seq, last_seq,
    runs.created_at, started_at, ended_at, outcome, error_id, stop, agent_code, agent_message,
    asked, stop_at, attached_to, threads.epoch, head_seq
FROM runs JOIN heads USING (thread_no) JOIN threads USING (thread_no)
"""
_RUN: Final = f"{ROWS} WHERE runs.user_id = ? AND run_id = ?"
_OPEN: Final = f"""
{ROWS} WHERE runs.state != 'ended'
ORDER BY state = 'queued', coalesce(place, 0), runs.created_at
"""


class _RunRow(NamedTuple):
    """A run's row as it is read, with the id of its thread."""

    user_id: str
    run_id: str
    thread_no: int
    thread_id: str
    state: str
    draft: bytes
    first_seq: int | None
    last_seq: int | None
    created_at: int
    started_at: int | None
    ended_at: int | None
    outcome: Any
    error_id: str | None
    stop: bytes | None
    agent_code: str | None
    agent_message: bytes | None
    asked: bytes | None
    stop_at: int | None
    attached_to: str | None
    epoch: str
    head_seq: int


def load_moment(
    connection: Connection, key: ThreadKey, bounds: LogBounds
) -> tuple[EventId, str | None]:
    """Return where the log ended before the run under way, and that run's id, if there is one."""
    place = (load_stored(connection, key).thread_no,)
    under_way = execute(connection, _UNDER_WAY, place).fetchone()
    if under_way is None:
        return bounds.head, None
    first_seq, run_id = under_way
    return EventId(bounds.head.epoch, first_seq - 1), run_id


def load_run(key: RunKey, connection: Connection) -> StoredRun | None:
    """Return the run of that id, or the one that it attached to; None without one."""
    found = execute(connection, _RUN, key).fetchone()
    if found is None:
        return None
    row = _RunRow._make(found)
    if row.attached_to is None:
        return _stored(row, connection)
    other = load_run(RunKey(key.user_id, row.attached_to), connection)
    return None if other is None else replace(other, asked=to_asked(row.asked or b""))


def load_open_runs(connection: Connection) -> list[StoredRun]:
    """Return every run that has not ended, of all users: those that wait last, in their order."""
    return load_all(connection, _OPEN)


def load_active(user_id: str, connection: Connection) -> list[ActiveRun]:
    """Return the user's runs that are under way, in chats."""
    return [
        ActiveRun(thread_id, run_id, EventId(epoch, head_seq))
        for thread_id, run_id, epoch, head_seq in execute(connection, _ACTIVE, (user_id,))
    ]


def load_all(
    connection: Connection, statement: str, values: Sequence[object] = ()
) -> list[StoredRun]:
    """Return the runs that a statement finds, which begins with `ROWS`."""
    rows = execute(connection, statement, values).fetchall()
    return [_stored(_RunRow._make(row), connection) for row in rows]


def _stored(row: _RunRow, connection: Connection) -> StoredRun:
    key = RunKey(row.user_id, row.run_id)
    return StoredRun(
        key=key,
        thread_id=row.thread_id,
        state=to_run_state(row.state),
        draft=to_draft(connection, key, row.thread_no, row.draft),
        first_seq=row.first_seq,
        last_seq=row.last_seq,
        after=EventId(row.epoch, row.head_seq if row.first_seq is None else row.first_seq - 1),
        created_at=row.created_at,
        started_at=row.started_at,
        ended_at=row.ended_at,
        outcome=row.outcome,
        error_id=row.error_id,
        stop=None if row.stop is None else msgspec.json.decode(row.stop, type=RunStop),
        agent_code=row.agent_code,
        agent_message=None if row.agent_message is None else row.agent_message.decode(),
        asked=to_asked(row.asked or b""),
        stop_at=row.stop_at,
    )


def update_run(connection: Connection, run_no: int, row: Mapping[str, object]) -> None:
    """Write columns of a run's row, given by their names."""
    update_row(connection, "runs", row, "run_no", run_no)


def to_failure_columns(failure: AgentFailed | None) -> dict[str, Any]:
    """Return what a run's row holds of the error that its agent ended it with."""
    if failure is None:
        return {}
    message = failure.agent_message
    return {
        "agent_code": failure.agent_code,
        "agent_message": None if message is None else message.encode(),
    }


_UNDER_WAY: Final = """
SELECT first_seq, run_id FROM runs WHERE thread_no = ? AND runs.state = 'running'
"""
_NUMBER: Final = "SELECT run_no FROM runs WHERE user_id = ? AND run_id = ?"
_KNOWN: Final = """
SELECT thread_no, draft FROM runs JOIN threads USING (thread_no)
WHERE runs.user_id = ? AND run_id = ? AND attached_to IS NULL
"""
_WRITERS: Final = """
SELECT seq, run_no FROM events WHERE thread_no = ? AND seq < ? ORDER BY seq DESC
"""
_ANSWER: Final = "UPDATE runs SET answered_by = ? WHERE user_id = ? AND run_id = ?"
_ASKING: Final = """
SELECT run_id, interrupts, answered_by FROM runs
WHERE thread_no = ? AND first_seq IS NOT NULL ORDER BY first_seq DESC LIMIT 1
"""
_NOTHING: Final = ("", None, None)
_DRAFT: Final = "SELECT draft FROM runs WHERE user_id = ? AND run_id = ?"
_KEEP_DRAFT: Final = "UPDATE runs SET draft = ? WHERE user_id = ? AND run_id = ?"


# By the index of open runs, in which a user has few.
_ACTIVE: Final = """
SELECT thread_id, run_id, epoch, head_seq FROM runs INDEXED BY runs_open
JOIN threads USING (thread_no) JOIN heads USING (thread_no)
WHERE runs.user_id = ? AND runs.state != 'ended' AND runs.state = 'running' AND kind = 'chat'
ORDER BY runs.created_at
"""


def find_run_no(connection: Connection, key: RunKey) -> int:
    """Return the number of a run's row, which is there."""
    number: int = load_value(connection, _NUMBER, key)
    return number


def forget_run(key: RunKey, connection: Connection) -> None:
    """Keep that a run's id is to be told as unknown; see `Store.forget_run`."""
    found = execute(connection, _KNOWN, key).fetchone()
    if found is None:
        return
    thread_no, draft = found
    stored = StoredThread(key.user_id, thread_no)
    kept = load_kept(connection, stored, draft)
    kept.is_forgotten = True
    _write_kept(connection, key, stored, draft, kept)


def find_first(connection: Connection, thread_no: int, run_no: int, known: int) -> int:
    """Return the first log entry of a run that ends now without having begun; `known` is its own.

    It may have written its start already. A thread has one run at a time, so its entries are the
    last ones.
    """
    with closing(stream(connection, _WRITERS, (thread_no, known))) as rows:
        for seq, writer in rows:
            if writer != run_no:
                break
            known = seq
    return known


def take_answers(
    connection: Connection, context: UserExecutionContext, resume: Sequence[Mapping[str, Any]]
) -> None:
    """Let the run answer what the thread's last run asked; the first one that does has answered."""
    if not resume:
        return
    asking_id, interrupts = open_interrupts(context.thread_key, connection)
    check_answers(resume, interrupts)
    execute(connection, _ANSWER, (context.run_id, context.user_id, asking_id))


def open_interrupts(key: ThreadKey, connection: Connection) -> tuple[str, Sequence[Interrupt]]:
    """Return the thread's last run and what it asks, nothing when it asks nothing any more."""
    place = (load_stored(connection, key).thread_no,)
    run_id, interrupts, answered_by = execute(connection, _ASKING, place).fetchone() or _NOTHING
    if interrupts is None or answered_by is not None:
        return "", ()
    return run_id, msgspec.json.decode(interrupts)


def _write_kept(
    connection: Connection, key: RunKey, stored: StoredThread, old: bytes, kept: KeptDraft
) -> None:
    """Write a draft in the place of what a run's row had of it."""
    before = usage.load_run_bytes(connection, key)
    draft = attachments.replace(connection, stored, old, msgspec.json.encode(kept))
    execute(connection, _KEEP_DRAFT, (draft, *key))
    usage.count_run(connection, key, before=before)


def replace_draft(connection: Connection, context: UserExecutionContext, draft: bytes) -> bytes:
    """Keep what a run asks for in the place of what its row has, and return it to be written."""
    old = load_value(connection, _DRAFT, context.run_key)
    return attachments.replace(connection, load_stored(connection, context.thread_key), old, draft)
