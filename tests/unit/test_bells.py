"""Bells of several nodes: the others hear that there is something, and nothing of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import pytest
from tests.brokers import PASSWORD, RedisServer, running_redis
from tests.house import key_of, until
from tests.postgres import PostgresServer

from isolane.bells import TOPICS_MAX, Broker, BrokerBell
from isolane.context import EventId
from isolane.engines.postgres.bell import PostgresBroker
from isolane.engines.postgres.driver import connect
from isolane.engines.redis.bell import RedisBroker
from isolane.errors import DatabaseFailed
from isolane.events.event import Record

RECORD = Record(key_of(), EventId("e", 1), "r", b"secret words")
KEY = b"common key"


@dataclass
class Place:
    """A broker, and how its connections are cut."""

    make: Callable[[], Broker]
    cut: Callable[[], object]


@contextmanager
def redis_place() -> Iterator[Place]:
    with running_redis() as server:

        def cut() -> None:
            with server.client() as client:
                client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
                client.execute_command("CLIENT", "KILL", "TYPE", "normal")

        yield Place(partial(RedisBroker, server.url, key=KEY), cut)


@pytest.fixture(params=["postgres", "redis"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    if request.param == "redis":
        with redis_place() as found:
            yield found
        return
    postgres: PostgresServer = request.getfixturevalue("postgres")
    with postgres.database() as url:
        open_connection = partial(connect, url)
        yield Place(
            partial(PostgresBroker, open_connection), partial(postgres.cut_connections, url)
        )


@pytest.fixture
async def bells(place: Place) -> AsyncIterator[tuple[BrokerBell, BrokerBell]]:
    async with AsyncExitStack() as stack:
        opened = [BrokerBell(place.make(), key=KEY) for _ in range(2)]
        for one in opened:
            await one.open()
            stack.push_async_callback(one.close)
        await until(lambda: not any(one.is_deaf for one in opened))
        yield opened[0], opened[1]


async def test_another_node_hears_that_there_is_something(
    bells: tuple[BrokerBell, BrokerBell],
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


async def test_more_topics_than_a_message_holds_are_all_heard(
    bells: tuple[BrokerBell, BrokerBell],
) -> None:
    here, there = bells
    heard = set[int]()
    for number in range(3 * TOPICS_MAX):
        await there.listen(key_of(str(number)), lambda _, number=number: heard.add(number))  # type: ignore[misc]
    for number in range(3 * TOPICS_MAX):
        here.ring(key_of(str(number)), [RECORD])
    await until(lambda: len(heard) == 3 * TOPICS_MAX)


async def test_a_bell_whose_connections_end_rings_and_hears_again(
    bells: tuple[BrokerBell, BrokerBell], place: Place
) -> None:
    here, there = bells
    heard = list[Sequence[Record]]()
    await there.listen(key_of(), heard.append)
    here.ring(key_of(), [RECORD])
    await until(lambda: heard)
    place.cut()
    await until(lambda: there.is_deaf)
    await until(lambda: not (there.is_deaf or here.is_deaf))
    heard.clear()
    here.ring(key_of(), [RECORD])
    await until(lambda: heard)


async def test_a_broker_that_does_nothing_leaves_bells_deaf_until_it_goes_on() -> None:
    with running_redis() as server:
        bell = BrokerBell(RedisBroker(server.url, key=KEY), key=KEY)
        await bell.open()
        await until(lambda: not bell.is_deaf)
        server.freeze()
        await until(lambda: bell.is_deaf)
        server.thaw()
        await until(lambda: not bell.is_deaf)
        server.kill()
        await until(lambda: bell.is_deaf)
        server.start()
        await until(lambda: not bell.is_deaf)
        await bell.close()


async def test_what_a_broker_hears_tells_nothing_and_strangers_call_nobody(
    redis_server: RedisServer,
) -> None:
    said = list[str]()
    bell = BrokerBell(RedisBroker(redis_server.url, key=KEY), key=KEY)
    stranger = BrokerBell(RedisBroker(redis_server.url, key=KEY), key=b"another key")
    heard = list[Sequence[Record]]()
    await stranger.listen(key_of("thread", user_id="alice"), heard.append)
    with redis_server.client() as client, client.pubsub() as ear:
        ear.psubscribe("*")
        for one in (bell, stranger):
            await one.open()
        await until(lambda: not (bell.is_deaf or stranger.is_deaf))
        own = list[Sequence[Record]]()
        await bell.listen(key_of("thread", user_id="alice"), own.append)
        for number in range(100):
            bell.ring(key_of("thread", user_id="alice"), [RECORD])
            bell.ring(key_of(f"thread-{number}", user_id="alice"), [RECORD])
        message = ear.get_message(timeout=1)
        while message is not None and len(said) < 200:
            said.append(str(message))
            message = ear.get_message(timeout=1)
    assert not any(word in text for text in said for word in ("alice", "thread", "secret"))
    assert (len(own), heard) == (100, [])
    for one in (bell, stranger):
        await one.close()


@pytest.mark.parametrize(
    "url, reason",
    [
        ("redis://127.0.0.1:1", "refused"),
        (f"redis://:{PASSWORD}x@127.0.0.1:PORT", "password"),
        ("redis://nowhere.invalid", "nowhere.invalid"),
    ],
)
def test_a_server_that_cannot_be_used_is_named_without_its_password(
    redis_server: RedisServer, url: str, reason: str
) -> None:
    broker = RedisBroker(url.replace("PORT", str(redis_server.port)), key=KEY)
    with pytest.raises(DatabaseFailed, match="ISOLANE_BELL_URL names a Redis server") as caught:
        broker.check()
    assert reason in str(caught.value)
    assert PASSWORD not in str(caught.value)


def test_a_topic_is_one_thread_s_own() -> None:
    bell = BrokerBell(RedisBroker("redis://127.0.0.1:1", key=KEY), key=KEY)
    keys = [key_of("b:c", user_id="a"), key_of("c", user_id="a:b"), key_of("b", user_id="a")]
    topics = [bell._topic_of(key) for key in keys]
    assert len(set(topics)) == len(keys)
    assert all(len(topic) == 24 and int(topic, 16) for topic in topics)
