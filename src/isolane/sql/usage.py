"""What each user keeps: one narrow row, changed in the transaction that changes what it counts.

Counted are threads, log entries, messages, shared states, runs and attachments: the bytes of their
payloads as they are written, and 100 for each of them. So a quota is one look at one row, however
much is kept. One more row holds the totals, where there is one writer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, NamedTuple

from sqlalchemy import Connection

from isolane.context import RunKey
from isolane.errors import QuotaExceeded
from isolane.sql.database import Database
from isolane.sql.driver import execute, execute_many, has_one_writer, load_value

EVERYBODY: Final = ""
"""Name of the row with the totals. No user can have it: a user's name isn't empty."""
ROW_BYTES: Final = 100
"""Counted for each row beside its payload: about what its keys take on the disk."""
UNLIMITED: Final = 2**63 - 1

_ADD: Final = """
INSERT INTO usage (user_id, threads, bytes) VALUES (?, ?, ?) ON CONFLICT (user_id) DO UPDATE
SET threads = usage.threads + excluded.threads, bytes = usage.bytes + excluded.bytes
"""
_SUM: Final = """
SELECT CAST(coalesce(sum(threads), 0) AS BIGINT), CAST(coalesce(sum(bytes), 0) AS BIGINT) FROM usage
"""
_LOAD: Final = "SELECT threads, bytes FROM usage WHERE user_id = ?"
RUN_PAYLOAD: Final = (
    "length(draft) + coalesce(length(asked), 0) + coalesce(length(interrupts), 0)"
    " + coalesce(length(agent_message), 0)"
)
"""Bytes of a run's row beside those of its keys, in SQL."""
_RUN: Final = f"SELECT {ROW_BYTES} + {RUN_PAYLOAD} FROM runs WHERE user_id = ? AND run_id = ?"  # noqa: S608 - no user's words


@dataclass(frozen=True, slots=True)
class Quotas:
    """How much a user may keep."""

    threads: int = UNLIMITED
    size: int = UNLIMITED
    """Bytes, counted as this module says."""


class Kept(NamedTuple):
    """What somebody keeps."""

    threads: int
    bytes: int


class Usage:
    """Reads what is kept, for those who run the gateway. Safe to cancel."""

    def __init__(self, database: Database) -> None:
        """Read from `database`."""
        self._database = database

    async def load(self, user_id: str) -> Kept:
        """Return what the user keeps. An unknown user keeps nothing.

        Raises:
            Unavailable: The database can't be read now.
        """
        return await self._database.read(lambda connection: load(connection, user_id))

    async def load_totals(self) -> Kept:
        """Return what all users keep together.

        Raises:
            Unavailable: The database can't be read now.
        """
        return await self._database.read(_load_totals)


def add(connection: Connection, user_id: str, *, threads: int = 0, size: int = 0) -> None:
    """Count what a user keeps more; less when negative. `size` is in bytes."""
    _add(connection, [(user_id, threads, size)])


def add_rows(connection: Connection, rows: Iterable[tuple[str, int]]) -> None:
    """Count new rows, each told by its user and the bytes of its payload."""
    sizes: Counter[str] = Counter()
    for user_id, payload_bytes in rows:
        sizes[user_id] += ROW_BYTES + payload_bytes
    _add(connection, [(user_id, 0, size) for user_id, size in sizes.items()])


def _add(connection: Connection, changes: Sequence[tuple[str, int, int]]) -> None:
    """Change the rows of users, given with threads and bytes, and that of the totals."""
    if not has_one_writer(connection):
        # All would wait for one row; and who changes several rows takes them in one order.
        execute_many(connection, _ADD, sorted(changes))
        return
    _, threads, sizes = zip(*changes, strict=True)
    execute_many(connection, _ADD, [*changes, (EVERYBODY, sum(threads), sum(sizes))])


def weigh(payload_bytes: Iterable[int]) -> int:
    """Return what rows with payloads of so many bytes count."""
    return sum(ROW_BYTES + size for size in payload_bytes)


def _load_totals(connection: Connection) -> Kept:
    if has_one_writer(connection):
        return load(connection, EVERYBODY)
    return Kept(*execute(connection, _SUM).fetchone())


def load(connection: Connection, user_id: str) -> Kept:
    """Return what the user keeps."""
    row = execute(connection, _LOAD, (user_id,)).fetchone()
    return Kept(0, 0) if row is None else Kept(*row)


def load_run_bytes(connection: Connection, key: RunKey) -> int:
    """Return what a run's row counts, 0 when there is none."""
    return int(load_value(connection, _RUN, key) or 0)


@contextmanager
def bounded(connection: Connection, user_id: str, quotas: Quotas) -> Iterator[None]:
    """Let the block add only what fits into the user's quotas, byte for byte.

    The transaction has to be undone when this raises. A user whose quota of bytes is full is
    refused before the block, because each block adds something.

    Raises:
        QuotaExceeded: The user keeps more than the quotas allow.
    """
    before = load(connection, user_id)
    if before.bytes >= quotas.size:
        raise QuotaExceeded("storedBytesPerUser", quotas.size, before.bytes, "bytes")
    yield
    after = load(connection, user_id)
    if after.bytes > quotas.size:
        raise QuotaExceeded("storedBytesPerUser", quotas.size, before.bytes, "bytes")
    if after.threads > max(quotas.threads, before.threads):
        raise QuotaExceeded("storedThreadsPerUser", quotas.threads, before.threads, "threads")


def count_run(connection: Connection, key: RunKey, *, before: int) -> None:
    """Count a run's row anew, which counted `before` bytes until now."""
    now = load_run_bytes(connection, key)
    add(connection, key.user_id, size=now - before)
