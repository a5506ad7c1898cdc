"""Devices that start, stop, follow and delete at once: one end a run, and nothing left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any
from unittest.mock import patch

from tests.house import ALICE, START, House, ask, context_of, open_house
from tests.interleaving.agents import AGENTS
from tests.interleaving.explorer import every_seed, explore
from tests.interleaving.place import open_empty
from tests.interleaving.scheduler import ShuffledLoop

from isolane.context import RunKey, ThreadKey, UserExecutionContext
from isolane.contracts import RunState
from isolane.errors import (
    CursorExpired,
    LimitExceeded,
    NotFound,
    RunConflict,
    Unavailable,
)
from isolane.events.event import Record, decode_event
from isolane.sql.database import Database

USERS = (ALICE, ALICE, "bob")
"""Whose the devices are: two of one user, and one of another who uses the same ids."""
THREADS = ("t0", "t1")
KEYS = tuple(ThreadKey(user_id, thread_id) for user_id in (ALICE, "bob") for thread_id in THREADS)
RUNS = tuple(f"r{number}" for number in range(4))
POLICIES = ("queue", "reject", "interrupt")
STEPS = 4
REFUSED_SHARE = 0.05
READ_SHARE = 0.5
CANCELLED_SHARE = 0.2
RUN_TIMEOUT_S = 8.0
LONGEST_S = 120.0
"""Longer than all runs of a seed one after the other, the deaf and the silent ones included, and
than the slowest reader of a flood."""


@dataclass
class Plan:
    """What each run is in this seed, and what became of what was asked."""

    loop: ShuffledLoop
    house: House
    agent_of: dict[str, str]
    thread_of: dict[str, str]
    accepted: set[RunKey] = field(default_factory=set)
    deleted: set[ThreadKey] = field(default_factory=set)
    """Threads that were deleted at some time, and perhaps made anew."""
    readers: list[asyncio.Task[None]] = field(default_factory=list)

    def context(self, user_id: str, run_id: str) -> UserExecutionContext:
        return context_of(run_id, thread_id=self.thread_of[run_id], user_id=user_id)

    def read(self, context: UserExecutionContext) -> None:
        """Have somebody follow a run to its end."""
        self.readers.append(self.loop.create_task(self._read(context)))

    async def _read(self, context: UserExecutionContext) -> None:
        records: list[Record] = []
        was_there = context.run_key in self.accepted
        try:
            async with aclosing(self.house.service.follow(context)) as coming:
                async for record in coming:
                    records.append(record)
                    await self.loop.pause()
        except (NotFound, CursorExpired):
            assert context.thread_key in self.deleted or not was_there
            return
        if context.thread_key not in self.deleted:
            assert_whole(records)


def assert_whole(records: list[Record]) -> None:
    """Say that these are one run, from its beginning to its one end."""
    kinds = [decode_event(record.payload)["type"] for record in records]
    assert kinds[:1] == ["RUN_STARTED"]
    assert kinds.count("RUN_STARTED") == 1
    assert [record.is_end for record in records] == [False] * (len(records) - 1) + [True]


class Device:
    """One client of a user, who does one thing after the other."""

    def __init__(self, plan: Plan, user_id: str) -> None:
        self._plan = plan
        self._loop = plan.loop
        self._service = plan.house.service
        self._user_id = user_id

    async def live(self) -> None:
        for _ in range(STEPS):
            await self._loop.pause()
            run_id = self._loop.chance.choice(tuple(self._plan.agent_of))
            (act,) = self._loop.chance.choices(
                (self.start, self.abort, self.abort_twice, self.read, self.delete, self.renew),
                weights=(10, 2, 1, 2, 2, 2),
            )
            work = act(self._plan.context(self._user_id, run_id))
            if self._loop.chance.random() < CANCELLED_SHARE:
                await self.give_up_on(work)
            else:
                await work

    async def give_up_on(self, work: Coroutine[Any, Any, None]) -> None:
        """Cancel what was begun at any of its awaits, as a host's deadline does."""
        task = self._loop.create_task(work)
        for _ in range(self._loop.chance.randrange(12)):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            await task

    async def start(self, context: UserExecutionContext) -> None:
        run_id = context.run_key.run_id
        props = {"policy": self._loop.chance.choice(POLICIES)}
        try:
            await self._service.start(
                context,
                ask(context, run_id, forwardedProps=props),
                agent=self._plan.agent_of[run_id],
            )
        except RunConflict as error:
            if not error.retryable:  # nobody uses an id for something else here
                raise
        except (LimitExceeded, Unavailable):
            return
        except NotFound:
            assert context.thread_key in self._plan.deleted
        else:
            self._plan.accepted.add(context.run_key)
            if self._loop.chance.random() < READ_SHARE:  # as who asks and waits for the answer
                self._plan.read(context)

    async def abort(self, context: UserExecutionContext) -> None:
        """Stop a run as the door does, also when it has not come yet."""
        try:
            found = await self._service.locate(context, context.run_key.run_id)
        except NotFound:
            with suppress(Unavailable):  # the disk is full: who asked is told
                await self._service.remember_abort(context.user_id, context.run_key.run_id)
        else:
            await self._service.abort(found)

    async def abort_twice(self, context: UserExecutionContext) -> None:
        await asyncio.gather(self.abort(context), self.abort(context))

    async def read(self, context: UserExecutionContext) -> None:
        self._plan.read(context)

    async def renew(self, context: UserExecutionContext) -> None:
        """Delete the thread in one tab while another goes on with it."""
        await asyncio.gather(self.delete(context), self.start(context))

    async def delete(self, context: UserExecutionContext) -> None:
        self._plan.deleted.add(context.thread_key)
        with suppress(NotFound, Unavailable):
            await self._service.delete_thread(context)


@contextmanager
def refusing(database: Database, loop: ShuffledLoop, *, share: float) -> Iterator[None]:
    """Have the disk refuse a share of what is to be written."""
    commits: Any = database._commits  # type: ignore[attr-defined]  # SQLite's
    put = commits.put

    def try_to_write(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as it is there
        if loop.chance.random() >= share:
            return put(*args, **kwargs)
        refused = loop.create_future()
        refused.set_exception(Unavailable("the disk is full"))
        return refused

    with patch.object(commits, "put", try_to_write):
        yield


async def devices(loop: ShuffledLoop) -> None:
    async with open_house(
        AGENTS,
        open_at=open_empty,
        limit_runs_per_user=3,
        limit_queued_runs_per_thread=2,
        run_timeout_s=RUN_TIMEOUT_S,
    ) as house:
        chance = loop.chance
        run_ids = RUNS[: chance.choice((1, 2, 4))]  # the fewer, the more they meet
        plan = Plan(
            loop,
            house,
            agent_of={run_id: chance.choice(tuple(AGENTS)) for run_id in run_ids},
            thread_of={run_id: chance.choice(THREADS) for run_id in run_ids},
        )
        share = chance.choice((0.0, REFUSED_SHARE))
        with refusing(house.ground.database, loop, share=share):
            await asyncio.gather(*(Device(plan, user_id).live() for user_id in USERS))
            await quiet(plan)
        await assert_every_run_ended_once(plan)
        await assert_nothing_is_left(house)


async def quiet(plan: Plan) -> None:
    """Return once all runs and their readers have ended."""
    house = plan.house
    async with asyncio.timeout(LONGEST_S):
        while house.service._live or len(house.tasks):  # noqa: ASYNC110 - no event tells of it
            await asyncio.sleep(0.5)  # a moment of this world, in which everything happens
        await asyncio.gather(*plan.readers)


async def assert_every_run_ended_once(plan: Plan) -> None:
    store, log = plan.house.ground.store, plan.house.ground.log
    assert await plan.house.ground.book.load_open_runs() == []
    for key in KEYS:
        records = await log.read(key, after=START, limit=10_000)
        spans = [(run_id, list(span)) for run_id, span in groupby(records, lambda r: r.run_id)]
        assert len({run_id for run_id, _ in spans}) == len(spans)  # no run within another
        for _, span in spans:
            assert_whole(span)
        for run_id, thread_id in plan.thread_of.items():
            if thread_id != key.thread_id:
                continue
            stored = await store.load_run(RunKey(key.user_id, run_id))
            assert (stored is not None) == (run_id in {run_id for run_id, _ in spans})
            if stored is None:
                assert key in plan.deleted or RunKey(key.user_id, run_id) not in plan.accepted
            else:
                assert stored.state is RunState.ENDED


async def assert_nothing_is_left(house: House) -> None:
    service = house.service
    assert service.active_count == 0
    assert not service._live
    assert not service._admission._starting
    assert not house.limits._held
    assert not house.bell._listeners
    assert not house.feed._tails
    assert (len(house.tasks), house.feed.readers) == (0, 0)


@every_seed
def test_each_run_ends_once_and_gives_everything_back(seeds: range) -> None:
    explore(devices, seeds)
