"""The factory: one live manager a thread, and every socket of every user."""

from __future__ import annotations

import asyncio

import pytest
from tests.house import ALICE, House, Socket, connect, context_of, open_house, says, until

from isolane.errors import ContractError, InvalidContext, LimitExceeded
from isolane.sockets.open_factory import (
    close_factory,
    create_websocket_manager,
    get_websocket_manager_factory,
    open_factory,
)


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


async def test_two_apps_in_one_process_never_take_the_other_ones_factory(house: House) -> None:
    async with open_house({"default": says()}) as other:
        open_factory(other.factory)
        with pytest.raises(ContractError, match=r"2 apps are open .* factory=…"):
            await create_websocket_manager(context_of())
        await create_websocket_manager(context_of(), factory=house.factory)
        assert (house.factory.manager_count, other.factory.manager_count) == (1, 0)
        close_factory(other.factory)


def test_without_a_running_app_there_is_no_factory() -> None:
    with pytest.raises(ContractError, match="lifespan"):
        get_websocket_manager_factory()


async def test_threads_with_connections_are_limited_for_each_user(house: House) -> None:
    connection, _ = await house.open_socket("1")
    for thread_id in ("1", "2", "3"):
        manager = await create_websocket_manager(context_of(thread_id=thread_id))
        connection.get_interest(thread_id).want_all()
        await manager.add_connection(connection)
    with pytest.raises(LimitExceeded, match="threadsPerUser is limited to 3"):
        await create_websocket_manager(context_of(thread_id="4"))
    await create_websocket_manager(context_of(thread_id="1"))  # the one there is
    await create_websocket_manager(context_of(thread_id="4", user_id="bob"))
    await house.let_go(connection)
    await create_websocket_manager(context_of(thread_id="4"))


async def test_threads_without_a_manager_count_with_those_that_have_one(house: House) -> None:
    for number in range(3):  # nobody follows them: they make room
        await create_websocket_manager(context_of(thread_id=str(number)))
    hold = house.factory.hold_thread
    async with hold(ALICE):
        async with hold(ALICE):
            connection, _ = await house.open_socket("1")
            manager = await create_websocket_manager(context_of(thread_id="2"))
            connection.get_interest("2").want_all()
            await manager.add_connection(connection)
            with pytest.raises(LimitExceeded, match="threadsPerUser is limited to 3"):
                async with hold(ALICE):
                    raise AssertionError
            with pytest.raises(LimitExceeded, match="threadsPerUser is limited to 3"):
                await create_websocket_manager(context_of(thread_id="3"))
            async with hold("bob"):
                pass
        await create_websocket_manager(context_of(thread_id="3"))


async def test_at_the_limit_what_has_no_open_socket_goes_oldest_first(house: House) -> None:
    connection, _ = await house.open_socket("1")
    kept = await create_websocket_manager(context_of(thread_id="kept"))
    connection.get_interest("kept").want_all()
    await kept.add_connection(connection)
    for number in range(10):
        await create_websocket_manager(context_of(thread_id=str(number)))
    assert list(house.factory._managers[ALICE]) == ["kept", "8", "9"]


async def test_a_dead_socket_keeps_no_thread_from_its_user(house: House) -> None:
    dead, _ = await house.open_socket("1")
    for number in range(3):
        manager = await create_websocket_manager(context_of(thread_id=str(number)))
        dead.get_interest(str(number)).want_all()
        await manager.add_connection(dead)
    dead.request_close()
    await create_websocket_manager(context_of(thread_id="new"))
    assert list(house.factory._managers[ALICE]) == ["1", "2", "new"]


async def test_a_manager_stays_for_the_open_socket_that_asked_for_it(house: House) -> None:
    connection, _ = await house.open_socket("1")
    asked = [connection.context.for_thread(str(number)) for number in range(3)]
    managers = [await create_websocket_manager(context) for context in asked]
    with pytest.raises(LimitExceeded, match="threadsPerUser is limited to 3"):
        await create_websocket_manager(context_of(thread_id="4"))
    await managers[0].add_connection(connection)
    await house.factory.discard(managers[1], asked[1])
    await create_websocket_manager(context_of(thread_id="4"))
    await house.let_go(connection)  # takes along what it was in or asked for, no more
    assert list(house.factory._managers[ALICE]) == ["4"]


async def test_who_asks_beside_others_discards_for_itself_alone(house: House) -> None:
    (one, _), (two, _) = await house.open_socket("1"), await house.open_socket("2")
    asked = [connection.context.for_thread("t") for connection in (one, two)]
    manager, same = [await create_websocket_manager(context) for context in asked]
    assert manager is same
    await house.factory.discard(manager, asked[0])
    await manager.add_connection(two)
    assert house.factory.manager_count == 1


async def test_more_at_once_than_the_limit_admit_exactly_the_limit(house: House) -> None:
    connection, _ = await house.open_socket("1")
    for turn in range(20):
        asked = [connection.context.for_thread(f"{turn}-{number}") for number in range(23)]
        answers = await asyncio.gather(
            *(create_websocket_manager(context) for context in asked), return_exceptions=True
        )
        refused = [answer for answer in answers if isinstance(answer, LimitExceeded)]
        assert (len(answers), len(refused), house.factory.manager_count) == (23, 20, 3)
        for context, manager in zip(asked, answers, strict=True):
            if not isinstance(manager, BaseException):
                await house.factory.discard(manager, context)
    await house.let_go(connection)
    assert house.factory.manager_count == 0


async def test_a_manager_that_got_no_connection_is_discarded(house: House) -> None:
    manager = await create_websocket_manager(context_of())
    await house.factory.discard(manager, context_of())
    assert house.factory.manager_count == 0
    assert not house.bell._listeners


async def test_a_manager_in_use_is_not_discarded(house: House) -> None:
    connection, _ = await house.open_socket("1")
    connection.get_interest("thread").want_all()
    manager = await create_websocket_manager(context_of())
    await manager.add_connection(connection)
    await house.factory.discard(manager, context_of())
    assert house.factory.manager_count == 1


async def test_after_a_storm_everything_is_as_before(house: House) -> None:
    async def visit(number: int) -> None:
        connection, _ = await house.open_socket(f"conn-{number}", user_id=f"user{number % 20}")
        for thread_id in ("1", "2"):
            context = context_of(thread_id=thread_id, user_id=connection.user_id)
            manager = await create_websocket_manager(context)
            connection.get_interest(thread_id).want_all()
            await manager.add_connection(connection)
        await house.let_go(connection)

    for _ in range(5):
        await asyncio.gather(*(visit(number) for number in range(40)))
    await until(lambda: len(house.tasks) == 0)
    assert house.counts == (0, 0, 0)
    assert not house.bell._listeners
    assert not house.limits._held
    assert not house.sockets._slots
    assert not house.factory._managers


async def test_shutdown_leaves_no_manager_that_was_being_made(house: House) -> None:
    making = asyncio.create_task(create_websocket_manager(context_of()))
    while not house.factory._making:  # noqa: ASYNC110 - of the factory's own, without an event
        await asyncio.sleep(0)  # a single turn: it takes no longer to make one
    await house.factory.shutdown()
    assert house.factory.manager_count == 0
    await asyncio.wait({making})
    assert not house.bell._listeners
