"""A thread's turns page by page, from the newest back, with their messages."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from itertools import groupby
from typing import Final

import msgspec
from sqlalchemy import Connection

from isolane.context import ThreadKey
from isolane.contracts import StandingRun, StandingTurn, TurnPage
from isolane.errors import InvalidCursor
from isolane.events.transcript import FINGERPRINT_BYTES, Message, fingerprint
from isolane.sql.address import StoredThread, load_stored
from isolane.sql.attachments import load_whole
from isolane.sql.driver import execute, load_column, load_value
from isolane.sql.heads import NO_RUN
from isolane.sql.turn_rows import (
    NEVER,
    TurnRow,
    find_run,
    find_run_by_number,
    first_of,
    load_back,
)

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


def load_turns(
    key: ThreadKey, before: str | None, limit: int, max_bytes: int, connection: Connection
) -> TurnPage | None:
    """Return a page of the turns that stand, the newest first; None without a thread.

    Raises:
        InvalidCursor: `before` names nothing that stands.
    """
    stored = load_stored(connection, key)
    if execute(connection, _THREAD, (stored.thread_no,)).fetchone() is None:
        return None
    place = NEVER if before is None else _find_place(connection, stored, before)
    turns: list[StandingTurn] = []
    size = 0
    with closing(load_back(connection, stored, place)) as rows:
        for turn_id, group in groupby(rows, lambda row: row.turn_id):
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
    connection: Connection, stored: StoredThread, rows: Iterable[TurnRow]
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
        is_added = [_fingerprint_of_id(message) in asked for message in messages]
        runs.append(
            StandingRun(
                row.to_run(),
                added=[one for one, is_so in zip(messages, is_added, strict=True) if is_so],
                left=[one for one, is_so in zip(messages, is_added, strict=True) if not is_so],
                is_whole=len(standing) == len(payloads),
            )
        )
    return runs, size


def _fingerprint_of_id(message: Message) -> bytes:
    """Return the fingerprint of a message's id, as a run's row has it in `asked`."""
    return fingerprint({"id": message["id"]})[0]


def _ids_in(asked: bytes) -> frozenset[bytes]:
    """Return the fingerprints of ids. Behind each stands that of the whole message."""
    step = 2 * FINGERPRINT_BYTES
    places = range(0, len(asked), step)
    return frozenset(asked[place : place + FINGERPRINT_BYTES] for place in places)


def _load_payloads(connection: Connection, stored: StoredThread, run_no: int) -> list[bytes | None]:
    """Return a run's messages in order, as JSON; None for one that was taken back."""
    written = load_column(connection, _OF_RUN, (stored.thread_no, run_no))
    return [each and load_whole(connection, stored, each) for each in written]


def _decode(payload: bytes) -> Message:
    message: Message = msgspec.json.decode(payload)
    return message


def _find_place(connection: Connection, stored: StoredThread, before: str) -> int:
    """Return the first log entry of the turn that `before` names, 0 for a message of the seed."""
    run_no = load_value(connection, _RUN_OF, (stored.thread_no, before))
    if run_no == NO_RUN:
        return 0
    if run_no is None:
        row = find_run(connection, stored, before)
    else:
        row = find_run_by_number(connection, run_no)
    if row is None or row.first_seq is None or row.is_rewound:
        raise InvalidCursor("before: must be the id of a turn or of a message of this thread")
    return first_of(connection, stored, row.turn_id)
