"""Stops as the rows of runs have them, and aborts that came before the run that they mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sqlalchemy import Connection

from isolane.context import RunKey
from isolane.sql.driver import execute, execute_many, load_column, load_value
from isolane.sql.expiry import delete_expired
from isolane.sql.tables import early_aborts

KEPT_MS: Final = 10_000
"""Milliseconds for which an abort waits for its run."""
KEPT_PER_USER: Final = 100
"""Aborts of one user that wait; the oldest goes when another one comes."""

ALL: Final = 2**63 - 1
"""A limit that leaves nothing out."""

# As text: admission asks for the first two, and SQLAlchemy's binding costs as much again.
_FIND: Final = "SELECT expires_at FROM early_aborts WHERE user_id = ? AND run_id = ?"
_REVOKED: Final = """
SELECT max(revoked_at) FROM revocations INDEXED BY revocations_by_user WHERE user_id = ?
"""
_TAKE: Final = "DELETE FROM early_aborts WHERE user_id = ? AND run_id = ?"
_KEEP: Final = "INSERT INTO early_aborts (user_id, run_id, expires_at) VALUES (?, ?, ?)"
_SURPLUS: Final = """
DELETE FROM early_aborts WHERE number IN (
    SELECT number FROM early_aborts WHERE user_id = ? ORDER BY number DESC LIMIT ? OFFSET ?
)
"""
_ROW: Final = """
SELECT attached_to FROM runs JOIN threads USING (thread_no)
WHERE runs.user_id = ? AND run_id = ?
"""
_STOP: Final = """
UPDATE runs SET stop_at = coalesce(stop_at, ?)
WHERE user_id = ? AND run_id = ? AND state != 'ended'
"""
_BUSY: Final = "SELECT DISTINCT user_id FROM runs INDEXED BY runs_open WHERE state != 'ended'"
_STOP_ALL: Final = """
UPDATE runs INDEXED BY runs_open SET stop_at = coalesce(stop_at, ?)
WHERE user_id = ? AND state != 'ended' AND created_at <= ?
"""
_UNSEEN: Final = """
SELECT user_id, run_id, stop_at FROM runs INDEXED BY runs_stopping
WHERE stop_at IS NOT NULL AND state != 'ended' AND stop_seen_at IS NULL AND node_id = ?
"""
_SEEN: Final = "UPDATE runs SET stop_seen_at = ? WHERE user_id = ? AND run_id = ?"


def stop_run(connection: Connection, key: RunKey, *, asked_at: int) -> bool:
    """Write into a run's row that it was stopped; False when there is no run of that id.

    The id of a run that attached stops the one that it attached to. The first stop counts, and a
    run that has ended stays as it is.
    """
    found = execute(connection, _ROW, key).fetchone()
    if found is None:
        return False
    if found[0] is not None:
        return stop_run(connection, RunKey(key.user_id, found[0]), asked_at=asked_at)
    execute(connection, _STOP, (asked_at, *key))
    return True


def load_busy(until: Mapping[str, int], connection: Connection) -> dict[str, int]:
    """Return the part of `until` whose users have unfinished runs."""
    users: list[str] = load_column(connection, _BUSY)
    return {user_id: until[user_id] for user_id in users if user_id in until}


def stop_all(connection: Connection, until: Mapping[str, int], *, asked_at: int) -> None:
    """Write that users' unfinished runs were stopped whose rows were made until a time."""
    rows = [(asked_at, user_id, before) for user_id, before in until.items()]
    execute_many(connection, _STOP_ALL, rows)


def keep_early(connection: Connection, key: RunKey, *, now: int) -> None:
    """Let an abort wait for its run; `now` is of the clock that nobody sets."""
    delete_expired(early_aborts, now - 1, connection)
    execute(connection, _TAKE, key)  # the newest counts
    execute(connection, _KEEP, (*key, now + KEPT_MS))
    execute(connection, _SURPLUS, (key.user_id, ALL, KEPT_PER_USER))


def take_early(connection: Connection, key: RunKey, *, now: int) -> int | None:
    """Forget an abort that waits; return for how many milliseconds it did, None without one."""
    expires_at = load_value(connection, _FIND, key)
    if expires_at is None:
        return None
    execute(connection, _TAKE, key)
    age_ms = now - (int(expires_at) - KEPT_MS)
    return age_ms if age_ms <= KEPT_MS else None


def load_revoked(connection: Connection, user_id: str) -> int:
    """Return when something of the user's was revoked last; 0 when nothing ever was."""
    return int(load_value(connection, _REVOKED, (user_id,)) or 0)


def load_unseen(connection: Connection, node_id: str) -> list[tuple[RunKey, int]]:
    """Return the stopped runs of a node that hasn't obeyed yet, with when each was stopped."""
    found = execute(connection, _UNSEEN, (node_id,))
    return [(RunKey(user_id, run_id), stop_at) for user_id, run_id, stop_at in found]


def note_seen(connection: Connection, keys: list[RunKey], *, now: int) -> None:
    """Write that a node has obeyed the stops of these runs."""
    if keys:
        execute_many(connection, _SEEN, [(now, *key) for key in keys])
