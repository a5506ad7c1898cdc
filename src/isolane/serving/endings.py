"""How a connection ends: with a last word, or with a reset where nobody takes one."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from contextlib import suppress
from typing import Final, cast

LINGER_S: Final = 1.0
"""How long what still comes is read and dropped, so that the last word isn't lost to a reset."""
RULES: Final = (
    ("X-Content-Type-Options", "nosniff"),
    ("Content-Security-Policy", "frame-ancestors 'none'"),
)
"""What an answer tells browsers that no part of the app has given."""
REFUSAL_HEADERS: Final = (
    b"Connection: close",
    b"Content-Length: 0",
    *(f"{name}: {value}".encode() for name, value in RULES),
)
_LINGER_ZERO: Final = struct.pack("ii", 1, 0)
"""SO_LINGER on, 0 s: closing resets the connection."""


def reset(transport: asyncio.BaseTransport) -> None:
    """End a connection with a reset: what the peer didn't take is dropped, in the kernel too.

    After a plain abort the kernel goes on offering it, for many minutes, from memory of its own.
    """
    raw = transport.get_extra_info("socket")
    if raw is not None and raw.fileno() >= 0:
        # A descriptor of our own: the loop's stand-in for a socket takes no options.
        with socket.socket(fileno=os.dup(raw.fileno())) as own:
            own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
    cast("asyncio.WriteTransport", transport).abort()


def let_go(transport: asyncio.Transport) -> None:
    """End what was to be said: half-close, and close for good a moment later.

    To close at once while the peer still sends would make the kernel reset the connection, and
    drop what the peer hasn't read yet: the reason.
    """
    with suppress(OSError, RuntimeError):  # gone already
        transport.write_eof()
        transport.resume_reading()


def end(transport: asyncio.Transport) -> None:
    """Close, or reset where the peer hasn't taken what was said."""
    if transport.get_write_buffer_size():
        reset(transport)
    else:
        transport.close()


def refusal(status: bytes) -> bytes:
    """Return an answer without a body, after which the connection closes."""
    return b"\r\n".join([b"HTTP/1.1 %b" % status, *REFUSAL_HEADERS, b"", b""])
