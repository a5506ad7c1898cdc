"""The sweeper: takes what nobody came for, and nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.house import ALICE, House, Socket, connect, context_of, open_house, says, until

from isolane.sockets.manager import IsolatedWebSocketManager
from isolane.sockets.sweeper import Sweeper


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with open_house({"default": says()}, sweep_interval_s=0.01) as opened:
        yield opened


async def looks(house: House, count: int) -> None:
    """Wait until the sweeper has looked so many times more."""
    before = house.factory.sweeper_health.looks
    await until(lambda: house.factory.sweeper_health.looks >= before + count)


async def test_it_starts_with_the_first_manager_and_rests_after_the_last(house: House) -> None:
    running = []
    for _ in range(2):
        running.append(house.factory.sweeper_health.is_running)
        manager = await house.factory.create_manager(context_of())
        running.append(house.factory.sweeper_health.is_running)
        await manager.close()
    assert running == [False, True, False, True]
    assert not house.factory.sweeper_health.is_running


def test_without_a_loop_it_says_so_and_is_not_taken_for_started(house: House) -> None:
    sweeper = Sweeper(list, tasks=house.tasks, interval_s=1.0)
    with pytest.raises(RuntimeError):
        sweeper.start()
    assert not sweeper.health.is_running


async def test_what_never_got_a_connection_goes(house: House) -> None:
    await house.factory.create_manager(context_of())
    await until(lambda: house.factory.sweeper_health.closed)
    health = house.factory.sweeper_health
    assert (health.closed, health.errors, health.is_running) == (1, 0, False)
    assert house.factory.manager_count == 0
    assert not house.bell._listeners
    await until(lambda: len(house.tasks) == 0)


async def test_an_open_socket_is_never_swept_however_quiet(house: House) -> None:
    here, on_its_way = (connect(Socket(), house.tasks, connection_id=name) for name in "ab")
    for connection, thread_id in ((here, "here"), (on_its_way, "on-its-way")):
        manager = await house.factory.create_manager(context_of(thread_id=thread_id))
        manager.expect(connection)
    manager = await house.factory.create_manager(context_of(thread_id="here"))
    await manager.add_connection(here)
    await looks(house, 10)
    assert house.factory.manager_count == 2
    assert house.factory.sweeper_health.closed == 0
    here.request_close()
    on_its_way.request_close()
    await until(lambda: house.factory.manager_count == 0)


async def test_looking_at_statistics_keeps_nothing_alive() -> None:
    async with open_house({"default": says()}, sweep_interval_s=3600) as house:
        manager = await house.factory.create_manager(context_of())
        tasks = len(house.tasks)
        for sweeps in (0, 1):  # the first look suspects, the second sweeps
            manager.get_connection_health(ALICE)
            manager.is_connection_active(ALICE)
            house.factory._sweeper._look()
            assert len(house.tasks) == tasks + sweeps
        await until(lambda: house.factory.manager_count == 0)


async def test_it_survives_its_own_errors(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    close = IsolatedWebSocketManager.close
    failures = iter([ValueError("first"), ValueError("second")])

    async def fail_at_first(self: IsolatedWebSocketManager) -> None:
        for error in failures:
            raise error
        await close(self)

    monkeypatch.setattr(IsolatedWebSocketManager, "close", fail_at_first)
    for thread_id in "123":
        await house.factory.create_manager(context_of(thread_id=thread_id))
    await until(lambda: house.factory.sweeper_health.closed == 3)
    assert house.factory.sweeper_health.errors == 2
    assert house.factory.manager_count == 0


async def test_it_survives_a_look_that_fails(house: House) -> None:
    answers: list[list[IsolatedWebSocketManager]] = []

    def managers() -> list[IsolatedWebSocketManager]:
        return answers.pop()  # an IndexError while there are none

    sweeper = Sweeper(managers, tasks=house.tasks, interval_s=0.001)
    sweeper.start()
    await until(lambda: sweeper.health.errors >= 3)
    assert sweeper.health.is_running
    sweeper.stop()
