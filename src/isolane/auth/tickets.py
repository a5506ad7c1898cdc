"""Single-use tickets, which may stand in an address; a token may not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, NamedTuple

import msgspec
from sqlalchemy import ColumnElement, Connection, Row, delete, func, insert, select

from isolane.auth.single_use import digest_of, lane_of, take_row
from isolane.clock import Clock
from isolane.contracts import Identity
from isolane.errors import LimitExceeded, Unauthenticated
from isolane.ids import new_ticket
from isolane.sql.database import Database
from isolane.sql.expiry import delete_expired
from isolane.sql.tables import tickets

LIFETIME_MS: Final = 30_000
"""Milliseconds after which an unused ticket expires."""
TICKETS_PER_USER: Final = 100
"""Maximum number of unused tickets of one user."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """A new ticket's secret, and its expiry in milliseconds since 1970."""

    secret: str = field(repr=False)
    expires_at: int


class _Held(NamedTuple):
    identity: Identity
    origin: str | None
    created_at: int
    expires_at: int


class TicketBook:
    """The tickets of one kind. They survive a restart; only a hash of the secret is kept."""

    def __init__(
        self,
        database: Database,
        kind: str,
        *,
        clock: Clock,
        timer: Clock,
        lifetime_ms: int = LIFETIME_MS,
        replaces_oldest: bool = False,
    ) -> None:
        """Keep tickets of `kind` in `database`; each lives `lifetime_ms` of the monotonic `timer`.

        A user has at most 100 tickets. With `replaces_oldest` a further one removes the oldest;
        otherwise it is refused.
        """
        self._database = database
        self._kind = kind
        self._clock = clock
        self._timer = timer
        self._lifetime_ms = lifetime_ms
        self._replaces_oldest = replaces_oldest

    async def issue(self, identity: Identity, *, origin: str | None = None) -> Ticket:
        """Return a new ticket for `identity`; with `origin` only pages from there may use it.

        Raises:
            LimitExceeded: The user has too many unused tickets.
            Unavailable: The database can't be written.
        """
        secret, now = new_ticket(), self._timer()
        held = _Held(identity, origin, now, now + self._lifetime_ms)
        work = partial(self._insert, digest_of(secret), held)
        if not await self._database.write(work, lane=identity.user_id):
            raise LimitExceeded(
                "ticketsPerUser", TICKETS_PER_USER, retry_after_ms=self._lifetime_ms
            )
        return Ticket(secret, self._clock() + self._lifetime_ms)

    async def redeem(self, secret: str, *, origins: Sequence[str] = ()) -> Identity:
        """Return the identity behind a ticket, and delete the ticket.

        `origins` are the origins that the request claims. A page of a wrong origin uses the ticket
        up too, because that page has seen it. A cancelled call may have deleted the ticket.

        Raises:
            Unauthenticated: The ticket is unknown, used, expired, or for another origin.
            Unavailable: The database can't be used.
        """
        row = await take_row(self._database, tickets, secret, tickets.c.kind == self._kind)
        if row is None:
            raise _unknown()
        if row.origin is not None and list(origins) != [row.origin]:
            raise Unauthenticated("invalid", "the ticket is for pages of another origin")
        return self._open(row)

    async def find(self, secret: str) -> Identity:
        """Return the identity behind a ticket without an origin, and keep the ticket.

        `spend` deletes the ticket in the transaction that uses it. Safe to cancel.

        Raises:
            Unauthenticated: The ticket is unknown, used or expired.
            Unavailable: The database can't be used.
        """
        query = select(tickets).where(*self._named(secret))
        lane = lane_of(secret)
        row = await self._database.read(lambda reading: reading.execute(query).first(), lane=lane)
        if row is None:
            raise _unknown()
        return self._open(row)

    def spend(self, secret: str, connection: Connection) -> None:
        """Delete a ticket inside the caller's transaction; of two callers, one gets an error.

        Raises:
            Unauthenticated: The ticket is unknown or used.
        """
        if not connection.execute(delete(tickets).where(*self._named(secret))).rowcount:
            raise _unknown()

    def _named(self, secret: str) -> tuple[ColumnElement[bool], ...]:
        return tickets.c.digest == digest_of(secret), tickets.c.kind == self._kind

    def _open(self, row: Row[Any]) -> Identity:
        identity = msgspec.json.decode(row.identity, type=Identity)
        own_expiry = identity.expires_at
        is_over = own_expiry is not None and self._clock() >= own_expiry
        # A ticket of the future was made before the clock was set back and the gateway restarted.
        if is_over or not row.created_at <= self._timer() < row.expires_at:
            raise Unauthenticated("expired", "the ticket is expired")
        return identity

    def _insert(self, digest: bytes, held: _Held, connection: Connection) -> bool:
        """Store a ticket and return True; return False when the user has too many."""
        user_id = held.identity.user_id
        delete_expired(tickets, held.created_at, connection)
        own = (tickets.c.user_id == user_id) & (tickets.c.kind == self._kind)
        alive = own & (tickets.c.expires_at > held.created_at)
        count = connection.execute(select(func.count()).where(alive)).scalar_one()
        if count >= TICKETS_PER_USER:
            if not self._replaces_oldest:
                return False
            oldest = select(tickets.c.digest).where(alive).order_by(tickets.c.created_at).limit(1)
            connection.execute(delete(tickets).where(tickets.c.digest == oldest.scalar_subquery()))
        connection.execute(
            insert(tickets).values(
                digest=digest,
                kind=self._kind,
                user_id=user_id,
                identity=msgspec.json.encode(held.identity),
                origin=held.origin,
                created_at=held.created_at,
                expires_at=held.expires_at,
            )
        )
        return True


def _unknown() -> Unauthenticated:
    return Unauthenticated("invalid", "no such ticket, or it was used")
