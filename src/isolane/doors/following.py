"""Threads and runs that one socket follows: subscribed, started, or replayed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from isolane.context import EventId, UserExecutionContext
from isolane.contracts import WebSocketManagerProtocol
from isolane.doors.handshake import Replay
from isolane.doors.problems import POLICY_CLOSE, report
from isolane.doors.replies import tell
from isolane.errors import CursorExpired, InvalidCursor, InvalidInput, ManagerClosed, NotFound
from isolane.log.feed import Feed
from isolane.runs import AgentService
from isolane.sockets.connection import WebSocketConnection
from isolane.sockets.factory import WebSocketManagerFactory
from isolane.sockets.open_factory import create_websocket_manager
from isolane.sockets.resume import Resumer
from isolane.sockets.writer import CLOSE_NORMAL

FROM_START: Final = "-1"
"""Offset of a replay that begins with the run's first event."""

Begin = Callable[[], Awaitable[EventId | None]]
"""Does what comes before the first record, and returns the id behind which records are wanted.
None says that the socket is to follow nothing more than it does."""


class Following:
    """Lets one socket follow threads of its user, each behind the last id that its client has."""

    def __init__(
        self,
        connection: WebSocketConnection,
        *,
        factory: WebSocketManagerFactory,
        resumer: Resumer,
        service: AgentService,
        feed: Feed,
    ) -> None:
        """Begin with an accepted socket that follows nothing."""
        self._connection = connection
        self._factory = factory
        self._resumer = resumer
        self._service = service
        self._feed = feed

    async def follow(self, context: UserExecutionContext, begin: Begin) -> bool:
        """Follow the context's thread behind the id that `begin` returns; False when it is None.

        The thread's manager is there before `begin` is asked. So what one follower had to read of
        the thread is there for the next, and a user who follows too much starts nothing. Raises
        also what `begin` raises. Safe to cancel: nothing is followed then.

        Raises:
            LimitExceeded: The user follows as many threads as the limit says.
            Unavailable: The gateway is draining, or the log can't be read now.
        """
        manager = await self._open_manager(context)
        try:
            after = await begin()
        except BaseException:
            await self._factory.discard(manager, context)
            raise
        if after is None:
            await self._factory.discard(manager, context)
            return False
        await self._join(context, manager, after)
        return True

    async def subscribe(self, thread_id: str, after: EventId | None) -> None:
        """Follow a thread behind `after`; without it from where the thread's log begins.

        Where a frame can't hold what was missed, the client reads the thread over HTTP, and
        subscribes anew after that. Raises also what `follow` raises.

        Raises:
            InvalidCursor: The cursor is ahead of the log.
        """
        connection = self._connection
        context = connection.context.for_thread(thread_id)

        async def begin() -> EventId | None:
            resume = await self._resumer.load(context.thread_key, after)
            interest = connection.renew_interest(thread_id)
            connection.post(resume.to_frame(thread_id))
            if not resume.can_go_on:
                return None
            interest.want_all()
            return resume.start

        if not await self.follow(context, begin):
            await self._leave(thread_id)

    async def unsubscribe(self, thread_id: str) -> None:
        """Follow a thread no longer, and say so."""
        await self._leave(thread_id)
        self._connection.post({"type": "unsubscribed", "threadId": thread_id})

    def want_run(self, context: UserExecutionContext, after: EventId) -> EventId | None:
        """Want the records of the context's run behind `after`, beside others of its thread.

        Returns the id behind which a follower has to read, so that no run misses a record. None
        when the run's records come already.
        """
        interest = self._connection.get_interest(context.thread_key.thread_id)
        if not interest.want_run(context.run_key.run_id, after=after):
            return None
        return EventId(after.epoch, interest.resume_seq() or 0)

    async def replay(self, replay: Replay) -> None:
        """Follow the one run for which the socket was opened; close where that can't be."""
        connection = self._connection
        connection.is_replay = True
        try:
            await self._follow_replay(replay)
        except (NotFound, InvalidInput) as error:
            report(error, connection_id=connection.id)
            connection.request_close(POLICY_CLOSE, "unknown run")
        except CursorExpired:
            self._resumer.tell_expired(connection, replay.run_id)
            connection.request_close(CLOSE_NORMAL)
        except InvalidCursor as error:
            tell(connection, error, run_id=replay.run_id)
            connection.request_close(POLICY_CLOSE, error.code)
        except Exception as error:  # noqa: BLE001 - one socket's trouble stays its own
            connection.fail("a replay", error)

    async def _follow_replay(self, replay: Replay) -> None:
        own = self._connection.context
        stored = await self._service.load_run(own, replay.run_id)
        context = own.for_thread(stored.thread_id).for_run(stored.run_id)
        start = stored.after
        if replay.offset != FROM_START:
            after = EventId.parse(replay.offset)
            (await self._feed.load_bounds(context.thread_key)).check_cursor(after)
            start = max(start, after, key=lambda place: place.seq)
        if stored.last_seq is not None and start.seq >= stored.last_seq:
            self._connection.request_close(CLOSE_NORMAL)
            return

        async def begin() -> EventId | None:
            return self.want_run(context, start)

        await self.follow(context, begin)

    async def _leave(self, thread_id: str) -> None:
        connection = self._connection
        manager = self._factory.get_manager(connection.context.for_thread(thread_id))
        connection.lose_interest(thread_id)
        if manager is not None:
            await manager.remove_connection(connection.id)

    async def _open_manager(self, context: UserExecutionContext) -> WebSocketManagerProtocol:
        return await create_websocket_manager(context, factory=self._factory)

    async def _join(
        self, context: UserExecutionContext, manager: WebSocketManagerProtocol, after: EventId
    ) -> None:
        """Join the manager; when its last connection just took it along, join the next one."""
        while True:
            try:
                await manager.add_connection(self._connection, after=after)
            except ManagerClosed:
                manager = await self._open_manager(context)
            else:
                return
