"""Every engine of every contract. A new engine is one more line here, and no more tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sqlalchemy import event
from tests.house import MEMORY, Ground, ManualClock, draft_of, open_ground, sqlite_url

from isolane.context import ThreadKey, UserExecutionContext
from isolane.contracts import EventLog, RunEnd, RunStop, Store, TurnBook
from isolane.engines.sqlite.turns import DatabaseTurnBook
from isolane.events.event import Record
from isolane.events.interrupts import Interrupt
from isolane.events.transcript import Message

Reopen = Callable[..., Awaitable["Engines"]]


@dataclass
class Engines:
    """A log and a store that share one place, and what a test may know of that place."""

    log: EventLog
    store: Store
    turns: TurnBook
    clock: ManualClock
    reopen: Reopen | None
    """Ends this life and begins another on the same place; None where nothing outlives a life."""
    _ground: Ground
    transactions: list[int] = field(default_factory=lambda: [0])

    async def begin(self, context: UserExecutionContext, *texts: str) -> None:
        """Begin a run that asks `texts`."""
        await self.store.begin_run(context, draft_of(*texts))

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
        return await self.log.append(context.thread_key, context.run_key.run_id, [payload], end=end)

    async def run(self, context: UserExecutionContext, *, events: int) -> None:
        """Live a whole run of so many events, its end included."""
        await self.begin(context)
        key = context.thread_key
        await self.log.append(key, context.run_key.run_id, [b"{}"] * (events - 1))
        await self.end(context)

    async def append(self, key: ThreadKey, count: int = 1, *, run_id: str = "r") -> list[Record]:
        """Append so many events."""
        return await self.log.append(key, run_id, [b"%d" % number for number in range(count)])


@pytest.fixture(params=["sqlite file", "sqlite memory"])
async def engines(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Engines]:
    """Give a log and a store, on each engine."""
    in_memory = request.param == "sqlite memory"
    clock = ManualClock()
    life: list[AsyncExitStack] = []

    async def open_life(*, max_events: int = 20_000) -> Engines:
        if life:
            await life.pop().aclose()
        stack = AsyncExitStack()
        url = MEMORY if in_memory else sqlite_url(tmp_path)
        ground = await stack.enter_async_context(
            open_ground(url, clock=clock, max_events=max_events)
        )
        life.append(stack)
        reopen = None if in_memory else open_life
        opened = Engines(
            ground.log, ground.store, DatabaseTurnBook(ground.database), clock, reopen, ground
        )

        def count(_connection: object) -> None:
            opened.transactions[0] += 1

        event.listen(ground.database._engine, "begin", count)
        return opened

    yield await open_life()
    await life.pop().aclose()


@pytest.fixture
async def small_engines(tmp_path: Path) -> AsyncIterator[Engines]:
    """Give engines whose logs keep five events of a thread."""
    async with open_ground(sqlite_url(tmp_path / "small"), max_events=5) as ground:
        turns = DatabaseTurnBook(ground.database)
        yield Engines(ground.log, ground.store, turns, ground.clock, None, ground)
