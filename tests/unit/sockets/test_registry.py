"""The book of sockets and event streams: slots, revocation, drain, and who makes room."""

from __future__ import annotations

import asyncio
import json

import pytest
from tests.house import ALICE, House, Socket, connect, context_of, until

from isolane.context import EventId
from isolane.contracts import Identity, Verdict
from isolane.errors import LimitExceeded, Unavailable
from isolane.sockets import connection as connection_module
from isolane.sockets.open_factory import create_websocket_manager
from isolane.sockets.registry import SHED_RETRY_MS


class Stream:
    """An event stream, as far as the book knows one."""

    def __init__(self, stream_id: str, *, session_id: str | None = None) -> None:
        self.id = stream_id
        self.identity = Identity(ALICE, session_id=session_id)
        self.is_open = True

    def revoke(self) -> None:
        self.is_open = False


async def assert_full(house: House) -> None:
    """Say that the user can't have another connection."""
    with pytest.raises(LimitExceeded, match="connectionsPerUser is limited to 3"):
        async with house.sockets.reserve(ALICE):
            raise AssertionError


async def test_an_ended_socket_that_is_not_yet_released_locks_nobody_out(house: House) -> None:
    sockets = [(await house.open_socket(str(number)))[0] for number in range(3)]
    sockets[1].request_close()
    async with house.sockets.reserve(ALICE):
        await assert_full(house)
        await house.let_go(sockets[1])  # its slot went already
        await assert_full(house)
    for socket in sockets:
        await house.let_go(socket)
    assert not house.limits._held


async def test_sockets_are_limited_and_every_slot_comes_back(house: House) -> None:
    sockets = [(await house.open_socket(str(number)))[0] for number in range(3)]
    await assert_full(house)
    async with house.sockets.reserve("bob"):
        await house.let_go(sockets[0])
    await house.let_go(sockets[0])  # gives one slot back, not two
    async with house.sockets.reserve(ALICE):
        await assert_full(house)
    for socket in sockets:
        await house.let_go(socket)
    again = [(await house.open_socket(f"again-{number}"))[0] for number in range(3)]
    await assert_full(house)
    for socket in again:
        await house.let_go(socket)


async def test_a_users_frames_reach_the_users_greeted_sockets_only(house: House) -> None:
    (greeted, socket), (mute, mute_socket) = (
        await house.open_socket("1"),
        await house.open_socket("2"),
    )
    _, bobs = await house.open_socket("3", user_id="bob")
    mute.has_greeted = False
    assert await house.factory.send_to_user(ALICE, {"type": "x"}) == {"1": Verdict.DELIVERED}
    house.sockets.post_to_user(ALICE, {"type": "y"})
    await greeted.close()
    assert [json.loads(text)["type"] for text in socket.texts] == ["x", "y"]
    assert mute_socket.sent == []
    assert bobs.sent == []


async def test_a_drain_takes_nothing_new_and_tells_who_is_here(house: House) -> None:
    connection, socket = await house.open_socket("1")
    house.sockets.begin_drain(deadline_ms=99)
    with pytest.raises(Unavailable):
        async with house.sockets.reserve(ALICE):
            raise AssertionError
    with pytest.raises(Unavailable):
        await create_websocket_manager(context_of())
    await connection.send({"type": "after"})
    assert json.loads(socket.texts[0]) == {"type": "draining", "deadlineMs": 99}


async def test_shutdown_says_goodbye_to_all_and_is_idempotent(house: House) -> None:
    connections = [await house.open_socket("1"), await house.open_socket("2", user_id="bob")]
    manager = await create_websocket_manager(context_of())
    connections[0][0].get_interest("thread").want_all()
    await manager.add_connection(connections[0][0])
    await asyncio.gather(house.factory.shutdown(), house.factory.shutdown())
    await house.factory.shutdown()
    assert [socket.closes for _, socket in connections] == [[(1001, "going_away")]] * 2
    assert house.factory.manager_count == 0
    for connection, _ in connections:
        await house.let_go(connection)
    await until(lambda: len(house.tasks) == 0)
    assert house.sockets.connection_count == 0
    assert not house.limits._held


async def test_socket_that_greets_during_a_drain_is_told_of_it(house: House) -> None:
    (early, before), (late, socket) = (
        await house.open_socket("1"),
        await house.open_socket("2", user_id="bob"),
    )
    late.has_greeted = False

    async def load() -> dict[str, object]:
        return {"type": "welcome"}

    await house.sockets.greet(early, load)
    await early.close()
    house.sockets.begin_drain(deadline_ms=7)
    await house.sockets.greet(late, load)
    await late.close()
    assert before.frames == [{"type": "welcome"}]
    assert socket.frames == [{"type": "welcome"}, {"type": "draining", "deadlineMs": 7}]


async def test_what_is_told_while_a_welcome_is_loaded_follows_it(house: House) -> None:
    connection, socket = await house.open_socket("1")
    connection.has_greeted = False

    async def load() -> dict[str, object]:
        house.sockets.post_to_user(ALICE, {"type": "thread_updated"})
        house.sockets.post_to_user("bob", {"type": "not for her"})
        house.sockets.begin_drain(deadline_ms=7)
        return {"type": "welcome"}

    async def fail() -> dict[str, object]:
        house.sockets.post_to_user(ALICE, {"type": "too early"})
        raise Unavailable("no database")

    with pytest.raises(Unavailable):
        await house.sockets.greet(connection, fail)
    assert not connection.has_greeted
    await house.sockets.greet(connection, load)
    await connection.close()
    kinds = [frame["type"] for frame in socket.frames]
    assert kinds == ["welcome", "thread_updated", "draining"]
    assert not house.sockets._told


async def test_socket_that_is_accepted_during_shutdown_is_closed(house: House) -> None:
    _, first = await house.open_socket("1")
    late, last = Socket(), Socket()
    async with house.sockets.reserve(ALICE) as slot, house.sockets.reserve(ALICE) as next_slot:
        first.is_taking.clear()  # so that the goodbye takes its time
        shutting = asyncio.create_task(house.factory.shutdown())
        await until(lambda: house.sockets.is_draining)
        house.sockets.own(slot, connect(late, house.tasks, connection_id="2"))
        first.is_taking.set()
        await shutting
        assert house.sockets.connection_count == 0
        accepted = connect(last, house.tasks, connection_id="3")
        house.sockets.own(next_slot, accepted)  # its accept took longer than the shutdown
        await accepted.close()
        await house.factory.release(accepted)
    assert [socket.closes for socket in (first, late, last)] == [[(1001, "going_away")]] * 3
    assert house.sockets.connection_count == 0
    assert not house.limits._held


async def test_shutdown_waits_for_nobody_who_takes_nothing(house: House) -> None:
    connection, socket = await house.open_socket("1")
    socket.is_taking.clear()
    connection.post({"type": "x"})
    manager = await create_websocket_manager(context_of())
    connection.get_interest("thread").want_all()
    await manager.add_connection(connection)
    async with asyncio.timeout(5):
        await house.factory.shutdown()
    assert (house.sockets.connection_count, house.factory.manager_count) == (0, 0)
    await until(lambda: len(house.tasks) == 0)


# --- event streams -------------------------------------------------------------------------------


async def test_streams_and_sockets_have_one_limit_and_are_counted_apart(house: House) -> None:
    await house.open_socket("1")
    async with house.sockets.reserve(ALICE) as slot, house.sockets.reserve(ALICE):
        house.sockets.own(slot, Stream("2"))
        await assert_full(house)
        assert (house.sockets.connection_count, house.sockets.stream_count) == (1, 1)
    assert (house.sockets.connection_count, house.sockets.stream_count) == (1, 0)


async def test_stream_that_has_ended_locks_nobody_out(house: House) -> None:
    stream = Stream("1")
    async with house.sockets.reserve(ALICE) as slot:
        house.sockets.own(slot, stream)
        for name in ("2", "3"):
            await house.open_socket(name)
        await assert_full(house)
        stream.revoke()
        async with house.sockets.reserve(ALICE):
            await assert_full(house)
    async with house.sockets.reserve(ALICE):
        await assert_full(house)


async def test_a_revocation_ends_sockets_and_streams_of_that_credential_alone(house: House) -> None:
    (gone, socket), (kept, _) = await house.open_socket("1"), await house.open_socket("2")
    gone.identity = Identity(ALICE, session_id="lost")
    streams = [Stream("3", session_id="lost"), Stream("4")]
    async with (
        house.sockets.reserve(ALICE) as slot,
        house.sockets.reserve("bob") as other,
    ):
        for place, stream in zip((slot, other), streams, strict=True):
            house.sockets.own(place, stream)
        house.sockets.revoke(lambda identity: identity.session_id == "lost")
        assert [stream.is_open for stream in streams] == [False, True]
    await gone.close()
    assert socket.closes == [(4401, "revoked")]
    assert kept.is_open


async def test_news_and_drains_go_to_sockets_and_leave_streams_alone(house: House) -> None:
    stream = Stream("1")
    async with house.sockets.reserve(ALICE) as slot:
        house.sockets.own(slot, stream)
        house.sockets.post_to_user(ALICE, {"type": "x"})
        assert await house.factory.send_to_user(ALICE, {"type": "x"}) == {}
        assert house.sockets.shed_idle(10) == 0
        await house.factory.shutdown()
        assert stream.is_open  # it ends with the feed, behind its last record
    assert house.sockets.stream_count == 0


# --- memory that runs short ----------------------------------------------------------------------


@pytest.fixture
def no_newcomers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "NEWCOMER_S", 0)


@pytest.mark.usefixtures("no_newcomers")
async def test_an_idle_socket_is_told_why_it_closes_and_when_to_come_back(house: House) -> None:
    connection, socket = await house.open_socket("c1")
    assert house.sockets.shed_idle(10) == 1
    await connection.close()
    (error,) = socket.frames
    assert (error["type"], error["code"], error["retryable"]) == ("error", "unavailable", True)
    assert (error["retryAfterMs"], bool(error["errorId"])) == (SHED_RETRY_MS, True)
    assert socket.closes == [(1013, "unavailable")]
    assert house.sockets.shed_idle(10) == 0  # it goes already
    assert house.sockets.shed_count == 1


@pytest.mark.usefixtures("no_newcomers")
async def test_whoever_wants_something_or_is_being_served_stays(house: House) -> None:
    subscribed, running, busy = [(await house.open_socket(each))[0] for each in ("c1", "c2", "c3")]
    replaying = (await house.open_socket("c4", user_id="bob"))[0]
    subscribed.get_interest("t").want_all()
    assert running.get_interest("t").want_run("r", after=EventId("e", 0))
    busy.is_busy = True
    replaying.is_replay = True
    assert house.sockets.shed_idle(10) == 0
    subscribed.lose_interest("t")
    assert house.sockets.shed_idle(10) == 1
    stay = [each.is_open for each in (subscribed, running, busy, replaying)]
    assert stay == [False, True, True, True]


async def test_who_has_just_come_is_given_time_to_say_what_it_wants(house: House) -> None:
    await house.open_socket("c1")
    assert house.sockets.shed_idle(10) == 0


@pytest.mark.usefixtures("no_newcomers")
async def test_no_more_idle_sockets_go_at_once_than_asked(house: House) -> None:
    for number in range(3):
        await house.open_socket(f"a{number}")
        await house.open_socket(f"b{number}", user_id="bob")
    assert [house.sockets.shed_idle(4), house.sockets.shed_idle(4)] == [4, 2]
    assert house.sockets.shed_count == 6
