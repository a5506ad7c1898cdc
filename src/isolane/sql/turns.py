"""The turns of a thread: what was asked, and all runs that answered it.

A run that adds a message of a user begins a turn, and its id is the turn's id. A later run that
adds none belongs to the same turn; it brings the answer of a tool, for example. The row of a run
has the id of its turn, because old runs may lose their entries in the log.

A rewind marks the runs that it takes back. The other runs are in an index of their own. So a
question that was asked a thousand times is found as fast as one that was asked once.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from sqlalchemy import Connection

from isolane.context import ThreadKey
from isolane.contracts import Turn, TurnPage
from isolane.sql.address import load_stored
from isolane.sql.database import Database
from isolane.sql.driver import execute, load_value
from isolane.sql.pages import PAGE_BYTES, PAGE_MAX
from isolane.sql.turn_pages import load_turns
from isolane.sql.turn_rows import NEVER, find_newest, find_run, turn_of

_UNDER_WAY: Final = """
SELECT run_id FROM runs INDEXED BY runs_in_turn
WHERE thread_no = ? AND state IN ('ready', 'running')
"""
_WAITING: Final = """
SELECT run_id FROM runs INDEXED BY runs_waiting
WHERE thread_no = ? AND state = 'queued' ORDER BY place LIMIT 1
"""
_TAKE_BACK: Final = """
UPDATE runs SET is_rewound = 1
WHERE thread_no = ? AND is_rewound = 0 AND first_seq > ?
"""
_TAKE_BACK_EMPTY: Final = """
UPDATE runs SET is_rewound = 1
WHERE thread_no = ? AND is_rewound = 0 AND first_seq = ? AND NOT EXISTS (
    SELECT 1 FROM messages INDEXED BY messages_by_run
    WHERE messages.thread_no = runs.thread_no AND messages.run_no = runs.run_no
    AND messages.until_seq IS NULL
)
"""
_MOVE: Final = "UPDATE messages SET run_no = ? WHERE number = ?"


class DatabaseTurnBook:
    """Reads the turns of threads from the tables `runs` and `messages`."""

    def __init__(self, database: Database) -> None:
        """Read from `database`."""
        self._database = database

    async def load_turn(self, key: ThreadKey, run_id: str) -> Turn | None:
        """Return the turn of a run; see `TurnBook`."""
        return await self._database.read(partial(_load_turn, key, run_id), lane=key.user_id)

    async def load_last_turn(self, key: ThreadKey) -> Turn | None:
        """Return the newest turn that stands; see `TurnBook`."""
        return await self._database.read(partial(_load_last_turn, key), lane=key.user_id)

    async def load_open_turn(self, key: ThreadKey) -> Turn | None:
        """Return the turn of the oldest unfinished run; see `TurnBook`."""
        return await self._database.read(partial(_load_open_turn, key), lane=key.user_id)

    async def load_turns(
        self,
        key: ThreadKey,
        *,
        before: str | None = None,
        limit: int = PAGE_MAX,
        max_bytes: int = PAGE_BYTES,
    ) -> TurnPage | None:
        """Return a page of the turns that stand, with their messages; see `TurnBook`."""
        work = partial(load_turns, key, before, limit, max_bytes)
        return await self._database.read(work, lane=key.user_id)


def find_turn(connection: Connection, key: ThreadKey, run_id: str) -> str:
    """Return the id of the turn that a run goes on with when it adds no message of a user.

    That is the newest turn that stands. Where none stands, the run begins one.
    """
    newest = find_newest(connection, load_stored(connection, key), before=NEVER)
    return run_id if newest is None else newest.turn_id


def take_back_turns(connection: Connection, key: ThreadKey, *, since: int) -> None:
    """Mark the runs that a rewind took back, after it took their messages back.

    `since` is the first log entry of the run that added the oldest message that was taken back.
    That run stands while one of its messages stands.
    """
    stored = load_stored(connection, key)
    execute(connection, _TAKE_BACK, (stored.thread_no, since))
    execute(connection, _TAKE_BACK_EMPTY, (stored.thread_no, since))


def move_question(connection: Connection, number: int, run_no: int) -> None:
    """Give the message in row `number` to run number `run_no`, which asks it again."""
    execute(connection, _MOVE, (run_no, number))


def _load_turn(key: ThreadKey, run_id: str, connection: Connection) -> Turn | None:
    stored = load_stored(connection, key)
    row = find_run(connection, stored, run_id)
    if row is None or row.is_rewound:
        return None
    if row.first_seq is not None:
        return turn_of(connection, stored, row.turn_id)
    newest = find_newest(connection, stored, before=NEVER) if row.is_turn_open else None
    if newest is None:
        return Turn(row.run_id, [row.to_run()])
    before = turn_of(connection, stored, newest.turn_id)
    return Turn(before.turn_id, [*before.runs, row.to_run()])


def _load_last_turn(key: ThreadKey, connection: Connection) -> Turn | None:
    stored = load_stored(connection, key)
    newest = find_newest(connection, stored, before=NEVER)
    return None if newest is None else turn_of(connection, stored, newest.turn_id)


def _load_open_turn(key: ThreadKey, connection: Connection) -> Turn | None:
    stored = load_stored(connection, key)
    for query in (_UNDER_WAY, _WAITING):
        run_id = load_value(connection, query, (stored.thread_no,))
        if run_id is not None:
            return _load_turn(key, run_id, connection)
    return None
