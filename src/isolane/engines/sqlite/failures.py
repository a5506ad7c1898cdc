"""Errors of the database: which may pass, and which never will."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable
from typing import Final, TypeVar

from sqlalchemy.exc import DBAPIError

from isolane.sql.failures import origin_of, to_failure

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
_OF_THE_DRIVER: Final = (DBAPIError, sqlite3.Error, OverflowError)
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
    except _OF_THE_DRIVER as error:
        raise to_error(error) from error


def to_error(error: Exception) -> Exception:
    """Return the error to raise for one of the driver, which is its cause; others as they are."""
    if not isinstance(error, _OF_THE_DRIVER):
        return error
    return to_failure(error, origin_of(error), passes=passes(error))


def passes(error: Exception) -> bool:
    """Say whether an error comes from trouble around the file, which may pass."""
    code = getattr(origin_of(error), "sqlite_errorcode", None)
    return code is not None and code & _PRIMARY in PASSING
