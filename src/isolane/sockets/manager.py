"""The live read side of one thread of one user."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

import structlog

from isolane.backoff import Backoff
from isolane.context import EventId, ThreadKey
from isolane.contracts import ConnectionHealth, Delivery, Verdict
from isolane.errors import (
    ContractError,
    CursorExpired,
    GoingAway,
    ManagerClosed,
    NoActiveRun,
    Unavailable,
)
from isolane.events.event import Record
from isolane.ids import is_same_user
from isolane.log.tail import Tail
from isolane.sockets.connection import WebSocketConnection, send_to_each
from isolane.sockets.writer import GOING_AWAY
from isolane.tasks import TaskOwner, end_task

Emit = Callable[[ThreadKey, str, Mapping[str, object]], Awaitable[EventId]]
"""Puts a CUSTOM event into the run under way on a thread; raises `NoActiveRun`."""

OnGap = Callable[[ThreadKey, WebSocketConnection], Awaitable[EventId | None]]
"""Tells a connection that what it wants is gone, and returns where to go on, None to stop."""

RETRY_FIRST_S: Final = 0.1

_log = structlog.get_logger(__name__)


class IsolatedWebSocketManager:
    """Feeds the connections that follow one `ThreadKey` on this node; names no other.

    One bell subscription, one bounded window of the newest encoded records, one follower task per
    connection. It never runs agents. It closes with its last connection. `Emit` and `OnGap` are
    how it reaches what lies outside a read side.
    """

    def __init__(
        self,
        tail: Tail,
        *,
        tasks: TaskOwner,
        emit: Emit,
        on_gap: OnGap,
        on_close: Callable[[IsolatedWebSocketManager], None],
    ) -> None:
        """Take over `tail`; `on_close` hears once that the manager is closed."""
        self.key = tail.key
        self._tail = tail
        self._tasks = tasks
        self._emit = emit
        self._on_gap = on_gap
        self._on_close = on_close
        self._connections: dict[str, WebSocketConnection] = {}
        self._expected: dict[str, WebSocketConnection] = {}
        self._followers: dict[str, asyncio.Task[None]] = {}
        self._is_closed = False

    def __repr__(self) -> str:
        """Name whose thread this is."""
        return f"<IsolatedWebSocketManager {self.key.thread_id} of {self.key.user_id}>"

    @property
    def is_closed(self) -> bool:
        """Say whether this manager has let its thread go."""
        return self._is_closed

    @property
    def follower_count(self) -> int:
        """How many follower tasks run."""
        return len(self._followers)

    @property
    def is_empty(self) -> bool:
        """Say whether no connection is here or on its way."""
        return not (self._connections or self._expected)

    @property
    def has_open_socket(self) -> bool:
        """Say whether a connection that is here, or on its way, is open; how quiet is no matter."""
        present = (*self._connections.values(), *self._expected.values())
        return any(connection.is_open for connection in present)

    def expect(self, connection: WebSocketConnection) -> None:
        """Stay for a connection that is on its way here, until it is added or dismissed."""
        self._check_open()
        self._expected[connection.id] = connection

    def dismiss(self, connection_id: str) -> None:
        """Expect a connection no longer; who stayed for it alone closes. Idempotent."""
        if self._expected.pop(connection_id, None) is not None and self.is_empty:
            self._shut()

    async def add_connection(
        self, connection: WebSocketConnection, *, after: EventId | None = None
    ) -> None:
        """Feed `connection` what it wants of this thread strictly after `after`, then live."""
        self._check_open()
        if connection.user_id != self.key.user_id:
            raise ContractError(
                f"{self!r} takes connections of its own user only, not {connection!r}"
            )
        await self._end_follower(connection.id)
        self._check_open()
        start = EventId("0", 0) if after is None else after
        self._expected.pop(connection.id, None)
        self._connections[connection.id] = connection
        self._followers[connection.id] = self._tasks.start(
            self._follow(_Follower(connection, start)), name=f"follower {connection.id}"
        )

    async def remove_connection(self, connection_id: str) -> None:
        """Stop feeding it and wait until its follower is gone. Idempotent."""
        self._check_open()
        await self._end_follower(connection_id)
        self._drop(connection_id)
        self.dismiss(connection_id)

    def get_connection(self, connection_id: str) -> WebSocketConnection | None:
        """Return the connection of that id, if it is here."""
        self._check_open()
        return self._connections.get(connection_id)

    def get_user_connections(self, user_id: str) -> frozenset[str]:
        """Return the ids of the user's connections here; empty for another user."""
        return frozenset(connection.id for connection in self._of_user(user_id))

    def is_connection_active(self, user_id: str) -> bool:
        """Say whether the user has an open socket here; False for another user."""
        return any(connection.is_open for connection in self._of_user(user_id))

    def get_connection_health(self, user_id: str) -> ConnectionHealth:
        """Return what is held for the user. Looking changes nothing."""
        own = list(self._of_user(user_id))
        records, size = (
            self._tail.window_size if is_same_user(user_id, self.key.user_id) else (0, 0)
        )
        return ConnectionHealth(
            user_id=user_id,
            connections=len(own),
            open_connections=sum(connection.is_open for connection in own),
            followers=sum(connection.id in self._followers for connection in own),
            window_records=records,
            window_bytes=size,
        )

    async def send_to_user(self, user_id: str, message: Mapping[str, object]) -> Delivery:
        """Send a control frame to the user's greeted connections here; a verdict for each."""
        return await send_to_each(self._of_user(user_id), message)

    async def send_to_thread(self, thread_id: str, message: Mapping[str, object]) -> Delivery:
        """Send a control frame to all who follow the thread; empty for another thread."""
        self._check_open()
        is_own = thread_id == self.key.thread_id
        return await send_to_each(self._connections.values() if is_own else (), message)

    async def emit_critical_event(
        self, user_id: str, event_type: str, data: Mapping[str, object]
    ) -> EventId:
        """Put a CUSTOM event into the run under way and return its id once it is committed."""
        self._check_open()
        if not is_same_user(user_id, self.key.user_id):
            raise NoActiveRun("no run is under way")
        return await self._emit(self.key, event_type, data)

    async def close(self) -> None:
        """Hear nothing more and close the sockets that still want something. Idempotent.

        Their clients come back and resume; a socket that stayed open would wait for ever for what
        nobody sends. Also twice at once, and while something is sent.
        """
        self._shut()
        self._expected.clear()
        abandoned = [
            connection
            for connection in self._connections.values()
            if connection.is_open and connection.wants(self.key.thread_id)
        ]
        for connection_id in tuple(self._connections):
            await self._end_follower(connection_id)
            self._connections.pop(connection_id, None)
        await asyncio.gather(
            *(connection.close(GOING_AWAY, GoingAway.code) for connection in abandoned)
        )

    def _shut(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self._tail.close()
        self._on_close(self)

    def _check_open(self) -> None:
        if self._is_closed:
            raise ManagerClosed(f"{self!r} is closed; ask the factory for the one that is alive")

    def _of_user(self, user_id: str) -> Iterable[WebSocketConnection]:
        self._check_open()
        is_own = is_same_user(user_id, self.key.user_id)
        return tuple(self._connections.values()) if is_own else ()

    async def _end_follower(self, connection_id: str) -> None:
        follower = self._followers.get(connection_id)
        if follower is None or follower is asyncio.current_task():
            return
        await end_task(follower)
        if self._followers.get(connection_id) is follower:
            del self._followers[connection_id]

    def _drop(self, connection_id: str) -> None:
        """Forget a connection; the last one takes the manager with it."""
        self._followers.pop(connection_id, None)
        connection = self._connections.pop(connection_id, None)
        if connection is None:
            return
        connection.lose_interest(self.key.thread_id)
        if self.is_empty:
            self._shut()

    async def _follow(self, follower: _Follower) -> None:
        """Feed one connection until it wants no more, or its socket is gone."""
        connection = follower.connection
        try:
            await self._go_on_until_spent(follower)
        except Exception as error:  # noqa: BLE001 - the top of the task that feeds a socket
            connection.fail(f"thread {self.key.thread_id}", error)
        is_replaced = self._followers.get(connection.id) is not asyncio.current_task()
        if is_replaced or (connection.is_open and connection.wants(self.key.thread_id)):
            return
        self._drop(connection.id)

    async def _go_on_until_spent(self, follower: _Follower) -> None:
        """Feed and go on after each gap; a log that can't be read now is tried again."""
        backoff = Backoff(first_s=RETRY_FIRST_S)
        while follower.position is not None:
            try:
                follower.position = await self._go_on(follower, follower.position)
            except Unavailable as error:
                _log.warning(
                    "follower_waiting", connection_id=follower.connection.id, reason=str(error)
                )
                await backoff.pause()  # between two tries; the log has what is missed

    async def _go_on(self, follower: _Follower, position: EventId) -> EventId | None:
        """Feed from `position`; return where to go on after a gap, None when there is no more."""
        try:
            await self._feed(follower, position)
        except CursorExpired:
            return await self._on_gap(self.key, follower.connection)
        return None

    async def _feed(self, follower: _Follower, position: EventId) -> None:
        """Deliver until the interest is spent; one that never subscribed ends with its last run."""
        connection = follower.connection
        interest = connection.get_interest(self.key.thread_id)

        def hand(records: Sequence[Record]) -> bool:
            if not connection.hand(interest, records):
                return False
            follower.position = records[-1].id
            return True

        async with aclosing(self._tail.follow(position, hand=hand)) as batches:
            async for batch in batches:
                if await connection.deliver(interest, batch) is not Verdict.DELIVERED:
                    return
                follower.position = batch[-1].id
                if not interest:
                    break
        if connection.is_replay:
            connection.request_close()


@dataclass(slots=True)
class _Follower:
    """A connection that is fed, and how far it is."""

    connection: WebSocketConnection
    position: EventId | None
