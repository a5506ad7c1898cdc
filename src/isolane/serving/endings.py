"""Ways to end a connection: with a last answer, or with a reset when the peer takes none."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from contextlib import suppress
from typing import Final, cast

LINGER_S: Final = 1.0
"""Seconds for which further bytes are read and dropped, so that a reset doesn't destroy the last
answer."""
RULES: Final = (
    ("X-Content-Type-Options", "nosniff"),
    ("Content-Security-Policy", "frame-ancestors 'none'"),
)
"""Headers for browsers on answers that no part of the app has given."""
REFUSAL_HEADERS: Final = (
    b"Connection: close",
    b"Content-Length: 0",
    *(f"{name}: {value}".encode() for name, value in RULES),
)
_LINGER_ZERO: Final = struct.pack("ii", 1, 0)
"""Value of SO_LINGER for 0 s: closing resets the connection."""


def reset(transport: asyncio.BaseTransport) -> None:
    """Reset a connection; bytes that the peer hasn't taken are dropped, in the kernel too.

    After a plain abort the kernel would keep them in memory for many minutes.
    """
    raw = transport.get_extra_info("socket")
    if raw is not None and raw.fileno() >= 0:
        # A descriptor of our own, because the loop's stand-in for a socket accepts no options.
        with socket.socket(fileno=os.dup(raw.fileno())) as own:
            own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
    cast("asyncio.WriteTransport", transport).abort()


def let_go(transport: asyncio.Transport) -> None:
    """Half-close a connection, and close it a moment later.

    An immediate close while the peer still sends would make the kernel reset the connection. The
    reset would drop what the peer hasn't read yet: the reason of the refusal.
    """
    with suppress(OSError, RuntimeError):  # the connection is gone already
        transport.write_eof()
        transport.resume_reading()


def end(transport: asyncio.Transport) -> None:
    """Close a connection, or reset it when the peer hasn't taken all bytes."""
    if transport.get_write_buffer_size():
        reset(transport)
    else:
        transport.close()


def refusal(status: bytes) -> bytes:
    """Return an answer without a body, after which the connection closes."""
    return b"\r\n".join([b"HTTP/1.1 %b" % status, *REFUSAL_HEADERS, b"", b""])
