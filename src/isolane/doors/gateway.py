"""One running gateway: all its parts, and how an app finds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Final

from isolane.clock import Clock
from isolane.contracts import Limits
from isolane.doors.answers import UnreadAnswers
from isolane.doors.event_stream import Streams
from isolane.doors.parts import Credentials, Health, Intake, SignInDesk, Storage
from isolane.errors import GoingAway, IsolaneError, NotFound, Unavailable
from isolane.health.draining import Draining
from isolane.health.fairness import Turns
from isolane.health.sight import Sight
from isolane.log.feed import Feed
from isolane.runs import AgentService
from isolane.settings import Settings
from isolane.sockets.factory import WebSocketManagerFactory
from isolane.sockets.registry import Sockets
from isolane.sockets.resume import Resumer
from isolane.sockets.slot import Member, Slot
from isolane.tasks import TaskOwner

STATE_KEY: Final = "isolane"


@dataclass(slots=True, kw_only=True)
class Gateway:
    """One running gateway: its rooms, and the parts that families of doors need."""

    settings: Settings
    clock: Clock
    tasks: TaskOwner
    limits: Limits
    service: AgentService
    sockets: Sockets
    """All open sockets and event streams."""
    factory: WebSocketManagerFactory
    feed: Feed
    resumer: Resumer
    storage: Storage
    credentials: Credentials
    sign_in: SignInDesk
    intake: Intake
    health: Health
    draining: Draining
    sight: Sight
    turns: Turns = field(default_factory=Turns)
    """Turns of sockets that wait to be opened."""
    unread: UnreadAnswers
    """Large answers that users haven't read yet."""
    is_open: bool = False
    """True once the gateway has recovered the runs of an earlier process."""
    unstopped: dict[str, int] = field(default_factory=dict)
    """Time of the last revocation per user whose runs aren't stopped on record yet."""
    dropped_keys: int = 0
    """The issuer's `dropped_keys` when revocations were enforced last."""

    @property
    def state(self) -> str:
        """`starting`, `ready` or `draining`."""
        if self.sockets.is_draining:
            return "draining"
        return "ready" if self.is_open else "starting"

    @property
    def streams(self) -> Streams:
        """The parts that event streams need."""
        return Streams(
            settings=self.settings,
            clock=self.clock,
            tasks=self.tasks,
            sockets=self.sockets,
            service=self.service,
            feed=self.feed,
            own=self.own,
            why_unfinished=self.why_unfinished,
        )

    def check_ready(self) -> None:
        """Check that the gateway takes work.

        Raises:
            Unavailable: It is starting or draining, or can't see what was revoked.
        """
        if self.state != "ready":
            raise Unavailable(f"the gateway is {self.state}")
        if self.sight.is_blind:
            raise Unavailable("the gateway can't see now what was revoked")

    def why_unfinished(self) -> IsolaneError:
        """Return the error for a reader whose records ended before the run did.

        Half an answer must not look like a whole one.
        """
        if self.state != "ready":
            return GoingAway("the gateway closed before the run ended")
        return NotFound("the run was deleted with its thread")

    def own(self, slot: Slot, member: Member) -> None:
        """Keep a socket or stream in its slot.

        A member whose credential was revoked while it was opened ends at once.
        """
        self.sockets.own(slot, member)
        if self.credentials.is_revoked(member.identity):
            member.revoke()

    async def enforce_revocations(self) -> None:
        """Close sockets and streams whose credentials any process has revoked since the last call.

        Later requests with such a credential are refused. Safe to cancel: the next call does the
        rest.

        Raises:
            Unavailable: The database can't be reached. A later call does the rest.
        """
        credentials, began_s = self.credentials, monotonic()
        await credentials.issuer.load_keys()
        found = await credentials.revocations.refresh()
        dropped = credentials.issuer.dropped_keys
        if found or dropped != self.dropped_keys:
            self.dropped_keys = dropped
            self.sockets.revoke(credentials.is_revoked)
        self.sight.note(began_s)
        if self.settings.revoked_runs == "abort":
            for row in found:
                until = self.unstopped.get(row.user_id, row.revoked_at)
                self.unstopped[row.user_id] = max(until, row.revoked_at)
        if self.unstopped:
            await self._stop_runs()

    async def _stop_runs(self) -> None:
        """Stop the runs of users whose credentials were revoked."""
        stopped = dict(self.unstopped)
        await self.service.abort_all(stopped)
        for user_id, until in stopped.items():
            if self.unstopped.get(user_id) == until:  # else a newer revocation came meanwhile
                del self.unstopped[user_id]


def get_gateway(scope: Mapping[str, Any]) -> Gateway:
    """Return the gateway that the app's lifespan opened.

    The app of the gateway keeps it, because a host may mount two and has one state for both.

    Raises:
        Unavailable: The lifespan doesn't run, for example because the host mounts the app without
            it.
    """
    gateway: Gateway | None = getattr(scope["app"].state, STATE_KEY, None)
    if gateway is None:
        raise Unavailable("no gateway is open: the app that holds Isolane must run its lifespan")
    return gateway
