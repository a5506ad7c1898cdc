"""Whose turn it is on each thread, and who waits: read from the rows of runs.

A run that must wait is `queued` and has a place. When the turn comes to it, it is `ready`, and
`running` once it has begun. A thread has one run that is `ready` or `running` at most: a unique
index holds that. A run whose end the database refuses is `broken`, and holds no turn.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from sqlalchemy import Connection

from isolane.context import RunKey
from isolane.contracts import RunState
from isolane.engines.sqlite.driver import execute, load_column, load_value

READY: Final = "ready"
"""The state of a run whose turn has come and that hasn't begun. Outside it still waits."""
BROKEN: Final = "broken"
"""The state of a run whose end can't be written. Outside it is under way until it has an end."""
_TOLD: Final = {READY: RunState.QUEUED, BROKEN: RunState.RUNNING}

# As text: each is a look at one index, and SQLAlchemy's binding costs as much again. The conditions
# of partial indexes are spelled as there.
_HOLDER: Final = """
SELECT run_id, state FROM runs INDEXED BY runs_in_turn
WHERE thread_no = ? AND state IN ('ready', 'running')
"""
_WAITING: Final = """
SELECT count(*), min(place), max(place) FROM runs INDEXED BY runs_waiting
WHERE thread_no = ? AND state = 'queued'
"""
_COUNT_OF_USER: Final = """
SELECT count(*) FROM (
    SELECT 1 FROM runs INDEXED BY runs_open
    WHERE user_id = ? AND state != 'ended' AND state != 'broken'
    AND EXISTS (SELECT 1 FROM threads WHERE threads.thread_no = runs.thread_no) LIMIT ?
)
"""
_HAND_ON: Final = """
UPDATE runs SET state = 'ready' WHERE run_no = (
    SELECT run_no FROM runs AS waiting INDEXED BY runs_waiting
    WHERE waiting.thread_no = ? AND waiting.state = 'queued' ORDER BY waiting.place LIMIT 1
) AND NOT EXISTS (
    SELECT 1 FROM runs AS holder INDEXED BY runs_in_turn
    WHERE holder.thread_no = ? AND holder.state IN ('ready', 'running')
)
"""
_WITHOUT_TURN: Final = """
SELECT DISTINCT thread_no FROM runs INDEXED BY runs_waiting WHERE state = 'queued'
AND EXISTS (SELECT 1 FROM threads WHERE threads.thread_no = runs.thread_no) AND NOT EXISTS (
    SELECT 1 FROM runs AS holder INDEXED BY runs_in_turn
    WHERE holder.thread_no = runs.thread_no AND holder.state IN ('ready', 'running')
)
"""
_CLAIMABLE: Final = """
SELECT user_id, run_id FROM runs INDEXED BY runs_ready
WHERE state = 'ready' AND (node_id IS NULL OR node_id NOT IN (SELECT node_id FROM nodes))
AND EXISTS (SELECT 1 FROM threads WHERE threads.thread_no = runs.thread_no) LIMIT ?
"""
_CLAIM: Final = "UPDATE runs SET node_id = ? WHERE user_id = ? AND run_id = ?"


class Holder(NamedTuple):
    """The run whose turn it is."""

    run_id: str
    has_begun: bool


class Waiting(NamedTuple):
    """The runs that wait for their turn on a thread, and the places of the first and the last."""

    length: int
    first_place: int
    last_place: int


def to_run_state(word: str) -> RunState:
    """Return the state that the outside is told of a row with that word."""
    return _TOLD.get(word) or RunState(word)


def load_holder(connection: Connection, thread_no: int) -> Holder | None:
    """Return the run whose turn it is on a thread; None without one."""
    found = execute(connection, _HOLDER, (thread_no,)).fetchone()
    return None if found is None else Holder(found[0], found[1] == RunState.RUNNING)


def load_waiting(connection: Connection, thread_no: int) -> Waiting:
    """Return who waits on a thread."""
    length, first_place, last_place = execute(connection, _WAITING, (thread_no,)).fetchone()
    return Waiting(length, first_place or 0, last_place or 0)


def count_open(connection: Connection, user_id: str, *, most: int) -> int:
    """Return how many unfinished runs the user has on threads that are there; `most` at most."""
    return int(load_value(connection, _COUNT_OF_USER, (user_id, most)))


def hand_on(connection: Connection, thread_no: int) -> None:
    """Give the turn to the first run that waits, unless somebody has it.

    It is a statement of its own after the one that freed the turn: only then does it see every run
    that was let in before.
    """
    execute(connection, _HAND_ON, (thread_no, thread_no))


def find_without_turn(connection: Connection) -> list[int]:
    """Return the numbers of threads on which runs wait and nobody has the turn."""
    return load_column(connection, _WITHOUT_TURN)


def claim(connection: Connection, node_id: str, *, room: int) -> list[RunKey]:
    """Mark up to `room` runs whose turn has come as the node's own; return their keys."""
    keys = [RunKey(*row) for row in connection.exec_driver_sql(_CLAIMABLE, (room,))]
    if keys:
        connection.exec_driver_sql(_CLAIM, [(node_id, *key) for key in keys])
    return keys
