"""Sockets that come, follow, change their mind and die at once: every count is as it should be."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from itertools import count
from typing import Any

from tests.house import (
    ALICE,
    House,
    Pen,
    Socket,
    connect,
    context_of,
    draft_of,
    key_of,
    open_house,
    says,
)
from tests.interleaving.explorer import every_seed, explore
from tests.interleaving.place import open_empty
from tests.interleaving.scheduler import ShuffledLoop

from isolane.context import EventId, ThreadKey, UserExecutionContext
from isolane.errors import LimitExceeded, ManagerClosed, Unavailable
from isolane.sockets.connection import WebSocketConnection
from isolane.sockets.factory import SWEEP_INTERVAL_S

USERS = (ALICE, ALICE, ALICE, "bob")
"""Whose the devices are: more of one user than it may have sockets, and one of another."""
THREADS = ("t0", "t1", "t2")
THREADS_MAX = 2
SOCKETS_MAX = 2
LIVES = 2
STEPS_MAX = 5
APPENDS = 3
DEAD_SHARE = 0.02
SHUTDOWN_SHARE = 0.4
CALM_SHARE = 0.5
"""How often nobody closes a manager or shuts down: then each must be there until it is used."""


class Peer(Socket):
    """The other end of a socket, which takes its time and may die at any frame."""

    def __init__(self, loop: ShuffledLoop) -> None:
        super().__init__()
        self._loop = loop

    async def send(self, message: Mapping[str, Any]) -> None:
        await self._loop.pause()
        if self._loop.chance.random() < DEAD_SHARE:
            self.error = OSError("the peer is gone")
        await super().send(message)

    def write_texts(self, texts: Sequence[str], start: int) -> int:
        """Take some texts at once, as a socket does whose buffer has room; it may die, too."""
        taken = texts[start : start + self._loop.chance.choice((0, 1, len(texts)))]
        if self._loop.chance.random() < DEAD_SHARE:
            raise OSError("the peer is gone")
        self.sent += [{"type": "websocket.send", "text": text} for text in taken]
        return len(taken)

    def next_seqs(self) -> dict[str, int]:
        """Return what comes next of each thread that is followed; all before it came, in order."""
        following: dict[str, int] = {}
        for frame in map(json.loads, self.texts):
            match frame:
                case {"type": "subscribed", "threadId": thread_id, "after": seq}:
                    following[thread_id] = seq + 1
                case {"type": "unsubscribed", "threadId": thread_id}:
                    following.pop(thread_id, None)
                case {"id": place, "threadId": thread_id}:
                    assert EventId.parse(place).seq == following[thread_id]
                    following[thread_id] += 1
                case _:
                    assert frame == {"type": "ping"}
        return following


class Device:
    """A client of a user: one socket after the other, one frame after the other, as the door."""

    def __init__(
        self, house: House, loop: ShuffledLoop, user_id: str, name: str, *, is_calm: bool
    ) -> None:
        self._factory = house.factory
        self._house = house
        self._loop = loop
        self.user_id = user_id
        self._is_calm = is_calm
        self._names = (f"{name}-{number}" for number in count())
        self.connection: WebSocketConnection | None = None
        self.peer = Peer(loop)
        self.threads: set[str] = set()
        """What it follows, as far as it was told."""

    async def live(self) -> None:
        """Connect and follow a few times; the last socket is left as it is."""
        for _ in range(LIVES):
            await self.release()
            with suppress(LimitExceeded, Unavailable):
                await self._connect()
            if self.connection is not None:
                await self._follow(self.connection)

    async def release(self) -> None:
        """Hang up, as the door does when the peer has gone; twice, as when we hang up as well."""
        connection, self.connection = self.connection, None
        self.threads.clear()
        if connection is not None:
            await asyncio.gather(*(self._house.let_go(connection) for _ in range(2)))

    async def _connect(self) -> None:
        async with AsyncExitStack() as held:
            slot = await held.enter_async_context(self._house.sockets.reserve(self.user_id))
            await self._loop.pause()  # the upgrade
            self.peer = Peer(self._loop)
            self.connection = connect(
                self.peer,
                self._house.tasks,
                connection_id=next(self._names),
                user_id=self.user_id,
                write_texts=self.peer.write_texts if self._loop.chance.random() < 0.5 else None,
            )
            self.connection.has_greeted = True
            self._house.sockets.own(slot, self.connection)
            self._house.held[self.connection] = held.pop_all()

    async def _follow(self, connection: WebSocketConnection) -> None:
        for _ in range(self._loop.chance.randrange(STEPS_MAX)):
            await self._loop.pause()
            if not connection.is_open:
                return
            (act,) = self._loop.chance.choices(
                (self._subscribe, self._unsubscribe, self._look, self._tell, self._close),
                weights=(6, 2, 1, 1, 0 if self._is_calm else 1),
            )
            context = connection.context.for_thread(self._loop.chance.choice(THREADS))
            with suppress(LimitExceeded, Unavailable, ManagerClosed):
                await act(connection, context)
            assert len(self._factory._managers_of(self.user_id)) <= THREADS_MAX

    async def _subscribe(self, connection: WebSocketConnection, own: UserExecutionContext) -> None:
        thread_id = own.thread_key.thread_id
        resume = await self._house.resumer.load(own.thread_key, None)
        manager = await self._factory.create_manager(own)
        await self._loop.pause()  # where a run would be started
        connection.renew_interest(thread_id).want_all()
        connection.post({"type": "subscribed", "threadId": thread_id, "after": resume.start.seq})
        self.threads.discard(thread_id)
        while True:
            try:
                await manager.add_connection(connection, after=resume.start)
            except ManagerClosed:
                assert not self._is_calm or not connection.is_open
                manager = await self._factory.create_manager(own)
            else:
                self.threads.add(thread_id)
                return

    async def _unsubscribe(
        self, connection: WebSocketConnection, own: UserExecutionContext
    ) -> None:
        thread_id = own.thread_key.thread_id
        manager = self._factory.get_manager(own)
        connection.lose_interest(thread_id)
        self.threads.discard(thread_id)
        if manager is not None:
            await manager.remove_connection(connection.id)
        connection.post({"type": "unsubscribed", "threadId": thread_id})

    async def _look(self, _: WebSocketConnection, own: UserExecutionContext) -> None:
        """Ask for a manager without bringing a socket, as a host's code may."""
        await self._factory.create_manager(
            context_of(user_id=own.user_id, thread_id=own.thread_key.thread_id)
        )

    async def _tell(self, connection: WebSocketConnection, own: UserExecutionContext) -> None:
        told = await self._factory.send_to_user(own.user_id, {"type": "ping"})
        assert connection.id in told or not connection.is_open

    async def _close(self, _: WebSocketConnection, own: UserExecutionContext) -> None:
        manager = self._factory.get_manager(own)
        if manager is not None:
            await manager.close()


async def write(house: House, loop: ShuffledLoop, key: ThreadKey) -> None:
    run_id, thread_id = f"run-of-{key.thread_id}", key.thread_id
    context = context_of(run_id, user_id=key.user_id, thread_id=thread_id)
    begun = await house.ground.begin_run(context, draft_of())
    pen = Pen(house.feed, begun.lease)
    for _ in range(APPENDS):
        await loop.pause()
        await pen.append(*[b"{}"] * loop.chance.randint(1, 3))


async def sockets(loop: ShuffledLoop) -> None:
    async with open_house(
        {"default": says()},
        open_at=open_empty,
        limit_connections_per_user=SOCKETS_MAX,
        limit_threads_per_user=THREADS_MAX,
    ) as house:
        is_calm = loop.chance.random() < CALM_SHARE
        is_shut = not is_calm and loop.chance.random() < SHUTDOWN_SHARE
        devices = [
            Device(house, loop, user_id, f"d{place}", is_calm=is_calm)
            for place, user_id in enumerate(USERS)
        ]
        await asyncio.gather(
            *(write(house, loop, key_of(thread_id)) for thread_id in THREADS),
            *(device.live() for device in devices),
            *(shut_down(house, loop) for _ in range(2 * is_shut)),
        )
        await settle(house)
        await release(device for device in devices if not is_open(device))
        await assert_as_told(house, devices)
        await release(devices)
        await assert_nothing_is_left(house)
        if not is_shut:
            await assert_nobody_is_locked_out(house)
    assert len(house.tasks) == 0


async def shut_down(house: House, loop: ShuffledLoop) -> None:
    for _ in range(loop.chance.randrange(10)):
        await loop.pause()
    await house.factory.shutdown()


async def settle(house: House) -> None:
    """Let everything happen that is still to come, the sweeper's two looks included."""
    await asyncio.sleep(3 * SWEEP_INTERVAL_S)
    assert house.factory.manager_count == 0 or house.factory.sweeper_health.is_running


def is_open(device: Device) -> bool:
    return device.connection is not None and device.connection.is_open


async def release(devices: Iterable[Device]) -> None:
    await asyncio.gather(*(device.release() for device in devices))


async def assert_as_told(house: House, devices: list[Device]) -> None:
    """Say that the factory holds what the devices were told, no more and no less."""
    factory, here = house.factory, [device for device in devices if device.connection is not None]
    followed = [(device, thread_id) for device in here for thread_id in device.threads]
    assert house.sockets.connection_count == len(here)
    assert house.limits._held == Counter((d.user_id, "connectionsPerUser") for d in here)
    assert factory.follower_count == len(followed)
    assert factory.manager_count == len({(d.user_id, thread_id) for d, thread_id in followed})
    for device, thread_id in followed:
        bounds = await house.feed.load_bounds(ThreadKey(device.user_id, thread_id))
        assert device.peer.next_seqs()[thread_id] == bounds.head.seq + 1


async def assert_nothing_is_left(house: House) -> None:
    assert house.counts == (0, 0, 0)
    assert not house.bell._listeners
    assert not house.feed._tails
    assert not house.limits._held
    assert len(house.tasks) == 0


async def assert_nobody_is_locked_out(house: House) -> None:
    """Say that each user may have again all that the limits grant."""
    for user_id in (ALICE, "bob"):
        async with AsyncExitStack() as held:
            for _ in range(SOCKETS_MAX):
                await held.enter_async_context(house.sockets.reserve(user_id))
            for thread_id in THREADS[:THREADS_MAX]:
                context = context_of(user_id=user_id, thread_id=thread_id)
                await house.factory.discard(await house.factory.create_manager(context), context)
    await assert_nothing_is_left(house)


@every_seed
def test_the_counts_are_what_everybody_was_told(seeds: range) -> None:
    explore(sockets, seeds)
