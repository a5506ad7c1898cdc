"""Revocations of credentials. Any process writes them, and every gateway process reads them.

A row revokes either one session, or all credentials of a user that were issued before a time and
have more scopes than the row allows. A credential that is newer than the row is never touched.

A row may be dated in the future, because the clock was ahead when it was written. Such a row counts
for tokens up to the time when it was read, so that new tokens work.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Final, NamedTuple

from sqlalchemy import Connection, delete, insert

from isolane.clock import Clock, monotonic_ms
from isolane.contracts import Identity
from isolane.expiry import ExpiringDict
from isolane.sql.database import Database
from isolane.sql.driver import execute, load_value
from isolane.sql.tables import revocations

SESSION_KEPT_MS: Final = 3_600_000
"""Milliseconds for which the row of an ended session is kept. The session itself is gone; the row
closes the sockets that it opened."""


class Revocation(NamedTuple):
    """One row of the table."""

    id: int
    user_id: str
    session_id: str | None
    revoked_at: int
    scopes: frozenset[str]
    """Scopes that stay allowed; none when the user was signed out."""


@dataclass(slots=True)
class _Rule:
    """A row, and the time up to which tokens are revoked by the clock of today."""

    revoked_at: int
    scopes: frozenset[str]
    read_at: int
    until: int

    def is_for(self, identity: Identity, issued_at: int, now: int) -> bool:
        if identity.scopes <= self.scopes:
            return False
        if issued_at <= self.until:
            return True
        # Sessions are ordered by row numbers, not by the clock. And a token that is dated in the
        # future is older than it says.
        is_ahead = identity.session_id is not None or issued_at > now
        return is_ahead and issued_at <= self.revoked_at


class Revocations:
    """The revocations of one database that this process has read."""

    def __init__(self, database: Database, *, clock: Clock, timer: Clock = monotonic_ms) -> None:
        """Read from `database`; nothing is known before the first `refresh()`.

        `clock` dates tokens and may be set. `timer` is monotonic.
        """
        self._database = database
        self._clock = clock
        self._timer = timer
        self._latest = 0
        self._last_id = 0
        self._of_user: defaultdict[str, list[_Rule]] = defaultdict(list)
        self._ended: ExpiringDict[str, int] = ExpiringDict(SESSION_KEPT_MS, clock=timer)

    async def refresh(self) -> list[Revocation]:
        """Read new rows and return them. Safe to cancel."""
        found = await self._database.look(partial(_load, self._last_id))
        for row in found:
            self._note(row)
        self._notice_skew()
        return found

    def is_revoked(self, identity: Identity) -> bool:
        """Say whether the credential behind `identity` is revoked."""
        if identity.session_id is not None and identity.session_id in self._ended:
            return True
        issued_at = identity.issued_at
        if issued_at is None:
            return False
        now = self._notice_skew()
        rules = self._of_user.get(identity.user_id, ())
        return any(rule.is_for(identity, issued_at, now) for rule in rules)

    def _notice_skew(self) -> int:
        """Date rows of the future anew, and return the clock's time.

        That walks through all rows, but only once each time that the clock was set back.
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
        # Rows that allow nothing more than this one are covered by it.
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
    """Write a row inside the caller's transaction."""
    outdated = revocations.c.session_id.is_not(None) & (
        revocations.c.revoked_at < revoked_at - SESSION_KEPT_MS
    )
    connection.execute(delete(revocations).where(outdated))
    connection.execute(
        insert(revocations).values(
            user_id=user_id,
            session_id=session_id,
            # The time never decreases, even when the clock was set back, because `load_last` relies
            # on it.
            revoked_at=max(revoked_at, load_last(user_id, connection) + 1),
            scopes=" ".join(sorted(scopes)),
        )
    )


_LAST: Final = """
SELECT max(revoked_at) FROM revocations WHERE user_id = ? AND session_id IS NULL
"""


def load_last(user_id: str, connection: Connection) -> int:
    """Return the time of the user's latest revocation, single sessions aside; 0 without one."""
    return load_value(connection, _LAST, (user_id,)) or 0


_NEW: Final = """
SELECT id, user_id, session_id, revoked_at, scopes FROM revocations WHERE id > ? ORDER BY id
"""


def _load(after: int, connection: Connection) -> list[Revocation]:
    return [
        Revocation(number, user_id, session_id, revoked_at, frozenset(scopes.split()))
        for number, user_id, session_id, revoked_at, scopes in execute(connection, _NEW, (after,))
    ]
