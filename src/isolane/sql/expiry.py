"""Rows that expire: how they are deleted."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, Table, delete, select

EXPIRED_AT_ONCE: Final = 100
"""Rows that one transaction deletes: more than one write adds, and few enough to delay nobody."""


def delete_expired(table: Table, now: int, connection: Connection) -> None:
    """Delete some rows of `table` whose `expires_at` has passed, within somebody's transaction."""
    key = next(iter(table.primary_key))
    expired = select(key).where(table.c.expires_at <= now).order_by(table.c.expires_at)
    connection.execute(delete(table).where(key.in_(expired.limit(EXPIRED_AT_ONCE))))
