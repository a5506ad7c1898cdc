"""What every bell promises."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from functools import partial

import pytest
from tests.house import key_of
from tests.postgres import PostgresServer

from isolane.bells import Broker, BrokerBell
from isolane.context import EventId
from isolane.contracts import Bell, ensure
from isolane.engines.memory.bell import LocalBell
from isolane.engines.postgres.bell import PostgresBroker
from isolane.engines.postgres.driver import connect
from isolane.engines.redis.bell import RedisBroker
from isolane.events.event import Record


@pytest.fixture(params=["local", "postgres", "redis"])
def broker(request: pytest.FixtureRequest) -> Broker | None:
    """Give what carries rings; None for a bell of one process."""
    if request.param == "local":
        return None
    if request.param == "redis":
        return RedisBroker(request.getfixturevalue("redis_server").url, key=b"contract")
    server: PostgresServer = request.getfixturevalue("postgres")
    return PostgresBroker(partial(connect, server.address("ready")))


@pytest.fixture
async def bell(broker: Broker | None) -> AsyncIterator[Bell]:
    if broker is None:
        yield LocalBell()
        return
    opened = BrokerBell(broker, key=b"key")
    await opened.open()
    yield opened
    await opened.close()


def record(seq: int = 1) -> Record:
    return Record(key_of(), EventId("e", seq), "r", b"{}")


class Ear:
    """Hears rings."""

    def __init__(self) -> None:
        self.heard: list[int] = []

    def __call__(self, records: Sequence[Record]) -> None:
        self.heard += [one.id.seq for one in records]


async def test_it_keeps_its_contract(bell: Bell) -> None:
    ensure(bell, Bell)


async def test_everybody_who_listens_hears_what_was_rung(bell: Bell) -> None:
    one, two = Ear(), Ear()
    await bell.listen(key_of(), one)
    await bell.listen(key_of(), two)
    bell.ring(key_of(), [record(1), record(2)])
    assert one.heard == two.heard == [1, 2]


async def test_nobody_hears_of_another_thread_or_user(bell: Bell) -> None:
    ear = Ear()
    await bell.listen(key_of("c", user_id="a:b"), ear)
    for key in (key_of("b:c", user_id="a"), key_of("c", user_id="a"), key_of("c", user_id="b")):
        bell.ring(key, [record()])
    assert ear.heard == []


async def test_who_hangs_up_hears_no_more_and_may_hang_up_again(bell: Bell) -> None:
    one, two = Ear(), Ear()
    hang_up = await bell.listen(key_of(), one)
    await bell.listen(key_of(), two)
    hang_up()
    hang_up()
    bell.ring(key_of(), [record()])
    assert (one.heard, two.heard) == ([], [1])


async def test_a_ring_that_nobody_hears_is_lost_and_nothing_else(bell: Bell) -> None:
    bell.ring(key_of(), [record()])
    ear = Ear()
    await bell.listen(key_of(), ear)
    assert ear.heard == []
    bell.ring(key_of(), [record(2)])
    assert ear.heard == [2]


async def test_listeners_may_come_and_go_while_it_rings(bell: Bell) -> None:
    ear = Ear()
    hang_ups: list[object] = []

    def leaves(records: Sequence[Record]) -> None:
        ear(records)
        for hang_up in hang_ups:
            assert callable(hang_up)
            hang_up()

    hang_ups.append(await bell.listen(key_of(), leaves))
    bell.ring(key_of(), [record(1)])
    bell.ring(key_of(), [record(2)])
    assert ear.heard == [1]
