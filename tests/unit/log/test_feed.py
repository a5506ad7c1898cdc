"""The one road to a follower: subscribe, read, repeat; a lost ring costs time and no event."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
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
from isolane.contracts import RunEnd
from isolane.engines.memory.bell import LocalBell
from isolane.errors import CursorExpired, InvalidCursor, NotFound
from isolane.events.event import Record
from isolane.log.feed import Feed
from isolane.log.tail import READ_RECORDS
from isolane.log.window import FULL_WINDOW, SMALL_WINDOW, WINDOW_BYTES, WINDOW_RECORDS

Listener = Callable[[Sequence[Record]], None]


class LossyBell(LocalBell):
    """A bell that rings only now and then, as pub/sub may."""

    def __init__(self, keep: Callable[[int], bool]) -> None:
        super().__init__()
        self._keep = keep
        self._rings = 0

    def ring(self, key: ThreadKey, records: Sequence[Record]) -> None:
        self._rings += 1
        if self._keep(self._rings):
            super().ring(key, records)


@pytest.fixture
async def ground() -> AsyncIterator[Ground]:
    async with open_ground(clock=ManualClock()) as opened:
        await opened.begin_run(context_of("r"), draft_of())
        yield opened


async def append(feed: Feed, count: int, *, size: int = 0) -> list[EventId]:
    payload = b'{"type":"CUSTOM","name":"%s"}' % (b"x" * size)
    return [record.id for record in await append_to(feed, key_of(), "r", [payload] * count)]


async def take(feed: Feed, count: int, *, after: EventId = START) -> list[int]:
    """Return the numbers of the first `count` records after `after`."""
    found: list[int] = []
    async with aclosing(feed.follow(key_of(), after=after)) as records:
        async for record in records:
            found.append(record.id.seq)
            if len(found) == count:
                break
    return found


async def test_follow_gives_what_was_and_what_comes(ground: Ground) -> None:
    feed = Feed(ground.log, LocalBell())
    ids = await append(feed, 5)
    following = asyncio.create_task(take(feed, 8, after=ids[1]))
    await until(lambda: feed.log_reads)
    for _ in range(5):
        await append(feed, 1)
    assert await following == [3, 4, 5, 6, 7, 8, 9, 10]


@pytest.mark.parametrize(
    "keep",
    [lambda _: False, lambda n: n % 2 == 0, lambda n: n % 7 == 0],
    ids=["all", "half", "most"],
)
async def test_follow_survives_lost_rings(keep: Callable[[int], bool], ground: Ground) -> None:
    feed = Feed(ground.log, LossyBell(keep), quiet_s=0.05)
    following = [asyncio.create_task(take(feed, 100)) for _ in range(3)]
    for _ in range(100):
        await append(feed, 1)
    for one in following:
        assert await one == list(range(1, 101))


async def test_a_follower_that_hears_each_ring_reads_the_log_once(ground: Ground) -> None:
    feed = Feed(ground.log, LocalBell())
    following = asyncio.create_task(take(feed, 50))
    await until(lambda: feed.log_reads)
    for _ in range(50):
        await append(feed, 1)
    assert await following == list(range(1, 51))
    assert feed.log_reads <= 2


async def test_a_follower_behind_the_window_reads_the_log(ground: Ground) -> None:
    feed = Feed(ground.log, LocalBell())
    tail = await feed.open_tail(key_of())
    found: list[int] = []
    async with aclosing(tail.follow(START)) as batches:
        await append(feed, 1)
        found += [record.id.seq for record in await anext(batches)]
        most = 2 * READ_RECORDS + WINDOW_RECORDS
        await append(feed, most)  # while the follower is busy elsewhere
        while len(found) < most + 1:
            found += [record.id.seq for record in await anext(batches)]
    assert found == list(range(1, most + 2))
    assert feed.log_reads > 1
    tail.close()


async def test_the_window_is_bounded_in_records_and_in_bytes(ground: Ground) -> None:
    feed = Feed(ground.log, LocalBell())
    tail = await feed.open_tail(key_of())
    await append(feed, WINDOW_RECORDS + 10)
    assert tail.window_size[0] == WINDOW_RECORDS
    await append(feed, 10, size=WINDOW_BYTES // 4)
    records, size = tail.window_size
    assert size <= WINDOW_BYTES
    await append(feed, 1, size=2 * WINDOW_BYTES)
    assert tail.window_size[0] == 1  # the newest stays, however large
    assert records < 10
    tail.close()


async def test_small_windows_keep_little_and_nobody_misses_anything(ground: Ground) -> None:
    feed = Feed(ground.log, LocalBell())
    tail = await feed.open_tail(key_of())
    await append(feed, 300)
    following = asyncio.create_task(take(feed, 700))
    feed.resize_windows(SMALL_WINDOW)
    assert tail.window_size[0] == SMALL_WINDOW[0]
    late = await feed.open_tail(key_of())
    for _ in range(4):
        await append(feed, 100)
    assert tail.window_size[0] == late.window_size[0] == SMALL_WINDOW[0]
    assert await following == list(range(1, 701))
    await append(feed, 2, size=SMALL_WINDOW[1])
    assert tail.window_size[0] == 1  # the newest stays, however large
    feed.resize_windows(FULL_WINDOW)
    await append(feed, 2 * SMALL_WINDOW[0])
    assert tail.window_size[0] == late.window_size[0] == 2 * SMALL_WINDOW[0] + 1
    feed.close()


async def test_a_closed_tail_hears_nothing_and_may_be_closed_again(ground: Ground) -> None:
    bell = LocalBell()
    feed = Feed(ground.log, bell)
    tail = await feed.open_tail(key_of())
    tail.close()
    tail.close()
    await append(feed, 1)
    assert tail.window_size == (0, 0)
    assert not bell._listeners


async def test_closing_the_feed_ends_every_follower_in_order(ground: Ground) -> None:
    bell = LocalBell()
    feed = Feed(ground.log, bell)
    await append(feed, 2)
    following = [asyncio.create_task(take(feed, 10)) for _ in range(3)]
    await until(lambda: feed.log_reads >= 3)
    await append(feed, 1)
    feed.close()
    for one in following:
        assert await one in ([1, 2], [1, 2, 3])
    assert not bell._listeners
    assert not feed._tails


async def test_who_stops_following_leaves_nothing_behind(ground: Ground) -> None:
    bell = LocalBell()
    feed = Feed(ground.log, bell)
    await append(feed, 3)
    assert await take(feed, 3) == [1, 2, 3]
    following = asyncio.create_task(take(feed, 4))
    await until(lambda: bell._listeners)
    following.cancel()
    await asyncio.wait({following})
    assert not bell._listeners


async def test_a_cursor_ahead_or_of_another_numbering_is_told_at_once(ground: Ground) -> None:
    feed = Feed(ground.log, LocalBell())
    (first,) = await append(feed, 1)
    with pytest.raises(InvalidCursor):
        await take(feed, 1, after=EventId(first.epoch, 2))
    with pytest.raises(CursorExpired):
        await take(feed, 1, after=EventId("other", 1))


async def test_a_follower_that_is_overtaken_by_retention_is_told(ground: Ground) -> None:
    feed = Feed(ground.log, LossyBell(lambda _: False), quiet_s=0.05)
    (first, *_) = await append(feed, 2)
    tail = await feed.open_tail(key_of())
    async with aclosing(tail.follow(first)) as batches:
        assert [record.id.seq for record in await anext(batches)] == [2]
        await append_to(
            feed,
            key_of(),
            "r",
            [b"{}", b"{}"],
            end=RunEnd("r", "success", None, [], ground.clock()),
        )
        assert await ground.log.trim(older_than=ground.clock() + 1) == 4
        with pytest.raises(CursorExpired):
            await anext(batches)
    tail.close()


async def test_a_deleted_thread_ends_its_followers_before_there_is_another(ground: Ground) -> None:
    feed = Feed(ground.log, LocalBell())
    await append(feed, 2)
    tail = await feed.open_tail(key_of())
    async with aclosing(tail.follow(START)) as batches:
        assert len(await anext(batches)) == 2
        await feed.delete(key_of())
        await ground.begin_run(context_of("r"), draft_of())
        await append(feed, 3)
        with pytest.raises(StopAsyncIteration):
            await anext(batches)


async def test_a_ring_of_another_numbering_is_no_more_than_a_ring(ground: Ground) -> None:
    bell = LocalBell()
    feed = Feed(ground.log, bell)
    (first, _) = await append(feed, 2)
    tail = await feed.open_tail(key_of())
    async with aclosing(tail.follow(START)) as batches:
        await anext(batches)
        foreign = [Record(key_of(), EventId("other", seq), "r", b"{}") for seq in (1, 2, 3)]
        bell.ring(key_of(), foreign)
        coming = asyncio.ensure_future(anext(batches))
        await until(lambda: feed.log_reads >= 2)
        await append(feed, 1)
        assert [record.id for record in await coming] == [EventId(first.epoch, 3)]
    tail.close()


async def test_nobody_hears_of_what_was_not_committed(ground: Ground) -> None:
    bell = LocalBell()
    feed = Feed(ground.log, bell)
    heard: list[EventId] = []

    def listener(records: Sequence[Record]) -> None:
        heard.extend(record.id for record in records)

    await bell.listen(key_of("deleted"), listener)
    begun = await ground.begin_run(context_of("d", thread_id="deleted"), draft_of())
    await ground.log.delete(key_of("deleted"))
    with pytest.raises(NotFound, match="was deleted"):
        await feed.append(begun.lease, [b"{}"], batch=1)
    assert heard == []
    assert feed.appended == 0
