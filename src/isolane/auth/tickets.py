"""Single-use secrets: what may stand in an address, where a token must never be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from isolane.clock import Clock
from isolane.contracts import Identity
from isolane.errors import LimitExceeded, Unauthenticated
from isolane.ids import new_ticket

LIFETIME_MS: Final = 30_000
TICKETS_PER_USER: Final = 100


@dataclass(frozen=True, slots=True)
class Ticket:
    """What was given out: the secret and when it dies."""

    secret: str
    expires_at: int


class TicketBook:
    """The tickets of one process. They die soon, so a restart loses nobody much."""

    def __init__(self, clock: Clock, *, lifetime_ms: int = LIFETIME_MS) -> None:
        """Begin with none; each lives `lifetime_ms`."""
        self._clock = clock
        self._lifetime_ms = lifetime_ms
        self._open: dict[str, tuple[Identity, int]] = {}

    def issue(self, identity: Identity) -> Ticket:
        """Return a ticket that stands for `identity` once; raises `LimitExceeded`."""
        self._forget_dead()
        held = sum(1 for owner, _ in self._open.values() if owner.user_id == identity.user_id)
        if held >= TICKETS_PER_USER:
            raise LimitExceeded(
                "ticketsPerUser", TICKETS_PER_USER, retry_after_ms=self._lifetime_ms
            )
        ticket = Ticket(new_ticket(), self._clock() + self._lifetime_ms)
        self._open[ticket.secret] = (identity, ticket.expires_at)
        return ticket

    def redeem(self, secret: str) -> Identity:
        """Return who the ticket stands for and spend it; raises `Unauthenticated`."""
        identity, expires_at = self._open.pop(secret, (None, 0))
        if identity is None:
            raise Unauthenticated("invalid", "no such ticket, or it was used")
        now = self._clock()
        if now >= expires_at or (identity.expires_at is not None and now >= identity.expires_at):
            raise Unauthenticated("expired", "the ticket is expired")
        return identity

    def _forget_dead(self) -> None:
        now = self._clock()
        while self._open:  # in the order of their making, so in the order of their death
            secret, (_, expires_at) = next(iter(self._open.items()))
            if expires_at > now:
                return
            del self._open[secret]
