"""Where a connection goes on: what it is told when it can, and what when it can't."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from isolane.context import EventId, ThreadKey
from isolane.contracts import Store
from isolane.errors import CursorExpired, TooLarge
from isolane.events.transcript import Message
from isolane.ids import ENVELOPE_BYTES, new_error_id
from isolane.log.feed import Feed
from isolane.sockets.connection import WebSocketConnection
from isolane.wire.frames import run_error

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Resume:
    """Where to read on, and what to take in the place of what was missed."""

    start: EventId
    head: EventId
    is_recovered: bool = True
    """Whether nothing was missed."""
    messages: Sequence[Message] | None = None
    """What stood before `start`, where something was missed and a frame can hold it."""

    @property
    def can_go_on(self) -> bool:
        """Say whether entries may follow; else the client reads the thread over HTTP first."""
        return self.is_recovered or self.messages is not None

    def to_frame(self, thread_id: str) -> dict[str, object]:
        """Return the `subscribed` frame."""
        frame: dict[str, object] = {
            "type": "subscribed",
            "threadId": thread_id,
            "head": str(self.head),
            "recovered": self.is_recovered,
        }
        return frame if self.messages is None else {**frame, "messages": self.messages}


class Resumer:
    """Finds where a connection goes on, and tells it of a gap before any later event."""

    def __init__(self, feed: Feed, store: Store, *, frame_max_bytes: int = 1 << 20) -> None:
        """Read places from the log and messages from the store; a frame has a bound."""
        self._feed = feed
        self._store = store
        self._messages_max_bytes = frame_max_bytes - ENVELOPE_BYTES

    async def load(self, key: ThreadKey, after: EventId | None) -> Resume:
        """Return how to go on from `after`.

        Raises:
            InvalidCursor: `after` is ahead of the log.
        """
        bounds = await self._feed.load_bounds_for(key, after)
        start = EventId(bounds.head.epoch, 0) if after is None else after
        try:
            bounds.check_cursor(start)
        except CursorExpired:
            kept_from = EventId(bounds.head.epoch, bounds.trimmed_seq)
            messages = await self._load_messages(key, kept_from)
            return Resume(kept_from, bounds.head, is_recovered=False, messages=messages)
        return Resume(start, bounds.head)

    async def _load_messages(self, key: ThreadKey, kept_from: EventId) -> Sequence[Message] | None:
        """Return the messages before what is kept; None when no frame can hold them."""
        try:
            return await self._store.load_messages_before(
                key, kept_from.seq + 1, max_bytes=self._messages_max_bytes
            )
        except TooLarge:
            return None

    async def on_gap(self, key: ThreadKey, connection: WebSocketConnection) -> EventId | None:
        """Tell `connection` that what it wants is gone; return where it goes on, if anywhere."""
        interest = connection.get_interest(key.thread_id)
        if interest.has_all:
            resume = await self.load(key, EventId("gone", 1))
            connection.post(resume.to_frame(key.thread_id))
            if resume.can_go_on:
                return resume.start
            connection.lose_interest(key.thread_id)
            return None
        for run_id in interest.run_ids():
            self.tell_expired(connection, run_id)
        connection.lose_interest(key.thread_id)
        if connection.is_replay:
            connection.request_close()
        return None

    def tell_expired(self, connection: WebSocketConnection, run_id: str) -> None:
        """Tell `connection` that a run's events are no longer kept."""
        error_id = new_error_id()
        _log.info("resume_expired", error_id=error_id, connection_id=connection.id, run_id=run_id)
        connection.post(run_error(CursorExpired(), error_id, run_id=run_id))
