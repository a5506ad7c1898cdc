"""The turns of a thread: what was asked, and all runs that answered it.

A run that adds a message of a user begins a turn, and its id is the turn's id. The next run that
adds no such message, as one that brings the answer of a tool, goes on with that turn. The row of a
run keeps the id of its turn, because old runs may lose their entries in the log.

A rewind marks the runs that it takes back. The runs that stand are in an index of their own, so
that a question that was asked a thousand times is as fast to find as one that was asked once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby
from typing import Any, Final, NamedTuple

import msgspec
from sqlalchemy import Connection

from isolane.context import ThreadKey
from isolane.contracts import StandingRun, StandingTurn, Turn, TurnPage, TurnRun
from isolane.engines.sqlite.address import StoredThread, load_stored
from isolane.engines.sqlite.attachments import load_whole
from isolane.engines.sqlite.database import Database
from isolane.engines.sqlite.heads import NO_RUN
from isolane.engines.sqlite.line import to_run_state
from isolane.engines.sqlite.pages import PAGE_BYTES, PAGE_MAX
from isolane.errors import InvalidCursor
from isolane.events.transcript import FINGERPRINT_BYTES, Message, fingerprint

# As text: each is a look at one index, and SQLAlchemy's binding costs as much again.
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
_UNDER_WAY: Final = """
SELECT run_id FROM runs INDEXED BY runs_in_turn
WHERE thread_no = ? AND state IN ('ready', 'running')
"""
_WAITING: Final = """
SELECT run_id FROM runs INDEXED BY runs_waiting
WHERE thread_no = ? AND state = 'queued' ORDER BY place LIMIT 1
"""
_THREAD: Final = "SELECT 1 FROM threads WHERE thread_no = ?"
_OF_RUN: Final = """
SELECT CASE WHEN until_seq IS NULL THEN payload END FROM messages INDEXED BY messages_by_run
WHERE thread_no = ? AND run_no = ? ORDER BY number
"""
_RUN_OF: Final = """
SELECT run_no FROM messages
WHERE thread_no = ? AND message_id = ? AND until_seq IS NULL
ORDER BY number LIMIT 1
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
_NEVER: Final = 2**63 - 1
"""Greater than the number of any log entry."""


class _Row(NamedTuple):
    """As much of a run's row as turns need."""

    run_id: str
    state: str
    first_seq: int | None
    last_seq: int | None
    ended_at: int | None
    turn_id: str
    is_turn_open: bool
    """Whether the run waits, and which turn it will belong to isn't known yet."""
    is_rewound: bool
    thread_no: int
    run_no: int
    attached_to: str | None
    asked: bytes | None

    def to_run(self) -> TurnRun:
        """Return what is told of the run."""
        state = to_run_state(self.state)
        return TurnRun(self.run_id, state, self.first_seq, self.last_seq, self.ended_at)


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
        work = partial(_load_turns, key, before, limit, max_bytes)
        return await self._database.read(work, lane=key.user_id)


def find_turn(connection: Connection, key: ThreadKey, run_id: str) -> str:
    """Return the id of the turn that a run goes on with when it adds no message of a user.

    That is the newest turn that stands. Where none stands, the run begins one.
    """
    newest = _find_newest(connection, load_stored(connection, key), before=_NEVER)
    return run_id if newest is None else newest.turn_id


def take_back_turns(connection: Connection, key: ThreadKey, *, since: int) -> None:
    """Mark the runs that a rewind took back, after their messages were.

    `since` is the first log entry of the run that added the oldest message that was taken back.
    That run stands as long as one of its messages does.
    """
    stored = load_stored(connection, key)
    connection.exec_driver_sql(_TAKE_BACK, (stored.thread_no, since))
    connection.exec_driver_sql(_TAKE_BACK_EMPTY, (stored.thread_no, since))


def move_question(connection: Connection, number: int, run_no: int) -> None:
    """Let the message in row `number` be that of run number `run_no`, which asks it again."""
    connection.exec_driver_sql(_MOVE, (run_no, number))


def _load_turn(key: ThreadKey, run_id: str, connection: Connection) -> Turn | None:
    stored = load_stored(connection, key)
    row = _find_run(connection, stored, run_id)
    if row is None or row.is_rewound:
        return None
    if row.first_seq is not None:
        return _turn_of(connection, stored, row.turn_id)
    newest = _find_newest(connection, stored, before=_NEVER) if row.is_turn_open else None
    if newest is None:
        return Turn(row.run_id, [row.to_run()])
    before = _turn_of(connection, stored, newest.turn_id)
    return Turn(before.turn_id, [*before.runs, row.to_run()])


def _load_last_turn(key: ThreadKey, connection: Connection) -> Turn | None:
    stored = load_stored(connection, key)
    newest = _find_newest(connection, stored, before=_NEVER)
    return None if newest is None else _turn_of(connection, stored, newest.turn_id)


def _load_open_turn(key: ThreadKey, connection: Connection) -> Turn | None:
    stored = load_stored(connection, key)
    for query in (_UNDER_WAY, _WAITING):
        run_id = connection.exec_driver_sql(query, (stored.thread_no,)).scalar_one_or_none()
        if run_id is not None:
            return _load_turn(key, run_id, connection)
    return None


def _load_turns(
    key: ThreadKey, before: str | None, limit: int, max_bytes: int, connection: Connection
) -> TurnPage | None:
    stored = load_stored(connection, key)
    if connection.exec_driver_sql(_THREAD, (stored.thread_no,)).first() is None:
        return None
    place = _NEVER if before is None else _find_place(connection, stored, before)
    turns: list[StandingTurn] = []
    size = 0
    with connection.exec_driver_sql(_BACK, (stored.thread_no, place)) as rows:
        for turn_id, group in groupby(map(_Row._make, rows), lambda row: row.turn_id):
            if len(turns) == limit:
                return TurnPage(turns, has_older=True)
            runs, turn_bytes = _load_runs(connection, stored, group)
            size += turn_bytes
            if turns and size > max_bytes:
                return TurnPage(turns, has_older=True)
            turns.append(StandingTurn(turn_id, runs[::-1]))
    seed = _load_payloads(connection, stored, NO_RUN) if place else []
    return TurnPage(turns, has_older=False, seed=[_decode(one) for one in seed if one is not None])


def _load_runs(
    connection: Connection, stored: StoredThread, rows: Iterable[_Row]
) -> tuple[list[StandingRun], int]:
    """Return runs with their messages, and how many bytes those have as JSON."""
    runs: list[StandingRun] = []
    size = 0
    for row in rows:
        payloads = _load_payloads(connection, stored, row.run_no)
        standing = [payload for payload in payloads if payload is not None]
        size += sum(map(len, standing))
        asked = _ids_in(row.asked or b"")
        messages = [_decode(payload) for payload in standing]
        is_added = [fingerprint_of_id(message) in asked for message in messages]
        runs.append(
            StandingRun(
                row.to_run(),
                added=[one for one, is_so in zip(messages, is_added, strict=True) if is_so],
                left=[one for one, is_so in zip(messages, is_added, strict=True) if not is_so],
                is_whole=len(standing) == len(payloads),
            )
        )
    return runs, size


def fingerprint_of_id(message: Message) -> bytes:
    """Return the bytes that stand for a message's id among what a run asked."""
    return fingerprint({"id": message["id"]})[0]


def _ids_in(asked: bytes) -> frozenset[bytes]:
    """Return the fingerprints of ids; each is followed by that of the whole message."""
    step = 2 * FINGERPRINT_BYTES
    places = range(0, len(asked), step)
    return frozenset(asked[place : place + FINGERPRINT_BYTES] for place in places)


def _load_payloads(connection: Connection, stored: StoredThread, run_no: int) -> list[bytes | None]:
    """Return a run's messages in order, as JSON; None for one that was taken back."""
    written = connection.exec_driver_sql(_OF_RUN, (stored.thread_no, run_no)).scalars().all()
    return [each and load_whole(connection, stored, each) for each in written]


def _decode(payload: bytes) -> Message:
    message: Message = msgspec.json.decode(payload)
    return message


def _find_place(connection: Connection, stored: StoredThread, before: str) -> int:
    """Return the first log entry of the turn that `before` names, 0 for a message of the seed."""
    run_no = connection.exec_driver_sql(_RUN_OF, (stored.thread_no, before)).scalar_one_or_none()
    if run_no == NO_RUN:
        return 0
    if run_no is None:
        row = _find_run(connection, stored, before)
    else:
        found = connection.exec_driver_sql(_RUN_BY_NUMBER, (run_no,)).one_or_none()
        row = None if found is None else _Row._make(found)
    if row is None or row.first_seq is None or row.is_rewound:
        raise InvalidCursor("before: must be the id of a turn or of a message of this thread")
    return _first_of(connection, stored, row.turn_id)


def _find_run(connection: Connection, stored: StoredThread, run_id: str) -> _Row | None:
    """Return a run of the thread. The id of one that attached leads to the other."""
    found = connection.exec_driver_sql(_RUN, (stored.user_id, run_id)).one_or_none()
    row = None if found is None else _Row._make(found)
    if row is None or row.thread_no != stored.thread_no:
        return None
    return row if row.attached_to is None else _find_run(connection, stored, row.attached_to)


def _find_newest(connection: Connection, stored: StoredThread, *, before: int) -> _Row | None:
    """Return the newest run that stands and begins before the log entry `before`."""
    with connection.exec_driver_sql(_BACK, (stored.thread_no, before)) as rows:
        return next(_to_rows(rows), None)


def _turn_of(connection: Connection, stored: StoredThread, turn_id: str) -> Turn:
    runs: list[TurnRun] = []
    first = _first_of(connection, stored, turn_id)
    with connection.exec_driver_sql(_FROM, (stored.thread_no, first)) as rows:
        for row in _to_rows(rows):
            if row.turn_id != turn_id:  # runs of one turn stand in a row
                break
            runs.append(row.to_run())
    return Turn(turn_id, runs)


def _first_of(connection: Connection, stored: StoredThread, turn_id: str) -> int:
    """Return the first log entry of the run that began the turn."""
    row = _find_run(connection, stored, turn_id)
    return 0 if row is None else row.first_seq or 0


def _to_rows(rows: Iterable[Sequence[Any]]) -> Iterator[_Row]:
    return map(_Row._make, rows)
