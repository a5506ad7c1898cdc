"""Keeps the session behind a socket alive while its user does something there."""

from __future__ import annotations

from collections.abc import Callable

from isolane.doors.gateway import Gateway
from isolane.sockets.connection import WebSocketConnection


class SessionUse:
    """Notes, now and then, that the session behind one socket is in use."""

    def __init__(
        self, gateway: Gateway, connection: WebSocketConnection, told: Callable[[], None]
    ) -> None:
        """Call `told` when the socket's credential lives longer than before."""
        self._gateway = gateway
        self._connection = connection
        self._told = told
        self._due_at = gateway.clock() + gateway.credentials.sessions.touch_ms

    def note(self) -> None:
        """Note it, if a while has passed and there is a session. Doesn't wait."""
        gateway = self._gateway
        if self._connection.identity.session_id is None or gateway.clock() < self._due_at:
            return
        self._due_at = gateway.clock() + gateway.credentials.sessions.touch_ms
        gateway.tasks.detach(self._extend(), name="session in use")

    async def _extend(self) -> None:
        connection = self._connection
        identity = await self._gateway.credentials.sessions.extend(connection.identity)
        if identity.session_id == connection.identity.session_id:  # not renewed meanwhile
            connection.identity = identity
            self._told()
