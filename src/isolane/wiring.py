"""The wiring: which engine keeps which contract, and in which order everything opens and closes."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Final

import structlog

from isolane import clock, databases
from isolane.agents.threads import AgentThreads
from isolane.auth.providers import Provider
from isolane.contracts import (
    Agent,
    AgentServiceProtocol,
    Bell,
    Limits,
    Members,
    NodeInfo,
    NodeRole,
    ensure,
)
from isolane.doors.answers import UnreadAnswers
from isolane.doors.gateway import Gateway
from isolane.doors.parts import Credentials, Health, Intake, Storage
from isolane.doors.room import Hall
from isolane.health.draining import Draining
from isolane.health.sight import Sight
from isolane.health.watchdog import Watchdog
from isolane.identity import (
    HostUsers,
    make_credentials,
    make_sign_in,
    open_providers,
    prove_key,
)
from isolane.log.feed import Feed
from isolane.probes import make_health
from isolane.runs import AgentService
from isolane.settings import Settings
from isolane.sockets.factory import WebSocketManagerFactory
from isolane.sockets.open_factory import close_factory, open_factory
from isolane.sockets.registry import Sockets
from isolane.sockets.resume import Resumer
from isolane.sql.database import Database
from isolane.sql.threads import renumber
from isolane.storage import make_storage
from isolane.subjects import Subjects
from isolane.tasks import TaskOwner
from isolane.upkeep import join_others, start_upkeep

HALL_BODIES: Final = 2
"""Bodies of the largest size that are in memory at once, of all users together."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ground:
    """Database, tasks and settings, which every other part needs."""

    settings: Settings
    info: NodeInfo
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
    settings: Settings,
    agents: Mapping[str, Agent],
    *,
    users: HostUsers | None = None,
    role: NodeRole = NodeRole.ALL,
) -> AsyncIterator[Gateway]:
    """Open a gateway, recover what another life left, and close it in the end.

    Closing ends sockets first, then tasks, then the database: what was acknowledged is kept.
    """
    async with AsyncExitStack() as stack:
        name = settings.node_id or f"{socket.gethostname()}:{os.getpid()}"
        proof = prove_key(settings.secret_key)
        info = NodeInfo(name, role, tuple(agents), _find_version(), proof)
        ground = await _open_ground(settings, info, users, stack)
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


def _find_version() -> str:
    """Return the release that runs; "" for a source folder that isn't installed."""
    try:
        return version("isolane")
    except PackageNotFoundError:
        return ""


async def _open_ground(
    settings: Settings, info: NodeInfo, users: HostUsers | None, stack: AsyncExitStack
) -> _Ground:
    """Open what everything else stands on; `stack` closes it, the database last."""
    url = settings.sqlalchemy_url
    stack.enter_context(databases.lock(url))
    database = await databases.open_database(url)
    stack.push_async_callback(database.close)
    bell = await stack.enter_async_context(databases.open_bell(settings))
    watchdog = Watchdog()
    watchdog.start()
    stack.callback(watchdog.close)
    return _Ground(
        settings=settings,
        info=info,
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
    storage = _open_storage(ground)
    health = _make_health(ground, storage.members)
    credentials = _make_credentials(ground)
    sight = Sight(is_needed=databases.is_shared(settings.sqlalchemy_url))
    feed = Feed(storage.log, ground.bell, sight=sight)
    made = databases.make_limits(settings, ground.database, storage.members, tasks=tasks)
    limits = ensure(made, Limits)
    sockets = Sockets(limits, tasks=tasks, draining=ground.draining)
    resumer = Resumer(feed, storage.store, frame_max_bytes=settings.limit_frame_bytes)
    service = _make_service(
        ground,
        agents,
        feed,
        storage,
        sockets,
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
        draining=ground.draining,
        sight=sight,
    )


def _make_health(ground: _Ground, members: Members) -> Health:
    return make_health(
        ground.settings,
        ground.database,
        ground.watchdog,
        info=ground.info,
        members=members,
        bell=ground.bell,
    )


def _make_service(
    ground: _Ground,
    agents: Mapping[str, Agent],
    feed: Feed,
    storage: Storage,
    sockets: Sockets,
    *,
    check_room: Callable[[], None],
    subjects: Subjects,
) -> AgentService:
    return AgentService(
        agents,
        feed=feed,
        store=storage.store,
        book=storage.book,
        members=storage.members,
        settings=ground.settings,
        tasks=ground.tasks,
        draining=ground.draining,
        clock=clock.now_ms,
        timer=clock.monotonic_ms,
        notify=sockets.post_to_user,
        is_followed=sockets.is_followed,
        check_room=check_room,
        subjects=subjects,
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


def _open_storage(ground: _Ground) -> Storage:
    return make_storage(ground.settings, ground.database, ground.info, tasks=ground.tasks)
