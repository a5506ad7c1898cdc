"""The parts that the doors open onto, wired by the app."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, Final, ParamSpec, Protocol, TypeVar

from fastapi import Depends, Request

from isolane.auth.accounts import Accounts
from isolane.auth.guessing import GuessGuard
from isolane.auth.judge import Judge
from isolane.auth.local import LocalIssuer
from isolane.auth.providers import Provider
from isolane.auth.revocations import Revocations
from isolane.auth.sessions import SessionBook
from isolane.auth.signin import SignIns
from isolane.auth.strangers import Strangers
from isolane.auth.tickets import TicketBook
from isolane.clock import Clock
from isolane.contracts import EventLog, Identity, Limits, Store, TurnBook
from isolane.doors.answers import LargeAnswer, Load, UnreadAnswers
from isolane.doors.room import Hall, Room
from isolane.engines.sqlite.usage import Usage
from isolane.errors import (
    Forbidden,
    GoingAway,
    IsolaneError,
    NotFound,
    Unauthenticated,
    Unavailable,
)
from isolane.health.fairness import Turns
from isolane.health.pressure import Pressure
from isolane.health.watchdog import Watchdog
from isolane.log.feed import Feed
from isolane.runs import AgentService
from isolane.settings import Settings
from isolane.sockets.factory import WebSocketManagerFactory
from isolane.sockets.resume import Resumer
from isolane.subjects import Subjects
from isolane.tasks import TaskOwner

_P = ParamSpec("_P")
_T = TypeVar("_T")
STATE_KEY: Final = "isolane"

Probe = Callable[[], Awaitable[None]]
"""Raises when a dependency can't be used."""


class Stream(Protocol):
    """An answer that goes on for as long as its credential counts."""

    identity: Identity

    def revoke(self) -> None:
        """End it: its credential counts no more."""
        ...


@dataclass(slots=True, kw_only=True)
class Gateway:
    """One running gateway."""

    settings: Settings
    judge: Judge
    cookie: str
    """The cookie that counts as a credential."""
    subjects: Subjects
    """How the outside names users."""
    has_own_users: bool
    """False where the host has them: then nobody signs in here."""
    issuer: LocalIssuer
    providers: Mapping[str, Provider]
    sign_ins: SignIns
    guesses: GuessGuard
    strangers: Strangers
    revocations: Revocations
    accounts: Accounts
    sessions: SessionBook
    tickets: TicketBook
    links: TicketBook
    """One-time sign-in links."""
    factory: WebSocketManagerFactory
    service: AgentService
    store: Store
    turn_book: TurnBook
    feed: Feed
    log: EventLog
    resumer: Resumer
    limits: Limits
    tasks: TaskOwner
    clock: Clock
    dependencies: Mapping[str, Probe]
    watchdog: Watchdog
    pressure: Pressure
    usage: Usage
    turns: Turns = field(default_factory=Turns)
    """Those of sockets that want to be opened."""
    room: Room = field(default_factory=Room)
    """That of large bodies and frames, by user."""
    hall: Hall
    """That of bodies above the size of a frame, of all users."""
    lists: ThreadPoolExecutor = field(
        default_factory=partial(ThreadPoolExecutor, 1, "isolane-lists")
    )
    """The thread beside the event loop that looks at large bodies, one at a time."""
    state: str = "starting"
    """`starting`, `ready` or `draining`."""
    streams: set[Stream] = field(default_factory=set)
    """The event streams that are open; sockets are the factory's."""
    unread: UnreadAnswers = field(default_factory=UnreadAnswers)
    """What users haven't read yet of large answers."""
    dropped_keys: int = 0
    """How often a key of the local issuer was gone when somebody looked last."""

    def answer_largely(self, user_id: str, load: Load) -> LargeAnswer:
        """Return an answer of what `load` reads; it counts for the user until it is sent."""
        return LargeAnswer(self.unread, user_id, load, send_timeout_s=self.settings.send_timeout_s)

    def check_ready(self) -> None:
        """Raise `Unavailable` unless the gateway takes work."""
        if self.state != "ready":
            raise Unavailable(f"the gateway is {self.state}")

    async def read_beside(self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Return what `work` makes of a large body, read beside the event loop.

        Safe to cancel: what has begun goes on, and nobody gets it.
        """
        call = partial(work, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self.lists, call)

    def why_unfinished(self) -> IsolaneError:
        """Return why the records of a run ended before the run did.

        Half an answer must not look like a whole one, so its reader is told.
        """
        if self.state != "ready":
            return GoingAway("the gateway closed before the run ended")
        return NotFound("the run was deleted with its thread")

    def check_own_users(self) -> None:
        """Raise `Forbidden` where the host has the users."""
        if not self.has_own_users:
            raise Forbidden("users sign in at the app that this gateway is part of")

    def is_revoked(self, identity: Identity) -> bool:
        """Say whether the credential behind `identity` counts no more, as far as is known here."""
        key_id = identity.key_id
        is_keyless = key_id is not None and not self.issuer.knows_key(key_id)
        return is_keyless or self.revocations.is_revoked(identity)

    def check_revoked(self, identity: Identity) -> Identity:
        """Return `identity`; raises `Unauthenticated` when its credential was revoked."""
        if self.is_revoked(identity):
            raise Unauthenticated("revoked", "the credential was revoked")
        return identity

    async def enforce_revocations(self) -> None:
        """Close what was opened with credentials that were revoked since, by any process.

        Who comes with such a credential is refused from here on. Raises `Unavailable`.
        """
        dropped = self.issuer.dropped_keys
        found = await self.revocations.refresh()
        if not found and dropped == self.dropped_keys:
            return
        self.dropped_keys = dropped
        self.factory.revoke(self.is_revoked)
        for stream in tuple(self.streams):
            if self.is_revoked(stream.identity):
                stream.revoke()
        if self.settings.revoked_runs == "abort":
            for row in found:
                self.service.abort_all(row.user_id, until=row.revoked_at)


def get_gateway(scope: Mapping[str, Any]) -> Gateway:
    """Return the gateway that the app's lifespan opened.

    It is kept by its own app, since a host may have mounted two and has one state for both.
    Raises `Unavailable` when that lifespan doesn't run, as when the app is mounted without it.
    """
    gateway: Gateway | None = getattr(scope["app"].state, STATE_KEY, None)
    if gateway is None:
        raise Unavailable("no gateway is open: the app that holds Isolane must run its lifespan")
    return gateway


def _of_request(request: Request) -> Gateway:
    return get_gateway(request.scope)


OpenGateway = Annotated[Gateway, Depends(_of_request)]
"""What a route asks for to get the gateway."""
