"""What no longer opens anything, whatever it says itself: written by any process, read by all.

A row says: what was given to this user before that moment, and may do more than this, is over. Or:
this session is. So a token, a session or a socket that is newer than the row is never touched.

A row that was written while the clock was ahead seems to be of the future when the clock is right
again. What it says of tokens then counts from when it was read, so that new ones open something.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Final, NamedTuple

from sqlalchemy import Connection, delete, func, insert, select

from isolane.clock import Clock, monotonic_ms
from isolane.contracts import Identity
from isolane.engines.sqlite.file import Database, revocations
from isolane.expiry import ExpiringDict

SESSION_KEPT_MS: Final = 3_600_000
"""An ended session opens nothing anyway: its row is for the sockets that it opened before."""


class Revocation(NamedTuple):
    """One row."""

    id: int
    user_id: str
    session_id: str | None
    revoked_at: int
    scopes: frozenset[str]
    """What may go on; nothing when the user was signed out."""


@dataclass(slots=True)
class _Rule:
    """A row, and up to when tokens are concerned by the clock as it goes now."""

    revoked_at: int
    scopes: frozenset[str]
    read_at: int
    until: int

    def is_for(self, identity: Identity, issued_at: int, now: int) -> bool:
        if identity.scopes <= self.scopes:
            return False
        if issued_at <= self.until:
            return True
        # Sessions are numbered by rows, not by the clock; and a token of the future is older than
        # it says.
        is_ahead = identity.session_id is not None or issued_at > now
        return is_ahead and issued_at <= self.revoked_at


class Revocations:
    """The revocations of one database, as far as this process has read them."""

    def __init__(self, database: Database, *, clock: Clock, timer: Clock = monotonic_ms) -> None:
        """Read from `database`; nothing is known before the first `refresh()`.

        `clock` is what dates tokens, and may be set; `timer` is never set.
        """
        self._database = database
        self._clock = clock
        self._timer = timer
        self._latest = 0
        self._last_id = 0
        self._of_user: defaultdict[str, list[_Rule]] = defaultdict(list)
        self._ended: ExpiringDict[str, int] = ExpiringDict(SESSION_KEPT_MS, clock=timer)

    async def refresh(self) -> list[Revocation]:
        """Read what is new, and return it. Safe to cancel."""
        found = await self._database.read(partial(_load, self._last_id))
        for row in found:
            self._note(row)
        self._notice_skew()
        return found

    def is_revoked(self, identity: Identity) -> bool:
        """Say whether the credential behind `identity` opens nothing any more."""
        if identity.session_id is not None and identity.session_id in self._ended:
            return True
        issued_at = identity.issued_at
        if issued_at is None:
            return False
        now = self._notice_skew()
        rules = self._of_user.get(identity.user_id, ())
        return any(rule.is_for(identity, issued_at, now) for rule in rules)

    def _notice_skew(self) -> int:
        """Date rows anew that are of the future, and return the time of the clock.

        That is a walk through all, once each time that a clock was set back.
        """
        now, timer_now = self._clock(), self._timer()
        if now >= self._latest:
            return now
        for rules in self._of_user.values():
            for rule in rules:
                if rule.until > now:
                    rule.until = now - (timer_now - rule.read_at)
        self._latest = now
        return now

    def _note(self, row: Revocation) -> None:
        if row.id <= self._last_id:  # another refresh was faster
            return
        self._last_id = row.id
        if row.session_id is not None:
            self._ended.put(row.session_id, row.revoked_at)
            return
        older = self._of_user[row.user_id]
        # What leaves nothing more than this one did is said by this one.
        older[:] = [each for each in older if not row.scopes <= each.scopes]
        older.append(_Rule(row.revoked_at, row.scopes, self._timer(), until=row.revoked_at))
        self._latest = max(self._latest, row.revoked_at)


def add(
    user_id: str,
    revoked_at: int,
    scopes: Iterable[str],
    connection: Connection,
    *,
    session_id: str | None = None,
) -> None:
    """Write a row within somebody's transaction."""
    outdated = revocations.c.session_id.is_not(None) & (
        revocations.c.revoked_at < revoked_at - SESSION_KEPT_MS
    )
    connection.execute(delete(revocations).where(outdated))
    connection.execute(
        insert(revocations).values(
            user_id=user_id,
            session_id=session_id,
            # Never before an earlier one, whatever the clock did: `load_last` counts on it.
            revoked_at=max(revoked_at, load_last(user_id, connection) + 1),
            scopes=" ".join(sorted(scopes)),
        )
    )


def load_last(user_id: str, connection: Connection) -> int:
    """Return when something of the user's was revoked last, apart from single sessions."""
    query = select(func.max(revocations.c.revoked_at)).where(
        revocations.c.user_id == user_id, revocations.c.session_id.is_(None)
    )
    return connection.execute(query).scalar_one() or 0


def _load(after: int, connection: Connection) -> list[Revocation]:
    query = select(revocations).where(revocations.c.id > after).order_by(revocations.c.id)
    return [
        Revocation(
            row.id, row.user_id, row.session_id, row.revoked_at, frozenset(row.scopes.split())
        )
        for row in connection.execute(query)
    ]
