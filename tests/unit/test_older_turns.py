"""Runs of an earlier version get their turns, as far as their messages tell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection
from tests.house import context_of, draft_of, key_of, open_ground, open_older, sqlite_url

from isolane.sql.turns import DatabaseTurnBook

RUN = """
INSERT INTO runs (user_id, run_id, thread_id, state, draft, first_seq, last_seq, created_at,
    ended_at, is_logged)
VALUES ('alice', ?, ?, 'ended', '{}', ?, ?, 0, 1, 1)
"""
MESSAGE = """
INSERT INTO messages (user_id, thread_id, message_id, run_id, payload, since_seq, until_seq)
VALUES ('alice', 'thread', ?, ?, ?, ?, ?)
"""
THREAD = """
INSERT INTO threads (user_id, thread_id, epoch, trimmed_seq, title, created_at, updated_at)
VALUES ('alice', ?, '0', 8, '', 0, 0)
"""
MESSAGES: list[tuple[str, str, str, int, int | None]] = [
    ("q1", "r1", "user", 1, None),
    ("a1", "r1", "assistant", 1, None),
    ("x", "r2", "tool", 2, None),
    ("q3", "r3", "user", 3, 4),  # taken back by r4
    ("a3", "r3", "assistant", 3, 4),
    ("q4", "r4", "user", 4, None),
    ("q6", "r6", "", 6, 8),  # taken back by r8 long ago: only its id is left
    ("y", "r8", "tool", 8, None),
]
"""An id, a run, a role, and the entries between which it stands. r5 and r7 have no messages."""


def fill(connection: Connection) -> None:
    for thread_id in ("thread", "other"):
        connection.exec_driver_sql(THREAD, (thread_id,))
    for number in range(1, 9):
        connection.exec_driver_sql(RUN, (f"r{number}", "thread", number, number))
    connection.exec_driver_sql(RUN, ("r9", "other", 1, 1))
    for message_id, run_id, role, since, until in MESSAGES:
        payload = f'{{"id":"{message_id}","role":"{role}","content":""}}'.encode() if role else b""
        connection.exec_driver_sql(MESSAGE, (message_id, run_id, payload, since, until))


def load_turns(connection: Connection) -> list[tuple[Any, ...]]:
    found = connection.exec_driver_sql(
        "SELECT run_id, turn_id FROM runs WHERE is_rewound = 0 ORDER BY run_id"
    )
    return [tuple(row) for row in found]


async def test_runs_of_an_earlier_version_get_their_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = sqlite_url(tmp_path)
    older = await open_older(url, "0011", monkeypatch)
    await older.write(fill)
    await older.close()
    async with open_ground(url) as ground:
        assert await ground.database.read(load_turns) == [
            ("r1", "r1"), ("r2", "r1"), ("r4", "r4"), ("r5", "r4"), ("r8", "r4"), ("r9", "r9"),
        ]  # fmt: skip
        turns = DatabaseTurnBook(ground.database)
        assert await turns.load_turn(key_of(), "r7") is None
        await ground.begin_run(context_of("new"), draft_of())
        last = await turns.load_last_turn(key_of())
        assert last is not None
        assert [run.run_id for run in last.runs] == ["r4", "r5", "r8", "new"]
