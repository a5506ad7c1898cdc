"""Errors of the database: which may pass, and which never will."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable
from typing import Final, TypeVar

from sqlalchemy.exc import DBAPIError

from isolane.errors import DatabaseFailed, IsolaneError, Unavailable

T = TypeVar("T")

PASSING: Final = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
    }
)
"""Result codes of SQLite for trouble around the file. The same statement may succeed later."""
_PRIMARY: Final = 0xFF
"""Bits of a result code that tell its kind; the others give details."""


async def translated(work: Awaitable[T]) -> T:
    """Return the result of database work that runs in a thread. Safe to cancel.

    Raises:
        Unavailable: The database refused, and the same work may succeed later.
        DatabaseFailed: The database can never do this work.
    """
    try:
        return await work
    except (DBAPIError, sqlite3.Error, OverflowError) as error:
        raise to_error(error) from error


def to_error(error: Exception) -> IsolaneError:
    """Return the error to raise for one of the driver."""
    origin = error.orig if isinstance(error, DBAPIError) else error
    if passes(error):
        return Unavailable(f"the database refused: {origin}")
    return DatabaseFailed(f"the database can't do this: {origin}")


def passes(error: Exception) -> bool:
    """Say whether an error comes from trouble around the file, which may pass."""
    origin = error.orig if isinstance(error, DBAPIError) else error
    code = getattr(origin, "sqlite_errorcode", None)
    return code is not None and code & _PRIMARY in PASSING
