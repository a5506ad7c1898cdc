"""The wiring: which engine keeps which contract, and in which order everything opens and closes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import httpx
import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import WebSocketRoute

from isolane import clock
from isolane.agents import check
from isolane.agents.loading import adapt
from isolane.agents.threads import AgentThreads
from isolane.auth.accounts import Accounts
from isolane.auth.guessing import GuessGuard
from isolane.auth.keyring import FixedKey, KeyFile, KeyRing, SigningKey
from isolane.auth.local import LocalIssuer
from isolane.auth.providers import Issuers, Provider
from isolane.auth.revocations import Revocations
from isolane.auth.sessions import SessionBook
from isolane.auth.signin import SignIns
from isolane.auth.strangers import Strangers
from isolane.auth.tickets import TicketBook
from isolane.bell.local import LocalBell
from isolane.contracts import (
    Agent,
    AgentServiceProtocol,
    Authenticator,
    Bell,
    EventLog,
    Limits,
    RunQueue,
    Store,
    ensure,
)
from isolane.database import Database, hold_place, open_database, path_of
from isolane.doors import operations, page, sessions, signin, sse, threads
from isolane.doors.bodies import BodyLimit
from isolane.doors.credentials import COOKIE
from isolane.doors.gateway import STATE_KEY, Gateway
from isolane.doors.problems import (
    PROBLEM,
    answer_http,
    answer_invalid,
    answer_nobody,
    answer_problem,
)
from isolane.doors.websocket import WebSocketDoor
from isolane.errors import AgentRefused, IsolaneError, Unavailable
from isolane.eventlog.database import DatabaseEventLog, load_bounds, renumber, sow_seed
from isolane.feed import Feed
from isolane.limits.local import LocalLimits
from isolane.pressure import Acts, Pressure, relieve_for_ever
from isolane.resources import Resources, give_back_memory
from isolane.runqueue.local import LocalRunQueue
from isolane.service import AgentService
from isolane.settings import KEY_NAME, Settings, load_settings
from isolane.store.database import DatabaseStore, erase
from isolane.tasks import TaskOwner
from isolane.watchdog import Watchdog
from isolane.websocket.factory import WebSocketManagerFactory, close_factory, open_factory
from isolane.websocket.resume import Resumer
from isolane.window import FULL_WINDOW, SMALL_WINDOW

TRIM_INTERVAL_S: Final = 60.0
REVOCATION_INTERVAL_S: Final = 0.25
LINK_LIFETIME_MS: Final = 24 * 3600 * 1000

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class HostUsers:
    """A host's own users: who tells them apart, and in which cookie, if any, their token comes."""

    authenticator: Authenticator
    cookie: str | None = None


def make_issuer(settings: Settings) -> LocalIssuer:
    """Return the local issuer, with the key of the settings or those of the data folder."""
    secret = settings.secret_key
    ring: KeyRing = (
        FixedKey((SigningKey(secret.get_secret_value()),))
        if secret
        else KeyFile(settings.data / KEY_NAME)
    )
    # With keys of a provider, these two describe that provider's tokens.
    is_own = settings.jwks_url is None
    return LocalIssuer(
        ring,
        issuer=settings.issuer if is_own else None,
        audience=settings.audience if is_own else None,
        clock=clock.now_ms,
        foreign=[provider.name for provider in settings.all_providers],
    )


@asynccontextmanager
async def open_gateway(
    settings: Settings, agents: Mapping[str, Agent], *, users: HostUsers | None = None
) -> AsyncIterator[Gateway]:
    """Open a gateway, recover what another life left, and close it in the end.

    Closing ends sockets first, then tasks, then the database: what was acknowledged is kept.
    """
    tasks = TaskOwner()
    async with AsyncExitStack() as stack:
        stack.enter_context(hold_place(settings.sqlalchemy_url))
        database = await open_database(settings.sqlalchemy_url)
        stack.push_async_callback(database.close)
        await database.write(sow_seed)
        watchdog = Watchdog()
        watchdog.start()
        stack.callback(watchdog.close)
        if settings.agent_threads:
            threads = AgentThreads(settings.agent_threads, watch=watchdog.watch)
            stack.callback(threads.close)
            agents = {name: threads.wrap(agent) for name, agent in agents.items()}
        providers = await _open_providers(settings, stack)
        gateway = _wire(
            settings,
            agents,
            database,
            tasks=tasks,
            watchdog=watchdog,
            providers=providers,
            users=users,
        )
        stack.callback(gateway.accounts.close)
        stack.push_async_callback(tasks.close)
        stack.callback(gateway.feed.close)
        stack.push_async_callback(gateway.factory.shutdown)
        # What is under way still ends with an event of its own, also where nobody drained before.
        stack.push_async_callback(partial(gateway.service.drain, timeout_s=0))
        open_factory(gateway.factory)
        stack.callback(close_factory, gateway.factory)
        lost = await gateway.service.recover()
        await gateway.enforce_revocations()
        tasks.detach(_trim_for_ever(settings, gateway), name="retention")
        tasks.detach(_enforce_for_ever(gateway), name="revocations")
        acts = Acts(
            shed_sockets=gateway.factory.shed_idle,
            shrink_windows=partial(gateway.feed.resize_windows, SMALL_WINDOW),
            restore_windows=partial(gateway.feed.resize_windows, FULL_WINDOW),
            give_back_memory=give_back_memory,
        )
        tasks.detach(relieve_for_ever(gateway.pressure, acts), name="pressure")
        stack.callback(watchdog.watch("gateway"))
        gateway.state = "ready"
        _log.info("ready", runs_lost=lost, agents=sorted(agents))
        yield gateway


async def renumber_logs(settings: Settings) -> int:
    """Give every thread's log another epoch; return how many. Raises `PlaceTaken`, `Unavailable`.

    To be done once after a backup was put back, while no gateway runs on it.
    """
    with hold_place(settings.sqlalchemy_url):
        database = await open_database(settings.sqlalchemy_url)
        try:
            await database.write(sow_seed)
            return await database.write(renumber)
        finally:
            await database.close()


def _wire(
    settings: Settings,
    agents: Mapping[str, Agent],
    database: Database,
    *,
    tasks: TaskOwner,
    watchdog: Watchdog,
    providers: Mapping[str, Provider],
    users: HostUsers | None,
) -> Gateway:
    """Make every part and check each as it enters."""
    store = ensure(DatabaseStore(database, load_bounds=load_bounds, clock=clock.now_ms), Store)
    log = ensure(
        DatabaseEventLog(
            database,
            settle=store.settle,
            erase=erase,
            tasks=tasks,
            max_events=settings.log_max_events,
        ),
        EventLog,
    )
    feed = Feed(log, ensure(LocalBell(), Bell))
    limits = ensure(LocalLimits(settings.published_limits, clock=clock.now_ms), Limits)
    resumer = Resumer(feed, store)
    path = path_of(settings.sqlalchemy_url)
    resources = Resources(
        memory_bytes=settings.memory_bytes,
        disk_reserve_bytes=settings.disk_reserve_bytes,
        folder=None if path is None else path.parent,
    )
    pressure = Pressure(resources.read_memory, resources.read_disk)
    # The service and the factory know each other through these two calls only.
    factory: WebSocketManagerFactory

    def notify(user_id: str, frame: Mapping[str, object]) -> None:
        factory.post_to_user(user_id, frame)

    service = AgentService(
        agents,
        feed=feed,
        store=store,
        queue=ensure(LocalRunQueue(), RunQueue),
        limits=limits,
        settings=settings,
        tasks=tasks,
        clock=clock.now_ms,
        notify=notify,
        check_room=pressure.check_room,
    )
    factory = WebSocketManagerFactory(
        feed,
        limits,
        tasks=tasks,
        emit=service.emit,
        on_gap=resumer.on_gap,
        threads_per_user=settings.limit_threads_per_user,
    )
    issuer = make_issuer(settings)
    own = ensure(Issuers(issuer, providers), Authenticator)
    return Gateway(
        settings=settings,
        authenticator=own if users is None else users.authenticator,
        cookie=COOKIE if users is None else users.cookie or "",
        has_own_users=users is None,
        issuer=issuer,
        providers=providers,
        sign_ins=SignIns(clock.now_ms),
        guesses=GuessGuard(clock=clock.now_ms),
        strangers=Strangers(
            clock=clock.now_ms, per_minute=settings.limit_failed_handshakes_per_address
        ),
        revocations=Revocations(database, clock=clock.now_ms),
        accounts=Accounts(database, clock=clock.now_ms),
        sessions=SessionBook(
            database,
            clock=clock.now_ms,
            tasks=tasks,
            idle_ms=round(settings.session_idle_s * 1000),
            max_ms=round(settings.session_max_s * 1000),
        ),
        tickets=TicketBook(clock.now_ms),
        links=TicketBook(clock.now_ms, lifetime_ms=LINK_LIFETIME_MS),
        store=store,
        factory=factory,
        service=ensure(service, AgentServiceProtocol),
        feed=feed,
        log=log,
        resumer=resumer,
        tasks=tasks,
        clock=clock.now_ms,
        dependencies={
            "database": database.probe,
            "event loops": partial(_check_loops, watchdog),
        },
        watchdog=watchdog,
        pressure=pressure,
    )


async def _open_providers(settings: Settings, stack: AsyncExitStack) -> dict[str, Provider]:
    """Make what speaks to the providers. They are asked when somebody comes with their token."""
    found: dict[str, Provider] = {}
    if settings.all_providers:
        http = await stack.enter_async_context(httpx.AsyncClient(trust_env=False))
        for each in settings.all_providers:
            found[each.name] = Provider(each, http, clock=clock.now_ms)
            stack.push_async_callback(found[each.name].keys.close)
            if each.audience is None:
                _log.warning("provider without audience: all its tokens count", provider=each.name)
    return found


async def _enforce_for_ever(gateway: Gateway) -> None:
    """See to what other processes revoke: `isolane user remove` is one."""
    while True:
        await asyncio.sleep(REVOCATION_INTERVAL_S)  # a pace: SQLite tells nobody of a change
        try:
            await gateway.enforce_revocations()
        except Exception as error:  # noqa: BLE001 - whatever it is, the next look must come
            _log.warning("revocations put off", reason=str(error))


async def _check_loops(watchdog: Watchdog) -> None:
    blocked = watchdog.get_blocked()
    if blocked:
        raise Unavailable(f"blocked: {', '.join(blocked)}")


async def _trim_for_ever(settings: Settings, gateway: Gateway) -> None:
    interval_s = min(TRIM_INTERVAL_S, max(settings.log_retention_s / 4, 0.25))
    while True:
        await asyncio.sleep(interval_s)  # the pace of retention
        older_than = clock.now_ms() - round(settings.log_retention_s * 1000)
        try:
            await gateway.feed.trim(older_than=older_than)
        except Unavailable as error:
            _log.warning("retention put off", reason=str(error))


def create_app(
    settings: Settings, agents: Mapping[str, object], *, users: HostUsers | None = None
) -> FastAPI:
    """Return the gateway as an ASGI app; its lifespan opens and closes everything.

    `agents` are what `--agent` takes, the first is the default; with `users` the identity of
    whoever comes is the host's word. Raises `AgentRefused` for one that is no agent, and
    `ContractError` for an authenticator that doesn't keep its contract.
    """
    if users is not None:
        ensure(users.authenticator, Authenticator)
    if check.NAME in agents:
        raise AgentRefused(
            f"agent {check.NAME}: the name is that of the built-in one; take another."
        )
    adapted = {name: adapt(agent, name=f"agent {name}") for name, agent in agents.items()}
    if adapted:  # beside others, so that it is never the default
        adapted[check.NAME] = adapt(check.agent, name=f"agent {check.NAME}")

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[dict[str, Gateway]]:
        async with open_gateway(settings, adapted, users=users) as gateway:
            yield {STATE_KEY: gateway}

    app = FastAPI(
        title="Isolane",
        lifespan=lifespan,
        redoc_url=None,
        responses={"default": PROBLEM},
    )
    app.add_middleware(BodyLimit, max_bytes=settings.limit_frame_bytes)
    door = WebSocketDoor()
    app.router.routes.append(WebSocketRoute("/ws", door))
    app.router.routes.append(WebSocketRoute("/ws/{agent:path}", door))
    for room in (operations, sessions, signin, threads, sse, page):
        app.include_router(room.router)
    app.mount("/assets", page.Assets())
    app.add_exception_handler(IsolaneError, answer_problem)
    app.add_exception_handler(RequestValidationError, answer_invalid)
    app.add_exception_handler(HTTPException, answer_http)
    app.add_exception_handler(ClientDisconnect, answer_nobody)
    app.add_exception_handler(Exception, answer_problem)
    return app


def mount(
    app: Starlette,
    path: str,
    agents: Mapping[str, object],
    settings: Settings | None = None,
    *,
    authenticator: Authenticator | None = None,
    cookie: str | None = None,
) -> None:
    """Mount a gateway in `app` at `path`; it opens and closes with the app's own lifespan.

    With an `authenticator` the users are the host's own: it is asked for every token, and for the
    value of the host's `cookie` when pages of its origin come with that. Nobody signs in here then.

    Starlette doesn't run the lifespan of a mounted app, so this one is joined to the host's.
    Raises `AgentRefused`, `ContractError` for an authenticator that doesn't keep its contract,
    and, when `settings` are to be read here, `InvalidSettings`.
    """
    users = None if authenticator is None else HostUsers(authenticator, cookie)
    gateway = create_app(settings or load_settings({}), agents, users=users)
    app.mount(path, gateway)
    own = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(host: Any) -> AsyncIterator[Mapping[str, Any]]:  # noqa: ANN401 - the host's
        async with own(host) as state, gateway.router.lifespan_context(gateway) as opened:
            yield {**(state or {}), **(opened or {})}

    app.router.lifespan_context = lifespan
