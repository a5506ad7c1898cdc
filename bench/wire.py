"""A minimal WebSocket client that costs next to nothing. Pure.

A library's client needs ten times as long per frame, and would be slower than a fast server.
"""

from __future__ import annotations

from typing import Final

TEXT: Final = 1

_FINAL: Final = 0x80
_MASKED: Final = 0x80
_NO_MASK: Final = bytes(4)  # a legal one, which changes nothing
_LENGTH_16: Final = 126
_LENGTH_64: Final = 127


def upgrade_request(host: str, path: str, token: str | None) -> bytes:
    """Return the request that opens a WebSocket; `token` goes along as a bearer's."""
    lines = [
        f"GET {path} HTTP/1.1",
        f"Host: {host}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
    ]
    if token is not None:
        lines.append(f"Authorization: Bearer {token}")
    return "\r\n".join([*lines, "", ""]).encode()


def encode_frame(opcode: int, payload: bytes) -> bytes:
    """Return a client's frame."""
    size = len(payload)
    if size < _LENGTH_16:
        head = bytes([_FINAL | opcode, _MASKED | size])
    elif size < 1 << 16:
        head = bytes([_FINAL | opcode, _MASKED | _LENGTH_16]) + size.to_bytes(2, "big")
    else:
        head = bytes([_FINAL | opcode, _MASKED | _LENGTH_64]) + size.to_bytes(8, "big")
    return head + _NO_MASK + payload
