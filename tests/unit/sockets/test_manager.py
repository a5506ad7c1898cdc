"""The live read side of one thread: each record once, in order, to its own user only."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import sqlalchemy as sa
from tests.house import (
    ALICE,
    House,
    Pen,
    Socket,
    append_to,
    connect,
    context_of,
    draft_of,
    key_of,
    open_house,
    says,
    until,
)

from isolane.context import EventId
from isolane.contracts import RunEnd, Verdict, WebSocketManagerProtocol, ensure
from isolane.errors import ContractError, ManagerClosed, NoActiveRun
from isolane.sockets.connection import WebSocketConnection
from isolane.sockets.manager import IsolatedWebSocketManager


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with open_house({"default": says()}) as opened:
        yield opened


async def begin(house: House, run_id: str = "r") -> None:
    """Bring a thread into being."""
    await house.ground.begin_run(context_of(run_id), draft_of())


async def append(house: House, *names: str, run_id: str = "r") -> list[EventId]:
    payloads = [json.dumps({"type": "CUSTOM", "name": name}).encode() for name in names]
    return [record.id for record in await append_to(house.feed, key_of(), run_id, payloads)]


async def end(house: House, run_id: str) -> None:
    payload = b'{"type":"RUN_FINISHED"}'
    await append_to(
        house.feed,
        key_of(),
        run_id,
        [payload],
        end=RunEnd(run_id, "success", None, [], house.clock()),
    )


def follower(house: House, connection_id: str = "conn") -> tuple[WebSocketConnection, Socket]:
    socket = Socket()
    connection = connect(socket, house.tasks, connection_id=connection_id)
    connection.get_interest("thread").want_all()
    return connection, socket


def names(socket: Socket) -> list[str]:
    frames = [json.loads(text) for text in socket.texts]
    chunks = [frame["chunk"] for frame in frames if "chunk" in frame]
    return [chunk["name"] for chunk in chunks if chunk["type"] == "CUSTOM"]


async def manager_of(house: House) -> IsolatedWebSocketManager:
    return await house.factory.create_manager(context_of())


async def test_it_keeps_its_contract(house: House) -> None:
    ensure(await manager_of(house), WebSocketManagerProtocol)


async def test_a_connection_gets_what_was_and_what_comes(house: House) -> None:
    await begin(house)
    ids = await append(house, "a", "b", "c")
    manager = await manager_of(house)
    (whole, whole_socket), (rest, rest_socket) = follower(house, "1"), follower(house, "2")
    await manager.add_connection(whole)
    await manager.add_connection(rest, after=ids[1])
    await until(lambda: names(whole_socket) == ["a", "b", "c"])
    await append(house, "d", "e")
    await until(lambda: len(names(whole_socket)) == 5 and len(names(rest_socket)) == 3)
    assert names(whole_socket) == ["a", "b", "c", "d", "e"]
    assert names(rest_socket) == ["c", "d", "e"]


async def test_each_record_comes_once_while_replay_and_live_meet(house: House) -> None:
    await begin(house)
    manager = await manager_of(house)
    connection, socket = follower(house)
    await append(house, *map(str, range(300)))
    pen = Pen(house.feed, await house.feed.take_over(key_of(), "r"))
    said = [json.dumps({"type": "CUSTOM", "name": str(n)}).encode() for n in range(300, 400)]
    writing = [asyncio.create_task(pen.append(event)) for event in said]
    await manager.add_connection(connection)
    await asyncio.gather(*writing)
    await until(lambda: len(names(socket)) >= 400)
    seqs = [int(json.loads(text)["id"].rpartition("-")[2]) for text in socket.texts]
    assert seqs == list(range(1, 401))


async def test_a_slow_socket_slows_only_itself(house: House) -> None:
    await begin(house)
    manager = await manager_of(house)
    (slow, slow_socket), (fast, fast_socket) = follower(house, "slow"), follower(house, "fast")
    slow_socket.is_taking.clear()
    await manager.add_connection(slow)
    await manager.add_connection(fast)
    for number in range(50):
        await append(house, str(number))
    await until(lambda: len(names(fast_socket)) == 50)
    assert names(slow_socket) == []
    slow_socket.is_taking.set()
    await until(lambda: len(names(slow_socket)) == 50)
    assert names(slow_socket) == names(fast_socket)


async def test_a_foreign_connection_is_refused(house: House) -> None:
    manager = await manager_of(house)
    foreign = connect(Socket(), house.tasks, user_id="bob")
    with pytest.raises(ContractError, match="its own user only"):
        await manager.add_connection(foreign)
    assert manager.is_empty
    await foreign.dispose()


async def test_another_user_is_answered_as_if_nothing_were_there(house: House) -> None:
    manager = await manager_of(house)
    connection, socket = follower(house)
    connection.has_greeted = True
    await manager.add_connection(connection)
    assert manager.get_user_connections("bob") == frozenset()
    assert not manager.is_connection_active("bob")
    health = manager.get_connection_health("bob")
    assert (health.connections, health.followers, health.window_records, health.window_bytes) == (
        0, 0, 0, 0,
    )  # fmt: skip
    assert await manager.send_to_user("bob", {"type": "x"}) == {}
    assert await manager.send_to_thread("other", {"type": "x"}) == {}
    with pytest.raises(NoActiveRun):
        await manager.emit_critical_event("bob", "x", {})
    assert socket.sent == []


async def test_looking_changes_nothing(house: House) -> None:
    await begin(house)
    await append(house, "a")
    manager = await manager_of(house)
    connection, socket = follower(house)
    await manager.add_connection(connection)
    await until(lambda: names(socket) == ["a"])
    first = manager.get_connection_health(ALICE)
    assert [manager.get_connection_health(ALICE) for _ in range(5)] == [first] * 5
    assert (first.connections, first.open_connections, first.followers) == (1, 1, 1)
    assert manager.get_user_connections(ALICE) == {"conn"}
    assert manager.get_connection("conn") is connection
    assert manager.is_connection_active(ALICE)
    connection.request_close()
    assert not manager.is_connection_active(ALICE)


async def test_control_frames_go_to_greeted_connections_with_a_verdict_each(house: House) -> None:
    manager = await manager_of(house)
    (greeted, socket), (mute, mute_socket) = follower(house, "greeted"), follower(house, "mute")
    (dead, dead_socket) = follower(house, "dead")
    greeted.has_greeted = dead.has_greeted = True
    dead_socket.error = OSError("gone")
    for connection in (greeted, mute, dead):
        await manager.add_connection(connection)
    verdicts = await manager.send_to_user(ALICE, {"type": "x"})
    assert verdicts == {"greeted": Verdict.DELIVERED, "dead": Verdict.FAILED}
    assert await manager.send_to_thread("thread", {"type": "y"}) == {
        "greeted": Verdict.DELIVERED,
        "dead": Verdict.CLOSED,
    }
    assert [json.loads(text)["type"] for text in socket.texts] == ["x", "y"]
    assert mute_socket.sent == []


async def test_removing_waits_for_the_follower_and_is_idempotent(house: House) -> None:
    manager = await manager_of(house)
    connections = [follower(house, str(number))[0] for number in range(3)]
    for connection in connections:
        await manager.add_connection(connection)
    assert manager.follower_count == 3
    await manager.remove_connection("0")
    await manager.remove_connection("0")
    await manager.remove_connection("unknown")
    assert manager.follower_count == 2
    assert manager.get_connection("0") is None
    for connection in connections:
        await connection.dispose()


async def test_it_closes_with_its_last_connection(house: House) -> None:
    manager = await manager_of(house)
    connection, _ = follower(house)
    await manager.add_connection(connection)
    await manager.remove_connection("conn")
    assert manager.is_closed
    assert house.factory.manager_count == 0
    assert not house.bell._listeners
    await connection.dispose()
    await until(lambda: len(house.tasks) == 0)


async def test_a_connection_of_single_runs_leaves_after_the_last(house: House) -> None:
    await begin(house)
    manager = await manager_of(house)
    socket = Socket()
    connection = connect(socket, house.tasks)
    connection.get_interest("thread").want_run("r", after=EventId("0", 0))
    await manager.add_connection(connection)
    await append(house, "a")
    await house.ground.book.give_up(context_of("r").run_key)  # so that another has the turn
    await begin(house, "other")
    await append(house, "x", run_id="other")
    await end(house, "r")
    await until(lambda: manager.is_closed)
    assert names_or_ends(socket) == ["CUSTOM", "RUN_FINISHED"]
    assert connection.is_open
    await connection.dispose()


def names_or_ends(socket: Socket) -> list[str]:
    return [json.loads(text)["chunk"]["type"] for text in socket.texts]


async def test_a_replay_closes_after_its_run(house: House) -> None:
    await begin(house)
    await append(house, "a")
    await end(house, "r")
    manager = await manager_of(house)
    socket = Socket()
    connection = connect(socket, house.tasks)
    connection.is_replay = True
    connection.get_interest("thread").want_run("r", after=EventId("0", 0))
    await manager.add_connection(connection)
    await until(lambda: socket.closes)
    assert socket.closes == [(1000, "")]
    assert names_or_ends(socket) == ["CUSTOM", "RUN_FINISHED"]


async def test_a_gap_is_told_before_any_later_event(house: House) -> None:
    for run_id in ("old", "new"):
        await begin(house, run_id)
        await append(house, run_id, run_id=run_id)
        await end(house, run_id)
    await house.ground.database.write(
        lambda connection: connection.execute(
            sa.text("UPDATE runs SET ended_at = 0 WHERE run_id = 'old'")
        )
    )
    assert await house.ground.log.trim(older_than=1) == 2
    manager = await manager_of(house)
    connection, socket = follower(house)
    await manager.add_connection(connection)
    await until(lambda: names(socket) == ["new"])
    first = json.loads(socket.texts[0])
    assert (first["type"], first["recovered"]) == ("subscribed", False)


async def test_closing_twice_at_once_closes_the_sockets_that_still_want_something(
    house: House,
) -> None:
    manager = await manager_of(house)
    wanting = [follower(house, str(number)) for number in range(5)]
    content, content_socket = follower(house, "content")
    for connection in (content, *(connection for connection, _ in wanting)):
        await manager.add_connection(connection)
    content.lose_interest("thread")
    await asyncio.gather(manager.close(), manager.close(), manager.close())
    await manager.close()
    assert manager.follower_count == 0
    assert manager.is_empty
    assert not house.bell._listeners
    assert [socket.closes for _, socket in wanting] == [[(1001, "going_away")]] * 5
    assert content.is_open
    assert content_socket.sent == []
    for connection in (content, *(connection for connection, _ in wanting)):
        await connection.dispose()


async def test_closing_during_a_send_loses_no_frame_of_it(house: House) -> None:
    manager = await manager_of(house)
    connection, socket = follower(house)
    connection.has_greeted = True
    await manager.add_connection(connection)
    socket.is_taking.clear()
    sending = asyncio.create_task(manager.send_to_user(ALICE, {"type": "x"}))
    await until(lambda: not connection._writer._outbox)  # the writer has it
    closing = asyncio.create_task(manager.close())
    await until(lambda: manager.is_closed)
    socket.is_taking.set()
    await closing
    assert await sending == {"conn": Verdict.DELIVERED}
    assert (json.loads(socket.texts[0])["type"], socket.closes) == ("x", [(1001, "going_away")])


async def test_a_socket_that_hangs_or_raises_delays_no_other_and_spoils_nothing(
    house: House,
) -> None:
    manager = await manager_of(house)
    sound, sound_socket = follower(house, "sound")
    raising, raising_socket = follower(house, "raising")
    hanging_socket = Socket()
    hanging = connect(hanging_socket, house.tasks, connection_id="hanging", send_timeout_s=0.2)
    raising_socket.error = ValueError("no server says this")
    hanging_socket.is_taking.clear()
    for connection in (sound, raising, hanging):
        connection.has_greeted = True
        await manager.add_connection(connection)
    sending = asyncio.create_task(manager.send_to_user(ALICE, {"type": "x"}))
    await until(lambda: len(sound_socket.texts) == 1)
    assert not sending.done()  # the verdict on the third is still out
    assert (await manager.send_to_user(ALICE, {"type": "y"}))["sound"] is Verdict.DELIVERED
    assert await sending == {
        "sound": Verdict.DELIVERED,
        "raising": Verdict.FAILED,
        "hanging": Verdict.FAILED,
    }
    await manager.remove_connection("raising")
    await manager.remove_connection("hanging")
    assert manager.get_user_connections(ALICE) == {"sound"}
    assert await manager.send_to_user(ALICE, {"type": "z"}) == {"sound": Verdict.DELIVERED}


async def test_what_is_returned_is_a_copy(house: House) -> None:
    manager = await manager_of(house)
    connection, _ = follower(house)
    connection.has_greeted = True
    await manager.add_connection(connection)
    ids, health = manager.get_user_connections(ALICE), manager.get_connection_health(ALICE)
    verdicts = await manager.send_to_user(ALICE, {"type": "x"})
    verdicts.clear()  # type: ignore[attr-defined]  # a mapping to those who read it
    await manager.remove_connection("conn")
    assert ids == {"conn"}
    assert health.connections == 1
    assert await house.factory.create_manager(context_of()) is not manager


async def test_it_stays_for_a_connection_that_is_on_its_way(house: House) -> None:
    manager = await manager_of(house)
    (first, _), (second, _) = follower(house, "1"), follower(house, "2")
    manager.expect(second)
    await manager.add_connection(first)
    await manager.remove_connection("1")
    assert not manager.is_closed
    await manager.add_connection(second)
    await manager.remove_connection("2")
    assert manager.is_closed


async def test_it_closes_when_the_only_one_on_its_way_is_dismissed(house: House) -> None:
    manager = await manager_of(house)
    connection, _ = follower(house)
    manager.expect(connection)
    manager.dismiss("another")
    assert manager.has_open_socket
    manager.dismiss("conn")
    manager.dismiss("conn")
    assert manager.is_closed
    assert not house.bell._listeners


async def test_after_closing_every_method_says_so(house: House) -> None:
    manager = await manager_of(house)
    connection, _ = follower(house)
    await manager.close()
    with pytest.raises(ManagerClosed):
        await manager.add_connection(connection)
    with pytest.raises(ManagerClosed):
        await manager.remove_connection("conn")
    with pytest.raises(ManagerClosed):
        manager.get_connection("conn")
    with pytest.raises(ManagerClosed):
        manager.get_user_connections(ALICE)
    with pytest.raises(ManagerClosed):
        manager.is_connection_active(ALICE)
    with pytest.raises(ManagerClosed):
        manager.get_connection_health(ALICE)
    with pytest.raises(ManagerClosed):
        await manager.send_to_user(ALICE, {})
    with pytest.raises(ManagerClosed):
        await manager.send_to_thread("thread", {})
    with pytest.raises(ManagerClosed):
        await manager.emit_critical_event(ALICE, "x", {})
    await connection.dispose()


async def test_a_log_that_cannot_be_read_for_a_while_costs_no_event(house: House) -> None:
    await begin(house)
    await append(house, "a")
    database: Any = house.ground.database
    raw: Any = database._writing.connection.driver_connection
    raw.set_progress_handler(lambda: True, 1)  # each statement is interrupted
    manager = await manager_of(house)
    connection, socket = follower(house)
    await manager.add_connection(connection)
    reads = house.feed.log_reads
    await until(lambda: house.feed.log_reads > reads)
    raw.set_progress_handler(None, 0)
    await append(house, "b")
    # Either the events come after all, or the socket is closed so that its client resumes.
    await until(lambda: names(socket) == ["a", "b"] or socket.closes)


async def test_a_cursor_ahead_of_the_log_is_no_silent_follower(house: House) -> None:
    manager = await manager_of(house)
    connection, socket = follower(house)
    head = (await house.feed.load_bounds(key_of())).head
    await manager.add_connection(connection, after=EventId(head.epoch, 7))
    await until(lambda: manager.is_closed or manager.follower_count == 0 or socket.sent)


async def test_a_user_may_be_named_with_accents_apart(house: House) -> None:
    composed, apart = "\u00e9ve", "e\u0301ve"
    context = context_of(user_id=apart)
    manager = await house.factory.create_manager(context)
    connection = connect(Socket(), house.tasks, user_id=composed)
    connection.has_greeted = True
    await house.let_in(connection)
    await manager.add_connection(connection)
    for name in (composed, apart):
        assert manager.get_user_connections(name) == {"conn"}
        assert manager.get_connection_health(name).followers == 1
        assert await house.factory.send_to_user(name, {"type": "x"}) == {"conn": Verdict.DELIVERED}
    assert manager.get_user_connections("eve") == frozenset()
    await connection.dispose()
