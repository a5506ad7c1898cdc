"""The one way from the address of a thread to the rows that the database has of it."""

from __future__ import annotations

from typing import Final, NamedTuple

from sqlalchemy import Connection

from isolane.context import ThreadKey
from isolane.sql.driver import load_value

NO_THREAD: Final = 0
"""Stands for the number of a thread that isn't there. Numbers count from 1."""

_FIND: Final = "SELECT thread_no FROM threads WHERE user_id = ? AND thread_id = ?"


class StoredThread(NamedTuple):
    """A thread as its rows name it."""

    user_id: str
    thread_no: int
    """Number of the thread in every table. It is never used again, so a thread that is deleted and
    made anew has another one. `NO_THREAD` when there is no thread: no row has that."""


def load_stored(connection: Connection, key: ThreadKey) -> StoredThread:
    """Return what the rows of a thread are found by.

    Every statement on a user's thread gets its number from here. So the address, with the user id
    of the verified context, is the only way to a thread.
    """
    thread_no: int | None = load_value(connection, _FIND, key)
    return StoredThread(key.user_id, NO_THREAD if thread_no is None else thread_no)
