"""Frames that no client sends: broken, endless, too many, too large."""

from __future__ import annotations

import asyncio
import zlib
from functools import cache
from time import monotonic

from tests.live.framing import BINARY, CONT, PING, RSV1, TEXT
from tests.live.hostile.attack import Scene, attack
from tests.live.hostile.wire import FRAME_BYTES, frame

DEAF_S = 1.0
A_PING = '{"type":"ping"}'
DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate"


def ping_of(size: int) -> str:
    """Return a ping of so many bytes."""
    return A_PING[:-1] + ',"t":"' + "x" * (size - len(A_PING) - 7) + '"}'


@attack("frames/unmasked")
async def unmasked(scene: Scene) -> set[str]:
    return await scene.say(frame(TEXT, A_PING, mask=None))


@attack("frames/reserved-opcodes")
async def reserved_opcodes(scene: Scene) -> set[str]:
    answers: set[str] = set()
    for opcode in (0x3, 0x7, 0xB, 0xF):
        answers |= await scene.say(frame(opcode, b"x"), sockets=4)
    return answers


@attack("frames/endless-fragments")
async def endless_fragments(scene: Scene) -> set[str]:
    small = frame(TEXT, "[", fin=False) + frame(CONT, "1", fin=False) * 5000
    large = frame(TEXT, "[", fin=False) + frame(CONT, b"1" * 8192, fin=False) * 400
    return await scene.say(small, sockets=4) | await scene.say(large, sockets=2)


@attack("frames/empty-fragments")
async def empty_fragments(scene: Scene) -> set[str]:
    return await scene.say(frame(TEXT, fin=False) + frame(CONT, fin=False) * 1_000_000, sockets=2)


@attack("frames/invalid-utf8")
async def invalid_utf8(scene: Scene) -> set[str]:
    answers: set[str] = set()
    for text in (b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90\x80\x80"):
        whole = frame(TEXT, b'{"type":"' + text + b'"}')
        answers |= await scene.say(whole, sockets=2)
    parts = frame(TEXT, b'"\xe2\x82', fin=False) + frame(CONT, b'"')
    return answers | await scene.say(parts, sockets=2)


@attack("frames/lying-length")
async def lying_length(scene: Scene) -> set[str]:
    answers: set[str] = set()
    # More than was said: what is left over is read as a frame, and its opcode is reserved.
    for lie in (
        frame(TEXT, A_PING, length=5),
        frame(TEXT, length=1 << 62),
        frame(PING, b"x" * 126),
    ):
        answers |= await scene.say(lie, sockets=4)
    async with scene.socket(scene.lane()) as wire:  # and one that ends before its message does
        await wire.push(frame(TEXT, A_PING, length=100))
        wire.writer.write_eof()
        assert await wire.ended() == "closed"
    return answers


@attack("frames/ping-flood")
async def ping_flood(scene: Scene) -> set[str]:
    return await scene.say(frame(PING, b"x" * 125) * 20_000, sockets=4)


@attack("frames/ping-flood-unread")
async def ping_flood_unread(scene: Scene) -> set[str]:
    async with scene.socket(scene.lane(), is_lazy=True) as wire:
        # What the server doesn't take of this waits in this process.
        wire.writer.write(frame(PING, b"x" * 125) * 20_000)
        await asyncio.sleep(DEAF_S)  # in which nothing is read
        return {await wire.end()}


@attack("frames/one-byte-too-long")
async def one_byte_too_long(scene: Scene) -> set[str]:
    async with scene.socket(scene.lane()) as wire:
        await wire.push(frame(TEXT, ping_of(FRAME_BYTES)))
        assert await wire.words(until=["pong"]) == ["pong"]
        await wire.push(frame(TEXT, ping_of(FRAME_BYTES + 1)))
        return set(await wire.words())


@attack("frames/compression-bomb", kind="other")
async def compression_bomb(scene: Scene) -> set[str]:
    return {
        answer
        for bomb in (big_bomb(), deflated(ping_of(FRAME_BYTES + 1).encode()))
        for answer in await say_deflated(scene, frame(TEXT, bomb, rsv=RSV1))
    }


@attack("frames/compression-unasked")
async def compression_unasked(scene: Scene) -> set[str]:
    return await say_deflated(scene, frame(TEXT, deflated(A_PING.encode()), rsv=RSV1))


async def say_deflated(scene: Scene, data: bytes) -> set[str]:
    async with scene.socket(scene.lane(), DEFLATE) as wire:
        await wire.push(data)
        return {await wire.end()}


@cache
def big_bomb() -> bytes:
    """Return 64 MiB in 64 KiB."""
    return deflated(b"0" * (64 << 20))


def deflated(data: bytes) -> bytes:
    """Return `data` as the extension sends it."""
    squeeze = zlib.compressobj(wbits=-15)
    return (squeeze.compress(data) + squeeze.flush(zlib.Z_SYNC_FLUSH))[:-4]


@attack("frames/binary")
async def binary(scene: Scene) -> set[str]:
    return await scene.say(frame(BINARY, A_PING))


@attack("frames/tiny-flood")
async def tiny_flood(scene: Scene) -> set[str]:
    """Send far more than is allowed in one write, and take answers until the window is over."""
    async with scene.socket(scene.lane()) as wire:
        began = monotonic()
        await wire.push(frame(TEXT, A_PING) * 50_000)
        said = await wire.words(until=["limit_exceeded"])
        for _ in range(20):  # each a little later than the one before
            said += await wire.words(until=["limit_exceeded"])
    # A minute that slides gives some back while it does: as many a second as it lets in.
    assert said.count("pong") <= 600 + 1 + (monotonic() - began) * 10
    return set(said)


@attack("frames/trickle")
async def trickle(scene: Scene) -> set[str]:
    async with scene.socket(scene.lane()) as wire:
        ending = asyncio.create_task(wire.end())
        await wire.push(frame(TEXT, length=1000))
        while not ending.done():
            await wire.push(b" ")
            await asyncio.wait([ending], timeout=0.1)
        return {await ending}
