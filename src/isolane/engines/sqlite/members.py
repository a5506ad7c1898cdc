"""The processes that serve a SQLite file: the one that has it locked."""

from __future__ import annotations

from sqlalchemy import Connection, delete, insert, select

from isolane.clock import Clock
from isolane.sql.database import Database
from isolane.sql.tables import nodes


class DatabaseMembers:
    """The table `nodes`. Whoever registers is alone: the file's lock lets nobody else in."""

    def __init__(self, database: Database, *, clock: Clock) -> None:
        """Keep the row of the one node in `database`."""
        self._database = database
        self._clock = clock

    async def register(self, node_id: str) -> None:
        """Count the node as the one that lives; see `Members`."""
        row = {"node_id": node_id, "beat_at": self._clock()}

        def work(connection: Connection) -> None:
            connection.execute(delete(nodes))
            connection.execute(insert(nodes).values(**row))

        await self._database.write(work)

    async def beat(self, node_id: str) -> bool:  # noqa: ARG002 - there is one
        """Return True: the file's lock says that the node lives; see `Members`."""
        return True

    async def leave(self, node_id: str) -> None:
        """Count the node no longer; see `Members`."""
        own = delete(nodes).where(nodes.c.node_id == node_id)
        await self._database.write(lambda connection: connection.execute(own).rowcount)

    async def live(self) -> frozenset[str]:
        """Return the ids of the nodes that live; see `Members`."""
        query = select(nodes.c.node_id)
        return await self._database.read(
            lambda connection: frozenset(connection.execute(query).scalars())
        )

    def clock_skew_ms(self) -> int:
        """Return 0: a file has no clock of its own."""
        return 0
