"""Whose turn it is on each thread, and who waits: read from the rows of runs.

A run that must wait is `queued` and has a place. When the turn comes to it, it is `ready`, and
`running` once it has begun. A thread has one run that is `ready` or `running` at most: a unique
index holds that. A run whose end the database refuses is `broken`, and holds no turn.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, NamedTuple

from sqlalchemy import Connection

from isolane.context import RunKey, ThreadKey
from isolane.contracts import HeldRun, RunLease, RunState, Terms
from isolane.errors import LimitExceeded, RunConflict
from isolane.sql.driver import execute, execute_many, load_column, load_value
from isolane.sql.heads import release

READY: Final = "ready"
"""The state of a run whose turn has come and that hasn't begun. Outside it still waits."""
BROKEN: Final = "broken"
"""The state of a run whose end can't be written. Outside it is under way until it has an end."""
_TOLD: Final = {READY: RunState.QUEUED, BROKEN: RunState.RUNNING}

# Each is a look at one index. The conditions of partial indexes are spelled as there.
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
) AS counted
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
_NOT_BEGUN: Final = """
SELECT user_id, run_id FROM runs INDEXED BY runs_waiting WHERE state = 'queued'
UNION ALL SELECT user_id, run_id FROM runs INDEXED BY runs_ready WHERE state = 'ready'
"""
_UNCLAIMED: Final = """
FROM runs INDEXED BY runs_ready WHERE state = 'ready'
AND (node_id IS NULL OR node_id != ? AND node_id NOT IN (SELECT node_id FROM nodes))
AND EXISTS (SELECT 1 FROM threads WHERE threads.thread_no = runs.thread_no)
"""
# A run that was stopped asks no agent any more. Rows of older versions don't tell the agent.
_CLAIMABLE: Final = f"SELECT user_id, run_id {_UNCLAIMED}"
_OF_AGENTS: Final = " AND (agent IS NULL OR stop_at IS NOT NULL OR agent IN ({}))"
_WANTED: Final = f"SELECT DISTINCT agent {_UNCLAIMED} AND agent IS NOT NULL"
_CLAIM: Final = "UPDATE runs SET node_id = ? WHERE user_id = ? AND run_id = ?"
_HELD: Final = """
SELECT runs.user_id, thread_id, run_id, epoch, fence, thread_no, runs.run_no, state = 'running',
    coalesce(head_seq >= first_seq, FALSE)
FROM runs INDEXED BY runs_in_turn JOIN threads USING (thread_no) JOIN heads USING (thread_no)
WHERE node_id = ? AND state IN ('ready', 'running')
"""
_GIVE_BACK: Final = """
UPDATE runs SET state = 'ready', node_id = NULL
WHERE run_no = ? AND state IN ('ready', 'running') AND EXISTS (
    SELECT 1 FROM heads WHERE heads.thread_no = runs.thread_no AND heads.run_no = runs.run_no
    AND heads.fence = ? AND coalesce(heads.head_seq < runs.first_seq, TRUE)
)
"""


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


def check_terms(
    connection: Connection, user_id: str, terms: Terms, *, is_busy: bool, waiting: int
) -> None:
    """Check that a run may be let in.

    Raises:
        RunConflict: The thread is busy and the policy is `reject`.
        LimitExceeded: The user has too many runs, or too many runs wait on the thread.
    """
    if terms.policy == "reject" and is_busy:
        raise RunConflict("the thread has a run under way", retryable=True)
    most = terms.runs_per_user
    if count_open(connection, user_id, most=most) >= most:
        raise LimitExceeded("runsPerUser", most)
    if is_busy and waiting >= terms.queued_per_thread:
        raise LimitExceeded("queuedRunsPerThread", terms.queued_per_thread)


def place_of(waiting: Waiting, *, is_next: bool) -> dict[str, int]:
    """Return the place of a run that waits: behind all others, or before them."""
    return {"place": waiting.first_place - 1 if is_next else waiting.last_place + 1}


def hand_on(connection: Connection, thread_no: int) -> None:
    """Give the turn to the first run that waits, unless somebody has it.

    It is a statement of its own after the one that freed the turn: only then does it see every run
    that was let in before.
    """
    execute(connection, _HAND_ON, (thread_no, thread_no))


def find_without_turn(connection: Connection) -> list[int]:
    """Return the numbers of threads on which runs wait and nobody has the turn."""
    return load_column(connection, _WITHOUT_TURN)


def mend_turns(connection: Connection) -> int:
    """Hand the turn on where runs wait and nobody has it; return on how many threads."""
    found = find_without_turn(connection)
    for thread_no in found:
        hand_on(connection, thread_no)
    return len(found)


def find_waiting(connection: Connection) -> frozenset[RunKey]:
    """Return the keys of all runs that haven't begun."""
    return frozenset(RunKey(*row) for row in execute(connection, _NOT_BEGUN))


def find_wanted(connection: Connection) -> frozenset[str]:
    """Return the agents of runs whose turn has come and that no node has claimed."""
    return frozenset(load_column(connection, _WANTED, ("",)))


def find_claimable(
    connection: Connection, node_id: str, *, room: int, agents: Collection[str] | None
) -> list[RunKey]:
    """Return up to `room` runs whose turn has come and that the node may claim.

    They ask one of `agents`, or were stopped; None stands for every agent.
    """
    which = "" if agents is None else _OF_AGENTS.format(", ".join("?" * len(agents)) or "''")
    values = (node_id, *(agents or ()), room)
    return [RunKey(*row) for row in execute(connection, f"{_CLAIMABLE}{which} LIMIT ?", values)]


def claim(
    connection: Connection, node_id: str, *, room: int, agents: Collection[str] | None
) -> list[RunKey]:
    """Mark up to `room` runs as the node's own that it may claim; return their keys."""
    keys = find_claimable(connection, node_id, room=room, agents=agents)
    if keys:
        execute_many(connection, _CLAIM, [(node_id, *key) for key in keys])
    return keys


def load_held(connection: Connection, node_id: str) -> list[HeldRun]:
    """Return the runs that have their thread's turn in the name of a node."""
    return [
        HeldRun(
            RunLease(ThreadKey(user_id, thread_id), run_id, epoch, fence, thread_no, run_no),
            bool(has_begun),
            bool(has_events),
        )
        for (
            user_id, thread_id, run_id, epoch, fence, thread_no, run_no, has_begun, has_events,
        ) in execute(connection, _HELD, (node_id,))
    ]  # fmt: skip


def give_back(connection: Connection, lease: RunLease) -> bool:
    """Let any node claim a run without an event; False when the lease isn't the run's."""
    if not execute(connection, _GIVE_BACK, (lease.run_no, lease.fence)).rowcount:
        return False
    release(connection, lease)
    return True
