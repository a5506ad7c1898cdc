"""Handshakes that never end, say too much, or say that they are somebody else's; and HTTP's own."""

from __future__ import annotations

import asyncio
import json
from functools import partial

from tests.live.hostile.attack import Scene, at_once, attack
from tests.live.hostile.wire import UPGRADE, Wire, request
from tests.live.people import COOKIE
from tests.live.server import LOOPBACK
from tests.live.tcp import wait_until_let_go

from isolane.settings import Settings

SLOW_SOCKETS = 2000
SILENT_SOCKETS = 200
EVERY_S = 5.0
"""Between two bytes of a slow head."""
LET_GO_WITHIN_S = 13.0
"""A head may take 10 s; the rest is for a machine that has much to do."""
STORED_BYTES = 6 << 20


def bearer(token: str) -> str:
    return f"Authorization: Bearer {token}"


# --- heads that take their time ------------------------------------------------------------------


@attack("handshakes/slow-headers")
async def slow_headers(scene: Scene) -> set[str]:
    async def one() -> str:
        async with scene.wire() as wire:
            dripping = asyncio.create_task(drip(wire, b"GET /ws HTTP/1.1\r\nHost:", EVERY_S))
            try:
                async with asyncio.timeout(LET_GO_WITHIN_S):
                    status = await wire.status()
                    await wire.ended()
                return status
            finally:
                dripping.cancel()

    return set(await at_once(SLOW_SOCKETS, one, width=SLOW_SOCKETS))


async def drip(wire: Wire, data: bytes, every_s: float) -> None:
    """Send a byte now and then, for as long as anybody listens."""
    for number in range(len(data)):
        await wire.push(data[number : number + 1])
        await asyncio.sleep(every_s)


@attack("handshakes/silent")
async def silent(scene: Scene) -> set[str]:
    async def one() -> str:
        async with scene.wire() as wire, asyncio.timeout(LET_GO_WITHIN_S):
            assert await wire.reader.read() == b""
            return "closed"

    return set(await at_once(SILENT_SOCKETS, one, width=SILENT_SOCKETS))


# --- heads that say too much ---------------------------------------------------------------------


@attack("handshakes/huge-headers")
async def huge_headers(scene: Scene) -> set[str]:
    token = scene.lane().token
    answers: set[str] = set()
    for first, more in (("GET /ws", UPGRADE), ("GET /api/me", ())):
        padding = [f"X-{number}: {'x' * 7000}" for number in range(10)]
        async with scene.wire() as wire:
            await wire.push(request(first, *more, bearer(token), *padding))
            answers.add(await wire.status())
        for filling in (["X: " + "x" * 2_000_000], [f"X-{n}: x" for n in range(200_000)]):
            async with scene.wire() as wire:
                await wire.push(request(first, *more, bearer(token), *filling))
                # Who still talks when the answer is there may see the line break instead of it.
                assert await wire.status() in {"431", "reset", "closed"}
    return answers


@attack("handshakes/many-subprotocols")
async def many_subprotocols(scene: Scene) -> set[str]:
    token = scene.lane().token
    short = ", ".join([*(f"p{number}" for number in range(1000)), "agui.v1", f"bearer.{token}"])
    long, too_long = (
        ", ".join([*(f"protocol-{number}" for number in range(count)), "agui.v1"])
        for count in (3000, 5000)
    )
    lines = [f"Sec-WebSocket-Protocol: p{number}" for number in range(1000)]
    told: list[str] = []
    for headers in (
        [f"Sec-WebSocket-Protocol: {short}"],
        [bearer(token), f"Sec-WebSocket-Protocol: {long}"],
        [bearer(token), f"Sec-WebSocket-Protocol: {too_long}"],
        [bearer(token), "Sec-WebSocket-Protocol: agui.v1", *lines],
    ):
        async with scene.wire() as wire:
            told.append(await wire.upgrade(*headers))
    assert told == ["101", "101", "431", "431"]
    return set(told)


# --- heads that say where they come from ---------------------------------------------------------


async def from_page(scene: Scene, *origins: str, host: str | None = None) -> str:
    """Knock with somebody's session, as a browser does for whatever page asks it to."""
    headers = [f"Cookie: {COOKIE}={scene.browser.cookie}"]
    headers += [f"Origin: {origin}" for origin in origins]
    async with scene.wire() as wire:
        return await wire.upgrade(*headers, host=host or scene.server.address)


async def refused_page(scene: Scene, *all_origins: str) -> set[str]:
    """Knock with each origin, many times, after one that is let in."""
    assert await from_page(scene, scene.server.url) == "101"
    answers: set[str] = set()
    for origin in all_origins:
        answers |= set(await at_once(20, partial(from_page, scene, origin)))
    return answers


@attack("handshakes/host")
async def poisoned_host(scene: Scene) -> set[str]:
    """Who has a token needs no name of ours; a page's Origin is not made ours by another Host."""
    async with scene.wire() as wire:
        assert await wire.upgrade(bearer(scene.lane().token), host="evil.example") == "101"
    hosts = ("evil.example", f"{scene.server.address}@evil.example", f"evil.example:{1 << 70}", "[")
    answers = {await from_page(scene, scene.server.url, host=host) for host in hosts}
    doubled = f"{scene.server.address}\r\nHost: evil.example"
    answers.add(await from_page(scene, "http://evil.example", host=doubled))
    return answers


@attack("handshakes/origin-evil")
async def evil_origin(scene: Scene) -> set[str]:
    return await refused_page(scene, "http://evil.example", "https://evil.example:8000", "x", "")


@attack("handshakes/origin-null")
async def null_origin(scene: Scene) -> set[str]:
    return await refused_page(scene, "null")


@attack("handshakes/origin-suffix")
async def suffixed_origin(scene: Scene) -> set[str]:
    ours, port = scene.server.url, scene.server.port
    return await refused_page(
        scene,
        *(f"{ours}.evil.example", f"http://{LOOPBACK}.evil.example:{port}", f"{ours}@evil.example"),
        *(f"http://evil-{LOOPBACK}:{port}", f"http://evil.example/{ours}", f"{ours}/x"),
    )


@attack("handshakes/origin-port")
async def ported_origin(scene: Scene) -> set[str]:
    near = scene.server.port + 1
    return await refused_page(scene, f"http://{LOOPBACK}:{near}", f"http://{LOOPBACK}")


@attack("handshakes/origin-twice")
async def doubled_origin(scene: Scene) -> set[str]:
    ours = scene.server.url
    assert await from_page(scene, ours) == "101"
    pairs = [(ours, ours), (ours, "http://evil.example"), ("http://evil.example", ours)]
    answers = [await at_once(20, partial(from_page, scene, *pair)) for pair in pairs]
    return set().union(*answers)


# --- HTTP's own ----------------------------------------------------------------------------------


@attack("http/pipelined")
async def pipelined(scene: Scene) -> set[str]:
    async with scene.wire() as wire:
        last = request("GET /healthz", "Connection: close")
        await wire.push(request("GET /healthz") * 499 + last)
        answers = [await answer(wire) for _ in range(500)]
        assert await wire.ended() == "closed"
    return set(answers)


async def answer(wire: Wire) -> str:
    """Return the status of an answer that tells its length, and take its body."""
    head = await wire.reader.readuntil(b"\r\n\r\n")
    length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
    await wire.reader.readexactly(int(length))
    return head[9:12].decode()


@attack("http/endless-chunks")
async def endless_chunks(scene: Scene) -> set[str]:
    token = scene.lane().token
    answers: set[str] = set()
    for chunk in (b"10000\r\n" + b" " * 65536 + b"\r\n", b"1\r\n \r\n" * 10_000):
        async with scene.wire() as wire:
            head = ("Transfer-Encoding: chunked", "Content-Type: application/json")
            await wire.push(request("POST /api/threads", bearer(token), *head))
            answering = asyncio.create_task(wire.status())
            while not answering.done():
                await wire.push(chunk)
                await asyncio.wait([answering], timeout=0.001)
            answers.add(await answering)
    return answers


@attack("http/trickling-body")
async def trickling_body(scene: Scene) -> set[str]:
    async with scene.wire() as wire:
        head = ("Content-Length: 10000", "Content-Type: application/json")
        await wire.push(request("POST /api/threads", bearer(scene.lane().token), *head))
        ending = asyncio.create_task(wire.ended())
        while not ending.done():
            await wire.push(b" ")
            await asyncio.wait([ending], timeout=0.1)
        return {await ending}


@attack("http/unread-answer", kind="other")
async def unread_answer(scene: Scene) -> set[str]:
    lane = scene.lane()
    for number in range(STORED_BYTES // 600_000):
        await lane.play("t", f"r-{number}", "x" * 600_000)
    async with scene.wire(is_lazy=True) as wire:
        await wire.push(request("GET /api/threads/t", bearer(lane.token)))
        assert await wire.status() == "200"
        own_port = wire.writer.get_extra_info("sockname")[1]
        await wait_until_let_go(scene.server, own_port, within_s=LET_GO_WITHIN_S)
        return {await wire.ended()}


HISTORY_BYTES = 16 << 20


@attack("http/large-histories")
async def large_histories(scene: Scene) -> set[str]:
    """What somebody claims that was said is kept for its run; each of another user."""
    said = [{"role": "user", "content": "word, " * 10_000}, {"role": "assistant", "content": "x"}]
    history = said * (HISTORY_BYTES // 60_000)
    asked = {"model": "script", "messages": [*history, {"role": "user", "content": "word"}]}
    body = json.dumps(asked).encode()

    async def one() -> str:
        async with scene.wire() as wire:
            headers = (bearer(scene.lane().token), f"Content-Length: {len(body)}")
            await wire.push(request("POST /v1/chat/completions", *headers, body=body))
            return await wire.status()

    return set(await asyncio.gather(*(one() for _ in range(4))))


LISTS = (
    (b'{"messages":[', b"[],", b"[]]}"),
    (b'{"messages":[', b'{"id":"","role":"user"},', b"{}]}"),
    (b'{"messages":["', b"word, ", b'"]}'),
    (b'{"messages":["', b"\\n", b'"]}'),
    (b'{"messages":["', b"\\ud800", b'"]}'),
    (b'{"messages":["', b"a line\\n", b'"]}'),
    (b'{"messages":["', b"half\\ud800", b'"]}'),
    (b'{"messages":["', b"x", b'\xff"]}'),
)
"""How a body begins, what it goes on with for as long as it may, and how it ends."""


@attack("http/large-lists")
async def large_lists(scene: Scene) -> set[str]:
    """Each of another user: one has to wait after the first."""
    size = Settings().limit_request_bytes
    answers: set[str] = set()
    for head, piece, end in LISTS:
        body = head + piece * ((size - len(head) - len(end)) // len(piece)) + end
        async with scene.wire() as wire:
            headers = (bearer(scene.lane().token), f"Content-Length: {len(body)}")
            await wire.push(request("POST /agui", *headers, body=body))
            answers.add(await wire.status())
    async with scene.wire() as wire:
        length = f"Content-Length: {size + 1}"
        await wire.push(request("POST /agui", bearer(scene.lane().token), length))
        answers.add(await wire.status())
    return answers
