"""How threads begin: as a conversation or for one request, empty or with a history from outside."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection

from isolane.context import ThreadKey
from isolane.contracts import Opening, ThreadKind
from isolane.errors import RunConflict
from isolane.sql.address import load_stored
from isolane.sql.driver import execute, load_value
from isolane.sql.heads import NO_RUN

BEFORE_THE_LOG: Final = 0
"""The entry since which a seed stands: it was there before the first entry of the log."""

_HAS_RUN: Final = "SELECT 1 FROM runs WHERE thread_no = ? LIMIT 1"
# A rewind drops messages from the newest back, so the first one tells of all.
_IS_CLAIMED: Final = """
SELECT is_claimed = 1 AND until_seq IS NULL FROM messages INDEXED BY messages_by_run
WHERE thread_no = ? AND run_no = ? ORDER BY number LIMIT 1
"""
_KIND: Final = "SELECT kind FROM threads WHERE thread_no = ?"
_ENDED: Final = """
SELECT user_id, thread_id FROM threads INDEXED BY threads_of_requests
WHERE kind = 'request' AND updated_at < ? AND NOT EXISTS (
    SELECT 1 FROM runs INDEXED BY runs_in_turn
    WHERE runs.thread_no = threads.thread_no AND runs.state IN ('ready', 'running')
) AND NOT EXISTS (
    SELECT 1 FROM runs INDEXED BY runs_waiting
    WHERE runs.thread_no = threads.thread_no AND runs.state = 'queued'
) ORDER BY updated_at LIMIT ?
"""


def check_seed(connection: Connection, key: ThreadKey) -> None:
    """Check that a thread has had no run yet, because only such a thread takes a seed.

    Raises:
        RunConflict: The thread has had a run.
    """
    place = (load_stored(connection, key).thread_no,)
    if execute(connection, _HAS_RUN, place).fetchone() is not None:
        raise RunConflict("a thread that has had a run takes no history from outside")


def is_history_claimed(connection: Connection, key: ThreadKey) -> bool:
    """Say whether a part of what stands in the thread is what its caller claims."""
    place = (load_stored(connection, key).thread_no, NO_RUN)
    return bool(load_value(connection, _IS_CLAIMED, place))


def load_kind(connection: Connection, key: ThreadKey) -> ThreadKind:
    """Return what the thread is for, whose row is there."""
    place = (load_stored(connection, key).thread_no,)
    found = load_value(connection, _KIND, place)
    return ThreadKind(found)


def load_ended_requests(older_than: int, limit: int, connection: Connection) -> list[ThreadKey]:
    """Return threads of requests without an unfinished run, unchanged since `older_than`."""
    found = execute(connection, _ENDED, (older_than, limit))
    return [ThreadKey(*address) for address in found]


def kind_of(opening: Opening | None) -> ThreadKind:
    """Return what a thread is for that comes into being with a run."""
    return ThreadKind.CHAT if opening is None else opening.kind
