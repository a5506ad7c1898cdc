"""The factory: one live manager a thread, and every socket of every user."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from tests.house import ALICE, House, Socket, connect, context_of, open_house, says, until

from isolane.context import EventId
from isolane.contracts import Verdict
from isolane.errors import ContractError, InvalidContext, LimitExceeded, Unavailable
from isolane.sockets import connection as connection_module
from isolane.sockets.connection import WebSocketConnection
from isolane.sockets.factory import (
    SHED_RETRY_MS,
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


async def test_threads_without_a_manager_count_with_those_that_have_one(house: House) -> None:
    for number in range(3):  # nobody follows them: they make room
        await create_websocket_manager(context_of(thread_id=str(number)))
    for _ in range(2):
        await house.factory.take_thread(ALICE)
    connection, _ = own(house, "1")
    manager = await create_websocket_manager(context_of(thread_id="2"))
    connection.get_interest("2").want_all()
    await manager.add_connection(connection)
    with pytest.raises(LimitExceeded, match="threadsPerUser is limited to 3"):
        await house.factory.take_thread(ALICE)
    with pytest.raises(LimitExceeded, match="threadsPerUser is limited to 3"):
        await create_websocket_manager(context_of(thread_id="3"))
    await house.factory.take_thread("bob")
    house.factory.give_back_thread(ALICE)
    await create_websocket_manager(context_of(thread_id="3"))


async def test_at_the_limit_what_has_no_open_socket_goes_oldest_first(house: House) -> None:
    connection, _ = own(house, "1")
    kept = await create_websocket_manager(context_of(thread_id="kept"))
    connection.get_interest("kept").want_all()
    await kept.add_connection(connection)
    for number in range(10):
        await create_websocket_manager(context_of(thread_id=str(number)))
    assert list(house.factory._managers[ALICE]) == ["kept", "8", "9"]


async def test_a_dead_socket_keeps_no_thread_from_its_user(house: House) -> None:
    dead, _ = own(house, "1")
    for number in range(3):
        manager = await create_websocket_manager(context_of(thread_id=str(number)))
        dead.get_interest(str(number)).want_all()
        await manager.add_connection(dead)
    dead.request_close()
    await create_websocket_manager(context_of(thread_id="new"))
    assert list(house.factory._managers[ALICE]) == ["1", "2", "new"]


async def test_a_manager_stays_for_the_open_socket_that_asked_for_it(house: House) -> None:
    connection, _ = own(house, "1")
    asked = [connection.context.for_thread(str(number)) for number in range(3)]
    managers = [await create_websocket_manager(context) for context in asked]
    with pytest.raises(LimitExceeded, match="threadsPerUser is limited to 3"):
        await create_websocket_manager(context_of(thread_id="4"))
    await managers[0].add_connection(connection)
    await house.factory.discard(managers[1], asked[1])
    await create_websocket_manager(context_of(thread_id="4"))
    await house.factory.release(connection)  # takes along what it was in or asked for, no more
    assert list(house.factory._managers[ALICE]) == ["4"]


async def test_who_asks_beside_others_discards_for_itself_alone(house: House) -> None:
    (one, _), (two, _) = own(house, "1"), own(house, "2")
    asked = [connection.context.for_thread("t") for connection in (one, two)]
    manager, same = [await create_websocket_manager(context) for context in asked]
    assert manager is same
    await house.factory.discard(manager, asked[0])
    await manager.add_connection(two)
    assert house.factory.manager_count == 1


async def test_more_at_once_than_the_limit_admit_exactly_the_limit(house: House) -> None:
    connection, _ = own(house, "1")
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
    await house.factory.release(connection)
    assert house.factory.manager_count == 0


async def test_an_ended_socket_that_is_not_yet_released_locks_nobody_out(house: House) -> None:
    sockets = [own(house, str(number))[0] for number in range(3)]
    sockets[1].request_close()
    house.factory.reserve(ALICE)
    with pytest.raises(LimitExceeded):
        house.factory.reserve(ALICE)
    await house.factory.release(sockets[1])  # its slot went already
    with pytest.raises(LimitExceeded):
        house.factory.reserve(ALICE)
    house.factory.release_slot(ALICE)
    for socket in sockets:
        await house.factory.release(socket)
    assert not house.limits._held


async def test_a_manager_that_got_no_connection_is_discarded(house: House) -> None:
    manager = await create_websocket_manager(context_of())
    await house.factory.discard(manager, context_of())
    assert house.factory.manager_count == 0
    assert not house.bell._listeners


async def test_a_manager_in_use_is_not_discarded(house: House) -> None:
    connection, _ = own(house, "1")
    connection.get_interest("thread").want_all()
    manager = await create_websocket_manager(context_of())
    await manager.add_connection(connection)
    await house.factory.discard(manager, context_of())
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
    again = [own(house, f"again-{number}")[0] for number in range(3)]
    with pytest.raises(LimitExceeded):
        house.factory.reserve(ALICE)
    for socket in again:
        await house.factory.release(socket)


async def test_after_a_storm_everything_is_as_before(house: House) -> None:
    async def visit(number: int) -> None:
        connection, _ = own(house, f"conn-{number}", user_id=f"user{number % 20}")
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


async def test_socket_that_greets_during_a_drain_is_told_of_it(house: House) -> None:
    (early, _), (late, socket) = own(house, "1"), own(house, "2", user_id="bob")
    house.factory.tell_drain(early)  # nothing drains yet
    late.has_greeted = False
    house.factory.begin_drain(deadline_ms=7)
    late.has_greeted = True
    house.factory.tell_drain(late)
    await late.close()
    assert [json.loads(text) for text in socket.texts] == [{"type": "draining", "deadlineMs": 7}]


async def test_socket_that_is_accepted_during_shutdown_is_closed(house: House) -> None:
    _, first = own(house, "1")
    for _ in range(2):
        house.factory.reserve(ALICE)
    first.is_taking.clear()  # so that the goodbye takes its time
    shutting = asyncio.create_task(house.factory.shutdown())
    await until(lambda: house.factory._is_shut)
    late, last = Socket(), Socket()
    house.factory.own(connect(late, house.tasks, connection_id="2"))
    first.is_taking.set()
    await shutting
    assert house.factory.connection_count == 0
    accepted = connect(last, house.tasks, connection_id="3")
    house.factory.own(accepted)  # its accept took longer than the shutdown
    await accepted.close()
    assert [socket.closes for socket in (first, late, last)] == [[(1001, "going_away")]] * 3
    await house.factory.release(accepted)
    assert not house.limits._held


async def test_shutdown_waits_for_nobody_who_takes_nothing(house: House) -> None:
    connection, socket = own(house, "1")
    socket.is_taking.clear()
    connection.post({"type": "x"})
    manager = await create_websocket_manager(context_of())
    connection.get_interest("thread").want_all()
    await manager.add_connection(connection)
    async with asyncio.timeout(5):
        await house.factory.shutdown()
    assert (house.factory.connection_count, house.factory.manager_count) == (0, 0)
    await until(lambda: len(house.tasks) == 0)


async def test_shutdown_leaves_no_manager_that_was_being_made(house: House) -> None:
    making = asyncio.create_task(create_websocket_manager(context_of()))
    while not house.factory._making:  # noqa: ASYNC110 - of the factory's own, without an event
        await asyncio.sleep(0)  # a single turn: it takes no longer to make one
    await house.factory.shutdown()
    assert house.factory.manager_count == 0
    await asyncio.wait({making})
    assert not house.bell._listeners


async def test_frames_are_limited_to_so_many_a_minute() -> None:
    async with open_house({"default": says()}, limit_frames_per_minute=5) as house:
        for _ in range(5):
            house.factory.check_rate(ALICE)
        with pytest.raises(LimitExceeded, match="framesPerMinute is limited to 5") as caught:
            house.factory.check_rate(ALICE)
        assert (caught.value.retry_after_ms or 0) >= 100
        house.factory.check_rate("bob")


# --- memory that runs short ----------------------------------------------------------------------


@pytest.fixture
def no_newcomers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "NEWCOMER_S", 0)


@pytest.mark.usefixtures("no_newcomers")
async def test_an_idle_socket_is_told_why_it_closes_and_when_to_come_back(house: House) -> None:
    connection, socket = own(house, "c1")
    assert house.factory.shed_idle(10) == 1
    await connection.close()
    (error,) = socket.frames
    assert (error["type"], error["code"], error["retryable"]) == ("error", "unavailable", True)
    assert (error["retryAfterMs"], bool(error["errorId"])) == (SHED_RETRY_MS, True)
    assert socket.closes == [(1013, "unavailable")]
    assert house.factory.shed_idle(10) == 0  # it goes already
    assert house.factory.shed_count == 1


@pytest.mark.usefixtures("no_newcomers")
async def test_whoever_wants_something_or_is_being_served_stays(house: House) -> None:
    subscribed, running, busy = (own(house, each)[0] for each in ("c1", "c2", "c3"))
    replaying = own(house, "c4", user_id="bob")[0]
    subscribed.get_interest("t").want_all()
    assert running.get_interest("t").want_run("r", after=EventId("e", 0))
    busy.is_busy = True
    replaying.is_replay = True
    assert house.factory.shed_idle(10) == 0
    subscribed.lose_interest("t")
    assert house.factory.shed_idle(10) == 1
    stay = [each.is_open for each in (subscribed, running, busy, replaying)]
    assert stay == [False, True, True, True]


async def test_who_has_just_come_is_given_time_to_say_what_it_wants(house: House) -> None:
    own(house, "c1")
    assert house.factory.shed_idle(10) == 0


@pytest.mark.usefixtures("no_newcomers")
async def test_no_more_idle_sockets_go_at_once_than_asked(house: House) -> None:
    for number in range(3):
        own(house, f"a{number}")
        own(house, f"b{number}", user_id="bob")
    assert [house.factory.shed_idle(4), house.factory.shed_idle(4)] == [4, 2]
    assert house.factory.shed_count == 6
