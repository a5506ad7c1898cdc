"""Errors of the server: which may pass, and which never will."""

from __future__ import annotations

from typing import Final, NoReturn

import psycopg

from isolane.sql.failures import origin_of, to_failure

PASSING: Final = frozenset({"08", "25", "40", "53", "55", "57", "58"})
"""Classes of SQLSTATE for trouble that may pass: of the connection, of a transaction that was ended
or lies on a read-only server, of a deadlock, of resources, of locks, of an operator's deeds, and of
the system below (https://www.postgresql.org/docs/current/errcodes-appendix.html)."""
UNDONE: Final = frozenset({"40001", "40P01"})
"""A transaction met another one, and was undone: it may succeed at once."""
ENDING: Final = frozenset({"57P01", "57P02", "57P03", "57P05", "25P03"})
"""The server ends the connection: it shuts down, has crashed, is starting, or waited too long."""


class UnansweredError(Exception):
    """Nobody knows whether a transaction was committed; the cause tells why."""


def is_undone(error: BaseException) -> bool:
    """Say whether a transaction was undone for the sake of another one."""
    return getattr(origin_of(error), "sqlstate", None) in UNDONE


def is_lost(error: BaseException) -> bool:
    """Say whether a connection ended, or none could be made."""
    origin = origin_of(error)
    if not isinstance(origin, psycopg.OperationalError | psycopg.InterfaceError):
        return False
    state = origin.sqlstate
    return state is None or state[:2] == "08" or state in ENDING


def passes(error: BaseException) -> bool:
    """Say whether an error may pass: there is no answer, or the server says so."""
    if isinstance(error, UnansweredError) or is_lost(error):
        return True
    state = getattr(origin_of(error), "sqlstate", None)
    return state is not None and state[:2] in PASSING


def to_error(error: Exception) -> Exception:
    """Return the error to raise for one of the driver, which is its cause; others as they are."""
    origin = origin_of(error)
    if not isinstance(origin, psycopg.Error | UnansweredError):
        return error
    return to_failure(error, _first_line(origin), passes=passes(error))


def raise_for(error: Exception) -> NoReturn:
    """Raise what `to_error` returns. An error that isn't the driver's keeps its own cause."""
    failure = to_error(error)
    if failure is error:
        raise error
    raise failure from error


def _first_line(error: BaseException) -> str:
    """Return what an error says, without the details, which may hold what users wrote."""
    diag = getattr(error, "diag", None)
    primary = getattr(diag, "message_primary", None)
    return primary or str(error).partition("\n")[0]
