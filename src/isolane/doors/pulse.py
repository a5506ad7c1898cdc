"""The credential behind one socket: watched for its end, renewed, and kept alive by use."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from isolane.contracts import Scope
from isolane.doors.credentials import judge_token, require
from isolane.doors.parts import Credentials
from isolane.doors.problems import close_code_of
from isolane.doors.replies import tell
from isolane.doors.session_use import SessionUse
from isolane.errors import IdentityMismatch, Unauthenticated
from isolane.sockets.connection import WebSocketConnection
from isolane.tasks import TaskOwner

EXPIRY_WARNING_MS: Final = 60_000
"""Milliseconds before the end of a credential at which its client is warned."""
LONGEST_SLEEP_S: Final = 3600.0


class Pulse:
    """Pings a socket at each heartbeat, warns it before its credential ends, and closes it then.

    A quiet socket gets neither ping nor warning, because its peer knows no such frame.
    """

    def __init__(
        self,
        connection: WebSocketConnection,
        credentials: Credentials,
        tasks: TaskOwner,
        *,
        heartbeat_s: float,
    ) -> None:
        """Begin with an accepted socket."""
        self._connection = connection
        self._credentials = credentials
        self._heartbeat_s = float("inf") if connection.is_quiet else heartbeat_s
        self._is_warned = False
        self._next_ping_s = 0.0
        self._is_beating = False
        self._timer: asyncio.Handle | None = None
        """Looks at what is due. A task that sleeps would take 2 KB per connection."""
        self._use = SessionUse(connection, credentials, tasks, told=self._note_expiry)

    @contextmanager
    def beating(self) -> Iterator[None]:
        """Watch the credential for the time of the block."""
        self._next_ping_s = asyncio.get_running_loop().time() + self._heartbeat_s
        self._is_beating = True
        self.wake()
        try:
            yield
        finally:
            self._is_beating = False
            self._stop()

    def wake(self) -> None:
        """Look anew at what is due, as when the socket has greeted. Doesn't wait.

        The look comes after what the caller still has to say. Once the socket has ended, there is
        none, whoever calls.
        """
        self._stop()
        if self._is_beating:
            self._timer = asyncio.get_running_loop().call_soon(self._look)

    def _look(self) -> None:
        try:
            wait_s = self._beat()
        except Exception as error:  # noqa: BLE001 - whatever it is, the client comes back and resumes
            self._connection.fail("its heartbeat", error)
        else:
            if wait_s is not None:
                self._timer = asyncio.get_running_loop().call_later(wait_s, self._look)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def note_use(self) -> None:
        """Note that the user does something, which keeps the session alive. Doesn't wait."""
        self._use.note()

    async def renew(self, token: str) -> None:
        """Go on with a newer token of the same user. Safe to cancel.

        After an error the older credential still counts.

        Raises:
            Unauthenticated: The token is bad.
            Unavailable: The token can't be judged now.
            IdentityMismatch: The token is another user's.
            MissingScope: Its holder may not read. What the socket follows goes on, so the newer
                token needs the scope that the upgrade needed.
        """
        connection = self._connection
        identity = await judge_token(self._credentials, token)
        if identity.user_id != connection.user_id:
            raise IdentityMismatch
        require(identity, Scope.READ)
        connection.identity = identity
        self._note_expiry()

    def _note_expiry(self) -> None:
        """Look anew when the credential ends, for it is another one or lives longer."""
        self._is_warned = False
        self.wake()

    def _beat(self) -> float | None:
        """Do what is due, and return the seconds until the next look; None when it has ended."""
        if self._is_expired():
            return None
        now_s = asyncio.get_running_loop().time()
        if now_s >= self._next_ping_s:
            self._connection.post({"type": "ping"})
            self._next_ping_s += self._heartbeat_s
        due_s = min(self._next_ping_s - now_s, self._until_expiry_s())
        return min(max(due_s, 0), LONGEST_SLEEP_S)

    def _until_expiry_s(self) -> float:
        expires_at = self._connection.identity.expires_at
        if expires_at is None:
            return float("inf")
        is_warning_due = self._connection.has_greeted and not self._is_warned
        due = expires_at - EXPIRY_WARNING_MS if is_warning_due else expires_at
        return max(due - self._credentials.clock(), 0) / 1000

    def _is_expired(self) -> bool:
        """Say whether the credential has ended, and close then; warn when it is about to."""
        connection, now = self._connection, self._credentials.clock()
        expires_at = connection.identity.expires_at
        if expires_at is None:
            return False
        if now >= expires_at:
            self._end_expired()
            return True
        is_near = now >= expires_at - EXPIRY_WARNING_MS
        if is_near and connection.has_greeted and not self._is_warned:
            self._is_warned = True
            connection.post({"type": "auth_expiring", "expiresAt": expires_at})
        return False

    def _end_expired(self) -> None:
        error = Unauthenticated("expired", "the credential behind the socket expired")
        if self._connection.has_greeted:
            tell(self._connection, error)
        self._connection.request_close(close_code_of(error), error.reason)
