"""Keeps the session behind a socket alive while its user does something there."""

from __future__ import annotations

from collections.abc import Callable

from isolane.doors.parts import Credentials
from isolane.sockets.connection import WebSocketConnection
from isolane.tasks import TaskOwner


class SessionUse:
    """Notes, now and then, that the session behind one socket is in use."""

    def __init__(
        self,
        connection: WebSocketConnection,
        credentials: Credentials,
        tasks: TaskOwner,
        *,
        told: Callable[[], None],
    ) -> None:
        """Call `told` when the socket's credential lives longer than before."""
        self._connection = connection
        self._credentials = credentials
        self._tasks = tasks
        self._told = told
        self._due_at = credentials.clock() + credentials.sessions.touch_ms

    def note(self) -> None:
        """Note it, if a while has passed and there is a session. Doesn't wait."""
        now = self._credentials.clock()
        if self._connection.identity.session_id is None or now < self._due_at:
            return
        self._due_at = now + self._credentials.sessions.touch_ms
        self._tasks.detach(self._extend(), name="session in use")

    async def _extend(self) -> None:
        connection = self._connection
        identity = await self._credentials.sessions.extend(connection.identity)
        if identity.session_id == connection.identity.session_id:  # not renewed meanwhile
            connection.identity = identity
            self._told()
