"""Statistics are right: an oracle counts beside them, over random histories."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.house import House, Socket, connect, open_house, says

from isolane.context import ThreadKey, UserExecutionContext
from isolane.contracts import ConnectionHealth
from isolane.errors import LimitExceeded
from isolane.sockets.connection import WebSocketConnection

USERS = ("alice", "bob")
THREADS = ("1", "2", "3")
SOCKETS_MAX = 3
THREADS_MAX = 2

Step = tuple[str, int, str, str]
"""What happens, to which socket, and the user and thread that it is about."""


@dataclass
class Held:
    """What a manager holds, by the oracle's count."""

    members: set[str] = field(default_factory=set)
    expected: set[str] = field(default_factory=set)


@dataclass
class Oracle:
    """Counts by the rules, without any of the machinery."""

    sockets: dict[str, str] = field(default_factory=dict)
    """The user of each socket that is owned."""
    ended: set[str] = field(default_factory=set)
    managers: dict[ThreadKey, Held] = field(default_factory=dict)

    def is_open(self, socket_id: str) -> bool:
        return socket_id in self.sockets and socket_id not in self.ended

    def connect(self, user_id: str, socket_id: str) -> bool:
        own = [other for other, user in self.sockets.items() if user == user_id]
        if len(own) >= SOCKETS_MAX:
            spare = next((other for other in own if other in self.ended), None)
            if spare is None:
                return False
            del self.sockets[spare]
        self.sockets[socket_id] = user_id
        return True

    def release(self, socket_id: str) -> None:
        self.sockets.pop(socket_id, None)
        for key, held in tuple(self.managers.items()):
            if socket_id in held.members | held.expected:
                held.members.discard(socket_id)
                held.expected.discard(socket_id)
                self._close_empty(key)

    def ask(self, key: ThreadKey, socket_id: str | None) -> bool:
        if key not in self.managers:
            self._make_room(key.user_id)
            if len(self._own(key.user_id)) >= THREADS_MAX:
                return False
            self.managers[key] = Held()
        if socket_id in self.sockets:
            self.managers[key].expected.add(socket_id)
        return True

    def join(self, key: ThreadKey, socket_id: str) -> None:
        self.managers[key].expected.discard(socket_id)
        self.managers[key].members.add(socket_id)

    def leave(self, key: ThreadKey, socket_id: str) -> None:
        held = self.managers[key]
        if socket_id in held.members | held.expected:
            held.members.discard(socket_id)
            held.expected.discard(socket_id)
            self._close_empty(key)

    def discard(self, key: ThreadKey, socket_id: str) -> None:
        self.managers[key].expected.discard(socket_id)
        self._close_empty(key)

    def _own(self, user_id: str) -> list[ThreadKey]:
        return [key for key in self.managers if key.user_id == user_id]

    def _make_room(self, user_id: str) -> None:
        for key in self._own(user_id):
            held = self.managers[key]
            is_full = len(self._own(user_id)) >= THREADS_MAX
            if is_full and not any(map(self.is_open, held.members | held.expected)):
                del self.managers[key]

    def _close_empty(self, key: ThreadKey) -> None:
        if not (self.managers[key].members or self.managers[key].expected):
            del self.managers[key]


class History:
    """Does each step to the house and to the oracle."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.oracle = Oracle()
        self.connections: list[WebSocketConnection] = []

    async def take(self, step: Step) -> None:
        kind, place, user_id, thread_id = step
        if kind == "connect":
            await self._connect(user_id)
        elif kind == "ask alone":
            await self._ask(UserExecutionContext(user_id=user_id).for_thread(thread_id))
        elif self.connections:
            connection = self.connections[place % len(self.connections)]
            await self._act(kind, connection, thread_id)

    async def _connect(self, user_id: str) -> None:
        socket_id = f"conn-{len(self.connections)}"
        is_let = self.oracle.connect(user_id, socket_id)
        connection = connect(Socket(), self.house.tasks, connection_id=socket_id, user_id=user_id)
        try:
            await self.house.let_in(connection)
        except LimitExceeded:
            assert not is_let
            await connection.dispose()
            return
        assert is_let
        self.connections.append(connection)

    async def _act(self, kind: str, connection: WebSocketConnection, thread_id: str) -> None:
        context = connection.context.for_thread(thread_id)
        factory, oracle = self.house.factory, self.oracle
        manager = factory.get_manager(context)
        if kind == "release":
            await self.house.let_go(connection)
            oracle.release(connection.id)
        elif kind == "end":
            connection.request_close()
            oracle.ended.add(connection.id)
        elif not oracle.is_open(connection.id):
            return
        elif kind == "ask":
            await self._ask(context)
        elif kind == "join" and await self._ask(context):
            joined = factory.get_manager(context)
            assert joined is not None
            connection.get_interest(thread_id).want_all()
            await joined.add_connection(connection)
            oracle.join(context.thread_key, connection.id)
        elif kind == "leave" and manager is not None:
            await manager.remove_connection(connection.id)
            oracle.leave(context.thread_key, connection.id)
        elif kind == "discard" and manager is not None:
            await factory.discard(manager, context)
            oracle.discard(context.thread_key, connection.id)

    async def _ask(self, context: UserExecutionContext) -> bool:
        is_let = self.oracle.ask(context.thread_key, context.connection_id)
        try:
            await self.house.factory.create_manager(context)
        except LimitExceeded:
            assert not is_let
        else:
            assert is_let
        return is_let

    def compare(self) -> None:
        """Every figure is the oracle's, and looking twice shows the same."""
        oracle = self.oracle
        members = sum(len(held.members) for held in oracle.managers.values())
        for _ in range(2):
            assert self.house.counts == (
                len(oracle.sockets), len(oracle.managers), members,
            )  # fmt: skip
            for key, held in oracle.managers.items():
                self._compare_manager(key, held)

    def _compare_manager(self, key: ThreadKey, held: Held) -> None:
        context = UserExecutionContext(user_id=key.user_id).for_thread(key.thread_id)
        manager = self.house.factory.get_manager(context)
        assert manager is not None
        still_open = sum(map(self.oracle.is_open, held.members))
        assert manager.get_user_connections(key.user_id) == held.members
        assert manager.is_connection_active(key.user_id) == (still_open > 0)
        count = len(held.members)
        assert manager.get_connection_health(key.user_id) == ConnectionHealth(
            key.user_id, count, still_open, count, 0, 0
        )
        (other,) = set(USERS) - {key.user_id}
        assert manager.get_connection_health(other) == ConnectionHealth(other, 0, 0, 0, 0, 0)


KINDS = ("connect", "connect", "release", "end", "ask", "ask alone", "join", "join", "leave",
         "discard")  # fmt: skip
STEPS = st.lists(
    st.tuples(
        st.sampled_from(KINDS), st.integers(0, 5), st.sampled_from(USERS), st.sampled_from(THREADS)
    ),
    min_size=15,
    max_size=60,
)


@settings(max_examples=50)
@given(STEPS)
async def test_every_count_is_the_oracles_after_each_step(history: list[Step]) -> None:
    async with open_house(
        {"default": says()},
        limit_connections_per_user=SOCKETS_MAX,
        limit_threads_per_user=THREADS_MAX,
    ) as house:
        told = History(house)
        for step in history:
            await told.take(step)
            told.compare()
        for connection in told.connections:
            await house.let_go(connection)
        assert house.sockets.connection_count == house.factory.follower_count == 0
        assert not house.limits._held
