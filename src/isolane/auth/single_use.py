"""Rows that are found by a secret and used once. The secret itself is kept nowhere."""

from __future__ import annotations

from functools import partial
from hashlib import sha256
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Table, delete, exists, select

from isolane.engines.sqlite.file import Database


def digest_of(secret: str) -> bytes:
    """Return what a row is found by, so that nobody who reads the file can use the secret."""
    return sha256(secret.encode(errors="replace")).digest()


async def take_row(
    database: Database, table: Table, secret: str, *conditions: ColumnElement[bool]
) -> Row[Any] | None:
    """Return the row of a secret and delete it. Of all who come with one secret, one gets the row.

    A row that doesn't meet the conditions stays, and is unknown here. Raises `Unavailable`. A
    caller that is cancelled may have deleted the row.
    """
    digest = digest_of(secret)
    named = (table.c.digest == digest, *conditions)
    # Whose the row is isn't known yet. No user has a blank in their id.
    lane = f"secret {digest.hex()}"
    # Anybody may come with anything, so only a secret that is known costs a write.
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
