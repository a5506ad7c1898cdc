"""A house for tests: the real parts on a database of its own, wired as the app wires them."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any
from unittest.mock import patch

import pytest
from ag_ui.core import RunAgentInput
from sqlalchemy import Connection

from isolane.agents.function import adapt_function
from isolane.context import EventId, ThreadKey, UserExecutionContext
from isolane.contracts import (
    Admitted,
    Agent,
    BegunRun,
    EventLog,
    Identity,
    NodeInfo,
    RunBook,
    RunDraft,
    RunEnd,
    RunLease,
    Store,
    Terms,
)
from isolane.engines.memory.bell import LocalBell
from isolane.engines.memory.limits import LocalLimits
from isolane.engines.sqlite import database
from isolane.engines.sqlite.database import SqliteDatabase, open_database
from isolane.engines.sqlite.members import DatabaseMembers
from isolane.errors import Unavailable
from isolane.events.event import Event, Record, decode_event
from isolane.events.packing import references_of
from isolane.health.draining import Draining
from isolane.ids import new_node_id
from isolane.log.feed import QUIET_S, Feed
from isolane.runs import AgentService
from isolane.settings import Settings
from isolane.sockets.connection import WebSocketConnection
from isolane.sockets.factory import SWEEP_INTERVAL_S, WebSocketManagerFactory
from isolane.sockets.registry import Sockets
from isolane.sockets.resume import Resumer
from isolane.sql.database import Database
from isolane.sql.lanes import HOUSE
from isolane.sql.log import DatabaseEventLog
from isolane.sql.runbook import DatabaseRunBook
from isolane.sql.schema import migrate
from isolane.sql.store import DatabaseStore
from isolane.sql.usage import Quotas
from isolane.tasks import TaskOwner
from isolane.testing import ScriptedSocket

OpenDatabase = Callable[[str], Awaitable[Database]]
Socket = ScriptedSocket

MEMORY = "sqlite://"
ALICE = "alice"
START = EventId("0", 0)
COUNT_KEPT = """
WITH owners AS (
    SELECT thread_no, user_id FROM threads UNION ALL SELECT thread_no, user_id FROM removals
), kept AS (
    SELECT user_id, 1 AS threads, 100 AS size FROM threads
    UNION ALL SELECT user_id, 0, 100 + length(payload) FROM events JOIN owners USING (thread_no)
    UNION ALL SELECT user_id, 0, 100 + length(payload) FROM messages JOIN owners USING (thread_no)
    UNION ALL SELECT user_id, 0, 100 + length(payload) FROM states JOIN owners USING (thread_no)
    UNION ALL SELECT user_id, 0, 100 + length(bytes)
        FROM attachments JOIN attachment_bytes USING (number) JOIN owners USING (thread_no)
    UNION ALL SELECT user_id, 0, 100 + length(draft) + ifnull(length(asked), 0)
        + ifnull(length(interrupts), 0) + ifnull(length(agent_message), 0) FROM runs
)
SELECT user_id, sum(threads), sum(size) FROM kept GROUP BY user_id
"""
"""Counts what each user keeps by a walk over everything: threads and bytes."""
_PAYLOADS = (
    "SELECT thread_no, payload FROM events",
    "SELECT thread_no, payload FROM messages",
    "SELECT thread_no, payload FROM states",
    "SELECT thread_no, draft FROM runs",
)
_DELETED = "SELECT thread_no FROM removals"
_ATTACHMENTS = """
SELECT thread_no, digest, uses FROM attachments JOIN attachment_bytes USING (number)
"""
Attached = dict[tuple[int, bytes], int]
"""Attachments by the number of their thread and digest; the value counts references."""


def count_attachments(connection: Connection) -> tuple[Attached, Attached]:
    """Return what the rows of all threads refer to, and what is kept: the same, if all is well.

    Deleted threads are left out, for they lose both step by step.
    """
    deleted = {row[0] for row in connection.exec_driver_sql(_DELETED)}
    referred = Counter(
        (thread_no, each.digest)
        for query in _PAYLOADS
        for thread_no, payload in connection.exec_driver_sql(query)
        for each in references_of(payload)
    )
    kept = {
        (thread_no, digest): uses
        for thread_no, digest, uses in connection.exec_driver_sql(_ATTACHMENTS)
    }
    return (
        {key: uses for key, uses in referred.items() if key[0] not in deleted},
        {key: uses for key, uses in kept.items() if key[0] not in deleted},
    )


@dataclass
class ManualClock:
    """Milliseconds since 1970 that pass only when a test says so."""

    now: int = 1_700_000_000_000

    def __call__(self) -> int:
        return self.now


class Admitting:
    """Lets runs in, and says that what should begin has begun, and what should wait waits."""

    book: RunBook

    async def begin_run(self, context: UserExecutionContext, draft: RunDraft) -> BegunRun:
        """Let a run in that begins at once."""
        begun = (await self.admit(context, draft)).begun
        assert begun is not None
        return begun

    async def add_run(self, context: UserExecutionContext, draft: RunDraft) -> RunDraft:
        """Let a run in that waits for its turn, and return what is kept of it."""
        admitted = await self.admit(context, draft)
        assert admitted.begun is None
        return admitted.draft

    async def take_turn(self, context: UserExecutionContext) -> BegunRun:
        """Begin a run that has waited, and whose turn has come."""
        return await self.book.begin(context, await self.claim(context))

    async def claim(self, context: UserExecutionContext) -> RunLease:
        """Claim a run whose turn has come, for a node of its own that lives no more."""
        claimed = await self.book.claim(new_node_id(), room=1000)
        leases = [each.lease for each in claimed if each.run.key == context.run_key]
        assert leases, f"it is not the turn of run {context.run_id}"
        return leases[0]

    async def admit(
        self, context: UserExecutionContext, draft: RunDraft, *, policy: str = "queue"
    ) -> Admitted:
        """Let a new run in."""
        admitted = await self.book.admit(context, draft, Terms(policy))
        assert isinstance(admitted, Admitted)
        return admitted


@dataclass
class Ground(Admitting):
    """A database with the log, the store and the book of runs on it."""

    database: Database
    store: DatabaseStore
    book: DatabaseRunBook
    log: DatabaseEventLog
    tasks: TaskOwner
    clock: ManualClock

    async def end_run(self, context: UserExecutionContext) -> None:
        """End a run with one event, so that the next of its thread has the turn."""
        end = RunEnd(context.run_key.run_id, "success", None, (), self.clock())
        await append_to(self.log, context.thread_key, end.run_id, [b"{}"], end=end)


@asynccontextmanager
async def open_ground(
    url: str = MEMORY,
    *,
    clock: ManualClock | None = None,
    max_events: int = 20_000,
    open_at: OpenDatabase = open_database,
    quotas: Quotas | None = None,
) -> AsyncIterator[Ground]:
    """Open the log and the store at `url`."""
    time = clock or ManualClock()
    tasks = TaskOwner()
    database = await open_at(url)
    try:
        store = DatabaseStore(database, clock=time, quotas=quotas)
        log = DatabaseEventLog(database, tasks=tasks, max_events=max_events)
        book = DatabaseRunBook(database, clock=time, quotas=quotas)
        yield Ground(database, store, book, log, tasks, time)
    finally:
        await tasks.close()
        await database.close()


@dataclass
class House:
    """Everything between an agent and a socket."""

    ground: Ground
    bell: LocalBell
    feed: Feed
    limits: LocalLimits
    service: AgentService
    sockets: Sockets
    factory: WebSocketManagerFactory
    resumer: Resumer
    settings: Settings
    draining: Draining
    notices: list[Mapping[str, object]] = field(default_factory=list)
    lease: RunLease | None = None
    """That of the run that a test begins with, where it needs to know."""
    held: dict[WebSocketConnection, AsyncExitStack] = field(default_factory=dict)
    """What the sockets hold that were let in."""

    @property
    def tasks(self) -> TaskOwner:
        """The owner of every task of the house."""
        return self.ground.tasks

    @property
    def clock(self) -> ManualClock:
        """The time that everything goes by."""
        return self.ground.clock

    @property
    def counts(self) -> tuple[int, int, int]:
        """How many sockets, managers and followers there are."""
        factory = self.factory
        return self.sockets.connection_count, factory.manager_count, factory.follower_count

    async def let_in(self, connection: WebSocketConnection) -> None:
        """Own a socket, in a slot of its user; raises what `Sockets.reserve` raises."""
        async with AsyncExitStack() as held:
            slot = await held.enter_async_context(self.sockets.reserve(connection.user_id))
            self.sockets.own(slot, connection)
            self.held[connection] = held.pop_all()

    async def open_socket(
        self, connection_id: str, *, user_id: str = ALICE
    ) -> tuple[WebSocketConnection, Socket]:
        """Return a new socket of a user that has said hello, with its other end."""
        socket = Socket()
        connection = connect(socket, self.tasks, connection_id=connection_id, user_id=user_id)
        connection.has_greeted = True
        await self.let_in(connection)
        return connection, socket

    async def let_go(self, connection: WebSocketConnection) -> None:
        """Let a socket go as the door does. Idempotent."""
        try:
            await self.factory.release(connection)
        finally:
            await self.held.pop(connection, AsyncExitStack()).aclose()

    async def events(
        self, context: UserExecutionContext, *, after: EventId | None = None
    ) -> list[Event]:
        """Return a run's events once it has ended."""
        return [decode_event(record.payload) for record in await self.records(context, after=after)]

    async def records(
        self, context: UserExecutionContext, *, after: EventId | None = None
    ) -> list[Record]:
        """Return a run's records once it has ended."""
        return [record async for record in self.service.follow(context, after=after)]

    async def run(self, context: UserExecutionContext, *texts: str, **more: object) -> list[Event]:
        """Start a run and return its events once it has ended."""
        await self.service.start(context, ask(context, *texts, **more))
        return await self.events(context)


@asynccontextmanager
async def open_house(
    agents: Mapping[str, Agent | Callable[..., AsyncIterator[object]]],
    *,
    url: str = MEMORY,
    clock: ManualClock | None = None,
    bell: LocalBell | None = None,
    quiet_s: float = QUIET_S,
    sweep_interval_s: float = SWEEP_INTERVAL_S,
    open_at: OpenDatabase = open_database,
    wrap_store: Callable[[Store], Store] = lambda store: store,
    wrap_book: Callable[[RunBook], RunBook] = lambda book: book,
    **settings: Any,  # noqa: ANN401 - each setting has its own type
) -> AsyncIterator[House]:
    """Open a house that serves `agents`; `settings` are those of `isolane serve`."""
    chosen = Settings(database_url=url, **settings)
    parts: dict[str, House] = {}
    async with AsyncExitStack() as stack:
        ground = await stack.enter_async_context(
            open_ground(url, clock=clock, max_events=chosen.log_max_events, open_at=open_at)
        )
        own_bell = bell or LocalBell()
        feed = Feed(ground.log, own_bell, quiet_s=quiet_s)
        limits = LocalLimits(chosen.published_limits, clock=ground.clock)
        store = wrap_store(ground.store)
        draining = Draining()
        service = AgentService(
            {
                name: agent if isinstance(agent, Agent) else adapt_function(agent, name=name)
                for name, agent in agents.items()
            },
            feed=feed,
            store=store,
            book=wrap_book(ground.book),
            members=DatabaseMembers(ground.database, NodeInfo("house"), clock=ground.clock),
            settings=chosen,
            tasks=ground.tasks,
            draining=draining,
            clock=ground.clock,
            notify=lambda _user, frame: parts["house"].notices.append(frame),
        )
        resumer = Resumer(feed, store)
        sockets = Sockets(limits, tasks=ground.tasks, draining=draining)
        factory = WebSocketManagerFactory(
            feed,
            sockets,
            tasks=ground.tasks,
            emit=service.emit,
            on_gap=resumer.on_gap,
            threads_per_user=chosen.limit_threads_per_user,
            sweep_interval_s=sweep_interval_s,
        )
        house = House(
            ground, own_bell, feed, limits, service, sockets, factory, resumer, chosen, draining
        )
        parts["house"] = house
        stack.push_async_callback(factory.shutdown)
        yield house


@dataclass
class Pen:
    """Appends as the writer of a run does: by one lease, its batches counted."""

    log: EventLog | Feed
    lease: RunLease
    batch: int = 0

    async def append(self, *payloads: bytes) -> list[Record]:
        """Append the next batch."""
        self.batch += 1
        return await self.log.append(self.lease, payloads, batch=self.batch)


async def append_to(
    log: EventLog | Feed,
    key: ThreadKey,
    run_id: str,
    payloads: Sequence[bytes],
    *,
    end: RunEnd | None = None,
) -> list[Record]:
    """Append as the writer of a run does that has just taken it over."""
    lease = await log.take_over(key, run_id)
    return await log.append(lease, payloads, batch=1, end=end)


async def open_older(url: str, version: str, monkeypatch: pytest.MonkeyPatch) -> SqliteDatabase:
    """Open a new database with the tables of an earlier version: those of that migration."""
    with monkeypatch.context() as patched:
        patched.setattr(
            database,
            "bring_up_to_date",
            lambda one, is_empty: migrate(one, version),  # noqa: ARG005
        )
        return await open_database(url)


def context_of(
    run_id: str | None = None, *, thread_id: str = "thread", user_id: str = ALICE
) -> UserExecutionContext:
    """Return the context of a thread, or of a run on it."""
    thread = UserExecutionContext(user_id=user_id).for_thread(thread_id)
    return thread if run_id is None else thread.for_run(run_id)


def key_of(thread_id: str = "thread", *, user_id: str = ALICE) -> ThreadKey:
    """Return the address of a thread's log."""
    return ThreadKey(user_id, thread_id)


def user_message(text: str, *, message_id: str | None = None) -> dict[str, object]:
    """Return what a user said; its id is its text unless another is given."""
    return {"id": message_id or text, "role": "user", "content": text}


def draft_of(*texts: str, rewind_to: str | None = None, agent: str = "default") -> RunDraft:
    """Return what a run frame with these questions asks for."""
    return RunDraft(agent, [user_message(text) for text in texts], rewind_to, {})


def ask(context: UserExecutionContext, *texts: str, **more: object) -> RunAgentInput:
    """Return the input of a run with these questions."""
    return RunAgentInput.model_validate(
        {
            "threadId": context.thread_key.thread_id,
            "runId": context.run_key.run_id,
            "state": {},
            "messages": [user_message(text) for text in texts],
            "tools": [],
            "context": [],
            "forwardedProps": {},
            **more,
        }
    )


def says(*values: object) -> Callable[..., AsyncIterator[object]]:
    """Return an agent that yields `values`."""

    async def agent(input: object) -> AsyncIterator[object]:  # noqa: A002, ARG001
        for value in values:
            yield value

    return agent


async def until(is_so: Callable[[], object], *, within_s: float = 5.0) -> None:
    """Return once `is_so()` says yes: the loop turns, and no time is guessed."""
    async with asyncio.timeout(within_s):
        while not is_so():  # noqa: ASYNC110 - what is waited for has no event of its own
            await asyncio.sleep(0.001)  # a turn of the loop that lets database threads have theirs


async def refuse_writes(database: Database, *, while_refused: bool = True) -> None:
    """Let a database in memory refuse what writes, as a disk does that went read-only."""
    pragma = f"PRAGMA query_only={int(while_refused)}"
    await database.read(lambda connection: connection.exec_driver_sql(pragma))


@contextmanager
def losing_answers(database: Database) -> Iterator[None]:
    """Let what is written be committed, and each answer get lost."""
    write, commit_log = database.write, database.commit_log

    async def lose_write(work: Callable[[Connection], object], *, lane: str = HOUSE) -> Any:  # noqa: ANN401 - as `write`
        await write(work, lane=lane)
        raise Unavailable("the answer was lost")

    def lose_commit(work: Callable[[Connection], object]) -> asyncio.Future[Any]:
        lost: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def note(_: object) -> None:
            if not lost.cancelled():
                lost.set_exception(Unavailable("the answer was lost"))

        commit_log(work).add_done_callback(note)
        return lost

    with (
        patch.object(database, "write", lose_write),
        patch.object(database, "commit_log", lose_commit),
    ):
        yield


def sqlite_url(folder: Path) -> str:
    """Return the address of a database file in `folder`."""
    return f"sqlite:///{folder / 'isolane.db'}"


def connect(
    socket: Socket,
    tasks: TaskOwner,
    *,
    connection_id: str = "conn",
    user_id: str = ALICE,
    send_timeout_s: float = 10.0,
    can_abort: bool = False,
    write_texts: Callable[[Sequence[str], int], int] | None = None,
) -> WebSocketConnection:
    """Return a connection that writes to `socket`."""
    return WebSocketConnection(
        UserExecutionContext(user_id=user_id, connection_id=connection_id),
        Identity(user_id, None),
        socket.send,
        tasks=tasks,
        send_timeout_s=send_timeout_s,
        abort=socket.abort if can_abort else None,
        write_texts=write_texts,
    )


def count_lines(call: Callable[[], object]) -> int:
    """Return how many lines of Python a call runs: what it costs, by no clock."""
    lines = 0

    def trace(_frame: FrameType, event: str, _argument: object) -> Any:  # noqa: ANN401 - itself
        nonlocal lines
        lines += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return lines
