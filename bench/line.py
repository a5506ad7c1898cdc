"""A plain socket to a server. It reads bytes and looks for marks, and parses nothing."""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass
from typing import Final, Self

from servers import HOST
from wire import TEXT, encode_frame, upgrade_request

PATIENCE_S: Final = 60.0
MARK_MAX: Final = 64
"""Bytes of the longest mark, because so many bytes of the part before may begin one."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came for a request, and when; seconds since the request was sent."""

    first_s: float
    last_s: float
    content: bytes


class Line:
    """A connection."""

    def __init__(self, port: int) -> None:
        """Connect."""
        self._socket = socket.create_connection((HOST, port), timeout=PATIENCE_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Self:
        """Return the line itself."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Hang up."""
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def upgrade(self, path: str, token: str | None) -> None:
        """Become a WebSocket.

        Raises:
            ConnectionError: The server refuses.
        """
        asked = upgrade_request(f"{HOST}:{self._socket.getpeername()[1]}", path, token)
        self.ask(asked, first=b" 101 ", last=b"\r\n\r\n")

    def say(self, text: str, *, first: bytes, last: bytes) -> Answer:
        """Send a text frame, and read as `ask` does."""
        return self.ask(encode_frame(TEXT, text.encode()), first=first, last=last)

    def ask(self, sent: bytes, *, first: bytes, last: bytes) -> Answer:
        """Send, and read until the mark `last` has come.

        Raises:
            ConnectionError: The server hangs up before, or the mark `first` has not come.
        """
        began, first_s = time.perf_counter(), 0.0
        self._socket.sendall(sent)
        parts, seen = list[bytes](), b""
        while True:
            part = self._socket.recv(1 << 18)
            now_s = time.perf_counter() - began
            if not part:
                raise ConnectionError(b"".join(parts)[-2000:])
            parts.append(part)
            seen = seen[-MARK_MAX:] + part
            if not first_s and first in seen:
                first_s = now_s
            if last in seen:
                break
        content = b"".join(parts)
        if not first_s:
            raise ConnectionError(content[-2000:])
        return Answer(first_s, now_s, content)
