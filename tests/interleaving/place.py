"""What all seeds share: one database in memory, which each finds empty."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, TypeVar, cast

from sqlalchemy import Connection, Engine
from tests.house import MEMORY
from tests.interleaving.scheduler import ShuffledLoop

from isolane.engines.sqlite.database import READERS, SqliteDatabase, _create_engine
from isolane.sql.lanes import HOUSE
from isolane.sql.tables import metadata

T = TypeVar("T")


async def open_empty(_url: str) -> SqliteDatabase:
    """Open the database as `open_database` opens a file, readers beside the writer, but empty.

    A transaction is one step of the loop here, so that all can share the one connection.
    """
    engine = _engine()
    with engine.begin() as connection:
        for table in metadata.sorted_tables:
            connection.execute(table.delete())
    return _Kept(engine, readers=READERS)


@cache
def _engine() -> Engine:
    """Return the engine of all seeds: its tables and its compiled statements cost more than one."""
    engine = _create_engine(MEMORY)
    metadata.create_all(engine)
    return engine


class _Kept(SqliteDatabase):
    async def write(self, work: Callable[[Connection], T], *, lane: str = HOUSE) -> T:
        """Write, and hand a set out in an order that a seed repeats."""
        result = await super().write(work, lane=lane)
        return cast("T", _AnyOrder(result)) if isinstance(result, frozenset) else result

    async def close(self) -> None:
        """End this seed's use of it."""
        for connection in (self._writing, *self._idle):
            connection.close()


class _AnyOrder(frozenset[Any]):
    """A set whose order is chance; that of a plain one is another in each process."""

    def __iter__(self) -> Iterator[Any]:
        members = sorted(super().__iter__())
        cast("ShuffledLoop", asyncio.get_running_loop()).chance.shuffle(members)
        return iter(members)
