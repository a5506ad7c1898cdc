"""Rows that are found by a secret and used once. Only a hash of the secret is kept."""

from __future__ import annotations

from functools import partial
from hashlib import sha256
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Table, delete, exists, select

from isolane.sql.database import Database


def digest_of(secret: str) -> bytes:
    """Return the hash that finds a row.

    Somebody who reads the file can't derive the secret from it.
    """
    return sha256(secret.encode(errors="replace")).digest()


def lane_of(secret: str) -> str:
    """Return the database lane for a secret whose user isn't known yet.

    A blank never occurs in a user id, so this lane is nobody's own.
    """
    return f"secret {digest_of(secret).hex()}"


async def take_row(
    database: Database, table: Table, secret: str, *conditions: ColumnElement[bool]
) -> Row[Any] | None:
    """Return the row of a secret and delete it; of all callers with one secret, one gets the row.

    A row that doesn't meet the conditions stays, and counts as unknown here. A cancelled call may
    have deleted the row.

    Raises:
        Unavailable: The database can't be used.
    """
    named = (table.c.digest == digest_of(secret), *conditions)
    lane = lane_of(secret)
    # Anybody may send any secret, so only a known secret costs a write.
    query = select(exists().where(*named))
    if not await database.read(lambda reading: reading.execute(query).scalar_one(), lane=lane):
        return None
    return await database.write(partial(_take, table, named), lane=lane)


def _take(
    table: Table, named: tuple[ColumnElement[bool], ...], connection: Connection
) -> Row[Any] | None:
    row = connection.execute(select(table).where(*named)).one_or_none()
    connection.execute(delete(table).where(*named))
    return row
