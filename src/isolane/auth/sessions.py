"""Sessions: what a browser's cookie stands for, kept on the server's side."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import Final

from sqlalchemy import Connection, delete, insert, select

from isolane.clock import Clock
from isolane.contracts import Identity
from isolane.database import Database, sessions
from isolane.errors import Unauthenticated

LIFETIME_MS: Final = 7 * 24 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class Session:
    """A session that was just begun: the cookie's secret and when it dies."""

    secret: str
    expires_at: int


class SessionBook:
    """The sessions of one gateway. They survive a restart; the secret itself is kept nowhere."""

    def __init__(self, database: Database, *, clock: Clock) -> None:
        """Keep sessions in `database`."""
        self._database = database
        self._clock = clock

    async def begin(self, user_id: str) -> Session:
        """Begin a session for `user_id`."""
        session = Session(secrets.token_urlsafe(32), self._clock() + LIFETIME_MS)
        await self._database.write(partial(_insert, session, user_id, self._clock()))
        return session

    async def load(self, secret: str) -> Identity:
        """Return who the cookie stands for; raises `Unauthenticated`."""
        row = await self._database.read(partial(_load, secret))
        if row is None:
            raise Unauthenticated("invalid", "no such session, or it was ended")
        user_id, expires_at = row
        if self._clock() >= expires_at:
            raise Unauthenticated("expired", "the session is expired")
        return Identity(user_id, expires_at, session_id=session_id_of(secret))

    async def end(self, secret: str) -> Identity | None:
        """End a session and return whose it was. Idempotent: None when there was none."""
        user_id = await self._database.write(partial(_delete, secret))
        if user_id is None:
            return None
        return Identity(user_id, None, session_id=session_id_of(secret))


def session_id_of(secret: str) -> str:
    """Return the name by which a session may be spoken of: it opens nothing."""
    return _digest(secret).hex()


def _digest(secret: str) -> bytes:
    return sha256(secret.encode()).digest()


def _insert(session: Session, user_id: str, now: int, connection: Connection) -> None:
    connection.execute(delete(sessions).where(sessions.c.expires_at <= now))
    connection.execute(
        insert(sessions).values(
            digest=_digest(session.secret),
            user_id=user_id,
            created_at=now,
            expires_at=session.expires_at,
        )
    )


def _load(secret: str, connection: Connection) -> tuple[str, int] | None:
    query = select(sessions.c.user_id, sessions.c.expires_at).where(
        sessions.c.digest == _digest(secret)
    )
    row = connection.execute(query).one_or_none()
    return None if row is None else (row.user_id, row.expires_at)


def _delete(secret: str, connection: Connection) -> str | None:
    own = sessions.c.digest == _digest(secret)
    user_id = connection.execute(select(sessions.c.user_id).where(own)).scalar_one_or_none()
    connection.execute(delete(sessions).where(own))
    return user_id
