"""Makes managers, one for each thread that is followed, finds them, and lets them go."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Final

from isolane.context import ThreadKey, UserExecutionContext
from isolane.contracts import Delivery, WebSocketManagerProtocol
from isolane.errors import LimitExceeded
from isolane.log.feed import Feed
from isolane.sockets.connection import WebSocketConnection
from isolane.sockets.manager import Emit, IsolatedWebSocketManager, OnGap
from isolane.sockets.registry import Sockets
from isolane.sockets.sweeper import Sweeper, SweeperHealth
from isolane.tasks import TaskOwner

SWEEP_INTERVAL_S: Final = 30.0
"""Seconds between two looks of the sweeper. A manager that nobody comes for lives for one to two
of these."""


class WebSocketManagerFactory:
    """Makes, finds, limits and shuts down managers. The sockets themselves are those of `Sockets`.

    One per app. The same key gives the same live manager.
    """

    def __init__(
        self,
        feed: Feed,
        sockets: Sockets,
        *,
        tasks: TaskOwner,
        emit: Emit,
        on_gap: OnGap,
        threads_per_user: int,
        sweep_interval_s: float = SWEEP_INTERVAL_S,
    ) -> None:
        """Make managers that read through `feed`; see `IsolatedWebSocketManager` for the hooks."""
        self._feed = feed
        self._sockets = sockets
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
        self._sweeper = Sweeper(self._all_managers, tasks=tasks, interval_s=sweep_interval_s)

    @property
    def sweeper_health(self) -> SweeperHealth:
        """How the sweeper does."""
        return self._sweeper.health

    @property
    def manager_count(self) -> int:
        """How many managers are alive."""
        return sum(len(managers) for managers in self._managers.values())

    @property
    def follower_count(self) -> int:
        """How many followers run in all managers."""
        return sum(manager.follower_count for manager in self._all_managers())

    @asynccontextmanager
    async def hold_thread(self, user_id: str) -> AsyncGenerator[None, None]:
        """Count a thread that is followed without a manager, for the time of the block.

        Safe to cancel: the thread counts no more then.

        Raises:
            LimitExceeded: On entering, the user follows as many threads as the limit says.
        """
        await self._make_room(user_id)
        self._check_threads(user_id)
        self._unmanaged[user_id] += 1
        try:
            yield
        finally:
            self._unmanaged[user_id] -= 1
            if not self._unmanaged[user_id]:
                del self._unmanaged[user_id]

    async def release(self, connection: WebSocketConnection) -> None:
        """Let a socket go: out of every manager, and its writer ended. Idempotent."""
        try:
            for manager in self._managers_of(connection.user_id):
                if not manager.is_closed:
                    await manager.remove_connection(connection.id)
        finally:
            await connection.dispose()

    async def create_manager(self, context: UserExecutionContext) -> IsolatedWebSocketManager:
        """Return the live manager of the context's thread, made if there is none.

        When the context names one of the user's open sockets, the manager stays for it until it is
        added or discarded; else it stays until the sweeper has seen it twice without a socket.
        Safe to cancel.

        Raises:
            LimitExceeded: The user has as many threads open as allowed, and all have sockets.
            Unavailable: The gateway is draining.
        """
        while True:
            manager = self.get_manager(context) or await self._obtain(context.thread_key)
            if not manager.is_closed:  # as when it was let go of before this task had its turn
                break
        connection = self._sockets.get_socket(context.user_id, context.connection_id)
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
        for connection in self._sockets.get_sockets(key.user_id):
            if connection.is_replay and connection.wants(key.thread_id):
                connection.request_close()  # it was opened for this, and can't be told
            connection.lose_interest(key.thread_id)
        manager = self._find(key)
        if manager is not None:
            await manager.close()

    async def send_to_user(self, user_id: str, message: Mapping[str, object]) -> Delivery:
        """Send a control frame to all greeted sockets of the user, wherever they follow.

        Returns a verdict for each; see `Sockets.send_to_user`.
        """
        return await self._sockets.send_to_user(user_id, message)

    async def shutdown(self, *, spread_s: float = 0.0) -> None:
        """Close every socket with 1001 and every manager, and wait for it. Idempotent.

        The sockets close as `Sockets.shutdown` says, spread over `spread_s` seconds at most.
        """
        await self._sockets.shutdown(spread_s=spread_s)
        if self._making:
            await asyncio.wait(tuple(self._making.values()))
        for manager in self._all_managers():
            await manager.close()
        self._sweeper.stop()

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
        self._sockets.check_open()
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
