"""Fills a database with threads that lie quiet, by SQL alone: a hundred thousand in seconds."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec

from isolane.contracts import RunDraft
from isolane.engines.sqlite.database import open_database
from isolane.settings import DATABASE_NAME

USER = "u1"
EPOCH = "0"
QUIET = (1, 8, 4)
"""Of a quiet thread: its runs, the log entries of each, and the messages of each."""

_COUNT = """
WITH RECURSIVE numbers (n) AS (
    SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < :count
)
"""
_THREADS = """
INSERT INTO threads (thread_no, user_id, thread_id, epoch, title, created_at, updated_at)
SELECT :threads + n, :user, :prefix || n, :epoch, 'Thread ' || n, :now + n, :now + n FROM numbers
"""
_HEADS = """
INSERT INTO heads (thread_no, head_seq) SELECT :threads + n, :runs * :entries FROM numbers
"""
_RUNS = """
INSERT INTO runs (run_no, user_id, run_id, thread_no, state, draft, first_seq, last_seq,
    created_at, started_at, ended_at, outcome, is_logged)
SELECT :first_run + n, :user, :prefix || n, :threads + n / :runs, 'ended', :draft,
    n % :runs * :entries + 1, (n % :runs + 1) * :entries, :now, :now, :now, 'success', 1
FROM numbers
"""
_ENTRIES = """
INSERT INTO events (thread_no, seq, run_no, payload)
SELECT :threads + n / (:runs * :entries), n % (:runs * :entries) + 1,
    :first_run + n / :entries, :event FROM numbers
"""
_MESSAGES = """
INSERT INTO messages (thread_no, message_id, run_no, payload, since_seq)
SELECT :threads + n / (:runs * :messages), 'm-' || n, :first_run + n / :messages,
    CAST(json_object('id', 'm-' || n, 'role', 'user', 'content', :words) AS BLOB),
    n / :messages % :runs * :entries + 1 FROM numbers
"""

_FIRST = {
    "threads": "SELECT coalesce(max(thread_no), 0) + 1 FROM threads",
    "first_run": "SELECT coalesce(max(run_no), 0) + 1 FROM runs",
}
"""The numbers that new rows begin with."""


def make_database(data: Path) -> None:
    """Make the folder and its empty tables."""
    data.mkdir()
    asyncio.run(_make(f"sqlite:///{data / DATABASE_NAME}"))


async def _make(url: str) -> None:
    database = await open_database(url)
    await database.close()


def add_threads(
    data: Path,
    count: int,
    *,
    prefix: str,
    holds: tuple[int, int, int] = QUIET,
    words: str = "What I said there",
) -> None:
    """Add `count` threads of the user, each with as many ended runs, entries and messages.

    All messages are of the user, and say `words`.
    """
    runs, entries, messages = holds
    values: dict[str, object] = {
        "user": USER,
        "prefix": prefix,
        "epoch": EPOCH,
        "now": round(time.time() * 1000),
        "draft": msgspec.json.encode(RunDraft("default", (), None, {})),
        "event": b'{"type":"CUSTOM","name":"said","value":"some words of an answer"}',
        "runs": runs,
        "entries": entries,
        "messages": messages,
        "words": words,
    }
    with _opened(data) as connection:
        values |= {name: connection.execute(query).fetchone()[0] for name, query in _FIRST.items()}
        for statement, rows in (
            (_THREADS, count),
            (_HEADS, count),
            (_RUNS, count * runs),
            (_ENTRIES, count * runs * entries),
            (_MESSAGES, count * runs * messages),
        ):
            insert, _, rest = statement.partition("SELECT")
            connection.execute(f"{insert}{_COUNT}SELECT{rest}", {**values, "count": rows})


@contextmanager
def _opened(data: Path) -> Iterator[sqlite3.Connection]:
    """Open the file without waiting for the disk: what is lost here is made anew."""
    with closing(sqlite3.connect(data / DATABASE_NAME)) as connection, connection:
        connection.execute("PRAGMA synchronous=OFF")
        yield connection
