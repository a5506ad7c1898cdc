"""Parts of the gateway as dependencies: a route's signature shows what the route touches."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from operator import attrgetter
from typing import Annotated, Any, Final

from fastapi import Depends, Request

from isolane.doors.answers import UnreadAnswers
from isolane.doors.event_stream import Streams
from isolane.doors.gateway import Gateway, get_gateway
from isolane.doors.parts import Credentials, Health, Intake, SignInDesk, Storage
from isolane.log.feed import Feed
from isolane.runs import AgentService
from isolane.settings import Settings
from isolane.sockets.factory import WebSocketManagerFactory

Load = Callable[[Request], Awaitable[Any]]
"""Returns a part. It is a coroutine, because FastAPI calls a plain function in another thread."""


async def _get_gateway(request: Request) -> Gateway:
    return get_gateway(request.scope)


def _part(name: str) -> Load:
    """Return a dependency on the gateway's attribute `name`."""
    get = attrgetter(name)

    async def load(request: Request) -> object:
        return get(get_gateway(request.scope))

    return load


async def _check_ready(request: Request) -> None:
    get_gateway(request.scope).check_ready()


READY: Final = Depends(_check_ready)
"""Refuses a request with 503 unless the gateway takes work; stands in a route's `dependencies`."""

AnswersDep = Annotated[UnreadAnswers, Depends(_part("unread"))]
CredentialsDep = Annotated[Credentials, Depends(_part("credentials"))]
EnforceDep = Annotated[Callable[[], Awaitable[None]], Depends(_part("enforce_revocations"))]
"""Closes what was opened with credentials that were revoked since."""
FactoryDep = Annotated[WebSocketManagerFactory, Depends(_part("factory"))]
FeedDep = Annotated[Feed, Depends(_part("feed"))]
GatewayDep = Annotated[Gateway, Depends(_get_gateway)]
"""The whole gateway, for the metrics, which are about all of it."""
HealthDep = Annotated[Health, Depends(_part("health"))]
IntakeDep = Annotated[Intake, Depends(_part("intake"))]
ServiceDep = Annotated[AgentService, Depends(_part("service"))]
SettingsDep = Annotated[Settings, Depends(_part("settings"))]
SignInDep = Annotated[SignInDesk, Depends(_part("sign_in"))]
StateDep = Annotated[str, Depends(_part("state"))]
StorageDep = Annotated[Storage, Depends(_part("storage"))]
StreamsDep = Annotated[Streams, Depends(_part("streams"))]
