"""One running gateway, as the doors open onto it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

from fastapi import Depends, Request

from isolane.clock import Clock
from isolane.contracts import Limits
from isolane.doors.answers import LargeAnswer, Load, UnreadAnswers
from isolane.doors.parts import Credentials, Health, Intake, SignInDesk, Storage
from isolane.errors import GoingAway, IsolaneError, NotFound, Unavailable
from isolane.health.fairness import Turns
from isolane.log.feed import Feed
from isolane.runs import AgentService
from isolane.settings import Settings
from isolane.sockets.factory import WebSocketManagerFactory
from isolane.sockets.registry import Member, Slot, Sockets
from isolane.sockets.resume import Resumer
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
    turns: Turns = field(default_factory=Turns)
    """Those of sockets that want to be opened."""
    unread: UnreadAnswers = field(default_factory=UnreadAnswers)
    """What users haven't read yet of large answers."""
    is_open: bool = False
    """True once the gateway has recovered the runs of an earlier process."""
    dropped_keys: int = 0
    """The issuer's `dropped_keys` when revocations were enforced last."""

    @property
    def state(self) -> str:
        """`starting`, `ready` or `draining`."""
        if self.sockets.is_draining:
            return "draining"
        return "ready" if self.is_open else "starting"

    def answer_largely(self, user_id: str, load: Load) -> LargeAnswer:
        """Return an answer of what `load` reads; it counts for the user until it is sent."""
        return LargeAnswer(self.unread, user_id, load, send_timeout_s=self.settings.send_timeout_s)

    def check_ready(self) -> None:
        """Raise `Unavailable` unless the gateway takes work."""
        if self.state != "ready":
            raise Unavailable(f"the gateway is {self.state}")

    def why_unfinished(self) -> IsolaneError:
        """Return why the records of a run ended before the run did.

        Half an answer must not look like a whole one, so its reader is told.
        """
        if self.state != "ready":
            return GoingAway("the gateway closed before the run ended")
        return NotFound("the run was deleted with its thread")

    def own(self, slot: Slot, member: Member) -> None:
        """Keep a socket or stream in its slot.

        It ends at once when its credential was revoked while it was opened.
        """
        self.sockets.own(slot, member)
        if self.credentials.is_revoked(member.identity):
            member.revoke()

    async def enforce_revocations(self) -> None:
        """Close what was opened with credentials that were revoked since, by any process.

        Who comes with such a credential is refused from here on. Raises `Unavailable`.
        """
        credentials = self.credentials
        await credentials.issuer.load_keys()
        found = await credentials.revocations.refresh()
        dropped = credentials.issuer.dropped_keys
        if not found and dropped == self.dropped_keys:
            return
        self.dropped_keys = dropped
        self.sockets.revoke(credentials.is_revoked)
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
