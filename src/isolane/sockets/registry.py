"""One book of every open socket and event stream of every user."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import islice
from typing import Final, Protocol
from unicodedata import normalize

import structlog

from isolane.context import ThreadKey
from isolane.contracts import Delivery, Identity, Limits
from isolane.errors import GoingAway, LimitExceeded, Unavailable, chain_of
from isolane.health.draining import Draining
from isolane.ids import new_error_id
from isolane.sockets.connection import WebSocketConnection, send_to_each
from isolane.sockets.slot import Member, Slot
from isolane.sockets.writer import CLOSE_GRACE_S, CLOSE_NORMAL, GOING_AWAY
from isolane.tasks import TaskOwner
from isolane.wire.frames import error_frame

Frame = Mapping[str, object]
"""A control frame."""
LIMIT: Final = "connectionsPerUser"
SHED_RETRY_MS: Final = 15_000
"""Milliseconds that a client is asked to stay away after its idle socket was closed. A client that
wants nothing may stay away for longer than one that was refused something."""
BYE_BATCH: Final = 100
"""Sockets that a shutdown closes at once."""
BYE_PAUSE_S: Final = 0.2
"""Longest pause between two batches of a shutdown, in seconds."""

_log = structlog.get_logger(__name__)


class Watcher(Protocol):
    """Hears when a user has the first socket here, and when the last one has gone."""

    def watch(self, user_id: str) -> None:
        """Hear that the user has one now."""
        ...

    def leave(self, user_id: str) -> None:
        """Hear that the user has none any more."""
        ...


class Sockets:
    """Every socket and event stream of all users, from the look at the limit to the end.

    Limits, revocation and drain ask this book only, so whoever is connected is found by all three.
    One per app.
    """

    def __init__(self, limits: Limits, *, tasks: TaskOwner, draining: Draining) -> None:
        """Begin with nobody, and take slots from `limits` until `draining` has begun."""
        self._limits = limits
        self._draining = draining
        self._tasks = tasks
        self._slots: defaultdict[str, dict[str, Slot]] = defaultdict(dict)
        """Slots in use of each user, by the ids of their sockets and streams, the oldest first."""
        self._farewell: Frame | None = None
        """Frame that says until when runs go on; None while the gateway doesn't drain."""
        self._is_shut = False
        self._told: dict[str, list[Frame]] = {}
        """Frames that follow the welcome of a socket, by its id, while its welcome is loaded."""
        self.news: Watcher | None = None
        """Hears who has sockets or streams here, where other processes change threads as well."""
        self.shed_count = 0
        """Idle sockets so far that were closed because memory was short."""

    @property
    def connection_count(self) -> int:
        """Number of open sockets of all users."""
        return len(self._all_sockets())

    @property
    def stream_count(self) -> int:
        """Number of open event streams of all users."""
        return sum(map(len, self._slots.values())) - self.connection_count

    @property
    def is_draining(self) -> bool:
        """Say whether the gateway takes nothing new, because it ends."""
        return self._draining.has_begun

    # --- slots -----------------------------------------------------------------------------------

    @asynccontextmanager
    async def reserve(self, user_id: str) -> AsyncGenerator[Slot, None]:
        """Hold a slot for the time of the block: from before the upgrade to the end of the socket.

        When the user has all, the slot of a connection that has ended counts as free. Safe to
        cancel: the slot comes back.

        Raises:
            LimitExceeded: On entering, the user has as many connections as the limit says.
            Unavailable: On entering, the gateway is draining.
        """
        slot = await self.take_slot(user_id)
        try:
            yield slot
        finally:
            await self.release(slot)

    def check_open(self) -> None:
        """Return while the gateway takes new connections.

        Raises:
            Unavailable: The gateway is draining.
        """
        self._draining.check_open()

    def own(self, slot: Slot, member: Member) -> None:
        """Keep a socket or stream in its slot. A socket that comes after the shutdown is closed."""
        slot.member = member
        if self.news is not None and slot.user_id not in self._slots:
            self.news.watch(slot.user_id)
        self._slots[slot.user_id][member.id] = slot
        if self._is_shut and isinstance(member, WebSocketConnection):
            member.request_close(GOING_AWAY, GoingAway.code)

    async def take_slot(self, user_id: str) -> Slot:
        """Return a slot that the caller releases; see `reserve`.

        A socket holds no block open for its whole life, because that takes memory.
        """
        self.check_open()
        while True:
            place = self._limits.take(user_id, LIMIT)
            try:
                await place.__aenter__()  # left by `Slot.release`; a stack takes 760 bytes more
            except LimitExceeded:
                if not await self._release_ended(user_id):
                    raise
            else:
                return Slot(user_id, place)

    async def _release_ended(self, user_id: str) -> bool:
        """Give back the slot of the oldest connection that has ended; False when there is none."""
        for slot in self._slots.get(user_id, {}).values():
            if slot.member is not None and not slot.member.is_open:
                await self.release(slot)
                return True
        return False

    async def release(self, slot: Slot) -> None:
        """Let a slot go, with what is in it. Idempotent."""
        own = self._slots.get(slot.user_id, {})
        if slot.member is not None:
            own.pop(slot.member.id, None)
        if not own:
            self._slots.pop(slot.user_id, None)
            if self.news is not None:
                self.news.leave(slot.user_id)
        await slot.release()

    # --- who is here -----------------------------------------------------------------------------

    def get_socket(self, user_id: str, connection_id: str | None) -> WebSocketConnection | None:
        """Return the user's socket of that id, if it is here."""
        slot = self._slots.get(user_id, {}).get(connection_id or "")
        found = None if slot is None else slot.member
        return found if isinstance(found, WebSocketConnection) else None

    def get_sockets(self, user_id: str) -> Sequence[WebSocketConnection]:
        """Return the user's sockets, the oldest first."""
        members = (slot.member for slot in self._slots.get(user_id, {}).values())
        return [member for member in members if isinstance(member, WebSocketConnection)]

    def is_followed(self, key: ThreadKey, run_id: str) -> bool:
        """Say whether an open socket of the user follows a run, alone or with its thread."""
        return any(
            socket.is_open and socket.wants_run(key.thread_id, run_id)
            for socket in self.get_sockets(key.user_id)
        )

    def _all_sockets(self) -> list[WebSocketConnection]:
        return [socket for user_id in self._slots for socket in self.get_sockets(user_id)]

    # --- what they are told ----------------------------------------------------------------------

    async def send_to_user(self, user_id: str, message: Mapping[str, object]) -> Delivery:
        """Send a control frame to all greeted sockets of the user; a verdict for each."""
        return await send_to_each(self.get_sockets(normalize("NFC", user_id)), message)

    def post_to_user(self, user_id: str, message: Mapping[str, object]) -> None:
        """Put a control frame in line at all greeted sockets of the user, without waiting."""
        for connection in self.get_sockets(user_id):
            if connection.has_greeted:
                connection.post(message)
            elif connection.id in self._told:
                self._told[connection.id].append(message)

    async def greet(
        self, connection: WebSocketConnection, load: Callable[[], Awaitable[Frame]]
    ) -> None:
        """Welcome a socket with the frame that `load` returns.

        The socket is told what its user's sockets are told since `load` began. While the gateway
        drains, it hears at once until when runs go on. Raises what `load` raises. Safe to cancel.
        """
        # A read takes milliseconds, and the user's own runs bound what is told meanwhile.
        told = self._told.setdefault(connection.id, [])
        try:
            frame = await load()
        finally:
            del self._told[connection.id]
        connection.has_greeted = True
        farewell = [] if self._farewell is None or self._farewell in told else [self._farewell]
        for each in (frame, *told, *farewell):
            connection.post(each)

    def revoke(self, is_revoked: Callable[[Identity], bool]) -> None:
        """End what was opened with a credential that counts no more. A renewed one is the newer."""
        slots = [slot for own in self._slots.values() for slot in own.values()]
        for member in [slot.member for slot in slots if slot.member is not None]:
            if is_revoked(member.identity):
                member.revoke()

    def shed_idle(self, most: int) -> int:
        """Close up to `most` sockets that want nothing, for memory is short; return how many."""
        idle = list(islice((socket for socket in self._all_sockets() if socket.is_idle), most))
        for socket in idle:
            _shed(socket)
        self.shed_count += len(idle)
        return len(idle)

    # --- the end ---------------------------------------------------------------------------------

    def begin_drain(self, *, deadline_ms: int) -> None:
        """Take nothing new, and tell who is here until when runs go on, in Unix milliseconds."""
        self._draining.begin()
        self._farewell = {"type": "draining", "deadlineMs": deadline_ms}
        for user_id in tuple(self._slots):
            self.post_to_user(user_id, self._farewell)

    async def shutdown(self, *, spread_s: float = 0.0) -> None:
        """Close every socket with 1001, and return when all are closed. Idempotent.

        Sockets close in batches of 100, spread over `spread_s` seconds at most, so their clients
        come back in batches too. A socket that takes nothing is reset after 2 s. A socket that is
        accepted meanwhile is closed too. Event streams end with the feed.
        """
        self._draining.begin()
        self._is_shut = True
        while sockets := self._all_sockets():
            await self._close_all(sockets, spread_s=spread_s)
            for socket in sockets:
                await socket.dispose()
                slot = self._slots.get(socket.user_id, {}).get(socket.id)
                if slot is not None:
                    await self.release(slot)

    async def _close_all(self, sockets: Sequence[WebSocketConnection], *, spread_s: float) -> None:
        batches = [
            sockets[start : start + BYE_BATCH] for start in range(0, len(sockets), BYE_BATCH)
        ]
        closing: list[asyncio.Task[None]] = []
        for batch in batches:
            if closing:
                await asyncio.sleep(min(spread_s / len(batches), BYE_PAUSE_S))  # the point of it
            closing += [self._tasks.start(_close_one(socket), name="bye") for socket in batch]
        await asyncio.wait(closing)


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
