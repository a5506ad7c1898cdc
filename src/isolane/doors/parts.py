"""The parts of a gateway, one for each family of doors: each holds what those doors need."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import ParamSpec, TypeVar

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
from isolane.contracts import (
    Bell,
    EventLog,
    Identity,
    Limits,
    Members,
    NodeInfo,
    RunBook,
    Store,
    TurnBook,
)
from isolane.doors.room import Hall, Room
from isolane.errors import Forbidden, Unauthenticated
from isolane.health.pressure import Pressure
from isolane.health.watchdog import Watchdog
from isolane.sql.usage import Usage
from isolane.subjects import Subjects

_P = ParamSpec("_P")
_T = TypeVar("_T")

Probe = Callable[[], Awaitable[None]]
"""Function that raises an error when a dependency can't be used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """Parts that identify users and check that their credentials still count."""

    judge: Judge
    clock: Clock
    cookie: str
    """The cookie that counts as a credential; empty where none does."""
    has_own_users: bool
    """False where the host has the users: then nobody signs in here."""
    subjects: Subjects
    """Names of users at their issuers."""
    issuer: LocalIssuer
    sessions: SessionBook
    tickets: TicketBook
    revocations: Revocations
    strangers: Strangers

    def check_own_users(self) -> None:
        """Check that the gateway has the users itself.

        Raises:
            Forbidden: The host has the users.
        """
        if not self.has_own_users:
            raise Forbidden("users sign in at the app that this gateway is part of")

    def is_revoked(self, identity: Identity) -> bool:
        """Say whether the credential behind `identity` counts no more, as far as is known here."""
        key_id = identity.key_id
        is_keyless = key_id is not None and not self.issuer.knows_key(key_id)
        return is_keyless or self.revocations.is_revoked(identity)

    def check_revoked(self, identity: Identity) -> Identity:
        """Return `identity`.

        Raises:
            Unauthenticated: Its credential was revoked.
        """
        if self.is_revoked(identity):
            raise Unauthenticated("revoked", "the credential was revoked")
        return identity


@dataclass(frozen=True, slots=True, kw_only=True)
class SignInDesk:
    """Parts for signing in: with a local account, at a provider, or by a link."""

    accounts: Accounts
    guesses: GuessGuard
    providers: Mapping[str, Provider]
    """By their names."""
    pending: SignIns
    """Sign-ins that people began at a provider."""
    links: TicketBook
    """One-time sign-in links."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """Engines that store the threads and runs of users."""

    store: Store
    book: RunBook
    members: Members
    turn_book: TurnBook
    log: EventLog
    usage: Usage
    """Count of stored threads and bytes per user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Parts that watch the state of the gateway."""

    dependencies: Mapping[str, Probe]
    """By their names."""
    watchdog: Watchdog
    pressure: Pressure
    info: NodeInfo
    """What this process is called, and what it does."""
    members: Members
    """The processes that serve the same database."""
    bell: Bell
    """By which they ring one another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Intake:
    """Pace, memory and a thread for large bodies and frames."""

    limits: Limits
    """The pace of each user."""
    frame_bytes: int
    """Maximum bytes of a frame, and of the new part of a body."""
    hall: Hall
    """The room of bodies above the size of a frame, of all users."""
    room: Room = field(default_factory=Room)
    """The room of large bodies and frames, by user."""
    reader: ThreadPoolExecutor = field(
        default_factory=partial(ThreadPoolExecutor, 1, "isolane-lists")
    )
    """The thread beside the event loop that looks at large bodies, one at a time."""

    async def read_beside(self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Return what `work` makes of a large body, read beside the event loop.

        Safe to cancel: what has begun goes on, and nobody gets it.
        """
        call = partial(work, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self.reader, call)

    def close(self) -> None:
        """End the thread once it has read what it reads now."""
        self.reader.shutdown()
