"""RFC 6455 by hand: a client that can say any frame, the broken ones above all.

It reads its socket itself, without streams: of what came before a reset nothing may be lost, for
the last thing to come is the close frame that a test waits for.
"""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import zlib
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha1
from typing import Final, TypeAlias

from tests.live.client import RECV_TIMEOUT_S, SUBPROTOCOL
from tests.live.server import LOOPBACK

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
RSV1: Final = 4
"""The highest of the three reserved bits: what is compressed carries it."""
MASK: Final = bytes.fromhex("37fa213d")
FULL_TAIL: Final = b"\x00\x00\xff\xff"
"""What ends a flushed piece of deflate, and isn't sent."""
SENT_IN_TIME: Final = 2 << 20
"""Bytes that are surely sent within the second in which the server drops what still comes."""

_KEY: Final = base64.b64encode(b"sixteen bytes of")
_ACCEPT: Final = base64.b64encode(
    sha1(_KEY + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11", usedforsecurity=False).digest()
)


# --- what is said --------------------------------------------------------------------------------


def frame(
    opcode: int,
    payload: bytes | str = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    mask: bytes | None = MASK,
    length: int | None = None,
    length_bits: int | None = None,
) -> bytes:
    """Return one frame as it goes out.

    `length` is what it says its length is, when that is a lie; `length_bits` (7, 16 or 64) is the
    form of the length, when it isn't the shortest.
    """
    data = payload.encode() if isinstance(payload, str) else payload
    size = len(data) if length is None else length
    bits = length_bits or (7 if size < 126 else 16 if size < 1 << 16 else 64)
    short = {7: size, 16: 126, 64: 127}[bits]
    head = bytes([fin << 7 | rsv << 4 | opcode, (mask is not None) << 7 | short])
    if bits > 7:
        head += size.to_bytes(bits // 8)
    return head + data if mask is None else head + mask + masked(data, mask)


def masked(payload: bytes, mask: bytes) -> bytes:
    """Return the payload under the mask."""
    size = len(payload)
    key = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(payload) ^ int.from_bytes(key)).to_bytes(size)


def pieces(payload: bytes, size: int) -> list[bytes]:
    """Return the payload cut after every `size` bytes; nothing is one empty piece."""
    return [payload[at : at + size] for at in range(0, len(payload), size)] or [b""]


def fragments(parts: Iterable[bytes], *, opcode: int = TEXT, rsv: int = 0) -> list[bytes]:
    """Return the frames of one message in these parts."""
    every = list(parts)
    last = len(every) - 1
    return [
        frame(CONT if at else opcode, part, fin=at == last, rsv=0 if at else rsv)
        for at, part in enumerate(every)
    ]


def closing(code: int, reason: bytes = b"") -> bytes:
    """Return what a close frame holds."""
    return code.to_bytes(2) + reason


class Deflate:
    """Compresses one message after the other, each with what it remembers of those before.

    With a window of 4 KiB, which whoever takes a larger one takes as well.
    """

    def __init__(self) -> None:
        """Begin with no memory."""
        self._deflate = zlib.compressobj(wbits=-12)

    def __call__(self, message: bytes) -> bytes:
        """Return the compressed message."""
        piece = self._deflate.compress(message) + self._deflate.flush(zlib.Z_SYNC_FLUSH)
        return piece.removesuffix(FULL_TAIL)


# --- what a case says and hears ------------------------------------------------------------------


@dataclass(frozen=True)
class Chopped:
    """Bytes that go out in writes of `size` bytes; the network may join some of them again."""

    data: bytes
    size: int = 1


@dataclass(frozen=True)
class Heard:
    """A frame of the server's, inflated."""

    opcode: int
    payload: bytes

    def __repr__(self) -> str:
        return f"Heard({self.opcode}, {self.payload[:80]!r}, {len(self.payload)} bytes)"

    @property
    def complaint(self) -> str | None:
        """The code of the error that it tells of, when it does."""
        if self.opcode != TEXT:
            return None
        body = json.loads(self.payload)
        return str(body["code"]) if body["type"] == "error" else None


@dataclass(frozen=True)
class Complaint:
    """An `error` frame that must come."""

    code: str


@dataclass(frozen=True)
class Perhaps:
    """A frame that may come from here on, before the end, or not: the close may overtake it."""

    heard: Heard


class HalfClose:
    """The client says that nothing more will come, and still reads."""


Step: TypeAlias = bytes | Chopped | Heard | Complaint | Perhaps | HalfClose


# --- the socket ----------------------------------------------------------------------------------


@dataclass(eq=False)
class RawSocket:
    """A WebSocket by hand; what was agreed on is in `extensions`."""

    raw: socket.socket
    extensions: str = ""
    sent: int = 0
    """How many bytes were to go out."""
    was_reset: bool = False
    """Whether the server ended it with a reset."""
    _came: bytearray = field(default_factory=bytearray)
    _inflate: zlib._Decompress = field(default_factory=lambda: zlib.decompressobj(wbits=-15))

    async def send(self, data: bytes, *, chop: int | None = None) -> None:
        """Send bytes; a server that has hung up doesn't get them."""
        loop = asyncio.get_running_loop()
        self.sent += len(data)
        try:
            for piece in [data] if chop is None else pieces(data, chop):
                await loop.sock_sendall(self.raw, piece)
        except ConnectionError:
            self.was_reset = True

    async def recv(self) -> Heard | None:
        """Return the server's next frame; None when it has hung up."""
        async with asyncio.timeout(RECV_TIMEOUT_S):
            try:
                return await self._read_frame()
            except EOFError:
                return None
            except ConnectionError:
                self.was_reset = True
                return None

    async def upgrade(self, token: str, offer: str | None) -> None:
        """Ask for a socket, with an offer of extensions; fails when it is refused."""
        lines = [
            *(b"GET /ws HTTP/1.1", b"Host: localhost", b"Connection: Upgrade"),
            *(b"Upgrade: websocket", b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Key: " + _KEY),
            f"Sec-WebSocket-Protocol: {SUBPROTOCOL}, bearer.{token}".encode(),
        ]
        if offer is not None:
            lines.append(f"Sec-WebSocket-Extensions: {offer}".encode())
        await self.send(b"\r\n".join([*lines, b"", b""]))
        async with asyncio.timeout(RECV_TIMEOUT_S):
            status, *headers = [line async for line in self._read_head()]
        assert status.startswith("HTTP/1.1 101 "), status
        named = dict(header.lower().split(": ", 1) for header in headers)
        assert named["sec-websocket-accept"] == _ACCEPT.decode().lower()
        assert named["sec-websocket-protocol"] == SUBPROTOCOL
        self.extensions = named.get("sec-websocket-extensions", "")

    async def _read_head(self) -> AsyncIterator[str]:
        line = b""
        while line != b"\r\n":
            line = await self._read(1)
            while not line.endswith(b"\r\n"):
                line += await self._read(1)
            if text := line.decode().strip():
                yield text

    async def _read_frame(self) -> Heard:
        first, second = await self._read(2)
        # A server masks nothing, and ours says each message in one frame.
        assert first & 0x80, "a fragment"
        assert not second & 0x80, "masked"
        size = second
        if second > 125:
            size = int.from_bytes(await self._read(2 if second == 126 else 8))
        payload = await self._read(size)
        opcode, rsv = first & 0xF, first >> 4 & 7
        if not rsv:
            return Heard(opcode, payload)
        assert (rsv, opcode) == (RSV1, TEXT), "a reserved bit that means nothing"
        assert "permessage-deflate" in self.extensions
        return Heard(opcode, self._inflate.decompress(payload + FULL_TAIL))

    async def _read(self, size: int) -> bytes:
        loop = asyncio.get_running_loop()
        while len(self._came) < size:
            more = await loop.sock_recv(self.raw, 65536)
            if not more:
                raise EOFError
            self._came += more
        piece = bytes(self._came[:size])
        del self._came[:size]
        return piece


@asynccontextmanager
async def raw_socket(
    port: int, token: str, *, offer: str | None = None
) -> AsyncIterator[RawSocket]:
    """Open a socket on this machine, upgraded and greeted, and drop it with the block."""
    with socket.socket() as raw:
        raw.setblocking(False)  # noqa: FBT003 - the standard library's
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(raw, (LOOPBACK, port))
        own = RawSocket(raw)
        await own.upgrade(token, offer)
        await own.send(frame(TEXT, b'{"type":"hello","v":1}'))
        welcome = await own.recv()
        assert welcome is not None
        assert json.loads(welcome.payload)["type"] == "welcome"
        yield own


# --- playing -------------------------------------------------------------------------------------


async def play(own: RawSocket, steps: Iterable[Step]) -> list[Heard]:
    """Say and hear each step; return what may still come."""
    allowed: list[Heard] = []
    for step in steps:
        match step:
            case bytes():
                await own.send(step)
            case Chopped(data, size):
                await own.send(data, chop=size)
            case Heard():
                is_right = (heard := await hear(own, allowed)) == step
                assert is_right, f"{heard!r} instead of {step!r}"  # not all of the payloads
            case Complaint(code):
                heard = await hear(own, allowed)
                assert heard is not None
                assert heard.complaint == code
            case Perhaps(heard):
                allowed.append(heard)
            case HalfClose():
                own.raw.shutdown(socket.SHUT_WR)
    return allowed


async def hear(own: RawSocket, allowed: list[Heard]) -> Heard | None:
    """Return the next frame but those that may come, each once; None when there is none."""
    while (heard := await own.recv()) in allowed:
        allowed.remove(heard)
    return heard


async def hear_close(own: RawSocket, allowed: list[Heard]) -> str | None:
    """Return code and reason of the server's close, answered; None when it hangs up without one.

    Nothing but what may come is before it, and nothing at all is behind it. What the client said
    meanwhile was read and dropped: a reset could have taken the close frame along.
    """
    heard = await hear(own, allowed)
    if heard is not None and heard.complaint == "too_large":  # said before the close, where it can
        heard = await hear(own, allowed)
    if heard is None:
        return None
    assert heard.opcode == CLOSE, heard
    assert own.sent > SENT_IN_TIME or not own.was_reset, "it was cut off as it spoke"
    await own.send(frame(CLOSE, heard.payload))
    assert await own.recv() is None
    return f"{int.from_bytes(heard.payload[:2])} {heard.payload[2:].decode()}"
