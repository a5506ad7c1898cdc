"""The wiring: which engine keeps which contract, and in which order everything opens and closes."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Lifespan, Receive, Scope, Send

from isolane import clock
from isolane.agents import check
from isolane.agents.loading import adapt
from isolane.agents.threads import AgentThreads
from isolane.auth.accounts import Accounts
from isolane.auth.guessing import GuessGuard
from isolane.auth.judge import Judge
from isolane.auth.keyring import FixedKey, KeyFile, KeyRing, SigningKey
from isolane.auth.local import LocalIssuer
from isolane.auth.outbound import create_http
from isolane.auth.providers import Issuers, Provider
from isolane.auth.revocations import Revocations
from isolane.auth.sessions import SessionBook
from isolane.auth.signin import SignIns
from isolane.auth.strangers import Strangers
from isolane.auth.tickets import TicketBook
from isolane.context import ThreadKey, UserExecutionContext
from isolane.contracts import (
    Agent,
    AgentServiceProtocol,
    Authenticator,
    Bell,
    EventLog,
    Limits,
    RunDraft,
    RunQueue,
    Store,
    TurnBook,
    ensure,
)
from isolane.doors import (
    hydration,
    operations,
    page,
    sessions,
    signin,
    sse,
    threads,
    usage,
)
from isolane.doors.aisdk import http as aisdk
from isolane.doors.aisdk import socket as aisdk_socket
from isolane.doors.bodies import BodyLimit
from isolane.doors.browsers import BrowserRules
from isolane.doors.cors import Cors
from isolane.doors.description import name_cookie
from isolane.doors.gateway import STATE_KEY, Gateway
from isolane.doors.head import HeadAsGet
from isolane.doors.openai import completions as openai
from isolane.doors.openai import responses as openai_responses
from isolane.doors.outside import Outside, add_slash
from isolane.doors.problems import (
    PROBLEM,
    answer_http,
    answer_invalid,
    answer_nobody,
    answer_problem,
)
from isolane.doors.room import Hall
from isolane.doors.websocket import WebSocketDoor
from isolane.engines.memory.bell import LocalBell
from isolane.engines.memory.limits import LocalLimits
from isolane.engines.memory.runqueue import LocalRunQueue
from isolane.engines.sqlite.file import Database, lock_database, open_database, path_of
from isolane.engines.sqlite.log import DatabaseEventLog, create_seed, load_bounds, renumber
from isolane.engines.sqlite.store import DatabaseStore
from isolane.engines.sqlite.threads import erase
from isolane.engines.sqlite.turns import DatabaseTurnBook
from isolane.engines.sqlite.usage import Quotas, Usage
from isolane.errors import AgentRefused, IsolaneError, Unavailable
from isolane.events.event import check_question
from isolane.health.pressure import Pressure
from isolane.health.resources import Resources
from isolane.health.watchdog import Watchdog
from isolane.log.feed import Feed
from isolane.runs import AgentService
from isolane.settings import KEY_NAME, Settings, load_settings
from isolane.settings.spelling import warn_of_unknown
from isolane.sockets.factory import WebSocketManagerFactory, close_factory, open_factory
from isolane.sockets.resume import Resumer
from isolane.subjects import Subjects
from isolane.tasks import TaskOwner
from isolane.upkeep import start_upkeep

LINK_LIFETIME_MS: Final = 24 * 3600 * 1000
HALL_BODIES: Final = 2
"""Bodies of the largest size that are in memory at once, of all users together."""

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
    return LocalIssuer(
        ring,
        issuer=settings.issuer,
        audience=settings.audience,
        clock=clock.now_ms,
        foreign=[provider.name for provider in settings.providers],
        leeway_s=settings.clock_leeway_s,
    )


def _make_subjects(settings: Settings, *, has_own_users: bool) -> Subjects:
    """Return what knows the issuers of user ids; where the host has the users, there are none."""
    if not has_own_users:
        return Subjects()
    return Subjects(
        own_issuer=settings.issuer,
        issuers={each.name: each.issuer for each in settings.providers},
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
        stack.enter_context(lock_database(settings.sqlalchemy_url))
        database = await open_database(settings.sqlalchemy_url)
        stack.push_async_callback(database.close)
        await database.write(create_seed)
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
        stack.callback(gateway.lists.shutdown)
        stack.push_async_callback(tasks.close)
        stack.callback(gateway.feed.close)
        stack.push_async_callback(gateway.factory.shutdown)
        # What is under way still ends with an event of its own, also where nobody drained before.
        stack.push_async_callback(partial(gateway.service.drain, timeout_s=0))
        open_factory(gateway.factory)
        stack.callback(close_factory, gateway.factory)
        lost = await gateway.service.recover()
        await gateway.enforce_revocations()
        start_upkeep(gateway)
        stack.callback(watchdog.watch("gateway"))
        gateway.state = "ready"
        _log.info("ready", runs_lost=lost, agents=sorted(agents))
        yield gateway


async def renumber_logs(settings: Settings) -> int:
    """Give every thread's log another epoch; return how many.

    To be done once after a backup was put back, while no gateway runs on it. Raises `DatabaseInUse`
    when one does, and `Unavailable`.
    """
    with lock_database(settings.sqlalchemy_url):
        database = await open_database(settings.sqlalchemy_url)
        try:
            await database.write(create_seed)
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
    quotas = Quotas(settings.limit_stored_threads_per_user, settings.limit_stored_bytes_per_user)
    store = ensure(
        DatabaseStore(
            database,
            load_bounds=load_bounds,
            clock=clock.now_ms,
            quotas=quotas,
            check_question=partial(_check_question, settings),
        ),
        Store,
    )
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
    limits = ensure(LocalLimits(settings.published_limits, clock=clock.monotonic_ms), Limits)
    resumer = Resumer(feed, store, frame_max_bytes=settings.limit_frame_bytes)
    path = path_of(settings.sqlalchemy_url)
    resources = Resources(
        memory_bytes=settings.memory_bytes,
        disk_reserve_bytes=settings.disk_reserve_bytes,
        folder=None if path is None else path.parent,
    )
    pressure = Pressure(resources.read_memory, resources.read_disk)
    subjects = _make_subjects(settings, has_own_users=users is None)
    # The service and the factory know each other through these few calls only.
    factory: WebSocketManagerFactory

    def notify(user_id: str, frame: Mapping[str, object]) -> None:
        factory.post_to_user(user_id, frame)

    def is_followed(key: ThreadKey, run_id: str) -> bool:
        return factory.is_followed(key, run_id)

    service = AgentService(
        agents,
        feed=feed,
        store=store,
        queue=ensure(LocalRunQueue(), RunQueue),
        limits=limits,
        settings=settings,
        tasks=tasks,
        clock=clock.now_ms,
        timer=clock.monotonic_ms,
        notify=notify,
        is_followed=is_followed,
        check_room=pressure.check_room,
        subjects=subjects,
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
    steady = clock.new_steady_clock()
    own = ensure(Issuers(issuer, providers), Authenticator)
    return Gateway(
        settings=settings,
        judge=Judge(
            own if users is None else users.authenticator, tasks=tasks, is_own=users is None
        ),
        cookie=settings.cookie_name if users is None else users.cookie or "",
        has_own_users=users is None,
        subjects=subjects,
        issuer=issuer,
        providers=providers,
        sign_ins=SignIns(database, clock=steady),
        guesses=GuessGuard(database, clock=steady),
        strangers=Strangers(
            clock=clock.monotonic_ms, per_minute=settings.limit_failed_handshakes_per_address
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
        tickets=TicketBook(database, "socket", clock=clock.now_ms, timer=steady),
        links=TicketBook(
            database,
            "sign-in",
            clock=clock.now_ms,
            timer=steady,
            lifetime_ms=LINK_LIFETIME_MS,
            replaces_oldest=True,
        ),
        store=store,
        turn_book=ensure(DatabaseTurnBook(database), TurnBook),
        factory=factory,
        service=ensure(service, AgentServiceProtocol),
        feed=feed,
        log=log,
        resumer=resumer,
        limits=limits,
        tasks=tasks,
        clock=clock.now_ms,
        dependencies={
            "database": database.probe,
            "event loops": partial(_check_loops, watchdog),
        },
        watchdog=watchdog,
        pressure=pressure,
        usage=Usage(database),
        hall=Hall(HALL_BODIES * settings.limit_request_bytes),
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


async def _open_providers(settings: Settings, stack: AsyncExitStack) -> dict[str, Provider]:
    """Make what speaks to the providers. They are asked when somebody comes with their token."""
    found: dict[str, Provider] = {}
    if settings.providers:
        http = await stack.enter_async_context(create_http(settings, os.environ))
        for each in settings.providers:
            found[each.name] = Provider(
                each, http, clock=clock.now_ms, leeway_s=settings.clock_leeway_s
            )
            stack.push_async_callback(found[each.name].keys.close)
            if each.audience is None:
                _log.warning("provider_without_audience", provider=each.name)
    return found


async def _check_loops(watchdog: Watchdog) -> None:
    blocked = watchdog.get_blocked()
    if blocked:
        raise Unavailable(f"blocked: {', '.join(blocked)}")


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
            setattr(app.state, STATE_KEY, gateway)
            try:
                yield {STATE_KEY: gateway}
            finally:
                delattr(app.state, STATE_KEY)

    app = _App(settings, lifespan)
    app.add_middleware(
        BodyLimit,
        max_bytes=settings.limit_request_bytes,
        frame_bytes=settings.limit_frame_bytes,
    )
    door = WebSocketDoor()
    app.router.routes.append(WebSocketRoute("/ws", door))
    app.router.routes.append(WebSocketRoute("/ws/{agent:path}", door))
    chats = WebSocketDoor(
        spoken=aisdk_socket.SUBPROTOCOL, converse=aisdk_socket.ChatSession, takes_large=True
    )
    app.router.routes.append(WebSocketRoute("/ai/chat", chats))
    app.router.routes.append(WebSocketRoute("/ai/{agent}/chat", chats))
    for room in (
        operations,
        usage,
        sessions,
        signin,
        threads,
        sse,
        hydration,
        aisdk,
        openai,
        openai_responses,
        page,
    ):
        app.include_router(room.router)
    app.mount("/assets", page.Assets())
    app.add_exception_handler(IsolaneError, answer_problem)
    app.add_exception_handler(RequestValidationError, answer_invalid)
    app.add_exception_handler(HTTPException, answer_http)
    app.add_exception_handler(ClientDisconnect, answer_nobody)
    app.add_exception_handler(Exception, answer_problem)
    return app


class _App(FastAPI):
    """The gateway's own app."""

    def __init__(self, settings: Settings, lifespan: Lifespan[FastAPI]) -> None:
        """Begin without routes."""
        super().__init__(
            title="Isolane",
            lifespan=lifespan,
            docs_url=None,  # its page loads scripts from elsewhere, where the session's cookie is
            redoc_url=None,
            redirect_slashes=False,  # `Outside` takes a slash away; an answer would name the host
            responses={"default": PROBLEM},
        )
        self._settings = settings

    def build_middleware_stack(self) -> ASGIApp:
        """Stand before all else, also before what answers for an error that nobody foresaw."""
        inner = HeadAsGet(super().build_middleware_stack())
        cors = Cors(inner, origins=self._settings.allowed_origins)
        outside = Outside(cors, settings=self._settings)
        return BrowserRules(outside, frame_policy=self._settings.frame_policy)

    def openapi(self) -> dict[str, Any]:
        """Return the description of the routes, with the credentials that each takes."""
        return name_cookie(super().openapi(), self._settings.cookie_name)


class _Bare:
    """The path of a mount without its slash, below which the page would find nothing of its own."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await add_slash(scope, receive, send)


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
    if settings is None:
        settings = load_settings({})
        warn_of_unknown(os.environ, Settings.model_fields)
    gateway = create_app(settings, agents, users=users)
    if bare := path.rstrip("/"):  # a host may have other plans for what it finds no route for
        app.router.routes.append(Route(bare, _Bare(), include_in_schema=False))
    app.mount(path, gateway)
    own = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(host: Any) -> AsyncIterator[Mapping[str, Any]]:  # noqa: ANN401 - the host's
        async with own(host) as state, gateway.router.lifespan_context(gateway) as opened:
            yield {**(state or {}), **(opened or {})}

    app.router.lifespan_context = lifespan
