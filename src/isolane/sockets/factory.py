"""Makes managers, one for each key, and owns every socket of every user from the upgrade on."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Final
from unicodedata import normalize

import structlog

from isolane.context import ThreadKey, UserExecutionContext
from isolane.contracts import Delivery, Identity, Limits, WebSocketManagerProtocol, ensure
from isolane.errors import (
    ContractError,
    GoingAway,
    LimitExceeded,
    Unauthenticated,
    Unavailable,
    chain_of,
)
from isolane.ids import new_error_id
from isolane.log.feed import Feed
from isolane.sockets.connection import (
    CLOSE_GRACE_S,
    CLOSE_NORMAL,
    GOING_AWAY,
    WebSocketConnection,
)
from isolane.sockets.manager import (
    Emit,
    IsolatedWebSocketManager,
    OnGap,
    send_to_each,
)
from isolane.sockets.sweeper import Sweeper, SweeperHealth
from isolane.tasks import TaskOwner
from isolane.wire.frames import error_frame

SWEEP_INTERVAL_S: Final = 30.0
"""A manager that nobody comes for lives one to two of these."""
SHED_RETRY_MS: Final = 15_000
"""Who wants nothing may stay away for longer than who is refused something."""

_log = structlog.get_logger(__name__)

LARGE_BYTES: Final = 64 * 1024
"""A frame above this is one of those that take long to read."""
BYE_BATCH: Final = 100
BYE_PAUSE_S: Final = 0.2


class WebSocketManagerFactory:
    """Makes, finds, limits and shuts down managers; owns sockets, slots and drain.

    One per app. The same key gives the same live manager.
    """

    def __init__(
        self,
        feed: Feed,
        limits: Limits,
        *,
        tasks: TaskOwner,
        emit: Emit,
        on_gap: OnGap,
        threads_per_user: int,
        sweep_interval_s: float = SWEEP_INTERVAL_S,
    ) -> None:
        """Make managers that read through `feed`; see `IsolatedWebSocketManager` for the hooks."""
        self._feed = feed
        self._limits = limits
        self._tasks = tasks
        self._emit = emit
        self._on_gap = on_gap
        self._threads_per_user = threads_per_user
        self._managers: defaultdict[str, dict[str, IsolatedWebSocketManager]] = defaultdict(dict)
        self._making: dict[ThreadKey, asyncio.Task[IsolatedWebSocketManager]] = {}
        self._awaited: Counter[ThreadKey] = Counter()
        """How many wait for a manager; who waits has it before anybody may let go of it."""
        self._unmanaged: Counter[str] = Counter()
        """Threads of each user that are followed without a manager."""
        self._sockets: defaultdict[str, dict[str, WebSocketConnection]] = defaultdict(dict)
        self._sweeper = Sweeper(self._all_managers, tasks=tasks, interval_s=sweep_interval_s)
        self._is_draining = False
        self._is_shut = False
        self._farewell: dict[str, object] | None = None
        """What is told to whoever greets from now on: that the gateway drains, and until when."""
        self.shed_count = 0
        """Idle sockets so far that were closed because memory was short."""

    @property
    def sweeper_health(self) -> SweeperHealth:
        """How the sweeper does."""
        return self._sweeper.health

    @property
    def connection_count(self) -> int:
        """How many sockets are owned, of all users."""
        return sum(len(sockets) for sockets in self._sockets.values())

    @property
    def manager_count(self) -> int:
        """How many managers are alive."""
        return sum(len(managers) for managers in self._managers.values())

    @property
    def follower_count(self) -> int:
        """How many followers run in all managers."""
        return sum(manager.follower_count for manager in self._all_managers())

    def reserve(self, user_id: str) -> None:
        """Take a connection's slot before the upgrade; `release_slot` or `release` gives it back.

        When the user has all, the slot of a socket that has ended and is not yet released counts
        as free. Raises `LimitExceeded`, and `Unavailable` while draining.
        """
        if self._is_draining:
            raise Unavailable("the gateway is draining")
        try:
            self._limits.take(user_id, "connectionsPerUser")
        except LimitExceeded:
            if not self._let_go_of_closed(user_id):
                raise
            self._limits.take(user_id, "connectionsPerUser")

    def release_slot(self, user_id: str) -> None:
        """Give back a slot that no socket came to use."""
        self._limits.give_back(user_id, "connectionsPerUser")

    async def take_thread(self, user_id: str) -> None:
        """Count a thread that is followed without a manager, until `give_back_thread`.

        Raises `LimitExceeded` when the user follows as many as the limit says. Safe to cancel.
        """
        await self._make_room(user_id)
        self._check_threads(user_id)
        self._unmanaged[user_id] += 1

    def give_back_thread(self, user_id: str) -> None:
        """Count a thread no longer that `take_thread` has counted."""
        self._unmanaged[user_id] -= 1
        if not self._unmanaged[user_id]:
            del self._unmanaged[user_id]

    def check_rate(self, user_id: str) -> None:
        """Count one frame of the user's; raises `LimitExceeded` with when to come back."""
        self._limits.hit(user_id, "framesPerMinute")

    async def pace(self, user_id: str, size: int) -> None:
        """Wait until a large frame of the user's may be read. Cancelled, it isn't counted."""
        while size > LARGE_BYTES and (wait_s := self._limits.weigh(user_id, size)):  # noqa: ASYNC110 - a pace
            await asyncio.sleep(wait_s)  # the pace that is asked of the user

    def own(self, connection: WebSocketConnection) -> None:
        """Take over a socket whose slot was reserved; one that comes after the end is closed."""
        self._sockets[connection.user_id][connection.id] = connection
        if self._is_shut:
            connection.request_close(GOING_AWAY, GoingAway.code)

    def is_followed(self, key: ThreadKey, run_id: str) -> bool:
        """Say whether an open socket of the user follows a run, alone or with its thread."""
        return any(
            socket.is_open and socket.wants_run(key.thread_id, run_id)
            for socket in self._sockets_of(key.user_id)
        )

    def tell_drain(self, connection: WebSocketConnection) -> None:
        """Tell a socket that has just greeted until when runs go on, if the gateway drains."""
        if self._farewell is not None:
            connection.post(self._farewell)

    async def release(self, connection: WebSocketConnection) -> None:
        """Let a socket go: out of every manager, its writer ended, its slot given back."""
        try:
            for manager in self._managers_of(connection.user_id):
                if not manager.is_closed:
                    await manager.remove_connection(connection.id)
            await connection.dispose()
        finally:
            self._disown(connection)

    async def create_manager(self, context: UserExecutionContext) -> IsolatedWebSocketManager:
        """Return the live manager of the context's thread, made if there is none.

        When the context names one of the user's open sockets, the manager stays for it until it is
        added or discarded; else it stays until the sweeper has seen it twice without a socket.
        Raises `LimitExceeded` when the user has as many threads open as allowed and all of them
        have sockets, `Unavailable` while draining. Safe to cancel.
        """
        while True:
            manager = self.get_manager(context) or await self._obtain(context.thread_key)
            if not manager.is_closed:  # as when it was let go of before this task had its turn
                break
        connection = self._sockets.get(context.user_id, {}).get(context.connection_id or "")
        if connection is not None:
            manager.expect(connection)
        return manager

    def get_manager(self, context: UserExecutionContext) -> IsolatedWebSocketManager | None:
        """Return the live manager of the context's thread, if there is one."""
        return self._find(context.thread_key)

    async def discard(
        self, manager: WebSocketManagerProtocol, context: UserExecutionContext
    ) -> None:
        """Take back that `context` asked for a manager; close it when nobody else did."""
        if not isinstance(manager, IsolatedWebSocketManager):
            return
        manager.dismiss(context.connection_id or "")
        if manager.is_empty:
            await manager.close()

    async def close_thread(self, key: ThreadKey) -> None:
        """Let everybody who follows a thread go: it was deleted."""
        for connection in self._sockets_of(key.user_id):
            if connection.is_replay and connection.wants(key.thread_id):
                connection.request_close()  # it was opened for this, and can't be told
            connection.lose_interest(key.thread_id)
        manager = self._find(key)
        if manager is not None:
            await manager.close()

    async def send_to_user(self, user_id: str, message: Mapping[str, object]) -> Delivery:
        """Send a control frame to all greeted sockets of the user, wherever they follow."""
        return await send_to_each(self._sockets_of(normalize("NFC", user_id)), message)

    def revoke(self, is_revoked: Callable[[Identity], bool]) -> None:
        """Close the sockets whose credential counts no more; a renewed one's is the newer."""
        for user_id in tuple(self._sockets):
            for connection in self._sockets_of(user_id):
                if is_revoked(connection.identity):
                    connection.request_close(Unauthenticated.close_code or CLOSE_NORMAL, "revoked")

    def shed_idle(self, most: int) -> int:
        """Close up to `most` sockets that want nothing, for memory is short; return how many."""
        sockets = (socket for own in self._sockets.values() for socket in own.values())
        idle = list(islice((socket for socket in sockets if socket.is_idle), most))
        for socket in idle:
            _shed(socket)
        self.shed_count += len(idle)
        return len(idle)

    def post_to_user(self, user_id: str, message: Mapping[str, object]) -> None:
        """Put a control frame in line at all greeted sockets of the user, without waiting."""
        for connection in self._sockets_of(user_id):
            if connection.has_greeted:
                connection.post(message)

    def begin_drain(self, *, deadline_ms: int) -> None:
        """Take nothing new, and tell who is here until when runs go on."""
        self._is_draining = True
        self._farewell = {"type": "draining", "deadlineMs": deadline_ms}
        for user_id in tuple(self._sockets):
            self.post_to_user(user_id, self._farewell)

    async def shutdown(self, *, spread_s: float = 0.0) -> None:
        """Close every socket with 1001 and every manager, and wait for it. Idempotent.

        Sockets close in batches of 100, spread over `spread_s` at most: their clients come back as
        they went. One that takes nothing is reset after 2 s; so this ends, whoever doesn't read.
        A socket that was accepted meanwhile is closed too.
        """
        self._is_draining = self._is_shut = True
        if self._making:
            await asyncio.wait(tuple(self._making.values()))
        while sockets := [one for user_id in self._sockets for one in self._sockets_of(user_id)]:
            await self._close_all(sockets, spread_s=spread_s)
            for socket in sockets:
                await self.release(socket)
        for manager in self._all_managers():
            await manager.close()
        self._sweeper.stop()

    async def _close_all(self, sockets: list[WebSocketConnection], *, spread_s: float) -> None:
        batches = [
            sockets[start : start + BYE_BATCH] for start in range(0, len(sockets), BYE_BATCH)
        ]
        closing: list[asyncio.Task[None]] = []
        for batch in batches:
            if closing:
                await asyncio.sleep(min(spread_s / len(batches), BYE_PAUSE_S))  # the point of it
            closing += [self._tasks.start(_close_one(socket), name="bye") for socket in batch]
        await asyncio.wait(closing)

    def _let_go_of_closed(self, user_id: str) -> bool:
        """Take the slot of the oldest socket that has ended already; False when there is none."""
        for socket in self._sockets_of(user_id):
            if not socket.is_open:
                self._disown(socket)
                return True
        return False

    def _disown(self, connection: WebSocketConnection) -> None:
        sockets = self._sockets.get(connection.user_id, {})
        if sockets.pop(connection.id, None) is not None:
            self.release_slot(connection.user_id)
        if not sockets:
            self._sockets.pop(connection.user_id, None)

    def _sockets_of(self, user_id: str) -> Iterable[WebSocketConnection]:
        return tuple(self._sockets.get(user_id, {}).values())

    def _find(self, key: ThreadKey) -> IsolatedWebSocketManager | None:
        return self._managers.get(key.user_id, {}).get(key.thread_id)

    def _managers_of(self, user_id: str) -> list[IsolatedWebSocketManager]:
        return list(self._managers.get(user_id, {}).values())

    def _all_managers(self) -> list[IsolatedWebSocketManager]:
        return [manager for user_id in self._managers for manager in self._managers_of(user_id)]

    async def _obtain(self, key: ThreadKey) -> IsolatedWebSocketManager:
        """Make the manager of `key`, or wait for the one that is being made."""
        await self._make_room(key.user_id)
        manager = self._find(key)
        if manager is not None:  # since this task had to wait
            return manager
        # Reserved before the next await: all who ask meanwhile wait for this one.
        if key not in self._making:
            self._check_room(key.user_id)
            self._making[key] = self._tasks.start(self._make(key), name="manager in the making")
        self._awaited[key] += 1
        try:
            return await asyncio.shield(self._making[key])
        finally:
            self._awaited[key] -= 1
            if not self._awaited[key]:
                del self._awaited[key]

    async def _make_room(self, user_id: str) -> None:
        """Let go of managers without an open socket, oldest first, when the user has all."""
        for manager in self._managers_of(user_id):
            if self._count_threads(user_id) < self._threads_per_user:
                return
            if not (manager.has_open_socket or self._awaited[manager.key]):
                await manager.close()

    def _count_threads(self, user_id: str) -> int:
        making = sum(1 for key in self._making if key.user_id == user_id)
        return len(self._managers_of(user_id)) + making + self._unmanaged[user_id]

    def _check_room(self, user_id: str) -> None:
        if self._is_draining:
            raise Unavailable("the gateway is draining")
        self._check_threads(user_id)

    def _check_threads(self, user_id: str) -> None:
        if self._count_threads(user_id) >= self._threads_per_user:
            raise LimitExceeded("threadsPerUser", self._threads_per_user)

    async def _make(self, key: ThreadKey) -> IsolatedWebSocketManager:
        try:
            manager = IsolatedWebSocketManager(
                await self._feed.open_tail(key),
                tasks=self._tasks,
                emit=self._emit,
                on_gap=self._on_gap,
                on_close=self._forget,
            )
            self._managers[key.user_id][key.thread_id] = manager
            self._sweeper.start()
            return manager
        finally:
            del self._making[key]

    def _forget(self, manager: IsolatedWebSocketManager) -> None:
        user_id, thread_id = manager.key
        own = self._managers.get(user_id, {})
        if own.get(thread_id) is manager:
            del own[thread_id]
        if not own:
            self._managers.pop(user_id, None)
        if not self._managers:
            self._sweeper.stop()


async def _close_one(socket: WebSocketConnection) -> None:
    try:
        async with asyncio.timeout(CLOSE_GRACE_S):
            await socket.close(GOING_AWAY, GoingAway.code)
    except TimeoutError:
        socket.give_up(GoingAway("the gateway shuts down, and the socket takes nothing"))
    except Exception as error:  # noqa: BLE001 - the top of the task that closes a socket
        _log.error("close_failed", connection_id=socket.id, chain=chain_of(error))
        socket.give_up(GoingAway("the gateway shuts down, and the socket can't be closed"))


def _shed(socket: WebSocketConnection) -> None:
    """Close an idle socket and tell it why, and when to come back."""
    error, error_id = Unavailable("memory is short"), new_error_id()
    error.retry_after_ms = SHED_RETRY_MS
    _log.info("socket_shed", error_id=error_id, connection_id=socket.id, user_id=socket.user_id)
    socket.say_goodbye(error_frame(error, error_id))
    socket.request_close(error.close_code or CLOSE_NORMAL, error.code)


_open_factories: list[WebSocketManagerFactory] = []


def open_factory(factory: WebSocketManagerFactory) -> None:
    """Make `factory` the one that is found; the app's lifespan calls this."""
    _open_factories.append(factory)


def close_factory(factory: WebSocketManagerFactory) -> None:
    """Take `factory` back. Idempotent."""
    if factory in _open_factories:
        _open_factories.remove(factory)


def get_websocket_manager_factory() -> WebSocketManagerFactory:
    """Return the factory of the running app. Plain, not async: there is nothing to wait for.

    Raises `ContractError` when no app is running, and when several are: one app's factory knows
    nothing of another's users.
    """
    if not _open_factories:
        raise ContractError(
            "no WebSocketManagerFactory is open; it opens with the app's lifespan, so run the app "
            "(or enter its lifespan) before you ask for managers"
        )
    if len(_open_factories) > 1:
        raise ContractError(
            f"{len(_open_factories)} apps are open in this process, so none is the running one; "
            "write create_websocket_manager(context, factory=…) with the factory that is meant"
        )
    return _open_factories[0]


async def create_websocket_manager(
    context: UserExecutionContext, *, factory: WebSocketManagerFactory | None = None
) -> WebSocketManagerProtocol:
    """Return the live manager of the context's thread. Await it.

    `factory` is the running app's unless another is given. Raises `ContractError` when `context` is
    no context, when the factory's product doesn't keep `WebSocketManagerProtocol`, or when no app
    is running; `InvalidContext` when the context names no thread; `LimitExceeded` and `Unavailable`
    as the factory does. Safe to cancel.
    """
    if not isinstance(context, UserExecutionContext):
        raise ContractError(
            f"create_websocket_manager wants a UserExecutionContext, got {type(context).__name__}"
        )
    chosen = get_websocket_manager_factory() if factory is None else factory
    manager = await chosen.create_manager(context)
    return ensure(manager, WebSocketManagerProtocol)
