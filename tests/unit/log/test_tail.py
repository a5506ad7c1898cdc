"""What the followers of one thread share: each gets all of it, and the log is asked once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing

import pytest
from tests.house import (
    START,
    Ground,
    ManualClock,
    append_to,
    context_of,
    draft_of,
    key_of,
    open_ground,
    until,
)

from isolane.context import EventId, ThreadKey
from isolane.contracts import LogBounds, RunEnd
from isolane.engines.memory.bell import LocalBell
from isolane.errors import CursorExpired, Unavailable
from isolane.events.event import Record
from isolane.log.feed import Feed
from isolane.log.tail import LogReader, Tail
from isolane.log.window import WINDOW_BYTES, WINDOW_RECORDS

CROWD = 50


class GatedLog:
    """A log whose reads wait at a gate, and fail when they are told to."""

    def __init__(self, log: LogReader) -> None:
        self._log = log
        self.gate = asyncio.Event()
        self.waiting = 0
        self.error: Exception | None = None

    async def read(
        self, key: ThreadKey, *, after: EventId, limit: int, max_bytes: int
    ) -> list[Record]:
        await self._pass()
        return await self._log.read(key, after=after, limit=limit, max_bytes=max_bytes)

    async def load_bounds(self, key: ThreadKey) -> LogBounds:
        await self._pass()
        return await self._log.load_bounds(key)

    async def _pass(self) -> None:
        self.waiting += 1
        try:
            await self.gate.wait()
        finally:
            self.waiting -= 1
        if self.error is not None:
            raise self.error


@pytest.fixture
async def ground() -> AsyncIterator[Ground]:
    async with open_ground(clock=ManualClock()) as opened:
        await opened.begin_run(context_of("r"), draft_of())
        yield opened


@pytest.fixture
def feed(ground: Ground) -> Feed:
    return Feed(ground.log, LocalBell())


async def append(feed: Feed, count: int, *, size: int = 2) -> list[EventId]:
    return [record.id for record in await append_to(feed, key_of(), "r", [b"x" * size] * count)]


async def take_to(tail: Tail, last: EventId, *, after: EventId) -> list[int]:
    """Return the numbers of what comes after `after`, up to `last`."""
    found: list[int] = []
    async with aclosing(tail.follow(after)) as batches:
        async for batch in batches:
            found += [record.id.seq for record in batch]
            if found[-1] >= last.seq:
                break
    return found


async def come_back(tail: Tail, last: EventId, *, after: EventId) -> list[int]:
    """As somebody who subscribes: look whether that can be, then follow."""
    (await tail.load_bounds(after)).check_cursor(after)
    return await take_to(tail, last, after=after)


async def test_many_who_come_at_once_from_many_places_cost_two_reads(feed: Feed) -> None:
    ids = await append(feed, WINDOW_RECORDS - 1)
    tail = await feed.open_tail(key_of())
    places = [START, *ids[: -1 : len(ids) // CROWD]]
    found = await asyncio.gather(*(come_back(tail, ids[-1], after=place) for place in places))
    for place, numbers in zip(places, found, strict=True):
        assert numbers == list(range(place.seq + 1, len(ids) + 1))
    assert (feed.log_reads, feed.bounds_reads) == (1, 1)
    tail.close()


async def test_who_comes_later_costs_nothing(feed: Feed) -> None:
    ids = await append(feed, 100)
    tail = await feed.open_tail(key_of())
    await come_back(tail, ids[-1], after=START)
    more = await append(feed, 10)
    reads = feed.log_reads, feed.bounds_reads
    for place in (START, *ids[::10]):
        await come_back(tail, more[-1], after=place)
    assert (feed.log_reads, feed.bounds_reads) == reads
    tail.close()


async def test_those_further_behind_share_their_pages(feed: Feed) -> None:
    ids = await append(feed, 3 * WINDOW_RECORDS)
    tail = await feed.open_tail(key_of())
    await take_to(tail, ids[-1], after=START)
    alone = feed.log_reads
    crowd = [come_back(tail, ids[-1], after=START) for _ in range(CROWD)]
    for numbers in await asyncio.gather(*crowd):
        assert numbers == list(range(1, len(ids) + 1))
    assert feed.log_reads <= 3 * alone
    tail.close()


async def test_events_too_large_for_the_window_are_read_all_the_same(feed: Feed) -> None:
    ids = await append(feed, 40, size=WINDOW_BYTES // 16)
    tail = await feed.open_tail(key_of())
    for place in (START, ids[3], ids[-4]):
        assert await come_back(tail, ids[-1], after=place) == [*range(place.seq + 1, 41)]
        assert tail.window_size[1] <= WINDOW_BYTES
    tail.close()


async def test_what_is_rung_while_the_log_is_read_comes_once(feed: Feed) -> None:
    ids = await append(feed, 20)
    tail = await feed.open_tail(key_of())
    gated = tail._log = GatedLog(tail._log)
    following = asyncio.create_task(come_back(tail, EventId(ids[0].epoch, 30), after=ids[4]))
    await until(lambda: gated.waiting)
    await append(feed, 10)
    gated.gate.set()
    assert await following == list(range(6, 31))
    tail.close()


async def test_a_reader_who_leaves_takes_nobody_along(feed: Feed) -> None:
    ids = await append(feed, 20)
    tail = await feed.open_tail(key_of())
    gated = tail._log = GatedLog(tail._log)
    leaving = asyncio.create_task(take_to(tail, ids[-1], after=START))
    await until(lambda: gated.waiting)
    staying = [asyncio.create_task(take_to(tail, ids[-1], after=START)) for _ in range(3)]
    await until(lambda: tail._waiting == 4)
    leaving.cancel()
    gated.gate.set()
    for one in staying:
        assert await one == list(range(1, 21))
    assert leaving.cancelled()
    tail.close()


@pytest.mark.parametrize(
    "ask", [Tail.load_bounds, lambda tail, after: take_to(tail, after, after=START)]
)
async def test_a_log_that_fails_is_told_to_all_who_wait_and_asked_anew_by_the_next(
    ask: Callable[[Tail, EventId], Awaitable[object]], feed: Feed
) -> None:
    ids = await append(feed, 5)
    tail = await feed.open_tail(key_of())
    gated = tail._log = GatedLog(tail._log)
    gated.error = Unavailable("the disk is gone")
    asking = [asyncio.ensure_future(ask(tail, ids[-1])) for _ in range(3)]
    await until(lambda: tail._waiting == len(asking))
    gated.gate.set()
    for failed in await asyncio.gather(*asking, return_exceptions=True):
        assert isinstance(failed, Unavailable)
    gated.error = None
    assert await come_back(tail, ids[-1], after=START) == [1, 2, 3, 4, 5]
    tail.close()


async def test_where_a_log_begins_is_known_anew_after_a_trim(ground: Ground, feed: Feed) -> None:
    ids = await append(feed, 5)
    tail = await feed.open_tail(key_of())
    await come_back(tail, ids[-1], after=START)
    end = RunEnd("r", "success", None, [], ground.clock())
    await append_to(feed, key_of(), "r", [b"{}"], end=end)
    assert (await tail.load_bounds(START)).trimmed_seq == 0
    assert await feed.trim(older_than=ground.clock() + 1) == 6
    bounds = await tail.load_bounds(START)
    assert bounds == LogBounds(6, EventId(ids[0].epoch, 6))
    with pytest.raises(CursorExpired):
        bounds.check_cursor(ids[2])
    tail.close()


async def test_a_cursor_that_is_ahead_is_judged_by_the_log(ground: Ground, feed: Feed) -> None:
    """Who read the log has seen what is committed, and the bell may ring for it later."""
    await append(feed, 5)
    tail = await feed.open_tail(key_of())
    await tail.load_bounds(None)
    (unrung,) = await append_to(ground.log, key_of(), "r", [b"{}"])
    assert (await tail.load_bounds(None)).head.seq == 5
    assert (await tail.load_bounds(unrung.id)).head == unrung.id
    assert await take_to(tail, unrung.id, after=START) == [1, 2, 3, 4, 5, 6]
    tail.close()
