"""Every public coroutine is cancelled at each of its awaits, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from types import coroutine
from typing import Any, Final

import pytest
from tests.house import (
    ALICE,
    START,
    House,
    Socket,
    ask,
    connect,
    context_of,
    draft_of,
    key_of,
    open_house,
)
from tests.interleaving.agents import AGENTS
from tests.interleaving.explorer import Scenario, play
from tests.interleaving.place import open_empty
from tests.interleaving.scheduler import ShuffledLoop

from isolane.auth.guessing import GuessGuard
from isolane.auth.revocations import Revocations
from isolane.auth.sessions import SessionBook
from isolane.auth.signin import SignIns
from isolane.auth.tickets import TicketBook
from isolane.context import EventId, RunKey
from isolane.contracts import Identity, NodeInfo, RunLease, Terms
from isolane.doors.following import Following
from isolane.doors.handshake import Replay
from isolane.doors.room import Room
from isolane.engines.memory.bell import LocalBell
from isolane.engines.memory.limits import WEIGHT_BYTES, LocalLimits
from isolane.engines.sqlite.database import READERS, SqliteDatabase
from isolane.engines.sqlite.members import DatabaseMembers
from isolane.errors import IsolaneError
from isolane.health.fairness import Turns
from isolane.log.feed import Feed, HouseTopic
from isolane.log.tail import Tail
from isolane.runs import AgentService
from isolane.runs.draft import make_offer
from isolane.sockets.connection import WebSocketConnection
from isolane.sockets.factory import SWEEP_INTERVAL_S, WebSocketManagerFactory
from isolane.sockets.manager import IsolatedWebSocketManager
from isolane.sockets.registry import LIMIT, Sockets
from isolane.sql.lanes import Gate
from isolane.sql.log import DatabaseEventLog
from isolane.sql.runbook import DatabaseRunBook
from isolane.sql.store import DatabaseStore

SEEDS: Final = range(2)
AWAITS_MAX: Final = 60
"""No coroutine here awaits more often; one that does is a loop without an end."""
PUBLIC: Final = (
    AgentService,
    SqliteDatabase,
    DatabaseEventLog,
    DatabaseMembers,
    DatabaseRunBook,
    DatabaseStore,
    Feed,
    Following,
    Gate,
    GuessGuard,
    IsolatedWebSocketManager,
    LocalBell,
    LocalLimits,
    Revocations,
    Room,
    SessionBook,
    SignIns,
    Sockets,
    Tail,
    TicketBook,
    Turns,
    WebSocketConnection,
    WebSocketManagerFactory,
)
ELSEWHERE: Final = {"SqliteDatabase.close", "Tail.listen"}
"""What is called once, when a database is closed, and by `Feed.open_tail` alone."""


PLAIN: Final = {
    "Feed.hear_house",
    "Feed.hear_user",
    "DatabaseMembers.beat",
    "Feed.open_tail",
    "Feed.reading",
    "LocalBell.listen",
    "LocalLimits.take",
}
"""What awaits nothing in this process, though engines of another kind may."""


@dataclass
class Scene:
    """A house with a socket, a run that waits to be stopped, and what else is worked on."""

    house: House
    connection: WebSocketConnection
    manager: IsolatedWebSocketManager
    sessions: SessionBook
    secret: str
    turns: Turns
    room: Room
    gate: Gate
    lease: RunLease
    """Of a run that no agent speaks in."""


Act = Callable[[Scene], Coroutine[Any, Any, object]]

open_run = context_of("open", thread_id="open")
"""A run that has the turn on its thread, and that nobody drives."""
live = context_of("live", thread_id="live")
"""A run that is under way in each scene but a quiet one."""
quiet: Final = {"AgentService.recover"}
"""What belongs to a start: no run is under way then."""


async def run_behind_gate(scene: Scene) -> None:
    """Let a user's work have its turn, in a thread."""
    with ThreadPoolExecutor(1) as threads:
        await scene.gate.run(threads, lambda: None, lane=ALICE)


async def hear_house(scene: Scene) -> None:
    """Hear what nodes ring one another for, and hang up."""
    (await scene.house.feed.hear_house(HouseTopic.TURNS, print))()


async def hear_user(scene: Scene) -> None:
    """Hear what nodes ring for a user, and hang up."""
    (await scene.house.feed.hear_user(ALICE, print))()


async def consume(records: Any) -> None:  # noqa: ANN401 - any asynchronous generator
    """Take the first thing that comes."""
    async with aclosing(records) as coming:
        async for _ in coming:
            return


async def start(scene: Scene) -> object:
    context = context_of("new", thread_id="new")
    return await scene.house.service.start(context, ask(context, "Hi"), agent="talker")


async def start_offer(scene: Scene) -> object:
    context = context_of("new", thread_id="new")
    message = {"id": "m-new", "role": "user", "content": "Hi"}
    offer = make_offer(agent="talker", messages=[message])
    return await scene.house.service.start_offer(context, offer)


async def open_tail(scene: Scene) -> None:
    (await scene.house.feed.open_tail(key_of())).close()


async def read_tail(scene: Scene) -> None:
    async with scene.house.feed.reading(key_of()):
        return


async def load_tail_bounds(scene: Scene) -> None:
    async with scene.house.feed.reading(key_of()) as tail:
        await tail.load_bounds(None)


async def follow_tail(scene: Scene) -> None:
    async with scene.house.feed.reading(key_of()) as tail:
        await consume(tail.follow(START))


async def listen(scene: Scene) -> None:
    (await scene.house.bell.listen(key_of(), lambda _records: None))()


async def enter(scene: Scene) -> None:
    await scene.gate.enter(ALICE)
    scene.gate.leave(ALICE)


async def hold(scene: Scene) -> None:
    async with scene.room.hold(ALICE, 10):
        return


async def hold_thread(scene: Scene) -> None:
    """Count one thread more than there may be: what nobody follows makes room."""
    factory = scene.house.factory
    await factory.create_manager(live.for_thread("idle"))
    factory._threads_per_user = factory.manager_count
    async with factory.hold_thread(ALICE):
        return


class DistantLimits(LocalLimits):
    """Limits that are counted elsewhere: what is asked and what is answered take a while."""

    @asynccontextmanager
    async def take(self, user_id: str, limit: str) -> AsyncGenerator[None, None]:
        await asyncio.sleep(1)
        async with super().take(user_id, limit):
            await asyncio.sleep(1)
            try:
                yield
            finally:
                await asyncio.sleep(1)


async def take_limit(scene: Scene) -> None:
    async with scene.house.limits.take(ALICE, LIMIT):
        return


@dataclass
class Stream:
    """An event stream, as far as the book of sockets knows one."""

    id: str
    is_open: bool = True
    identity: Identity = field(default_factory=lambda: Identity(ALICE))

    def revoke(self) -> None:
        self.is_open = False


async def reserve(scene: Scene) -> None:
    """Take the only slot, of a stream that has ended, and keep another stream in it."""
    limits = DistantLimits({LIMIT: 1}, clock=scene.house.clock)
    sockets = Sockets(limits, tasks=scene.house.tasks, draining=scene.house.draining)
    try:
        async with sockets.reserve(ALICE) as slot:
            sockets.own(slot, Stream("1", is_open=False))
            async with sockets.reserve(ALICE) as other:
                sockets.own(other, Stream("2"))
    finally:
        assert not limits._held
        assert not sockets._slots


async def hold_slot(scene: Scene) -> None:
    """Take a slot and give it back, as a socket does."""
    limits = DistantLimits({LIMIT: 1}, clock=scene.house.clock)
    sockets = Sockets(limits, tasks=scene.house.tasks, draining=scene.house.draining)
    try:
        await sockets.release(await sockets.take_slot(ALICE))
    finally:
        assert not limits._held
        assert not sockets._slots


async def take_room(scene: Scene) -> None:
    await scene.room.take(ALICE, 10)
    scene.room.give_back(ALICE, 10)


def following_of(scene: Scene) -> Following:
    house = scene.house
    return Following(
        scene.connection,
        factory=house.factory,
        resumer=house.resumer,
        service=house.service,
        feed=house.feed,
    )


async def follow_other(scene: Scene) -> object:
    """Follow a run of another thread, whose start takes a while."""
    following, context = following_of(scene), context_of("run", thread_id="other")

    async def begin() -> EventId | None:
        await asyncio.sleep(1)
        return following.want_run(context, START)

    return await following.follow(context, begin)


async def greet(scene: Scene) -> None:
    """Welcome a socket whose welcome takes a while."""

    async def load() -> dict[str, object]:
        await asyncio.sleep(1)
        return {"type": "welcome"}

    try:
        await scene.house.sockets.greet(scene.connection, load)
    finally:
        assert not scene.house.sockets._told


async def dispose(scene: Scene) -> None:
    """Let a socket go for which a frame waits."""
    scene.connection.post({"type": "ping"})
    await scene.connection.dispose()


async def take_turn(scene: Scene) -> None:
    await scene.turns.take("bob")
    await scene.turns.take(ALICE)


async def discard(scene: Scene) -> None:
    context = scene.connection.context.for_thread("other")
    manager = await scene.house.factory.create_manager(context)
    await scene.house.factory.discard(manager, context)


async def deliver(scene: Scene) -> object:
    records = await scene.house.ground.log.read(key_of(), after=START, limit=10)
    interest = scene.connection.get_interest("thread")
    interest.want_all()
    return await scene.connection.deliver(interest, records)


async def extend(scene: Scene) -> object:
    return await scene.sessions.extend(await scene.sessions.load(scene.secret))


async def end_session(scene: Scene) -> None:
    (one,) = await scene.sessions.load_all(ALICE)
    await scene.sessions.end(ALICE, one.session_id)


async def attempt(scene: Scene) -> None:
    async with guesses_of(scene).attempt("ada", "192.0.2.1") as forget:
        await scene.sessions.begin(ALICE, settle=forget)


async def redeem(scene: Scene) -> object:
    book = tickets_of(scene)
    return await book.redeem((await book.issue(Identity(ALICE))).secret)


async def find_ticket(scene: Scene) -> object:
    book = tickets_of(scene)
    return await book.find((await book.issue(Identity(ALICE))).secret)


async def take_sign_in(scene: Scene) -> object:
    sign_ins = sign_ins_of(scene)
    pending = await sign_ins.begin("corp", "https://home.example/back")
    return await sign_ins.take("corp", pending.state)


def guesses_of(scene: Scene) -> GuessGuard:
    return GuessGuard(scene.house.ground.database, clock=scene.house.clock)


def members_of(scene: Scene) -> DatabaseMembers:
    return DatabaseMembers(scene.house.ground.database, NodeInfo("node"), clock=scene.house.clock)


def sign_ins_of(scene: Scene) -> SignIns:
    return SignIns(scene.house.ground.database, clock=scene.house.clock)


def tickets_of(scene: Scene) -> TicketBook:
    clock = scene.house.clock
    return TicketBook(scene.house.ground.database, "socket", clock=clock, timer=clock)


ACTS: Final[dict[str, Act]] = {
    "AgentService.abort": lambda scene: scene.house.service.abort(live),
    "AgentService.abort_all": lambda scene: scene.house.service.abort_all(
        {ALICE: scene.house.clock.now}
    ),
    "AgentService.beat": lambda scene: scene.house.service.beat(),
    "AgentService.delete_thread": lambda scene: scene.house.service.delete_thread(live),
    "AgentService.drain": lambda scene: scene.house.service.drain(timeout_s=1),
    "AgentService.emit": lambda scene: scene.house.service.emit(live.thread_key, "news", {}),
    "AgentService.follow": lambda scene: consume(scene.house.service.follow(live)),
    "AgentService.follow_batches": lambda scene: consume(scene.house.service.follow_batches(live)),
    "AgentService.load_active_runs": lambda scene: scene.house.service.load_active_runs(ALICE),
    "AgentService.load_known": lambda scene: scene.house.service.load_known(live, has_results=True),
    "AgentService.load_run": lambda scene: scene.house.service.load_run(live, "live"),
    "AgentService.load_start": lambda scene: scene.house.service.load_start(live),
    "AgentService.locate": lambda scene: scene.house.service.locate(live, "old"),
    "AgentService.recover": lambda scene: scene.house.service.recover(),
    "AgentService.remove_request": lambda scene: scene.house.service.remove_request(
        key_of(), older_than=0
    ),
    "AgentService.remember_abort": lambda scene: scene.house.service.remember_abort(ALICE, "no"),
    "AgentService.start": start,
    "AgentService.close": lambda scene: scene.house.service.close(),
    "AgentService.look_for_stops": lambda scene: scene.house.service.look_for_stops(),
    "AgentService.start_offer": start_offer,
    "AgentService.stop": lambda scene: scene.house.service.stop(live.run_key, asked_at=0),
    "AgentService.stop_thread": lambda scene: scene.house.service.stop_thread(live.thread_key),
    "AgentService.tell_thread": lambda scene: scene.house.service.tell_thread(live),
    "SqliteDatabase.probe": lambda scene: scene.house.ground.database.probe(),
    "SqliteDatabase.look": lambda scene: scene.house.ground.database.look(lambda _: None),
    "SqliteDatabase.read": lambda scene: scene.house.ground.database.read(
        lambda _: None, lane=ALICE
    ),
    "SqliteDatabase.write": lambda scene: scene.house.ground.database.write(
        lambda _: None, lane=ALICE
    ),
    "DatabaseEventLog.append": lambda scene: scene.house.ground.log.append(
        scene.lease, [b"{}"], batch=1
    ),
    "DatabaseEventLog.append_beside": lambda scene: scene.house.ground.log.append_beside(
        key_of(), b"{}"
    ),
    "DatabaseEventLog.delete": lambda scene: scene.house.ground.log.delete(key_of()),
    "DatabaseEventLog.load_bounds": lambda scene: scene.house.ground.log.load_bounds(key_of()),
    "DatabaseEventLog.read": lambda scene: scene.house.ground.log.read(
        key_of(), after=START, limit=10
    ),
    "DatabaseEventLog.load_heads": lambda scene: scene.house.ground.log.load_heads([key_of()]),
    "DatabaseEventLog.sweep": lambda scene: scene.house.ground.log.sweep(),
    "DatabaseEventLog.take_over": lambda scene: scene.house.ground.log.take_over(
        key_of("open"), "open"
    ),
    "DatabaseEventLog.trim": lambda scene: scene.house.ground.log.trim(
        older_than=scene.house.clock.now + 1
    ),
    "DatabaseMembers.beat": lambda scene: members_of(scene).beat("node"),
    "DatabaseMembers.leave": lambda scene: members_of(scene).leave("node"),
    "DatabaseMembers.load_nodes": lambda scene: members_of(scene).load_nodes(),
    "DatabaseMembers.register": lambda scene: members_of(scene).register("node"),
    "DatabaseRunBook.admit": lambda scene: scene.house.ground.book.admit(
        context_of("more"), draft_of("Hi"), Terms()
    ),
    "DatabaseRunBook.attach": lambda scene: scene.house.ground.book.attach(
        context_of("more"), run_id="live", asked=[]
    ),
    "DatabaseRunBook.begin": lambda scene: scene.house.ground.book.begin(open_run, scene.lease),
    "DatabaseRunBook.hand_over": lambda scene: scene.house.ground.book.hand_over(scene.lease),
    "DatabaseRunBook.begin_anew": lambda scene: scene.house.ground.book.begin_anew(
        open_run.run_key
    ),
    "DatabaseRunBook.claim": lambda scene: scene.house.ground.book.claim("node", room=1),
    "DatabaseRunBook.find_active": lambda scene: scene.house.ground.book.find_active(ALICE),
    "DatabaseRunBook.find_orphans": lambda scene: scene.house.ground.book.find_orphans("other"),
    "DatabaseRunBook.find_unheard": lambda scene: scene.house.ground.book.find_unheard("other"),
    "DatabaseRunBook.find_wanted": lambda scene: scene.house.ground.book.find_wanted(),
    "DatabaseRunBook.find_waiting": lambda scene: scene.house.ground.book.find_waiting(),
    "DatabaseRunBook.find_lost": lambda scene: scene.house.ground.book.find_lost(),
    "DatabaseRunBook.give_back": lambda scene: scene.house.ground.book.give_back(scene.lease),
    "DatabaseRunBook.give_up": lambda scene: scene.house.ground.book.give_up(open_run.run_key),
    "DatabaseRunBook.load_held": lambda scene: scene.house.ground.book.load_held(""),
    "DatabaseRunBook.load_open_runs": lambda scene: scene.house.ground.book.load_open_runs(),
    "DatabaseRunBook.load_signs": lambda scene: scene.house.ground.book.load_signs("other"),
    "DatabaseRunBook.load_stops": lambda scene: scene.house.ground.book.load_stops(""),
    "DatabaseRunBook.mend_turns": lambda scene: scene.house.ground.book.mend_turns(),
    "DatabaseRunBook.note_stops": lambda scene: scene.house.ground.book.note_stops(
        [open_run.run_key]
    ),
    "DatabaseRunBook.request_stop": lambda scene: scene.house.ground.book.request_stop(
        open_run.run_key, asked_at=0
    ),
    "DatabaseRunBook.request_stops": lambda scene: scene.house.ground.book.request_stops(
        {ALICE: scene.house.clock.now}, asked_at=0
    ),
    "DatabaseRunBook.take_over": lambda scene: scene.house.ground.book.take_over(
        open_run.run_key, "node"
    ),
    "DatabaseStore.add_thread": lambda scene: scene.house.ground.store.add_thread(
        key_of("more"), title=""
    ),
    "DatabaseStore.has_message": lambda scene: scene.house.ground.store.has_message(key_of(), "m"),
    "DatabaseStore.forget_run": lambda scene: scene.house.ground.store.forget_run(
        RunKey(ALICE, "old")
    ),
    "DatabaseStore.load_ended_requests": lambda scene: scene.house.ground.store.load_ended_requests(
        older_than=0, limit=1
    ),
    "DatabaseStore.load_known": lambda scene: scene.house.ground.store.load_known(key_of(), "m"),
    "DatabaseStore.load_answered_calls": (
        lambda scene: scene.house.ground.store.load_answered_calls(key_of())
    ),
    "DatabaseStore.load_known_ids": lambda scene: scene.house.ground.store.load_known_ids(key_of()),
    "DatabaseStore.load_messages_before": (
        lambda scene: scene.house.ground.store.load_messages_before(key_of(), 2)
    ),
    "DatabaseStore.load_state": lambda scene: scene.house.ground.store.load_state(key_of()),
    "DatabaseStore.load_run": lambda scene: scene.house.ground.store.load_run(live.run_key),
    "DatabaseStore.load_conversation": (
        lambda scene: scene.house.ground.store.load_conversation(key_of())
    ),
    "DatabaseStore.load_snapshot": lambda scene: scene.house.ground.store.load_snapshot(key_of()),
    "DatabaseStore.load_thread": lambda scene: scene.house.ground.store.load_thread(key_of()),
    "DatabaseStore.load_threads": lambda scene: scene.house.ground.store.load_threads(
        ALICE, before=None, limit=5
    ),
    "DatabaseStore.set_title": lambda scene: scene.house.ground.store.set_title(key_of(), "Name"),
    "Feed.append": lambda scene: scene.house.feed.append(scene.lease, [b"{}"], batch=1),
    "Feed.delete": lambda scene: scene.house.feed.delete(key_of()),
    "Feed.follow": lambda scene: consume(scene.house.feed.follow(key_of(), after=START)),
    "Feed.follow_batches": lambda scene: consume(
        scene.house.feed.follow_batches(key_of(), after=START)
    ),
    "Feed.hear_house": hear_house,
    "Feed.append_beside": lambda scene: scene.house.feed.append_beside(key_of(), b"{}"),
    "Feed.hear_user": hear_user,
    "Feed.look_if_due": lambda scene: scene.house.feed.look_if_due(),
    "Feed.look": lambda scene: scene.house.feed.look(),
    "Feed.load_bounds": lambda scene: scene.house.feed.load_bounds(key_of()),
    "Feed.load_bounds_for": lambda scene: scene.house.feed.load_bounds_for(key_of(), None),
    "Feed.open_tail": open_tail,
    "Feed.read": lambda scene: scene.house.feed.read(key_of(), after=START, limit=1, max_bytes=1),
    "Feed.reading": read_tail,
    "Feed.take_over": lambda scene: scene.house.feed.take_over(key_of("open"), "open"),
    "Feed.trim": lambda scene: scene.house.feed.trim(older_than=scene.house.clock.now + 1),
    "Following.follow": follow_other,
    "Following.replay": lambda scene: following_of(scene).replay(Replay("live", "-1")),
    "Following.subscribe": lambda scene: following_of(scene).subscribe("other", None),
    "Following.unsubscribe": lambda scene: following_of(scene).unsubscribe("live"),
    "Gate.enter": enter,
    "Gate.run": run_behind_gate,
    "IsolatedWebSocketManager.add_connection": (
        lambda scene: scene.manager.add_connection(scene.connection, after=START)
    ),
    "IsolatedWebSocketManager.close": lambda scene: scene.manager.close(),
    "IsolatedWebSocketManager.emit_critical_event": (
        lambda scene: scene.manager.emit_critical_event(ALICE, "news", {})
    ),
    "IsolatedWebSocketManager.remove_connection": (
        lambda scene: scene.manager.remove_connection(scene.connection.id)
    ),
    "IsolatedWebSocketManager.send_to_thread": (
        lambda scene: scene.manager.send_to_thread("live", {"type": "ping"})
    ),
    "IsolatedWebSocketManager.send_to_user": (
        lambda scene: scene.manager.send_to_user(ALICE, {"type": "ping"})
    ),
    "LocalBell.listen": listen,
    "LocalLimits.take": take_limit,
    "GuessGuard.attempt": attempt,
    "GuessGuard.count": lambda scene: guesses_of(scene).count("192.0.2.1"),
    "Revocations.refresh": lambda scene: Revocations(
        scene.house.ground.database, clock=scene.house.clock
    ).refresh(),
    "Room.hold": hold,
    "Room.take": take_room,
    "SessionBook.begin": lambda scene: scene.sessions.begin(ALICE),
    "SessionBook.end": end_session,
    "SessionBook.end_all": lambda scene: scene.sessions.end_all(ALICE),
    "SessionBook.extend": extend,
    "SessionBook.load": lambda scene: scene.sessions.load(scene.secret),
    "SessionBook.load_all": lambda scene: scene.sessions.load_all(ALICE),
    "SignIns.begin": lambda scene: sign_ins_of(scene).begin("corp", "https://home.example/back"),
    "SignIns.take": take_sign_in,
    "Sockets.greet": greet,
    "Sockets.release": hold_slot,
    "Sockets.reserve": reserve,
    "Sockets.send_to_user": (
        lambda scene: scene.house.sockets.send_to_user(ALICE, {"type": "ping"})
    ),
    "Sockets.shutdown": lambda scene: scene.house.sockets.shutdown(),
    "Sockets.take_slot": hold_slot,
    "Tail.follow": follow_tail,
    "Tail.load_bounds": load_tail_bounds,
    "TicketBook.find": find_ticket,
    "TicketBook.issue": lambda scene: tickets_of(scene).issue(Identity(ALICE)),
    "TicketBook.redeem": redeem,
    "Turns.take": take_turn,
    "WebSocketConnection.close": lambda scene: scene.connection.close(),
    "WebSocketConnection.deliver": deliver,
    "WebSocketConnection.dispose": dispose,
    "WebSocketConnection.send": lambda scene: scene.connection.send({"type": "ping"}),
    "WebSocketConnection.send_texts": lambda scene: scene.connection.send_texts(["{}"]),
    "WebSocketManagerFactory.close_thread": (
        lambda scene: scene.house.factory.close_thread(live.thread_key)
    ),
    "WebSocketManagerFactory.create_manager": lambda scene: scene.house.factory.create_manager(
        scene.connection.context.for_thread("other")
    ),
    "WebSocketManagerFactory.discard": discard,
    "WebSocketManagerFactory.release": lambda scene: scene.house.factory.release(scene.connection),
    "WebSocketManagerFactory.send_to_user": (
        lambda scene: scene.house.factory.send_to_user(ALICE, {"type": "ping"})
    ),
    "WebSocketManagerFactory.hold_thread": hold_thread,
    "WebSocketManagerFactory.shutdown": lambda scene: scene.house.factory.shutdown(),
}


def coroutines_of(cls: type) -> set[str]:
    """Return the public asynchronous functions of a class."""

    def is_asynchronous(value: object) -> bool:
        inner = inspect.unwrap(value) if callable(value) else value
        return inspect.iscoroutinefunction(inner) or inspect.isasyncgenfunction(inner)

    found = vars(cls).items()
    return {f"{cls.__name__}.{name}" for name, value in found if is_asynchronous(value)} - {
        f"{cls.__name__}.{name}" for name, _ in found if name.startswith("_")
    }


def test_every_public_coroutine_is_here() -> None:
    assert set[str]().union(*map(coroutines_of, PUBLIC)) == {*ACTS, *ELSEWHERE}


@pytest.mark.parametrize("name", ACTS)
def test_cancelled_at_each_await_it_leaves_nothing_behind(name: str) -> None:
    for seed in SEEDS:
        place = 1
        while await_count(name, place, seed) >= place:
            place += 1
            assert place < AWAITS_MAX
        assert place > 1 or name in PLAIN


def await_count(name: str, place: int, seed: int) -> int:
    """Cancel a coroutine at its await of that number, and return at how many it came."""
    awaits: list[int] = []
    play(cancelling(name, place, awaits), seed)
    return len(awaits)


def cancelling(name: str, place: int, awaits: list[int]) -> Scenario:
    """Return a scenario in which the coroutine is cancelled at its await of that number."""

    async def scenario(loop: ShuffledLoop) -> None:
        async with opened(has_run=name not in quiet) as scene:
            task = loop.create_task(until_await(ACTS[name](scene), place, awaits))
            await asyncio.wait({task})
            if not task.cancelled() and task.exception() is not None:
                assert isinstance(task.exception(), IsolaneError), task.exception()
            await leave(scene)
            assert_nothing_is_left(scene)

    return scenario


@coroutine
def until_await(
    work: Coroutine[Any, Any, object], place: int, awaits: list[int]
) -> Generator[Any, Any, object]:
    """Carry `work` out, and cancel the task that does at its await of that number."""
    send, value = work.send, None
    while True:
        try:
            waits_for = send(value)
        except StopIteration as stop:
            return stop.value
        awaits.append(1)
        if len(awaits) == place:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
        try:
            value = yield waits_for
            send = work.send
        except BaseException as error:  # noqa: BLE001 - the cancellation among others
            send, value = work.throw, error


@asynccontextmanager
async def opened(*, has_run: bool) -> AsyncIterator[Scene]:
    async with open_house(AGENTS, open_at=open_empty, run_timeout_s=8.0) as house:
        await house.service.start(context_of("old"), ask(context_of("old"), "Hi"), agent="talker")
        await house.events(context_of("old"))
        begun = await house.ground.begin_run(context_of("open", thread_id="open"), draft_of())
        await house.ground.add_run(context_of("queued", thread_id="open"), draft_of("Hi"))
        if has_run:
            await house.service.start(live, ask(live, "Hi"), agent="heeder")
        yield await furnished(house, begun.lease)


async def furnished(house: House, lease: RunLease) -> Scene:
    connection = connect(Socket(), house.tasks, connection_id="socket")
    connection.has_greeted = True
    await house.let_in(connection)
    context = connection.context.for_thread("live")
    manager = await house.factory.create_manager(context)
    connection.get_interest("live").want_all()
    await manager.add_connection(connection, after=START)
    sessions = SessionBook(
        house.ground.database, clock=house.clock, tasks=house.tasks, idle_ms=1 << 30, max_ms=1 << 40
    )
    await house.ground.database.write(_add_account)
    begun = await sessions.begin(ALICE)
    turns, room, gate = Turns(), Room(10), Gate(1, most_of_lane=1)
    scene = Scene(
        house,
        connection,
        manager,
        sessions,
        begun.secret,
        turns,
        room,
        gate,
        lease,
    )
    await crowd(scene)
    return scene


def _add_account(connection: Any) -> None:  # noqa: ANN401 - SQLAlchemy's
    connection.exec_driver_sql(
        "INSERT INTO accounts (user_id, password_hash, created_at, scopes)"
        " VALUES ('alice', '', 0, 'runs:write')"
    )


async def crowd(scene: Scene) -> None:
    """Let others be everywhere for a second of this world, so that whoever comes has to wait."""
    later = asyncio.get_running_loop().call_later
    await scene.gate.enter("bob")
    later(1, scene.gate.leave, "bob")
    await scene.room.take(ALICE, 5)
    later(1, scene.room.give_back, ALICE, 5)
    scene.house.limits.weigh(ALICE, WEIGHT_BYTES)


async def leave(scene: Scene) -> None:
    """Do what the callers of all this do in the end, whatever became of the call."""
    house = scene.house
    await house.let_go(scene.connection)
    await house.service.abort(live)
    await asyncio.sleep(3 * SWEEP_INTERVAL_S)  # of this world: all that is still to come comes


def assert_nothing_is_left(scene: Scene) -> None:
    house, service, factory = scene.house, scene.house.service, scene.house.factory
    assert not service._live
    assert not any(
        (service._admission._starting, service._driver.beginning, service._deletion.under_way)
    )
    assert not house.limits._held
    assert not house.bell._listeners
    assert not house.feed._tails
    assert (len(house.tasks), house.feed.readers) == (0, 0)
    assert house.counts == (0, 0, 0)
    assert not any((factory._making, factory._awaited))
    database: Any = house.ground.database
    for gate, most in ((database._gate, READERS - 1), (scene.gate, 1)):
        assert (gate._free, bool(gate._inside), bool(gate._waiting)) == (most, False, False)
    commits = database._commits
    assert commits._under_way is None
    assert not any((commits._house, commits._lanes))
    assert not any((scene.room._held, scene.room._lines, scene.turns._lines))
