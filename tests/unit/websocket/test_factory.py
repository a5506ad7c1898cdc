"""The factory: one live manager a thread, and every socket of every user."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from tests.house import ALICE, House, Socket, connect, context_of, open_house, says, until

from isolane.contracts import Verdict
from isolane.errors import ContractError, InvalidContext, LimitExceeded, Unavailable
from isolane.websocket.connection import WebSocketConnection
from isolane.websocket.factory import (
    close_factory,
    create_websocket_manager,
    get_websocket_manager_factory,
    open_factory,
)


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with open_house(
        {"default": says()}, limit_connections_per_user=3, limit_threads_per_user=3
    ) as opened:
        open_factory(opened.factory)
        yield opened
        close_factory(opened.factory)


def own(
    house: House, connection_id: str, *, user_id: str = ALICE
) -> tuple[WebSocketConnection, Socket]:
    house.factory.reserve(user_id)
    socket = Socket()
    connection = connect(socket, house.tasks, connection_id=connection_id, user_id=user_id)
    connection.has_greeted = True
    house.factory.own(connection)
    return connection, socket


async def test_the_same_thread_has_one_manager_however_many_ask_at_once(house: House) -> None:
    managers = await asyncio.gather(*(create_websocket_manager(context_of()) for _ in range(50)))
    assert len({id(manager) for manager in managers}) == 1
    assert house.factory.manager_count == 1
    assert house.factory.get_manager(context_of()) is managers[0]


async def test_two_users_of_one_thread_id_never_meet(house: House) -> None:
    one = await create_websocket_manager(context_of(user_id="a:b", thread_id="c"))
    two = await create_websocket_manager(context_of(user_id="a", thread_id="b:c"))
    assert one is not two
    assert house.factory.manager_count == 2


async def test_a_closed_manager_is_followed_by_a_new_one(house: House) -> None:
    first = await create_websocket_manager(context_of())
    await first.close()
    assert house.factory.manager_count == 0
    assert await create_websocket_manager(context_of()) is not first


async def test_one_who_gives_up_waiting_spoils_it_for_nobody(house: House) -> None:
    first = asyncio.create_task(create_websocket_manager(context_of()))
    second = asyncio.create_task(create_websocket_manager(context_of()))
    await asyncio.sleep(0)
    first.cancel()
    assert await second is house.factory.get_manager(context_of())


@pytest.mark.parametrize("wrong", [None, "alice", {"user_id": "alice"}, 5], ids=str)
async def test_what_is_no_context_is_a_broken_contract(wrong: object, house: House) -> None:
    with pytest.raises(ContractError, match="wants a UserExecutionContext"):
        await create_websocket_manager(wrong)  # type: ignore[arg-type]
    assert house.factory.manager_count == 0


async def test_a_context_without_a_thread_is_named(house: House) -> None:
    with pytest.raises(InvalidContext, match="threadId"):
        await create_websocket_manager(connect(Socket(), house.tasks).context)


def test_without_a_running_app_there_is_no_factory() -> None:
    with pytest.raises(ContractError, match="lifespan"):
        get_websocket_manager_factory()


async def test_threads_with_connections_are_limited_for_each_user(house: House) -> None:
    connection, _ = own(house, "1")
    for thread_id in ("1", "2", "3"):
        manager = await create_websocket_manager(context_of(thread_id=thread_id))
        connection.get_interest(thread_id).want_all()
        await manager.add_connection(connection)
    with pytest.raises(LimitExceeded, match="threadsPerUser is limited to 3"):
        await create_websocket_manager(context_of(thread_id="4"))
    await create_websocket_manager(context_of(thread_id="1"))  # the one there is
    await create_websocket_manager(context_of(thread_id="4", user_id="bob"))
    await house.factory.release(connection)
    await create_websocket_manager(context_of(thread_id="4"))


async def test_managers_without_a_connection_lock_nobody_out(house: House) -> None:
    for number in range(10):
        await create_websocket_manager(context_of(thread_id=str(number)))
        assert house.factory.manager_count <= 3


async def test_a_manager_that_got_no_connection_is_discarded(house: House) -> None:
    manager = await create_websocket_manager(context_of())
    await house.factory.discard(manager)
    assert house.factory.manager_count == 0
    assert not house.bell._listeners


async def test_a_manager_in_use_is_not_discarded(house: House) -> None:
    connection, _ = own(house, "1")
    connection.get_interest("thread").want_all()
    manager = await create_websocket_manager(context_of())
    await manager.add_connection(connection)
    await house.factory.discard(manager)
    assert house.factory.manager_count == 1


async def test_sockets_are_limited_and_every_slot_comes_back(house: House) -> None:
    sockets = [own(house, str(number))[0] for number in range(3)]
    with pytest.raises(LimitExceeded, match="connectionsPerUser is limited to 3"):
        house.factory.reserve(ALICE)
    house.factory.reserve("bob")
    house.factory.release_slot("bob")
    await house.factory.release(sockets[0])
    await house.factory.release(sockets[0])  # gives one slot back, not two
    house.factory.reserve(ALICE)
    with pytest.raises(LimitExceeded):
        house.factory.reserve(ALICE)
    house.factory.release_slot(ALICE)
    for socket in sockets:
        await house.factory.release(socket)
    again = [own(house, f"again {number}")[0] for number in range(3)]
    with pytest.raises(LimitExceeded):
        house.factory.reserve(ALICE)
    for socket in again:
        await house.factory.release(socket)


async def test_after_a_storm_everything_is_as_before(house: House) -> None:
    async def visit(number: int) -> None:
        connection, _ = own(house, f"conn {number}", user_id=f"user{number % 20}")
        for thread_id in ("1", "2"):
            context = context_of(thread_id=thread_id, user_id=connection.user_id)
            manager = await create_websocket_manager(context)
            connection.get_interest(thread_id).want_all()
            await manager.add_connection(connection)
        await house.factory.release(connection)

    for _ in range(5):
        await asyncio.gather(*(visit(number) for number in range(40)))
    await until(lambda: len(house.tasks) == 0)
    factory = house.factory
    assert (factory.connection_count, factory.manager_count, factory.follower_count) == (0, 0, 0)
    assert not house.bell._listeners
    assert not house.limits._held
    assert not factory._sockets
    assert not factory._managers


async def test_a_users_frames_reach_the_users_greeted_sockets_only(house: House) -> None:
    (greeted, socket), (mute, mute_socket) = own(house, "1"), own(house, "2")
    _, bobs = own(house, "3", user_id="bob")
    mute.has_greeted = False
    assert await house.factory.send_to_user(ALICE, {"type": "x"}) == {"1": Verdict.DELIVERED}
    house.factory.post_to_user(ALICE, {"type": "y"})
    await greeted.close()
    assert [json.loads(text)["type"] for text in socket.texts] == ["x", "y"]
    assert mute_socket.sent == []
    assert bobs.sent == []


async def test_a_drain_takes_nothing_new_and_tells_who_is_here(house: House) -> None:
    connection, socket = own(house, "1")
    house.factory.begin_drain(deadline_ms=99)
    with pytest.raises(Unavailable):
        house.factory.reserve(ALICE)
    with pytest.raises(Unavailable):
        await create_websocket_manager(context_of())
    await connection.send({"type": "after"})
    assert json.loads(socket.texts[0]) == {"type": "draining", "deadlineMs": 99}


async def test_shutdown_says_goodbye_to_all_and_is_idempotent(house: House) -> None:
    connections = [own(house, "1"), own(house, "2", user_id="bob")]
    manager = await create_websocket_manager(context_of())
    connections[0][0].get_interest("thread").want_all()
    await manager.add_connection(connections[0][0])
    await asyncio.gather(house.factory.shutdown(), house.factory.shutdown())
    await house.factory.shutdown()
    assert [socket.closes for _, socket in connections] == [[(1001, "going_away")]] * 2
    assert house.factory.manager_count == 0
    for connection, _ in connections:
        await house.factory.release(connection)
    await until(lambda: len(house.tasks) == 0)
    assert house.factory.connection_count == 0
    assert not house.limits._held


async def test_frames_are_limited_to_so_many_a_minute() -> None:
    async with open_house({"default": says()}, limit_frames_per_minute=5) as house:
        for _ in range(5):
            house.factory.check_rate(ALICE)
        with pytest.raises(LimitExceeded, match="framesPerMinute is limited to 5") as caught:
            house.factory.check_rate(ALICE)
        assert (caught.value.retry_after_ms or 0) >= 100
        house.factory.check_rate("bob")
