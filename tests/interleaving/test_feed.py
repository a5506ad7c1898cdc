"""Followers who come, are cut off and come back while others append: each has the whole log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager, nullcontext
from functools import partial
from random import Random
from unittest.mock import patch

import pytest
from tests.house import START, Ground, Pen, context_of, draft_of, key_of, open_ground
from tests.interleaving.explorer import SEEDS, Scenario, every_seed, explore
from tests.interleaving.place import open_empty
from tests.interleaving.scheduler import ShuffledLoop

from isolane.context import EventId, ThreadKey
from isolane.contracts import Bell, EventLog, LogBounds
from isolane.engines.memory.bell import LocalBell
from isolane.events.event import Record
from isolane.log import feed as feed_module
from isolane.log import tail as tail_module
from isolane.log import window as window_module
from isolane.log.feed import Feed
from isolane.log.tail import LogReader, Tail
from isolane.log.window import WINDOW_BYTES

FOLLOWERS = 3
WRITERS = 2
APPENDS = 6
CUTS_MAX = 2
PAUSES_MAX = 10
NEVER_S = 1e9
QUIET_S = 15.0
SETTLE_S = 5.0
"""Enough for every hop that is still to come; far less than any quiet spell."""


class LossyBell(LocalBell):
    """Loses as large a share of its rings as it is told."""

    def __init__(self, lost: float, chance: Random) -> None:
        super().__init__()
        self._lost = lost
        self._chance = chance

    def ring(self, key: ThreadKey, records: Sequence[Record]) -> None:
        if self._chance.random() >= self._lost:
            super().ring(key, records)


class HastyFeed(Feed):
    """Reads the log and listens to the bell only then: nobody hears what is rung in between."""

    async def open_tail(self, key: ThreadKey) -> Tail:
        tail = await super().open_tail(key)
        tail._log = HastyLog(tail._log, tail, self._bell)
        if tail._hang_up is not None:
            tail._hang_up()
            tail._hang_up = None
        return tail


class HastyLog:
    """A log whose first reader has the tail listen afterwards."""

    def __init__(self, log: LogReader, tail: Tail, bell: Bell) -> None:
        self._log = log
        self._tail = tail
        self._bell = bell

    async def read(
        self, key: ThreadKey, *, after: EventId, limit: int, max_bytes: int
    ) -> list[Record]:
        records = await self._log.read(key, after=after, limit=limit, max_bytes=max_bytes)
        if self._tail._hang_up is None:
            await self._tail.listen(self._bell)
        return records

    async def load_bounds(self, key: ThreadKey) -> LogBounds:
        return await self._log.load_bounds(key)


class Follower:
    """Somebody who keeps what came, and so knows the place to come back to."""

    def __init__(self, chance: Random) -> None:
        self.records: list[Record] = []
        self._chance = chance
        self._handed_share = chance.choice((0, 0.5, 1))

    async def follow(self, feed: Feed, *, until: int | None = None) -> None:
        """Take what comes, up to the record numbered `until` if it is given."""
        after = self.records[-1].id if self.records else START
        if after.seq == until:
            return
        hand = partial(self._take, until=until) if self._handed_share else None
        async with (
            feed.reading(key_of()) as tail,
            aclosing(tail.follow(after, hand=hand)) as batches,
        ):
            async for batch in batches:
                for record in batch:
                    self.records.append(record)
                    if record.id.seq == until:
                        return

    def _take(self, records: Sequence[Record], *, until: int | None) -> bool:
        """Take what is handed, now and then; never the last, after which there is work to do."""
        is_last = until is not None and records[-1].id.seq >= until
        if is_last or self._chance.random() >= self._handed_share:
            return False
        self.records += records
        return True

    async def live(self, feed: Feed, loop: ShuffledLoop, *, until: int) -> None:
        """Be cut off and come back a few times, then stay to the end."""
        for _ in range(loop.chance.randrange(CUTS_MAX + 1)):
            await loop.pause()
            following = loop.create_task(self.follow(feed))
            for _ in range(loop.chance.randrange(PAUSES_MAX)):
                await loop.pause()
            following.cancel()
            await asyncio.wait({following})
            assert following.cancelled()
        await self.follow(feed, until=until)


async def write(pen: Pen, loop: ShuffledLoop, batches: list[list[bytes]]) -> None:
    for batch in batches:
        await loop.pause()
        await pen.append(*batch)


async def play(loop: ShuffledLoop, feed: Feed, log: EventLog, *, within_s: float) -> None:
    """Append while all follow; `within_s` after the last append everybody must have all of it."""
    batches = [[b"{}"] * loop.chance.randint(1, 3) for _ in range(APPENDS)]
    total = sum(map(len, batches))
    followers = [Follower(loop.chance) for _ in range(FOLLOWERS)]
    following = [loop.create_task(one.live(feed, loop, until=total)) for one in followers]
    pen = Pen(feed, await feed.take_over(key_of(), "r"))
    await asyncio.gather(*(write(pen, loop, batches[number::WRITERS]) for number in range(WRITERS)))
    async with asyncio.timeout(within_s):
        await asyncio.gather(*following)
    kept = await log.read(key_of(), after=START, limit=total + 1)
    assert [record.id.seq for record in kept] == list(range(1, total + 1))
    for one in followers:
        assert [record.id for record in one.records] == [record.id for record in kept]
    assert feed.readers == 0
    assert not feed._tails


def following(make_feed: type[Feed] = Feed) -> Scenario:
    """Return followers on a bell that loses nothing, and a feed that never doubts it."""

    async def scenario(loop: ShuffledLoop) -> None:
        bell = LocalBell()
        async with open_log(loop) as ground:
            feed = make_feed(ground.log, bell, quiet_s=NEVER_S)
            await play(loop, feed, ground.log, within_s=SETTLE_S)
        assert not bell._listeners

    return scenario


async def lossy(loop: ShuffledLoop) -> None:
    """Play on a bell that loses some rings, or all."""
    bell = LossyBell(loop.chance.choice((0.3, 0.8, 1.0)), loop.chance)
    async with open_log(loop) as ground:
        feed = Feed(ground.log, bell, quiet_s=QUIET_S)
        await play(loop, feed, ground.log, within_s=2 * QUIET_S + SETTLE_S)
    assert not bell._listeners


@contextmanager
def small_windows() -> Iterator[None]:
    with (
        patch.multiple(feed_module, FULL_WINDOW=(4, WINDOW_BYTES)),
        patch.multiple(window_module, BATCH_RECORDS=2),
        patch.multiple(tail_module, READ_RECORDS=3),
    ):
        yield


@asynccontextmanager
async def open_log(loop: ShuffledLoop) -> AsyncIterator[Ground]:
    """Open a log, with windows so small that followers fall out of them every other time."""
    with small_windows() if loop.chance.random() < 0.5 else nullcontext():
        async with open_ground(open_at=open_empty) as ground:
            await ground.begin_run(context_of("r"), draft_of())
            yield ground


@every_seed
def test_each_follower_gets_the_log_once_and_in_order(seeds: range) -> None:
    explore(following(), seeds)


@every_seed
def test_a_quiet_spell_repairs_lost_rings(seeds: range) -> None:
    explore(lossy, seeds)


def test_a_follower_that_reads_before_it_listens_is_found() -> None:
    with pytest.raises(TimeoutError) as caught:
        explore(following(HastyFeed), range(SEEDS))
    assert "ISOLANE_SEED=" in caught.value.__notes__[0]
