"""Runs that waited when an earlier version stopped: their places, stops and turns are kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sqlalchemy import Connection
from tests.house import ALICE, context_of, draft_of, open_ground, open_older, sqlite_url

from isolane.context import RunKey
from isolane.contracts import RunState, Terms

OLDER = "0014"
_THREAD = """
INSERT INTO threads (user_id, thread_id, epoch, title, created_at, updated_at, trimmed_seq)
VALUES (?, ?, 'e', '', 0, 0, 0)
"""
_RUN = """
INSERT INTO runs (user_id, run_id, thread_id, state, draft, first_seq, created_at)
VALUES (?, ?, ?, ?, ?, ?, ?)
"""


def draft(*, policy: str | None = None, **more: object) -> bytes:
    """Return a draft as an earlier version wrote it."""
    props = {} if policy is None else {"forwardedProps": {"policy": policy}}
    kept = {"agent": "default", "messages": [], "rewind_to": None, "request": props, **more}
    return json.dumps(kept, separators=(",", ":")).encode()


def fill(connection: Connection) -> None:
    """Write what an earlier version left: two runs under way, and a line of six behind them."""
    connection.exec_driver_sql(_THREAD, (ALICE, "thread"))
    rows = (
        ("old", "running", draft(), 1, 0),
        ("newer", "running", draft(), 3, 1),
        ("a", "queued", draft(), None, 2),
        ("b", "queued", draft(policy="interrupt"), None, 3),
        ("c", "queued", draft(asks_again=True), None, 4),
        ("d", "queued", draft(policy="queue", stopped_at=7), None, 5),
        ("e", "queued", b"\0not a draft", None, 6),
    )
    for run_id, state, kept, first_seq, created_at in rows:
        values = (ALICE, run_id, "thread", state, kept, first_seq, created_at)
        connection.exec_driver_sql(_RUN, values)


async def test_who_waited_stands_where_it_stood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = sqlite_url(tmp_path)
    older = await open_older(url, OLDER, monkeypatch)
    await older.write(fill)
    await older.close()
    async with open_ground(url) as ground:
        book = ground.book
        *under_way, first, second, third, fourth, fifth = await book.load_open_runs()
        assert {run.run_id for run in under_way} == {"old", "newer"}
        waiting = (first, second, third, fourth, fifth)
        assert [run.run_id for run in waiting] == ["c", "b", "a", "d", "e"]
        assert [run.stop_at for run in waiting] == [None, None, None, 7, None]
        assert [run.run_id for run in await book.find_lost()] == ["newer"]
        late = await book.admit(context_of("late"), draft_of("x"), Terms())
        assert late.position == 6  # type: ignore[union-attr]
        await ground.end_run(context_of("newer"))
        assert [each.run.run_id for each in await book.claim("node", room=9)] == ["c"]
        stored = await ground.store.load_run(RunKey(ALICE, "old"))
        assert stored is not None
        assert stored.state is RunState.RUNNING
