"""The parts that the doors open onto, wired by the app."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

from fastapi import Depends, Request

from isolane.agents import check
from isolane.auth.accounts import Accounts
from isolane.auth.sessions import SessionBook
from isolane.auth.tickets import TicketBook
from isolane.clock import Clock
from isolane.contracts import Authenticator, EventLog, Identity, Store
from isolane.errors import Forbidden, Unavailable
from isolane.feed import Feed
from isolane.service import AgentService
from isolane.settings import Settings
from isolane.tasks import TaskOwner
from isolane.watchdog import Watchdog
from isolane.websocket.factory import WebSocketManagerFactory
from isolane.websocket.resume import Resumer

STATE_KEY: Final = "isolane"

Probe = Callable[[], Awaitable[None]]
"""Raises when a dependency can't be used."""


@dataclass(slots=True, kw_only=True)
class Gateway:
    """One running gateway."""

    settings: Settings
    authenticator: Authenticator
    accounts: Accounts
    sessions: SessionBook
    tickets: TicketBook
    links: TicketBook
    """One-time sign-in links."""
    factory: WebSocketManagerFactory
    service: AgentService
    store: Store
    feed: Feed
    log: EventLog
    resumer: Resumer
    tasks: TaskOwner
    clock: Clock
    dependencies: Mapping[str, Probe]
    watchdog: Watchdog
    state: str = "starting"
    """`starting`, `ready` or `draining`."""

    def check_ready(self) -> None:
        """Raise `Unavailable` unless the gateway takes work."""
        if self.state != "ready":
            raise Unavailable(f"the gateway is {self.state}")

    def choose_agent(self, name: str | None, identity: Identity) -> str:
        """Return the agent's name, the default's for None; raises `UnknownAgent`, `Forbidden`."""
        found = self.service.check_agent(name)
        if found == check.NAME and check.SCOPE not in identity.scopes:
            raise Forbidden(f"the agent {found} wants a token with the scope {check.SCOPE}")
        return found


def get_gateway(scope: Mapping[str, Any]) -> Gateway:
    """Return the gateway that the app's lifespan opened; it travels in the scope's state.

    Raises `Unavailable` when that lifespan doesn't run, as when the app is mounted without it.
    """
    gateway: Gateway | None = scope.get("state", {}).get(STATE_KEY)
    if gateway is None:
        raise Unavailable("no gateway is open: the app that holds Isolane must run its lifespan")
    return gateway


def _of_request(request: Request) -> Gateway:
    return get_gateway(request.scope)


OpenGateway = Annotated[Gateway, Depends(_of_request)]
"""What a route asks for to get the gateway."""
