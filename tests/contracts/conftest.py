"""Every engine of every contract. A new engine is one more line here, and no more tests."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from sqlalchemy import Connection
from tests.house import (
    MEMORY,
    Admitting,
    Ground,
    ManualClock,
    OpenDatabase,
    draft_of,
    open_ground,
    sqlite_url,
)
from tests.postgres import PostgresServer

from isolane.auth import revocations
from isolane.context import RunKey, ThreadKey, UserExecutionContext
from isolane.contracts import (
    BegunRun,
    EventLog,
    Members,
    NodeInfo,
    RunBook,
    RunEnd,
    RunLease,
    RunStop,
    Store,
    TurnBook,
)
from isolane.engines.postgres.database import PostgresDatabase
from isolane.engines.postgres.database import open_database as open_postgres
from isolane.engines.sqlite.database import SqliteDatabase
from isolane.engines.sqlite.database import open_database as open_sqlite
from isolane.engines.sqlite.members import DatabaseMembers
from isolane.errors import DatabaseFailed
from isolane.events.event import Record
from isolane.events.interrupts import Interrupt
from isolane.events.transcript import Message
from isolane.sql.driver import driver_of, execute
from isolane.sql.turns import DatabaseTurnBook

Reopen = Callable[..., Awaitable["Engines"]]


class Location(NamedTuple):
    """Where engines keep what they keep."""

    url: str
    open_at: OpenDatabase
    outlives_a_life: bool


@dataclass
class Engines(Admitting):
    """Engines that share one place, and what a test may know of that place."""

    log: EventLog
    store: Store
    book: RunBook
    members: Members
    turns: TurnBook
    clock: ManualClock
    reopen: Reopen | None
    """Ends this life and begins another on the same place; None where nothing outlives a life."""
    _ground: Ground
    transactions: list[int] = field(default_factory=lambda: [0])
    _leases: dict[tuple[ThreadKey, str], RunLease] = field(default_factory=dict)
    _newest: dict[ThreadKey, str] = field(default_factory=dict)
    _batches: Counter[RunLease] = field(default_factory=Counter)

    async def begin(self, context: UserExecutionContext, *texts: str) -> RunLease:
        """Begin a run that asks `texts`, and return its lease.

        A run that has the turn on the thread is given up first.
        """
        ahead = self._newest.get(context.thread_key)
        if ahead is not None:
            await self.book.give_up(RunKey(context.user_id, ahead))
        return self._note(await self.begin_run(context, draft_of(*texts)))

    async def take_turn(self, context: UserExecutionContext) -> BegunRun:
        """Begin a run that has waited."""
        begun = await super().take_turn(context)
        self._note(begun)
        return begun

    def _note(self, begun: BegunRun) -> RunLease:
        """Remember by which lease a run is written."""
        lease = begun.lease
        self._leases[lease.key, lease.run_id] = lease
        self._newest[lease.key] = lease.run_id
        return lease

    async def write(
        self, key: ThreadKey, run_id: str, payloads: Sequence[bytes], *, end: RunEnd | None = None
    ) -> list[Record]:
        """Append as a run's writer does: by its lease, the next batch."""
        lease = self._leases.get((key, run_id)) or await self.log.take_over(key, run_id)
        self._leases[key, run_id] = lease
        self._batches[lease] += 1
        if end is not None:  # the next run of that id has another one
            del self._leases[key, run_id]
        try:
            return await self.log.append(lease, payloads, batch=self._batches[lease], end=end)
        except DatabaseFailed:  # it was not written, so its number is free
            self._batches[lease] -= 1
            raise

    async def end(
        self,
        context: UserExecutionContext,
        *,
        outcome: str = "success",
        error_id: str | None = None,
        messages: Sequence[Message] = (),
        stop: RunStop | None = None,
        interrupts: Sequence[Interrupt] = (),
        state: bytes | None = None,
    ) -> list[Record]:
        """End a run with one more event."""
        end = RunEnd(
            context.run_key.run_id,
            outcome,
            error_id,
            messages,
            self.clock(),
            stop,
            interrupts,
            state,
        )
        payload = b'{"type":"RUN_FINISHED"}'
        return await self.write(context.thread_key, context.run_key.run_id, [payload], end=end)

    async def run(self, context: UserExecutionContext, *, events: int) -> None:
        """Live a whole run of so many events, its end included."""
        await self.begin(context)
        key = context.thread_key
        await self.write(key, context.run_key.run_id, [b"{}"] * (events - 1))
        await self.end(context)

    async def revoke(self, user_id: str, revoked_at: int) -> None:
        """Sign a user out everywhere."""
        work = partial(revocations.add, user_id, revoked_at, ())
        await self._ground.database.write(work)

    async def execute(self, statement: str) -> None:
        """Change rows beside the engines, as nothing should."""
        await self._ground.database.write(
            lambda connection: connection.exec_driver_sql(statement).rowcount
        )

    async def change(self, **statements: Sequence[str]) -> None:
        """Change the tables beside the engines; the statements are given for each dialect."""

        def work(connection: Connection) -> None:
            for statement in statements[connection.dialect.name]:
                execute(connection, statement)

        await self._ground.database.write(work)

    async def append(
        self, key: ThreadKey, count: int = 1, *, run_id: str | None = None
    ) -> list[Record]:
        """Append so many events, of the run that was begun last unless another is named."""
        run_id = run_id or self._newest.get(key, "r")
        return await self.write(key, run_id, [b"%d" % number for number in range(count)])


@pytest.fixture(params=["sqlite file", "sqlite memory", "postgres"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Location]:
    """Give an empty place for each engine."""
    if request.param != "postgres":
        in_memory = request.param == "sqlite memory"
        url = MEMORY if in_memory else sqlite_url(tmp_path)
        yield Location(url, open_sqlite, outlives_a_life=not in_memory)
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    with server.clean_database() as url:
        yield Location(url, open_postgres, outlives_a_life=True)


@pytest.fixture
async def engines(location: Location, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Engines]:
    """Give a log and a store, on each engine."""
    clock = ManualClock()
    life: list[AsyncExitStack] = []

    async def open_life(*, max_events: int = 20_000) -> Engines:
        if life:
            await life.pop().aclose()
        stack = AsyncExitStack()
        ground = await stack.enter_async_context(
            open_ground(location.url, clock=clock, max_events=max_events, open_at=location.open_at)
        )
        life.append(stack)
        opened = Engines(
            ground.log,
            ground.store,
            ground.book,
            DatabaseMembers(ground.database, NodeInfo("node"), clock=clock),
            DatabaseTurnBook(ground.database),
            clock,
            open_life if location.outlives_a_life else None,
            ground,
        )
        count_transactions(opened, monkeypatch)
        return opened

    yield await open_life()
    await life.pop().aclose()


def count_transactions(opened: Engines, monkeypatch: pytest.MonkeyPatch) -> None:
    """Count the transactions that may write."""
    database = opened._ground.database
    if isinstance(database, SqliteDatabase):

        def count(statement: str) -> None:
            opened.transactions[0] += statement.startswith("BEGIN")

        raw: Any = driver_of(database._writing)
        raw.set_trace_callback(count)
        return
    run = PostgresDatabase._run

    def run_counted(self: PostgresDatabase, begin: str, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as it is there
        opened.transactions[0] += not begin.endswith("READ ONLY")
        return run(self, begin, *args, **kwargs)

    monkeypatch.setattr(PostgresDatabase, "_run", run_counted)


@pytest.fixture
async def small_engines(tmp_path: Path) -> AsyncIterator[Engines]:
    """Give engines whose logs keep five events of a thread."""
    async with open_ground(sqlite_url(tmp_path / "small"), max_events=5) as ground:
        turns = DatabaseTurnBook(ground.database)
        members = DatabaseMembers(ground.database, NodeInfo("node"), clock=ground.clock)
        yield Engines(
            ground.log, ground.store, ground.book, members, turns, ground.clock, None, ground
        )
