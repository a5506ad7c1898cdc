"""Who keeps most: the users with the most bytes, and what all keep together."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from isolane.sql.columns import to_table
from isolane.sql.driver import Driver
from isolane.sql.usage import EVERYBODY, Kept

# A user may have a row and keep nothing any more.
_BIGGEST: Final = """
SELECT user_id, threads, bytes FROM usage
WHERE user_id != ? AND threads + bytes > 0 ORDER BY bytes DESC, user_id LIMIT ?
"""
_TOTALS: Final = """
SELECT count(*), CAST(coalesce(sum(threads), 0) AS BIGINT), CAST(coalesce(sum(bytes), 0) AS BIGINT)
FROM usage WHERE user_id != ? AND threads + bytes > 0
"""


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
        return to_table(rows, numbers={1, 2})


def _cells(user: UserKept) -> tuple[str, str, str]:
    return user.user_id, str(user.threads), str(user.bytes)


def load_report(driver: Driver, limit: int) -> Report:
    """Return a report with up to `limit` users, within somebody's transaction."""
    users = [UserKept(*row) for row in driver.execute(_BIGGEST, (EVERYBODY, limit))]
    count, *totals = driver.execute(_TOTALS, (EVERYBODY,)).fetchone()
    return Report(users, count, Kept(*totals))
