"""Sessions of browsers, which the server keeps; a cookie holds the secret of one."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, NamedTuple

import structlog
from sqlalchemy import Connection, delete, insert, select, update

from isolane.auth import revocations
from isolane.auth.single_use import digest_of
from isolane.clock import Clock
from isolane.contracts import PLAIN, Identity
from isolane.errors import IsolaneError, NotFound, Unauthenticated
from isolane.sql.database import Database
from isolane.sql.driver import execute, load_value
from isolane.sql.tables import accounts, sessions
from isolane.subjects import SEPARATOR
from isolane.tasks import TaskOwner

TOUCH_MS: Final = 60_000
"""Precision of `last_seen_at`, in milliseconds. A write per request would cost too much."""
TOUCHES_PER_LIFE: Final = 8
"""Minimum number of writes of `last_seen_at` per idle time, so that short sessions are written more
often."""
DEVICE_MAX_CHARACTERS: Final = 200
"""Maximum characters of a device's name."""
SESSIONS_MAX: Final = 100
"""Maximum number of live sessions of one user. Nobody has that many browsers, and a list of them
stays cheap."""
ENDED_AT_ONCE: Final = 50
"""Sessions above that bound that one sign-in ends. An old folder may have thousands of them."""

Settle = Callable[[Connection], None]
"""Writes inside the transaction that begins a session."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Begun:
    """A session that was just created: the cookie's secret and the user's identity."""

    secret: str = field(repr=False)
    identity: Identity


@dataclass(frozen=True, slots=True)
class Session:
    """One session as its user may see it; times are milliseconds since 1970."""

    session_id: str
    user_id: str
    device: str
    """Name of the browser, from its own header."""
    created_at: int
    last_seen_at: int


class _Rights(NamedTuple):
    """The rights of a session's user at one moment of the database."""

    scopes: frozenset[str]
    revoked_at: int
    """Time of the user's latest revocation at that moment; 0 without one."""


class SessionBook:
    """The sessions of one gateway. They survive a restart; only a hash of the secret is kept."""

    def __init__(
        self, database: Database, *, clock: Clock, tasks: TaskOwner, idle_ms: int, max_ms: int
    ) -> None:
        """Keep sessions for `idle_ms` after their last use, and for `max_ms` at most."""
        self._database = database
        self._clock = clock
        self._tasks = tasks
        self._idle_ms = idle_ms
        self._max_ms = max_ms
        self.touch_ms = min(TOUCH_MS, idle_ms // TOUCHES_PER_LIFE)
        """Milliseconds after a use until the next use is written."""

    async def begin(self, user_id: str, *, device: str = "", settle: Settle | None = None) -> Begun:
        """Create a session for `user_id`. Above 100, the least recently used session ends.

        `settle` writes in the same transaction what the proof of identity changes, for example that
        a link is used up. A cancelled call may have begun the session.

        Raises:
            Unauthenticated: The user's account was deleted meanwhile.
            Unavailable: The database can't be written.
            IsolaneError: `settle` raised it. No session begins.
        """
        secret, now = secrets.token_urlsafe(32), self._clock()
        session = Session(session_id_of(secret), user_id, device[:DEVICE_MAX_CHARACTERS], now, now)
        work = partial(_begin, session, now - self._max_ms, settle)
        rights = await self._database.write(work, lane=user_id)
        return Begun(secret, self._to_identity(session, rights))

    async def load(self, secret: str) -> Identity:
        """Return the identity behind a cookie, and note that the session is used.

        Raises:
            Unauthenticated: The session is unknown, expired or revoked.
        """
        session_id = session_id_of(secret)
        # The user isn't known yet. A blank never occurs in a user id, so this lane is nobody's own.
        lane = f"session {session_id}"
        found = await self._database.read(partial(_load, session_id), lane=lane)
        if found is None:
            raise Unauthenticated("invalid", "no such session, or it was ended")
        session, rights = found
        now = self._clock()
        if now >= self._expiry_of(session):
            raise Unauthenticated("expired", "the session is expired")
        if now - session.last_seen_at >= self.touch_ms:
            self._tasks.detach(
                self._touch(session.user_id, session.session_id), name="session seen"
            )
            session = replace(session, last_seen_at=now)
        return self._to_identity(session, rights)

    async def extend(self, identity: Identity) -> Identity:
        """Note that a session is in use, and return its identity with the later expiry."""
        session_id = identity.session_id or ""
        await self._touch(identity.user_id, session_id)
        found = await self._database.read(partial(_load, session_id), lane=identity.user_id)
        if found is None:
            return identity
        return replace(identity, expires_at=self._expiry_of(found[0]))

    async def load_all(self, user_id: str) -> list[Session]:
        """Return the user's live sessions, the most recently used first."""
        all_sessions = await self._database.read(partial(_load_all, user_id), lane=user_id)
        return [each for each in all_sessions if self._clock() < self._expiry_of(each)]

    async def end(self, user_id: str, session_id: str) -> None:
        """End one session of the user.

        Raises:
            NotFound: The user has no such session.
        """
        work = partial(_delete, user_id, session_id, self._clock())
        if not await self._database.write(work, lane=user_id):
            raise NotFound("no such session")

    async def end_all(self, user_id: str) -> None:
        """End all sessions of the user, and revoke every token that was issued to them so far."""
        await self._database.write(partial(sign_out, user_id, self._clock()), lane=user_id)

    async def _touch(self, user_id: str, session_id: str) -> None:
        try:
            work = partial(_update_seen, session_id, self._clock())
            await self._database.write(work, lane=user_id)
        except IsolaneError as error:
            _log.warning("session_touch_failed", reason=str(error))

    def _expiry_of(self, session: Session) -> int:
        return min(session.created_at + self._max_ms, session.last_seen_at + self._idle_ms)

    def _to_identity(self, session: Session, rights: _Rights) -> Identity:
        return Identity(
            session.user_id,
            self._expiry_of(session),
            rights.scopes,
            session_id=session.session_id,
            # Taken from the database, not from the clock: a revocation may commit after we read,
            # with an earlier time.
            issued_at=rights.revoked_at + 1,
        )


def session_id_of(secret: str) -> str:
    """Return the public id of a session, which opens nothing."""
    return digest_of(secret).hex()


def sign_out(user_id: str, now: int, connection: Connection) -> None:
    """Revoke every credential of a user, inside the caller's transaction."""
    connection.execute(delete(sessions).where(sessions.c.user_id == user_id))
    revocations.add(user_id, now, (), connection)


def _begin(session: Session, oldest: int, settle: Settle | None, connection: Connection) -> _Rights:
    if settle is not None:
        settle(connection)
    if SEPARATOR not in session.user_id and not _has_account(session.user_id, connection):
        raise Unauthenticated("invalid", "the account was removed meanwhile")
    connection.execute(delete(sessions).where(sessions.c.created_at <= oldest))
    connection.execute(
        insert(sessions).values(
            session_id=session.session_id,
            user_id=session.user_id,
            device=session.device,
            created_at=session.created_at,
            last_seen_at=session.last_seen_at,
        )
    )
    _end_surplus(session.user_id, session.created_at, connection)
    return _load_rights(session.user_id, connection)


def _end_surplus(user_id: str, now: int, connection: Connection) -> None:
    """End the user's sessions above the bound, the least recently used first."""
    query = (
        select(sessions.c.session_id)
        .where(sessions.c.user_id == user_id)
        .order_by(sessions.c.last_seen_at.desc(), sessions.c.created_at.desc())
        .offset(SESSIONS_MAX)
        .limit(ENDED_AT_ONCE)
    )
    for session_id in connection.execute(query).scalars().all():
        _delete(user_id, session_id, now, connection)


# Each request of a browser runs these.
_SESSION: Final = """
SELECT session_id, user_id, device, created_at, last_seen_at FROM sessions WHERE session_id = ?
"""
_SCOPES: Final = "SELECT scopes FROM accounts WHERE user_id = ?"


def _load(session_id: str, connection: Connection) -> tuple[Session, _Rights] | None:
    row = execute(connection, _SESSION, (session_id,)).fetchone()
    if row is None:
        return None
    session = Session(*row)
    return session, _load_rights(session.user_id, connection)


def _has_account(user_id: str, connection: Connection) -> bool:
    query = select(accounts.c.user_id).where(accounts.c.user_id == user_id)
    return connection.execute(query).one_or_none() is not None


def _load_rights(user_id: str, connection: Connection) -> _Rights:
    """Return the scopes of a local account; users of providers have a plain user's scopes."""
    scopes: str | None = load_value(connection, _SCOPES, (user_id,))
    rights = PLAIN if scopes is None else frozenset(scopes.split())
    return _Rights(rights, revocations.load_last(user_id, connection))


def _load_all(user_id: str, connection: Connection) -> Sequence[Session]:
    query = (
        select(sessions)
        .where(sessions.c.user_id == user_id)
        .order_by(sessions.c.last_seen_at.desc())
    )
    return [Session(**row) for row in connection.execute(query).mappings()]


def _delete(user_id: str, session_id: str, now: int, connection: Connection) -> bool:
    own = (sessions.c.user_id == user_id) & (sessions.c.session_id == session_id)
    if not connection.execute(delete(sessions).where(own)).rowcount:
        return False
    revocations.add(user_id, now, (), connection, session_id=session_id)
    return True


def _update_seen(session_id: str, now: int, connection: Connection) -> None:
    connection.execute(
        update(sessions).where(sessions.c.session_id == session_id).values(last_seen_at=now)
    )
