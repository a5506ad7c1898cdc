"""The gateway as an ASGI app: its routes, its middleware, and the mount in a host's app."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute, Route, Router, WebSocketRoute
from starlette.types import ASGIApp, Lifespan, Receive, Scope, Send

from isolane.agents import check
from isolane.agents.loading import adapt
from isolane.contracts import Agent, Authenticator, NodeRole, ensure
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
from isolane.doors.websocket import WebSocketDoor
from isolane.errors import AgentRefused, IsolaneError
from isolane.identity import HostUsers, make_issuer
from isolane.settings import Settings, load_settings
from isolane.settings.spelling import warn_of_unknown
from isolane.wiring import open_gateway

__all__ = ["HostUsers", "create_app", "make_issuer", "mount", "open_gateway"]

ROUTERS: Final = (
    operations.router,
    usage.router,
    sessions.router,
    signin.router,
    threads.router,
    sse.router,
    hydration.router,
    aisdk.router,
    openai.router,
    openai_responses.router,
    page.router,
)
"""Doors over HTTP, in the order in which they match a path. The page matches every path."""


def create_app(
    settings: Settings,
    agents: Mapping[str, object],
    *,
    users: HostUsers | None = None,
    role: NodeRole = NodeRole.ALL,
) -> FastAPI:
    """Return the gateway as an ASGI app; its lifespan opens and closes everything.

    `agents` are agents by name, in any form that `--agent` accepts. The first is the default. With
    `users`, the host tells who its users are. A worker has no doors but those for operators.

    Raises:
        AgentRefused: One of `agents` is no agent, or has the name of the built-in one.
        ContractError: The authenticator doesn't keep its contract.
    """
    if users is not None:
        ensure(users.authenticator, Authenticator)
    adapted = _adapt(agents)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[dict[str, Gateway]]:
        async with open_gateway(settings, adapted, users=users, role=role) as gateway:
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
    if role is NodeRole.WORKER:
        app.include_router(operations.router)
    else:
        _add_doors(app)
    app.add_exception_handler(IsolaneError, answer_problem)
    app.add_exception_handler(RequestValidationError, answer_invalid)
    app.add_exception_handler(HTTPException, answer_http)
    app.add_exception_handler(ClientDisconnect, answer_nobody)
    app.add_exception_handler(Exception, answer_problem)
    return app


def _adapt(agents: Mapping[str, object]) -> dict[str, Agent]:
    """Return agents by name. The built-in agent is the last, so it is never the default."""
    if check.NAME in agents:
        raise AgentRefused(
            f"agent {check.NAME}: the name is that of the built-in one; take another."
        )
    named = {**agents, check.NAME: check.agent} if agents else agents
    return {name: adapt(agent, name=f"agent {name}") for name, agent in named.items()}


def _add_doors(app: FastAPI) -> None:
    door = WebSocketDoor()
    chats = WebSocketDoor(
        spoken=aisdk_socket.SUBPROTOCOL, converse=aisdk_socket.ChatSession, takes_large=True
    )
    app.router.routes += [
        WebSocketRoute("/ws", door),
        WebSocketRoute("/ws/{agent:path}", door),
        WebSocketRoute("/ai/chat", chats),
        WebSocketRoute("/ai/{agent}/chat", chats),
    ]
    for router in ROUTERS:
        app.include_router(router)
    app.mount("/assets", page.Assets())


class _SocketsFirst:
    """Leads sockets to their doors, past all that FastAPI does for requests over HTTP.

    A socket holds a frame of every app that called its door, for as long as it is open.
    """

    def __init__(self, inner: ASGIApp, routes: Iterable[BaseRoute]) -> None:
        """Lead to the sockets' doors among `routes`, and everything else to `inner`."""
        doors = [route for route in routes if isinstance(route, WebSocketRoute)]
        self._inner = inner
        self._doors = Router(doors, redirect_slashes=False, default=inner)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_socket = scope["type"] == "websocket"
        await (self._doors if is_socket else self._inner)(scope, receive, send)


class _App(FastAPI):
    """The gateway's own app."""

    def __init__(self, settings: Settings, lifespan: Lifespan[FastAPI]) -> None:
        """Begin without routes."""
        super().__init__(
            title="Isolane",
            lifespan=lifespan,
            docs_url=None,  # its page loads scripts of other servers, on the origin of our cookie
            redoc_url=None,
            redirect_slashes=False,  # a redirect would name the inner host; `Outside` helps
            responses={"default": PROBLEM},
        )
        self._settings = settings

    def build_middleware_stack(self) -> ASGIApp:
        """Put the gateway's own middleware outermost, so that all errors have its headers."""
        inner = _SocketsFirst(HeadAsGet(super().build_middleware_stack()), self.router.routes)
        cors = Cors(inner, origins=self._settings.allowed_origins)
        outside = Outside(cors, settings=self._settings)
        return BrowserRules(outside, frame_policy=self._settings.frame_policy)

    def openapi(self) -> dict[str, Any]:
        """Return the description of the routes, with the credentials of each."""
        return name_cookie(super().openapi(), self._settings.cookie_name)


class _Bare:
    """Redirect from a mount's path to the path with a slash.

    Without the slash, the relative addresses of the page would miss the mount.
    """

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

    Starlette doesn't run the lifespan of a mounted app, so the gateway's is joined to the host's.

    With an `authenticator`, the users are the host's own, and nobody signs in at the gateway. The
    authenticator judges every token, and the value of the host's `cookie` on requests of its pages.
    Without `settings` they are read from the environment.

    Raises:
        AgentRefused: One of `agents` is no agent, or has the name of the built-in one.
        ContractError: The authenticator doesn't keep its contract.
        InvalidSettings: A setting in the environment is wrong.
    """
    users = None if authenticator is None else HostUsers(authenticator, cookie)
    if settings is None:
        settings = load_settings({})
        warn_of_unknown(os.environ, Settings.model_fields)
    gateway = create_app(settings, agents, users=users)
    if bare := path.rstrip("/"):  # the host's own fallback might answer the bare path
        app.router.routes.append(Route(bare, _Bare(), include_in_schema=False))
    app.mount(path, gateway)
    own = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(host: Any) -> AsyncIterator[Mapping[str, Any]]:  # noqa: ANN401 - the host's
        async with own(host) as state, gateway.router.lifespan_context(gateway) as opened:
            yield {**(state or {}), **(opened or {})}

    app.router.lifespan_context = lifespan
