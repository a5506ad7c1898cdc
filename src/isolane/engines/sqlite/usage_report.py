"""Who keeps most: read from the database file beside a gateway, or without one. Changes nothing."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from isolane.engines.sqlite.file import path_of
from isolane.sql.usage import EVERYBODY, Kept

# A user may have a row and keep nothing any more.
_BIGGEST: Final = """
SELECT user_id, threads, bytes FROM usage
WHERE user_id != ? AND threads + bytes > 0 ORDER BY bytes DESC, user_id LIMIT ?
"""
_TOTALS: Final = "SELECT threads, bytes FROM usage WHERE user_id = ?"
_COUNT: Final = "SELECT count(*) FROM usage WHERE user_id != ? AND threads + bytes > 0"
_TABLE: Final = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'usage'"


class NothingToReport(Exception):
    """There is no database to read; one sentence says why."""


class UserKept(NamedTuple):
    """What one user keeps."""

    user_id: str
    threads: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Report:
    """The users who keep most, who keeps most first, and what all keep together."""

    users: Sequence[UserKept]
    user_count: int
    """How many users keep something, those that aren't listed too."""
    totals: Kept

    def to_json(self) -> str:
        """Return one JSON object, with the names of the wire."""
        users = [
            {"userId": user.user_id, "storedThreads": user.threads, "storedBytes": user.bytes}
            for user in self.users
        ]
        whole = {
            "users": users,
            "userCount": self.user_count,
            "storedThreads": self.totals.threads,
            "storedBytes": self.totals.bytes,
        }
        return json.dumps(whole, ensure_ascii=False)

    def to_table(self) -> str:
        """Return lines for people: a head, a line for each user, and one for all."""
        all_users = UserKept(f"all {self.user_count}", *self.totals)
        rows = [("user", "threads", "bytes"), *(_cells(user) for user in (*self.users, all_users))]
        widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
        return "\n".join(
            f"{name:<{widths[0]}}  {threads:>{widths[1]}}  {size:>{widths[2]}}"
            for name, threads, size in rows
        )


def _cells(user: UserKept) -> tuple[str, str, str]:
    return user.user_id, str(user.threads), str(user.bytes)


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
    users = [UserKept(*row) for row in connection.execute(_BIGGEST, (EVERYBODY, limit))]
    (count,) = connection.execute(_COUNT, (EVERYBODY,)).fetchone()
    totals = connection.execute(_TOTALS, (EVERYBODY,)).fetchone()
    return Report(users, count, Kept(*(totals or (0, 0))))
