"""Single-use secrets: what may stand in an address, where a token must never be."""

from __future__ import annotations

from collections import Counter, OrderedDict
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
    due: int


class TicketBook:
    """The tickets of one process. They die soon, so a restart loses nobody much."""

    def __init__(
        self, clock: Clock, *, timer: Clock | None = None, lifetime_ms: int = LIFETIME_MS
    ) -> None:
        """Begin with none; each lives `lifetime_ms` of `timer`, which nobody sets."""
        self._clock = clock
        self._timer = timer or clock
        self._lifetime_ms = lifetime_ms
        # In the order of their making, so in the order of their death.
        self._open: OrderedDict[str, _Held] = OrderedDict()
        self._open_of: Counter[str] = Counter()

    def issue(self, identity: Identity, *, origin: str | None = None) -> Ticket:
        """Return a ticket that stands for `identity` once, for pages of `origin` if it is given.

        Raises `LimitExceeded`.
        """
        self._forget_dead()
        if self._open_of[identity.user_id] >= TICKETS_PER_USER:
            raise LimitExceeded(
                "ticketsPerUser", TICKETS_PER_USER, retry_after_ms=self._lifetime_ms
            )
        ticket = Ticket(new_ticket(), self._clock() + self._lifetime_ms)
        self._open[ticket.secret] = _Held(identity, origin, self._timer() + self._lifetime_ms)
        self._open_of[identity.user_id] += 1
        return ticket

    def redeem(self, secret: str, *, origins: Sequence[str] = ()) -> Identity:
        """Return who the ticket stands for and spend it; raises `Unauthenticated`.

        `origins` is what the request says of the page it comes from. A page that it isn't for
        spends it too: it has been seen there.
        """
        # One step, with no await in it: of all who come with it, one finds it.
        held = self._remove(secret)
        if held is None:
            raise Unauthenticated("invalid", "no such ticket, or it was used")
        if held.origin is not None and list(origins) != [held.origin]:
            raise Unauthenticated("invalid", "the ticket is for pages of another origin")
        own_expiry = held.identity.expires_at
        is_over = own_expiry is not None and self._clock() >= own_expiry
        if is_over or self._timer() >= held.due:
            raise Unauthenticated("expired", "the ticket is expired")
        return held.identity

    def _forget_dead(self) -> None:
        now = self._timer()
        while self._open:
            secret, held = next(iter(self._open.items()))
            if held.due > now:
                return
            self._remove(secret)

    def _remove(self, secret: str) -> _Held | None:
        held = self._open.pop(secret, None)
        if held is not None:
            user_id = held.identity.user_id
            self._open_of[user_id] -= 1
            if not self._open_of[user_id]:
                del self._open_of[user_id]
        return held
