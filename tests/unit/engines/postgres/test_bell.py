"""A bell of several nodes: the others hear that there is something, and nothing of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack
from functools import partial

import pytest
from tests.house import key_of, until
from tests.postgres import PostgresServer

from isolane.context import EventId
from isolane.engines.postgres.bell import PostgresBell, topic_of
from isolane.engines.postgres.driver import connect
from isolane.events.event import Record

RECORD = Record(key_of(), EventId("e", 1), "r", b"secret words")


@pytest.fixture
def url(postgres: PostgresServer) -> Iterator[str]:
    with postgres.database() as address:
        yield address


@pytest.fixture
async def bells(url: str) -> AsyncIterator[tuple[PostgresBell, PostgresBell]]:
    async with AsyncExitStack() as stack:
        opened = [PostgresBell(partial(connect, url)) for _ in range(2)]
        for one in opened:
            await one.open()
            stack.push_async_callback(one.close)
        await until(lambda: not any(one.is_deaf for one in opened))
        yield opened[0], opened[1]


async def test_another_node_hears_that_there_is_something(
    bells: tuple[PostgresBell, PostgresBell],
) -> None:
    here, there = bells
    own, others, foreign = (list[Sequence[Record]]() for _ in range(3))
    await here.listen(key_of(), own.append)
    await there.listen(key_of(), others.append)
    await there.listen(key_of("other"), foreign.append)
    for _ in range(3):
        here.ring(key_of(), [RECORD])
    await until(lambda: others)
    there.ring(key_of("other"), [RECORD])  # comes back behind all that was rung before
    here.ring(key_of("other"), [RECORD])
    await until(lambda: len(foreign) == 2)
    assert own == [[RECORD]] * 3
    assert set(map(tuple, others)) == {()}


async def test_a_bell_whose_connections_end_rings_and_hears_again(
    bells: tuple[PostgresBell, PostgresBell], postgres: PostgresServer, url: str
) -> None:
    here, there = bells
    heard = list[Sequence[Record]]()
    await there.listen(key_of(), heard.append)
    here.ring(key_of(), [RECORD])
    await until(lambda: heard)
    postgres.cut_connections(url)
    await until(lambda: there.is_deaf)
    await until(lambda: not there.is_deaf)
    heard.clear()
    here.ring(key_of(), [RECORD])
    await until(lambda: heard)


def test_a_topic_tells_nothing_and_is_one_thread_s_own() -> None:
    keys = [key_of("b:c", user_id="a"), key_of("c", user_id="a:b"), key_of("b", user_id="a")]
    topics = [topic_of(key) for key in keys]
    assert len(set(topics)) == len(keys)
    assert all(len(topic) == 24 and int(topic, 16) for topic in topics)
