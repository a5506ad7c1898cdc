"""Single-use secrets: what may stand in an address, where a token must never be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from isolane.clock import Clock
from isolane.contracts import Identity
from isolane.errors import LimitExceeded, Unauthenticated
from isolane.ids import new_ticket

LIFETIME_MS: Final = 30_000
TICKETS_PER_USER: Final = 100


@dataclass(frozen=True, slots=True)
class Ticket:
    """What was given out: the secret and when it dies."""

    secret: str = field(repr=False)
    expires_at: int


class _Held(NamedTuple):
    identity: Identity
    origin: str | None
    expires_at: int


class TicketBook:
    """The tickets of one process. They die soon, so a restart loses nobody much."""

    def __init__(self, clock: Clock, *, lifetime_ms: int = LIFETIME_MS) -> None:
        """Begin with none; each lives `lifetime_ms`."""
        self._clock = clock
        self._lifetime_ms = lifetime_ms
        self._open: dict[str, _Held] = {}

    def issue(self, identity: Identity, *, origin: str | None = None) -> Ticket:
        """Return a ticket that stands for `identity` once, for pages of `origin` if it is given.

        Raises `LimitExceeded`.
        """
        self._forget_dead()
        owners = (held.identity.user_id for held in self._open.values())
        if sum(owner == identity.user_id for owner in owners) >= TICKETS_PER_USER:
            raise LimitExceeded(
                "ticketsPerUser", TICKETS_PER_USER, retry_after_ms=self._lifetime_ms
            )
        ticket = Ticket(new_ticket(), self._clock() + self._lifetime_ms)
        self._open[ticket.secret] = _Held(identity, origin, ticket.expires_at)
        return ticket

    def redeem(self, secret: str, *, origins: Sequence[str] = ()) -> Identity:
        """Return who the ticket stands for and spend it; raises `Unauthenticated`.

        `origins` is what the request says of the page it comes from. A page that it isn't for
        spends it too: it has been seen there.
        """
        # One step, with no await in it: of all who come with it, one finds it.
        held = self._open.pop(secret, None)
        if held is None:
            raise Unauthenticated("invalid", "no such ticket, or it was used")
        if held.origin is not None and list(origins) != [held.origin]:
            raise Unauthenticated("invalid", "the ticket is for pages of another origin")
        now, own_expiry = self._clock(), held.identity.expires_at
        if now >= held.expires_at or (own_expiry is not None and now >= own_expiry):
            raise Unauthenticated("expired", "the ticket is expired")
        return held.identity

    def _forget_dead(self) -> None:
        now = self._clock()
        while self._open:  # in the order of their making, so in the order of their death
            secret, held = next(iter(self._open.items()))
            if held.expires_at > now:
                return
            del self._open[secret]
