"""Sessions: what a browser's cookie stands for, kept on the server's side."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final, NamedTuple

import structlog
from sqlalchemy import Connection, delete, insert, select, update

from isolane.auth import revocations
from isolane.auth.single_use import digest_of
from isolane.clock import Clock
from isolane.contracts import PLAIN, Identity
from isolane.engines.sqlite.file import Database, accounts, sessions
from isolane.errors import IsolaneError, NotFound, Unauthenticated
from isolane.subjects import SEPARATOR
from isolane.tasks import TaskOwner

TOUCH_MS: Final = 60_000
"""How exact "last seen" is: a write for every request would cost more than it tells."""
TOUCHES_PER_LIFE: Final = 8
"""Where sessions live shortly, it is more exact."""
DEVICE_MAX_CHARACTERS: Final = 200
SESSIONS_MAX: Final = 100
"""Live sessions of one user: more than anybody has browsers, and what a list of them may cost."""
ENDED_AT_ONCE: Final = 50
"""A folder of before that bound may have thousands. They are ended a few with each sign-in."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Begun:
    """A session that was just begun: the cookie's secret, and whom it stands for."""

    secret: str = field(repr=False)
    identity: Identity


@dataclass(frozen=True, slots=True)
class Session:
    """One session as its user may see it; times in milliseconds since 1970."""

    session_id: str
    user_id: str
    device: str
    """What the browser calls itself."""
    created_at: int
    last_seen_at: int


class _Rights(NamedTuple):
    """What a user may do by a session, as of one moment of the database."""

    scopes: frozenset[str]
    revoked_at: int
    """When something of the user's was revoked last, as far as that moment knows; 0 for never."""


class SessionBook:
    """The sessions of one gateway. They survive a restart; the secret itself is kept nowhere."""

    def __init__(
        self, database: Database, *, clock: Clock, tasks: TaskOwner, idle_ms: int, max_ms: int
    ) -> None:
        """Keep sessions in `database`: for `idle_ms` after their last use, `max_ms` at most."""
        self._database = database
        self._clock = clock
        self._tasks = tasks
        self._idle_ms = idle_ms
        self._max_ms = max_ms
        self.touch_ms = min(TOUCH_MS, idle_ms // TOUCHES_PER_LIFE)
        """How long after a use the next one is noted."""

    async def begin(self, user_id: str, *, device: str = "") -> Begun:
        """Begin a session for `user_id`. Beyond 100, the one that was used longest ago ends."""
        secret, now = secrets.token_urlsafe(32), self._clock()
        session = Session(session_id_of(secret), user_id, device[:DEVICE_MAX_CHARACTERS], now, now)
        rights = await self._database.write(
            partial(_insert, session, now - self._max_ms), lane=user_id
        )
        return Begun(secret, self._to_identity(session, rights))

    async def load(self, secret: str) -> Identity:
        """Return who the cookie stands for, and note that it was used; raises `Unauthenticated`."""
        session_id = session_id_of(secret)
        # Whose it is isn't known yet. No user has a blank in their id.
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
        """Return the user's live sessions, the last used first."""
        all_sessions = await self._database.read(partial(_load_all, user_id), lane=user_id)
        return [each for each in all_sessions if self._clock() < self._expiry_of(each)]

    async def end(self, user_id: str, session_id: str) -> None:
        """End one session of the user; raises `NotFound` when there is none."""
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
    """Return the name by which a session may be spoken of: it opens nothing."""
    return digest_of(secret).hex()


def sign_out(user_id: str, now: int, connection: Connection) -> None:
    """End everything that a user was given, within somebody's transaction."""
    connection.execute(delete(sessions).where(sessions.c.user_id == user_id))
    revocations.add(user_id, now, (), connection)


def _insert(session: Session, oldest: int, connection: Connection) -> _Rights:
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
    """End the user's sessions beyond the bound; those that were used last stay."""
    query = (
        select(sessions.c.session_id)
        .where(sessions.c.user_id == user_id)
        .order_by(sessions.c.last_seen_at.desc(), sessions.c.created_at.desc())
        .offset(SESSIONS_MAX)
        .limit(ENDED_AT_ONCE)
    )
    for session_id in connection.execute(query).scalars().all():
        _delete(user_id, session_id, now, connection)


def _load(session_id: str, connection: Connection) -> tuple[Session, _Rights] | None:
    query = select(sessions).where(sessions.c.session_id == session_id)
    row = connection.execute(query).one_or_none()
    if row is None:
        return None
    return Session(**row._mapping), _load_rights(row.user_id, connection)  # noqa: SLF001 - its public way to a mapping


def _has_account(user_id: str, connection: Connection) -> bool:
    query = select(accounts.c.user_id).where(accounts.c.user_id == user_id)
    return connection.execute(query).one_or_none() is not None


def _load_rights(user_id: str, connection: Connection) -> _Rights:
    """Return what a local account may do; who signs in elsewhere is a plain user."""
    query = select(accounts.c.scopes).where(accounts.c.user_id == user_id)
    scopes = connection.execute(query).scalar_one_or_none()
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
