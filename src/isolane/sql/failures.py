"""Errors of a database's driver, as the rest of the gateway knows them."""

from __future__ import annotations

from sqlalchemy.exc import DBAPIError

from isolane.errors import DatabaseFailed, IsolaneError, Unavailable


def origin_of(error: BaseException) -> BaseException:
    """Return the driver's own error, where SQLAlchemy has wrapped it."""
    found = error.orig if isinstance(error, DBAPIError) else error
    return found or error


def to_failure(error: Exception, said: object, *, passes: bool) -> IsolaneError:
    """Return the error to raise for one of the driver, which is its cause.

    `said` is what may be told of it, and `passes` whether the same work may succeed later.
    """
    failure: IsolaneError
    if passes:
        failure = Unavailable(f"the database refused: {said}")
    else:
        failure = DatabaseFailed(f"the database can't do this: {said}")
    failure.__cause__ = error
    return failure
