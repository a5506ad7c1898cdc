"""Large answers over HTTP, sent in pieces and counted per user until they are read."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Final

import structlog
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from isolane.doors.transport import get_abort
from isolane.errors import LimitExceeded, SlowConsumer

UNREAD_BYTES: Final = 4 << 20
"""Maximum bytes of large answers that one user may leave unread. A single answer may have more."""
PIECE_BYTES: Final = 1 << 16
"""Bytes that are given to the server at once, because it copies what the socket doesn't take."""

Load = Callable[[], Awaitable[bytes]]
"""Reads the body of an answer, JSON in UTF-8; raises the error for the client."""

_log = structlog.get_logger(__name__)


class UnreadAnswers:
    """Counts the bytes of large answers that wait for their readers, per user."""

    def __init__(self, *, send_timeout_s: float, most_bytes: int = UNREAD_BYTES) -> None:
        """Let each user leave `most_bytes` unread, or one larger answer.

        A reader who takes no piece of an answer within `send_timeout_s` is disconnected.
        """
        self._send_timeout_s = send_timeout_s
        self._most_bytes = most_bytes
        self._held: defaultdict[str, int] = defaultdict(int)

    @property
    def total_bytes(self) -> int:
        """Unread bytes of all users together."""
        return sum(self._held.values())

    def answer(self, user_id: str, load: Load) -> LargeAnswer:
        """Return an answer with the result of `load`; it counts for the user until it is sent."""
        return LargeAnswer(self, user_id, load, send_timeout_s=self._send_timeout_s)

    def check(self, user_id: str) -> None:
        """Check that the user may have another large answer.

        Raises:
            LimitExceeded: The user leaves as many bytes unread as allowed.
        """
        if self._held.get(user_id, 0) >= self._most_bytes:
            raise self._exceeded()

    @contextmanager
    def hold(self, user_id: str, size: int) -> Iterator[None]:
        """Count `size` bytes while the block runs.

        A user without unread bytes may have an answer of any size, because otherwise nobody could
        read it.

        Raises:
            LimitExceeded: The user would leave too many bytes unread.
        """
        held = self._held.get(user_id, 0)
        if held and held + size > self._most_bytes:
            raise self._exceeded()
        self._held[user_id] += size
        try:
            yield
        finally:
            self._held[user_id] -= size
            if not self._held[user_id]:
                del self._held[user_id]

    def _exceeded(self) -> LimitExceeded:
        return LimitExceeded("bytes of answers that are not read yet", self._most_bytes)


class LargeAnswer(Response):
    """An answer that is read from the database on its turn, and counted until it is sent.

    A reader who takes no piece of it within the send timeout is disconnected, as on every
    connection.
    """

    media_type = "application/json"

    def __init__(
        self, unread: UnreadAnswers, user_id: str, load: Load, *, send_timeout_s: float
    ) -> None:
        """Answer `user_id` with the result of `load`."""
        super().__init__()
        self._unread = unread
        self._user_id = user_id
        self._load = load
        self._send_timeout_s = send_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Load, count and send the answer.

        Raises:
            LimitExceeded: The user leaves too many bytes unread. Nothing was sent.
            IsolaneError: `load` raised it. Nothing was sent.
        """
        del receive
        self._unread.check(self._user_id)
        body = await self._load()
        with self._unread.hold(self._user_id, len(body)):
            try:
                await self._send(body, send)
            except TimeoutError:
                self._give_up(scope)

    async def _send(self, body: bytes, send: Send) -> None:
        self.headers["content-length"] = str(len(body))
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        for piece in in_messages(body):
            async with asyncio.timeout(self._send_timeout_s):
                await send(piece)

    def _give_up(self, scope: Scope) -> None:
        """Reset the connection, because half an answer must not look like a whole one."""
        abort = get_abort(scope)
        if abort is not None:
            abort()
        _log.info("answer_abandoned", code=SlowConsumer.code, user_id=self._user_id)


def in_messages(body: bytes) -> Iterator[Message]:
    """Yield a body as ASGI messages of 64 KiB each, the last one without `more_body`."""
    for place in range(0, len(body), PIECE_BYTES):
        end = place + PIECE_BYTES
        more = end < len(body)
        yield {"type": "http.response.body", "body": body[place:end], "more_body": more}
