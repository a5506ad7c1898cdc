"""What a database does for the statements of this room, whichever it is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol, TypeVar

from sqlalchemy import Connection

from isolane.sql.lanes import HOUSE

T = TypeVar("T")


class Database(Protocol):
    """An open database. Work is a plain function over a connection, and runs in a thread.

    A whole transaction is one hop to that thread, and nothing of the database runs on the event
    loop. Users take turns, each in a lane of their own.
    """

    async def probe(self) -> None:
        """Check that the database can be read and written. Safe to cancel.

        Raises:
            Unavailable: It can't now.
            DatabaseFailed: It never can.
        """
        ...

    async def read(self, query: Callable[[Connection], T], *, lane: str = HOUSE) -> T:
        """Run `query` in one read transaction, which sees one moment of the database.

        `lane` is the id of the user who reads. A few reads of users run at once, and fewer of one
        user. Safe to cancel.

        Raises:
            Unavailable: The database can't be read now.
            DatabaseFailed: The query can never succeed.
        """
        ...

    async def look(self, query: Callable[[Connection], T]) -> T:
        """Run `query`, a single statement, for the house: what is done again and again.

        One statement sees one moment of the database by itself, and takes one journey to a server
        instead of three. Else as `read`.
        """
        ...

    async def write(self, work: Callable[[Connection], T], *, lane: str = HOUSE) -> T:
        """Run `work` in one transaction: committed when it returns, undone when it raises.

        `lane` is the id of the user who writes. Transactions of one lane run one after the other,
        in the order of the calls, and lanes take turns. `work` may run a second time after its
        first run was undone, so it does nothing but read and write the database.

        Cancelling the caller doesn't undo a transaction that has begun.

        Raises:
            Unavailable: Nothing can be written now.
            DatabaseFailed: The write can never succeed.
        """
        ...

    def commit_log(self, work: Callable[[Connection], T]) -> asyncio.Future[T]:
        """Run `work`, which appends to logs, in one transaction; return the future of its result.

        Its caller has one such transaction under way at a time. Other writes may run beside it.
        `work` recognises what it wrote before: it may run again when nobody knows whether its first
        run was committed. Cancelling the future undoes nothing.
        """
        ...

    async def close(self) -> None:
        """Finish what was begun, and close the database. Cancelling leaves it half closed."""
        ...
