"""Who keeps most, read from the database file beside a gateway, or without one. Changes nothing."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

from isolane.engines.sqlite.file import path_of
from isolane.sql.usage_report import NothingToReport, Report, load_report

_TABLE: Final = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'usage'"


def read_report(url: str, limit: int) -> Report:
    """Return a report with up to `limit` users.

    Raises:
        NothingToReport: There is no database to read.
    """
    path = path_of(url)
    if path is None:
        raise NothingToReport("The database is in memory: only its gateway sees it.")
    if not path.is_file():
        raise NothingToReport(f"There is no database at {path}: --data names its folder.")
    try:
        with closing(_open(path)) as connection:
            return _read(connection, path, limit)
    except sqlite3.Error as error:
        raise NothingToReport(f"The database at {path} can't be read: {error}.") from error


def _open(path: Path) -> sqlite3.Connection:
    # Without a write-ahead log nobody has the file open. SQLite would make one then and leave it,
    # and it would be whose who reads, where the gateway's own user may not write.
    is_open = path.with_name(f"{path.name}-wal").exists()
    options = "mode=ro" if is_open else "mode=ro&immutable=1"
    return sqlite3.connect(f"{path.as_uri()}?{options}", uri=True, isolation_level=None)


def _read(connection: sqlite3.Connection, path: Path, limit: int) -> Report:
    connection.execute("BEGIN")  # all of one moment
    if connection.execute(_TABLE).fetchone() is None:
        raise NothingToReport(
            f"The database at {path} is of an earlier version: start the gateway on it once."
        )
    return load_report(connection, limit)
