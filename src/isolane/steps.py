"""How much one transaction may delete: whatever looks after the past works in small steps."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection

ROWS_AT_ONCE: Final = 128
"""Rows that one transaction deletes."""
BYTES_AT_ONCE: Final = 1 << 18
"""Payload bytes at which a transaction deletes no more: larger rows are more pages to free."""
PAUSE_S: Final = 0.005
"""Seconds between two transactions, in which appends find the writer free."""


def load_some(
    connection: Connection, query: str, values: tuple[object, ...]
) -> list[tuple[int, int]]:
    """Return the first rows that `query` finds, as many as one transaction may delete.

    Each is a place and the bytes of its payload, as `query` selects them. `query` ends with a
    limit, which isn't among `values`.
    """
    size = 0
    rows: list[tuple[int, int]] = []
    for place, row_bytes in connection.exec_driver_sql(query, (*values, ROWS_AT_ONCE)):
        rows.append((place, row_bytes))
        size += row_bytes
        if size >= BYTES_AT_ONCE:
            break
    return rows
