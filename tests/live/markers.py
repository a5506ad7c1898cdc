"""Markers: words that one user says and nobody else, and the search for them in everything."""

from __future__ import annotations

import re
import secrets
import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

_MARKER: Final = re.compile(rb"mark-[0-9a-f]{16}")
OWNER: Final = "user_id"
"""The column that says whose a row is."""


def new_marker() -> str:
    """Return a marker that nobody has."""
    return f"mark-{secrets.token_hex(8)}"


def find_markers(found: str | bytes) -> set[str]:
    """Return every marker, whoever's it is, that stands in what was found."""
    data = found.encode() if isinstance(found, str) else found
    return {marker.decode() for marker in _MARKER.findall(data)}


def owners_of_markers(database: Path) -> dict[str, set[str | None]]:
    """Return whose the rows are that hold each marker; None where a table doesn't say it."""
    owners: defaultdict[str, set[str | None]] = defaultdict(set)
    for row in _rows(database):
        for marker in find_markers(b"\0".join(map(_bytes, row.values()))):
            owners[marker].add(row.get(OWNER))
    return dict(owners)


def addresses(database: Path) -> set[tuple[str, str]]:
    """Return whose threads have rows in any table: pairs of user and thread."""
    names = {OWNER, "thread_id"}
    return {(row[OWNER], row["thread_id"]) for row in _rows(database) if row.keys() >= names}


def _rows(database: Path) -> Iterator[dict[str, Any]]:
    """Yield each row of each table, whatever tables there are."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        connection.row_factory = sqlite3.Row
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        for (table,) in tables.fetchall():
            for row in connection.execute(f'SELECT * FROM "{table}"'):  # noqa: S608 - its own name
                yield dict(row)


def _bytes(value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()
