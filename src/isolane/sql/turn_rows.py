"""The rows of runs, as turns are read from them."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from typing import Final, NamedTuple

from sqlalchemy import Connection

from isolane.contracts import Turn, TurnRun
from isolane.sql.address import StoredThread
from isolane.sql.driver import execute, stream
from isolane.sql.run_queue import to_run_state

_ROW: Final = (
    "run_id, state, first_seq, last_seq, ended_at, coalesce(turn_id, run_id), turn_id IS NULL, "
    "is_rewound, thread_no, run_no, attached_to, asked"
)
_RUN: Final = f"SELECT {_ROW} FROM runs WHERE user_id = ? AND run_id = ?"  # noqa: S608 - no user's words
_RUN_BY_NUMBER: Final = f"SELECT {_ROW} FROM runs WHERE run_no = ?"  # noqa: S608 - no user's words
_STANDING: Final = (
    f"SELECT {_ROW} FROM runs INDEXED BY runs_standing "  # noqa: S608 - no user's words
    "WHERE thread_no = ? AND is_rewound = 0"
)
_FROM: Final = f"{_STANDING} AND first_seq >= ? ORDER BY first_seq"
_BACK: Final = f"{_STANDING} AND first_seq > 0 AND first_seq < ? ORDER BY first_seq DESC"
NEVER: Final = 2**63 - 1
"""A number greater than that of any log entry."""


class TurnRow(NamedTuple):
    """The columns of a run's row that turns need."""

    run_id: str
    state: str
    first_seq: int | None
    last_seq: int | None
    ended_at: int | None
    turn_id: str
    is_turn_open: bool
    """Whether the run waits, and its turn isn't known yet."""
    is_rewound: bool
    thread_no: int
    run_no: int
    attached_to: str | None
    asked: bytes | None

    def to_run(self) -> TurnRun:
        """Return the run as a turn tells it."""
        state = to_run_state(self.state)
        return TurnRun(self.run_id, state, self.first_seq, self.last_seq, self.ended_at)


def find_run(connection: Connection, stored: StoredThread, run_id: str) -> TurnRow | None:
    """Return a run of the thread, or the run that it attached to; None without one."""
    found = execute(connection, _RUN, (stored.user_id, run_id)).fetchone()
    row = None if found is None else TurnRow._make(found)
    if row is None or row.thread_no != stored.thread_no:
        return None
    return row if row.attached_to is None else find_run(connection, stored, row.attached_to)


def find_run_by_number(connection: Connection, run_no: int) -> TurnRow | None:
    """Return the run with that number; None without one."""
    found = execute(connection, _RUN_BY_NUMBER, (run_no,)).fetchone()
    return None if found is None else TurnRow._make(found)


def load_back(connection: Connection, stored: StoredThread, before: int) -> Generator[TurnRow]:
    """Yield the standing runs that begin before the log entry `before`, the newest first."""
    with closing(stream(connection, _BACK, (stored.thread_no, before))) as rows:
        yield from map(TurnRow._make, rows)


def find_newest(connection: Connection, stored: StoredThread, *, before: int) -> TurnRow | None:
    """Return the newest standing run that begins before the log entry `before`, or None."""
    with closing(load_back(connection, stored, before)) as rows:
        return next(rows, None)


def turn_of(connection: Connection, stored: StoredThread, turn_id: str) -> Turn:
    """Return a turn with all of its runs that stand, in order."""
    runs: list[TurnRun] = []
    first = first_of(connection, stored, turn_id)
    with closing(stream(connection, _FROM, (stored.thread_no, first))) as rows:
        for row in map(TurnRow._make, rows):
            if row.turn_id != turn_id:  # the runs of a turn follow one another
                break
            runs.append(row.to_run())
    return Turn(turn_id, runs)


def first_of(connection: Connection, stored: StoredThread, turn_id: str) -> int:
    """Return the first log entry of the run that began the turn."""
    row = find_run(connection, stored, turn_id)
    return 0 if row is None else row.first_seq or 0
