"""How much one transaction may delete: whatever looks after the past works in small steps."""

from __future__ import annotations

from typing import Final, NamedTuple

from sqlalchemy import Connection

from isolane.events.packing import size_of
from isolane.sql.driver import execute

ROWS_AT_ONCE: Final = 128
"""Rows that one transaction deletes."""
BYTES_AT_ONCE: Final = 1 << 18
"""Payload bytes at which a transaction deletes no more: larger rows are more pages to free."""
PAUSE_S: Final = 0.005
"""Seconds between two transactions, in which appends find the writer free."""


class Found(NamedTuple):
    """A row that is to be deleted."""

    place: int
    size: int
    """Bytes of its payload as they are written."""
    packed: bytes | None = None
    """Its payload, where that refers to attachments."""


def load_some(connection: Connection, query: str, values: tuple[object, ...]) -> list[Found]:
    """Return the first rows that `query` finds, as many as one transaction may delete.

    `query` selects what `Found` has, and ends with a limit, which isn't among `values`. Attachments
    count, for they may go with the row.
    """
    size = 0
    rows: list[Found] = []
    for row in execute(connection, query, (*values, ROWS_AT_ONCE)):
        found = Found(*row)
        rows.append(found)
        size += found.size if found.packed is None else size_of(found.packed)
        if size >= BYTES_AT_ONCE:
            break
    return rows
