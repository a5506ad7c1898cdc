"""Markers: words that only one user says, and the search for them in everything."""

from __future__ import annotations

import re
import secrets
import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

_MARKER: Final = re.compile(rb"mark\.[\w-]+\.")
OWNER: Final = "user_id"
"""Column that names the user of a row."""


def marker_of(name: str) -> str:
    """Return the marker of a name, which has only letters, digits, `_` and `-`."""
    return f"mark.{name}."


def new_marker() -> str:
    """Return a marker that nobody has."""
    return marker_of(secrets.token_hex(8))


def find_markers(found: str | bytes) -> list[str]:
    """Return every marker in a text or in bytes, each as often as it occurs."""
    data = found.encode() if isinstance(found, str) else found
    return [marker.decode() for marker in _MARKER.findall(data)]


def owners_of_markers(database: Path) -> dict[str, set[str | None]]:
    """Return the users of the rows with each marker; None for a table without a user column."""
    owners: defaultdict[str, set[str | None]] = defaultdict(set)
    for row in _rows(database):
        for marker in find_markers(b"\0".join(map(_bytes, row.values()))):
            owners[marker].add(row.get(OWNER))
    return dict(owners)


def addresses(database: Path) -> set[tuple[str, str]]:
    """Return the threads with rows in any table, as pairs of user and thread."""
    names = {OWNER, "thread_id"}
    found = [row for row in _rows(database) if row.keys() >= names]
    return {(row[OWNER], row["thread_id"]) for row in found if row["thread_id"] is not None}


def _rows(database: Path) -> Iterator[dict[str, Any]]:
    """Yield each row of each table; a row that has the number of a thread gets its address, too.

    A thread that is being removed has no address left, only a user.
    """
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        connection.row_factory = sqlite3.Row
        named = "SELECT thread_no, user_id, thread_id FROM threads UNION ALL "
        named += "SELECT thread_no, user_id, NULL FROM removals"
        threads = {number: (user, name) for number, user, name in connection.execute(named)}
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        for (table,) in tables.fetchall():
            for row in connection.execute(f'SELECT * FROM "{table}"'):  # noqa: S608 - its own name
                columns = dict(row)
                user, thread_id = threads.get(columns.get("thread_no"), (None, None))
                yield {OWNER: user, "thread_id": thread_id} | columns if user else columns


def _bytes(value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()
