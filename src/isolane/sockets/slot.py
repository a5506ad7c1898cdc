"""One of the connections that a user may have, and what may be in it."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Protocol

from isolane.contracts import Identity
from isolane.sockets.connection import WebSocketConnection


class Stream(Protocol):
    """An answer over HTTP that goes on for as long as its credential counts."""

    id: str
    identity: Identity

    @property
    def is_open(self) -> bool:
        """Say whether the stream goes on."""
        ...

    def revoke(self) -> None:
        """End the stream, because its credential counts no more. Doesn't wait."""
        ...


Member = WebSocketConnection | Stream
"""A socket or an event stream, which uses one slot."""


class Slot:
    """One of the connections that a user may have."""

    def __init__(self, user_id: str, place: AbstractAsyncContextManager[None]) -> None:
        """Take over a place that was entered at the user's limit."""
        self.user_id = user_id
        self.member: Member | None = None
        """The socket or stream in the slot; None until it is open."""
        self._place: AbstractAsyncContextManager[None] | None = place

    async def release(self) -> None:
        """Give the slot back to the user's limit. Idempotent. Safe to cancel."""
        place, self._place = self._place, None
        if place is not None:
            await place.__aexit__(None, None, None)
