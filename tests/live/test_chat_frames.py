"""Frames of AI SDK's socket that bring a conversation longer than a frame may be elsewhere."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Final

import pytest
import pytest_asyncio
from tests.live.aisdk import AIPage, ai_page
from tests.live.client import run_frame
from tests.live.framing import TEXT
from tests.live.hostile.wire import Wire, frame, wire_to
from tests.live.server import Server
from tests.live.stage import SCRIPT, Lane, shared_server, steps
from tests.live.test_aisdk_socket import (
    Frame,
    error_of,
    hear,
    knock,
    put,
    resume_frame,
    send_frame,
    text_of,
    until,
    url_of,
    user,
)
from websockets.exceptions import ConnectionClosed

from isolane.settings import Settings

pytestmark = pytest.mark.asyncio(loop_scope="module")

FRAME_BYTES: Final = Settings().limit_frame_bytes
CHAT_BYTES: Final = Settings().limit_chat_frame_bytes
LONG: Final = "x" * (3 * FRAME_BYTES // 4)
"""One word; its answer is as long."""
SMALL_BYTES: Final = FRAME_BYTES + 100_000
OLD: Final = {"id": "ai_old", "role": "assistant"}

server = shared_server(SCRIPT)
HEARTBEAT_S: Final = 2.0
beating = shared_server(SCRIPT, env={"ISOLANE_HEARTBEAT_S": str(HEARTBEAT_S)})
small = shared_server(SCRIPT, env={"ISOLANE_LIMIT_CHAT_FRAME_BYTES": str(SMALL_BYTES)})
zipping = shared_server(SCRIPT, env={"ISOLANE_COMPRESSION": "true"})


@pytest.fixture
def lane(server: Server) -> Lane:
    return Lane(server)


@pytest_asyncio.fixture(loop_scope="module")
async def page() -> AsyncIterator[AIPage]:
    async with ai_page() as opened:
        yield opened


def long_frame(size: int, text: str = "word", request_id: str = "q") -> str:
    """Return a frame of so many bytes whose last message is all that is new."""
    said = {**OLD, "parts": [{"type": "text", "text": ""}]}
    frame = send_frame("", request_id=request_id, messages=[said, user(text, f"u-{request_id}")])
    bare = json.dumps(frame)
    return bare.replace('"text": ""', '"text": "' + "x" * (size - len(bare)) + '"', 1)


HALF: Final = long_frame(3 << 20).encode()[: 2 << 20]
REST: Final = long_frame(3 << 20).encode()[2 << 20 :]


async def closed_with(lane: Lane, *frames: str | bytes | list[bytes]) -> int | None:
    """Return the code with which a socket ends for these frames."""
    async with knock(lane) as socket:
        with suppress(ConnectionClosed):
            for frame in frames:
                await socket.send(frame, text=True)
        with pytest.raises(ConnectionClosed):
            await hear(socket)
        return socket.close_code


async def test_published_client_goes_on_behind_a_conversation_longer_than_a_frame(
    lane: Lane, page: AIPage
) -> None:
    where = {"kind": "socket", "url": url_of(lane.server), "token": lane.token}
    await page.order("open", **where)
    for number in range(4):
        begun = len(page.events)
        await page.send(f"{LONG}{number}")
        said = await page.idle(after=begun)
        assert said.error is None
        assert said.answer.strip() == f"{LONG}{number}"
    assert len(json.dumps((await page.state()).messages)) > 5 * FRAME_BYTES
    begun = len(page.events)
    await page.send(steps(["input"]))
    state = await page.idle(after=begun)
    given = json.loads(state.answer)["messages"]
    assert [one["role"] for one in given] == ["user", "assistant"] * 4 + ["user"]
    begun = len(page.events)
    await page.order("regenerate")
    again = await page.idle(after=begun)
    assert again.error is None
    answered = json.loads(again.answer)["messages"]
    assert [one["id"] for one in answered] == [one["id"] for one in given]


@pytest.mark.parametrize("size", [FRAME_BYTES + 1, FRAME_BYTES + 5000, 3 << 20, CHAT_BYTES])
async def test_a_frame_may_have_as_many_bytes_as_the_limit_says(lane: Lane, size: int) -> None:
    async with knock(lane) as socket:
        await put(socket, long_frame(size))
        assert text_of(await until(socket, "end")) == "word "
        await put(socket, resume_frame(request_id="r"))
        assert text_of(await until(socket, "end", "r")) == "word "


async def test_a_frame_in_small_fragments_counts_as_a_whole(lane: Lane) -> None:
    text = long_frame(CHAT_BYTES).encode()
    pieces = [text[start : start + 2000] for start in range(0, len(text), 2000)]
    async with knock(lane) as socket:
        await socket.send(pieces, text=True)
        assert text_of(await until(socket, "end")) == "word "


async def test_a_frame_above_the_limit_is_closed_with_1009(small: Server) -> None:
    text = long_frame(SMALL_BYTES).encode()
    assert await closed_with(Lane(small), text + b" ") == 1009
    assert await closed_with(Lane(small), [text[:100_000], text[100_000:], b" "]) == 1009
    async with knock(Lane(small)) as socket:
        await put(socket, text.decode())
        assert text_of(await until(socket, "end")) == "word "


@pytest.mark.parametrize("size", [FRAME_BYTES // 2, 3 << 20])
@pytest.mark.parametrize(
    "wrong", [{"messages": {}}, {"messages": None}, {"id": "a/b"}, {"type": "talk"}]
)
async def test_a_wrong_long_frame_ends_its_request_only(
    lane: Lane, size: int, wrong: Frame
) -> None:
    async with knock(lane) as socket:
        text = json.dumps(json.loads(long_frame(size)) | wrong)
        await put(socket, text + " " * (size - len(text)))
        assert "invalid_input" in await error_of(socket)
        await put(socket, send_frame("fine", request_id="r"))
        assert text_of(await until(socket, "end", "r")) == "fine "


async def test_more_that_is_new_than_a_frame_ends_its_request_only(lane: Lane) -> None:
    async with knock(lane) as socket:
        for new in ([user(LONG, "a"), user(LONG, "b")], [user("x" * (2 << 20), "c")]):
            await put(socket, send_frame("", messages=new))
            assert "too_large" in await error_of(socket)
        await put(socket, send_frame("", body={"state": {"a": "x" * (2 << 20)}}))
        assert "too_large" in await error_of(socket)
        await put(socket, send_frame("fine"))
        assert text_of(await until(socket, "end")) == "fine "


async def test_a_long_frame_that_is_no_text_ends_the_socket(lane: Lane) -> None:
    text = long_frame(3 << 20).encode()
    assert await closed_with(lane, text[:-100] + b"\xff" + text[-99:]) == 1007
    async with knock(lane) as socket:
        await socket.send(text)
        with pytest.raises(ConnectionClosed):
            await hear(socket)
        assert socket.close_code == 1003


async def test_frames_of_other_sockets_stay_as_they_are(lane: Lane) -> None:
    for size in (FRAME_BYTES + 1, 3 << 20):
        async with lane.connect() as client:
            await client.send(run_frame("t", "r", "x" * size))
            code, _ = await client.closed()
            assert code == 1009


async def begun(wire: Wire, lane: Lane) -> None:
    """Open a chat socket and send the first half of a long frame on it."""
    assert await wire.upgrade(f"Authorization: Bearer {lane.token}", path="/ai/chat") == "101"
    await wire.push(frame(TEXT, HALF, length=len(HALF + REST)))


async def test_long_frames_of_one_user_come_one_after_the_other(beating: Server) -> None:
    """Nobody who waits for the rest of another frame is taken for dead, nor who sends one."""
    lane, other = Lane(beating), Lane(beating)
    async with (
        wire_to(beating.port, is_alive=True) as slow,
        knock(lane) as following,
        knock(other) as neighbour,
        lane.connect() as clock,
    ):
        await begun(slow, lane)
        await put(following, send_frame("first"))
        assert text_of(await until(following, "end")) == "first "
        waiting = asyncio.create_task(following.send(long_frame(CHAT_BYTES, request_id="n")))
        await put(neighbour, long_frame(3 << 20))
        assert text_of(await until(neighbour, "end")) == "word "
        for _ in range(3):  # one more than a peer that lives may leave unanswered
            while json.loads(await clock.socket.recv())["type"] != "ping":
                pass
        await slow.push(REST)
        assert (await slow.words(until=["end"]))[-1] == "end"
        assert text_of(await until(following, "end", "n")) == "word "
        await waiting


async def test_a_socket_that_goes_in_a_long_frame_leaves_its_place(lane: Lane) -> None:
    for _ in range(3):
        async with wire_to(lane.server.port) as wire:
            await begun(wire, lane)
    async with knock(lane) as socket:
        await put(socket, long_frame(3 << 20))
        assert text_of(await until(socket, "end")) == "word "


async def test_compression_leaves_long_frames_alone(zipping: Server) -> None:
    async with knock(Lane(zipping)) as socket:
        assert socket.protocol.extensions == []
        await put(socket, long_frame(3 << 20))
        assert text_of(await until(socket, "end")) == "word "
