"""The processes that serve a SQLite file: the one that has it locked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection

from isolane.clock import Clock
from isolane.contracts import NodeInfo, NodeStatus
from isolane.sql.database import Database
from isolane.sql.driver import execute
from isolane.sql.nodes import add_node, load_nodes, remove_node


class DatabaseMembers:
    """The table `nodes`. Whoever registers is alone: the file's lock lets nobody else in."""

    is_alone = True
    lease_ms = 0
    node_id = ""

    def __init__(self, database: Database, info: NodeInfo, *, clock: Clock) -> None:
        """Keep the row of the one node, which is `info`, in `database`."""
        self._database = database
        self._info = info
        self._clock = clock

    async def register(self, node_id: str) -> None:
        """Count the node as the one that lives; see `Members`."""

        def work(connection: Connection) -> None:
            execute(connection, "DELETE FROM nodes")
            add_node(connection, node_id, self._info, now=self._clock())

        await self._database.write(work)
        self.node_id = node_id

    async def beat(self, node_id: str) -> bool:  # noqa: ARG002 - there is one
        """Return True: the file's lock says that the node lives; see `Members`."""
        return True

    def drain(self) -> None:
        """Do nothing: there is nobody to tell; see `Members`."""

    async def leave(self, node_id: str) -> None:
        """Count the node no longer; see `Members`."""
        await self._database.write(lambda one: remove_node(one, node_id))

    async def load_nodes(self) -> list[NodeStatus]:
        """Return the node that lives; see `Members`."""
        now = self._clock()
        return await self._database.read(lambda one: load_nodes(one, now=now))

    def get_others(self) -> Mapping[str, Sequence[str]]:
        """Return that there are no others; see `Members`."""
        return {}

    def clock_skew_ms(self) -> int:
        """Return 0: a file has no clock of its own."""
        return 0

    def lease_age_ms(self) -> int | None:
        """Return 0: the file's lock is the lease."""
        return 0
