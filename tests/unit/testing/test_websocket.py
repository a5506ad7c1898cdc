"""The server's side of a socket, under the test's thumb."""

from __future__ import annotations

import asyncio

import pytest

from isolane.testing import ScriptedSocket


def text(words: str) -> dict[str, object]:
    return {"type": "websocket.send", "text": words}


async def test_it_keeps_what_was_sent_apart_by_kind() -> None:
    socket = ScriptedSocket()
    await socket.send(text('{"n":1}'))
    await socket.send({"type": "websocket.close", "code": 1000, "reason": "done"})
    assert [message["type"] for message in socket.sent] == ["websocket.send", "websocket.close"]
    assert (socket.texts, socket.frames) == (['{"n":1}'], [{"n": 1}])
    assert socket.closes == [(1000, "done")]


async def test_it_takes_nothing_until_it_is_let_again() -> None:
    socket = ScriptedSocket()
    socket.is_taking.clear()
    sending = asyncio.create_task(socket.send(text("held")))
    await asyncio.sleep(0)
    assert not sending.done()
    assert socket.sent == []
    socket.is_taking.set()
    await sending
    assert socket.texts == ["held"]


async def test_a_send_that_is_given_up_was_not_taken() -> None:
    socket = ScriptedSocket()
    socket.is_taking.clear()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(socket.send(text("lost")), 0.01)
    socket.is_taking.set()
    await socket.send(text("kept"))
    assert socket.texts == ["kept"]


async def test_it_raises_what_it_was_given_for_as_long_as_it_has_it() -> None:
    socket = ScriptedSocket()
    socket.error = OSError("the peer is gone")
    for _ in range(2):
        with pytest.raises(OSError, match="the peer is gone"):
            await socket.send(text("lost"))
    socket.error = None
    await socket.send(text("kept"))
    assert socket.texts == ["kept"]


async def test_it_counts_how_often_it_was_reset() -> None:
    socket = ScriptedSocket()
    socket.abort()
    assert socket.aborted == 1
