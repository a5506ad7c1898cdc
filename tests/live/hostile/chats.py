"""AI SDK's socket: too many chats, endless parts, whole lists of nonsense, requests of others."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from tests.live.framing import TEXT
from tests.live.hostile.attack import Scene, attack
from tests.live.hostile.wire import FRAME_BYTES, Wire, frame
from tests.live.stage import Lane, steps

from isolane.settings import Settings
from isolane.wire.frames import VALUES_MAX

CHAT_BYTES: Final = Settings().limit_chat_frame_bytes
CHATS: Final = 1000
RUNS: Final = Settings().limit_runs_per_user
SOCKETS: Final = 20
USERS: Final = 4
ENDS: Final = ("end", "no-active", "limit_exceeded", "invalid_input", "invalid_frame", "too_large")


@asynccontextmanager
async def chat_socket(scene: Scene, lane: Lane) -> AsyncIterator[Wire]:
    async with scene.wire() as wire:
        token = f"Authorization: Bearer {lane.token}"
        assert await wire.upgrade(token, path="/ai/chat") == "101"
        yield wire


def text_part(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def user(*parts: object, message_id: str = "u") -> dict[str, Any]:
    return {"id": message_id, "role": "user", "parts": list(parts)}


def send(request_id: str, *messages: object, chat: str = "t", **more: object) -> bytes:
    said = {"type": "send", "requestId": request_id, "id": chat, "messages": list(messages)}
    return frame(TEXT, json.dumps(said | more))


def resume(request_id: str, chat: str = "t") -> bytes:
    return frame(TEXT, json.dumps({"type": "resume", "requestId": request_id, "id": chat}))


def abort(request_id: str) -> bytes:
    return frame(TEXT, json.dumps({"type": "abort", "requestId": request_id}))


async def answer_to(wire: Wire, *frames: bytes) -> str:
    """Say something, and return how its request ends."""
    for one in frames:
        await wire.push(one)
    return (await wire.words(until=ENDS))[-1]


@attack("chats/thousand")
async def thousand(scene: Scene) -> set[str]:
    """Every one of them is answered."""
    lane = scene.lane()
    async with chat_socket(scene, lane) as wire:
        text = text_part(steps(["hold", lane.user]))
        asked = (send(f"q{n}", user(text), chat=f"c{n}") for n in range(CHATS))
        pushing = asyncio.create_task(wire.push(b"".join(asked)))
        refused = [(await wire.words(until=ENDS))[-1] for _ in range(CHATS - RUNS)]
        await pushing
        await lane.open_gate(lane.user)
        return {*refused, *[(await wire.words(until=ENDS))[-1] for _ in range(RUNS)]}


@attack("chats/request-id-twice")
async def request_id_twice(scene: Scene) -> set[str]:
    lane = scene.lane()
    async with chat_socket(scene, lane) as wire:
        await wire.push(send("q", user(text_part(steps(["say", "a"], ["hold", lane.user])))))
        await wire.words(until=["text-delta"])
        answers = {await answer_to(wire, send("q", user(text_part("b")), chat="other"))}
        await lane.open_gate(lane.user)  # its run went on
        return answers | {await answer_to(wire, resume("r"))}


@attack("chats/foreign-requests")
async def foreign_requests(scene: Scene) -> set[str]:
    """Abort and follow what is another socket's, and another user's."""
    lane = scene.lane()
    async with (
        chat_socket(scene, lane) as wire,
        chat_socket(scene, lane) as beside,
        chat_socket(scene, scene.lane()) as thief,
    ):
        await wire.push(send("q", user(text_part(steps(["say", "a"], ["hold", lane.user])))))
        await wire.words(until=["text-delta"])
        answers = {await answer_to(thief, abort("q"), resume("q"), abort("q"), resume("r"))}
        answers.add(await answer_to(beside, abort("q"), resume("r", "nobody")))
        await lane.open_gate(lane.user)
        said = await wire.words(until=ENDS)
        assert "abort" not in said
        return answers | {said[-1]}


@attack("chats/unknown-frames")
async def unknown_frames(scene: Scene) -> set[str]:
    kinds: list[object] = ["ping", "hello", "subscribe", "chunk", "end", None, 1, [], {}, ""]
    async with chat_socket(scene, scene.lane()) as wire:
        asked = [frame(TEXT, json.dumps({"type": kind, "requestId": "q"})) for kind in kinds]
        nameless = [
            frame(TEXT, json.dumps({"type": "send", "requestId": name}))
            for name in (None, "", 1, "x" * 129)
        ]
        answers = {await answer_to(wire, one) for one in asked}
        await wire.push(b"".join([*nameless, *asked]))
        return answers | set(await wire.words())


@attack("chats/deep-parts")
async def deep_parts(scene: Scene) -> set[str]:
    """Where they are new, and where nobody would look at them."""
    deep = b"[" * 100_000 + b"]" * 100_000
    async with chat_socket(scene, scene.lane()) as wire:
        answers: set[str] = set()
        for role in (b"user", b"assistant"):
            body = b'{"type":"send","requestId":"q","id":"t","messages":[{"id":"d","role":"%b",'
            said = body % role + b'"parts":%b},' % deep
            last = json.dumps(user(text_part("word"))).encode() + b"]}"
            await wire.push(frame(TEXT, said + last))
            answers.add(await answer_to(wire, resume("r")))
        return answers


@attack("chats/many-parts")
async def many_parts(scene: Scene) -> set[str]:
    """Of an assistant nobody takes them."""
    said = {"id": "a", "role": "assistant", "parts": [text_part("x")] * 20_000}
    async with chat_socket(scene, scene.lane()) as wire:
        answers = {await answer_to(wire, send("q", said, user(text_part("word"))))}
        return answers | {await answer_to(wire, send("r", user(*[{}] * 2 * VALUES_MAX)))}


@attack("chats/huge-parts")
async def huge_parts(scene: Scene) -> set[str]:
    huge = text_part("x" * 2 * FRAME_BYTES)
    said = {"id": "a", "role": "assistant", "parts": [huge]}
    async with chat_socket(scene, scene.lane()) as wire:
        answers = {await answer_to(wire, send("q", said, user(text_part("word"))))}
        return answers | {await answer_to(wire, send("r", user(huge)))}


HEAD: Final = b'{"type":"send","requestId":"q","id":"t","messages":['
LISTS: Final = (
    (HEAD, b"[],", b"[]]}"),
    (HEAD, b'{"role":"user"},', b"{}]}"),
    (HEAD + b'"', b"word, ", b'"]}'),
    (HEAD + b'"', b"x", b'"]}'),
    (HEAD + b'"', b"\\n", b'"]}'),
    (HEAD + b'"', b"half\\ud800", b'"]}'),
    (HEAD[:-12] + b'"body":"', "\U0001f600".encode(), b'"}'),
)
"""How a frame begins, what it goes on with for as long as it may, and how it ends."""


def large(head: bytes, piece: bytes, end: bytes) -> bytes:
    return head + piece * ((CHAT_BYTES - len(head) - len(end)) // len(piece)) + end


async def say_large(scene: Scene, content: bytes, fence: Sequence[bytes] = ()) -> str:
    """Say a frame on a socket of a new user, and return what is answered."""
    async with chat_socket(scene, scene.lane()) as wire:
        return await answer_to(wire, frame(TEXT, content), *fence)


@attack("chats/large-frames")
async def large_frames(scene: Scene) -> set[str]:
    """Each of another user: one has to wait after the first."""
    answers = {await say_large(scene, large(*parts)) for parts in LISTS}
    answers.add(await say_large(scene, b"[" * CHAT_BYTES, [resume("r")]))
    async with chat_socket(scene, scene.lane()) as wire:
        await wire.push(frame(TEXT, large(HEAD + b'"', b"x", b'\xff"]}')))
        answers.add(await wire.end())
    async with chat_socket(scene, scene.lane()) as wire:
        await wire.push(frame(TEXT, b" " * 65536, length=CHAT_BYTES + (1 << 20)))
        answers.add(await wire.end())
    return answers


@attack("chats/large-frames-at-once")
async def large_frames_at_once(scene: Scene) -> set[str]:
    """Fill all sockets of a user, and leave when the first one is answered."""
    content, lane = large(*LISTS[3]), scene.lane()

    async def one() -> str:
        async with chat_socket(scene, lane) as wire:
            return await answer_to(wire, frame(TEXT, content))

    sockets = [asyncio.create_task(one()) for _ in range(SOCKETS)]
    try:
        done, _ = await asyncio.wait(sockets, return_when=asyncio.FIRST_COMPLETED)
        return {await each for each in done}
    finally:
        for each in sockets:
            each.cancel()
        await asyncio.wait(sockets)


@attack("chats/large-frames-of-many")
async def large_frames_of_many(scene: Scene) -> set[str]:
    content = large(*LISTS[3])
    return set(await asyncio.gather(*(say_large(scene, content) for _ in range(USERS))))
