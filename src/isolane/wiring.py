"""The wiring: which engine keeps which contract, and in which order everything opens and closes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import structlog

from isolane import clock, databases
from isolane.agents.threads import AgentThreads
from isolane.auth.providers import Provider
from isolane.context import UserExecutionContext
from isolane.contracts import (
    Agent,
    AgentServiceProtocol,
    Bell,
    EventLog,
    Limits,
    Members,
    RunBook,
    RunDraft,
    Store,
    TurnBook,
    ensure,
)
from isolane.doors.answers import UnreadAnswers
from isolane.doors.gateway import Gateway
from isolane.doors.parts import Credentials, Health, Intake, Storage
from isolane.doors.room import Hall
from isolane.engines.memory.limits import LocalLimits
from isolane.errors import Unavailable
from isolane.events.event import check_question
from isolane.health.draining import Draining
from isolane.health.pressure import Pressure
from isolane.health.resources import Resources
from isolane.health.watchdog import Watchdog
from isolane.identity import HostUsers, make_credentials, make_sign_in, open_providers
from isolane.log.feed import Feed
from isolane.runs import AgentService
from isolane.settings import Settings
from isolane.sockets.factory import WebSocketManagerFactory
from isolane.sockets.open_factory import close_factory, open_factory
from isolane.sockets.registry import Sockets
from isolane.sockets.resume import Resumer
from isolane.sql.database import Database
from isolane.sql.log import DatabaseEventLog
from isolane.sql.runbook import DatabaseRunBook
from isolane.sql.store import DatabaseStore
from isolane.sql.threads import renumber
from isolane.sql.turns import DatabaseTurnBook
from isolane.sql.usage import Quotas, Usage
from isolane.tasks import TaskOwner
from isolane.upkeep import join_others, start_upkeep

HALL_BODIES: Final = 2
"""Bodies of the largest size that are in memory at once, of all users together."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ground:
    """Database, tasks and settings, which every other part needs."""

    settings: Settings
    users: HostUsers | None
    """None where the gateway has the users."""
    database: Database
    bell: Bell
    tasks: TaskOwner
    watchdog: Watchdog
    providers: Mapping[str, Provider]
    draining: Draining = field(default_factory=Draining)


@asynccontextmanager
async def open_gateway(
    settings: Settings, agents: Mapping[str, Agent], *, users: HostUsers | None = None
) -> AsyncIterator[Gateway]:
    """Open a gateway, recover what another life left, and close it in the end.

    Closing ends sockets first, then tasks, then the database: what was acknowledged is kept.
    """
    async with AsyncExitStack() as stack:
        ground = await _open_ground(settings, users, stack)
        if settings.agent_threads:
            threads = AgentThreads(settings.agent_threads, watch=ground.watchdog.watch)
            stack.callback(threads.close)
            agents = {name: threads.wrap(agent) for name, agent in agents.items()}
        gateway = _wire(ground, agents)
        _close_at_end(gateway, stack)
        lost = await gateway.service.recover()
        await gateway.enforce_revocations()
        start_upkeep(gateway)
        if databases.is_shared(settings.sqlalchemy_url):
            await join_others(gateway)
        stack.callback(ground.watchdog.watch("gateway"))
        gateway.is_open = True
        _log.info("ready", runs_lost=lost, agents=sorted(agents))
        yield gateway


async def _open_ground(
    settings: Settings, users: HostUsers | None, stack: AsyncExitStack
) -> _Ground:
    """Open what everything else stands on; `stack` closes it, the database last."""
    url = settings.sqlalchemy_url
    stack.enter_context(databases.lock(url))
    database = await databases.open_database(url)
    stack.push_async_callback(database.close)
    bell = await stack.enter_async_context(databases.open_bell(url))
    watchdog = Watchdog()
    watchdog.start()
    stack.callback(watchdog.close)
    return _Ground(
        settings=settings,
        users=users,
        database=database,
        bell=ensure(bell, Bell),
        tasks=TaskOwner(),
        watchdog=watchdog,
        providers=await open_providers(settings, stack),
    )


def _close_at_end(gateway: Gateway, stack: AsyncExitStack) -> None:
    """Let `stack` close the gateway, from the last of these to the first."""
    stack.push_async_callback(gateway.service.close)
    stack.callback(gateway.sign_in.accounts.close)
    stack.callback(gateway.intake.close)
    stack.push_async_callback(gateway.tasks.close)
    stack.callback(gateway.feed.close)
    stack.push_async_callback(gateway.factory.shutdown)
    # What is under way still ends with an event of its own, also where nobody drained before.
    stack.push_async_callback(partial(gateway.service.drain, timeout_s=0))
    open_factory(gateway.factory)
    stack.callback(close_factory, gateway.factory)


async def renumber_logs(settings: Settings) -> int:
    """Give every thread's log another epoch; return how many.

    An operator does this once after a backup was restored, while no gateway runs on the folder.

    Raises:
        DatabaseInUse: A gateway runs on it.
        Unavailable: The database can't be opened or written.
    """
    with databases.lock(settings.sqlalchemy_url):
        database = await databases.open_database(settings.sqlalchemy_url)
        try:
            return await database.write(renumber)
        finally:
            await database.close()


def _wire(ground: _Ground, agents: Mapping[str, Agent]) -> Gateway:
    """Make every part and check each as it enters."""
    settings, tasks = ground.settings, ground.tasks
    storage, health = _make_storage(ground), _make_health(ground)
    credentials = _make_credentials(ground)
    feed = Feed(storage.log, ground.bell)
    limits = ensure(LocalLimits(settings.published_limits, clock=clock.monotonic_ms), Limits)
    sockets = Sockets(limits, tasks=tasks, draining=ground.draining)
    resumer = Resumer(feed, storage.store, frame_max_bytes=settings.limit_frame_bytes)
    service = AgentService(
        agents,
        feed=feed,
        store=storage.store,
        book=storage.book,
        members=storage.members,
        settings=settings,
        tasks=tasks,
        draining=ground.draining,
        clock=clock.now_ms,
        timer=clock.monotonic_ms,
        notify=sockets.post_to_user,
        is_followed=sockets.is_followed,
        check_room=health.pressure.check_room,
        subjects=credentials.subjects,
    )
    return Gateway(
        settings=settings,
        clock=clock.now_ms,
        tasks=tasks,
        limits=limits,
        service=ensure(service, AgentServiceProtocol),
        sockets=sockets,
        factory=_make_factory(ground, feed, sockets, service, resumer),
        feed=feed,
        resumer=resumer,
        storage=storage,
        credentials=credentials,
        sign_in=make_sign_in(ground.database, ground.providers),
        intake=_make_intake(settings, limits),
        unread=UnreadAnswers(send_timeout_s=settings.send_timeout_s),
        health=health,
    )


def _make_credentials(ground: _Ground) -> Credentials:
    return make_credentials(
        ground.settings,
        ground.database,
        ground.providers,
        tasks=ground.tasks,
        users=ground.users,
    )


def _make_intake(settings: Settings, limits: Limits) -> Intake:
    return Intake(
        limits=limits,
        frame_bytes=settings.limit_frame_bytes,
        hall=Hall(HALL_BODIES * settings.limit_request_bytes),
    )


def _make_factory(
    ground: _Ground, feed: Feed, sockets: Sockets, service: AgentService, resumer: Resumer
) -> WebSocketManagerFactory:
    return WebSocketManagerFactory(
        feed,
        sockets,
        tasks=ground.tasks,
        emit=service.emit,
        on_gap=resumer.on_gap,
        threads_per_user=ground.settings.limit_threads_per_user,
    )


def _make_storage(ground: _Ground) -> Storage:
    settings, database = ground.settings, ground.database
    url = settings.sqlalchemy_url
    members = databases.make_members(url, database, clock=clock.now_ms)
    quotas = Quotas(settings.limit_stored_threads_per_user, settings.limit_stored_bytes_per_user)
    store = DatabaseStore(database, clock=clock.now_ms, quotas=quotas)
    book = DatabaseRunBook(
        database,
        clock=clock.now_ms,
        timer=clock.new_steady_clock(),
        quotas=quotas,
        check_question=partial(_check_question, settings),
    )
    log = DatabaseEventLog(
        database,
        tasks=ground.tasks,
        max_events=settings.log_max_events,
    )
    return Storage(
        store=ensure(store, Store),
        book=ensure(book, RunBook),
        members=ensure(members, Members),
        turn_book=ensure(DatabaseTurnBook(database), TurnBook),
        log=ensure(log, EventLog),
        usage=Usage(database),
    )


def _make_health(ground: _Ground) -> Health:
    settings, watchdog = ground.settings, ground.watchdog
    resources = Resources(
        memory_bytes=settings.memory_bytes,
        disk_reserve_bytes=settings.disk_reserve_bytes,
        folder=databases.find_folder(settings.sqlalchemy_url),
    )
    return Health(
        dependencies={
            "database": ground.database.probe,
            "event loops": partial(_check_loops, watchdog),
        },
        watchdog=watchdog,
        pressure=Pressure(resources.read_memory, resources.read_disk),
    )


def _check_question(settings: Settings, context: UserExecutionContext, draft: RunDraft) -> None:
    check_question(
        context.thread_key,
        context.run_key.run_id,
        draft.messages,
        rewind_to=draft.rewind_to,
        request=draft.request,
        frame_max_bytes=settings.limit_frame_bytes,
    )


async def _check_loops(watchdog: Watchdog) -> None:
    blocked = watchdog.get_blocked()
    if blocked:
        raise Unavailable(f"blocked: {', '.join(blocked)}")
