"""Frames of one socket are carried out in their order, and each is finished."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from tests.house import Socket, connect

from isolane.doors.handshake import Message, Receive
from isolane.doors.line import FrameWorker
from isolane.doors.room import Room
from isolane.sockets.connection import WebSocketConnection
from isolane.tasks import TaskOwner


class Desk:
    """Notes what is carried out, and what is finished."""

    def __init__(self, connection: WebSocketConnection) -> None:
        self.connection = connection
        self.done: list[str] = []
        self.finished: list[str] = []

    async def carry_out(self, message: Message) -> None:
        if message["text"] == "broken":
            raise KeyError("nobody foresaw this")
        if message["text"] == "close":
            self.connection.request_close()
        self.done.append(message["text"])

    async def finish(self, message: Message) -> None:
        self.finished.append(message["text"])


@pytest.fixture
async def desk() -> AsyncIterator[tuple[Desk, FrameWorker, Socket]]:
    tasks, socket = TaskOwner(), Socket()
    intake: Any = SimpleNamespace(room=Room(), frame_bytes=1 << 20)
    connection = connect(socket, tasks)
    desk = Desk(connection)
    worker = FrameWorker(connection, intake, tasks, carry_out=desk.carry_out, finish=desk.finish)
    yield desk, worker, socket
    await connection.dispose()
    assert len(tasks) == 0


async def work(worker: FrameWorker, *texts: str) -> str:
    """Put these frames in line and say that the peer has left."""

    async def listen(_receive: Receive) -> str:
        for text in texts:
            await worker.put({"type": "websocket.receive", "text": text})
        return "left"

    async def nothing() -> Message:
        raise AssertionError

    return await worker.run(listen, nothing)


async def test_what_came_before_the_end_is_carried_out_in_order(
    desk: tuple[Desk, FrameWorker, Socket],
) -> None:
    desk_, worker, _ = desk
    texts = [str(number) for number in range(20)]
    assert await work(worker, *texts) == "left"
    assert desk_.done == desk_.finished == texts


async def test_frame_that_breaks_ends_the_socket_and_what_waits_is_finished(
    desk: tuple[Desk, FrameWorker, Socket],
) -> None:
    desk_, worker, socket = desk
    await work(worker, "a", "broken", "b")
    assert (desk_.done, desk_.finished) == (["a"], ["a", "broken", "b"])
    await desk_.connection.close()
    assert socket.closes == [(1011, "internal")]


async def test_after_our_close_nothing_is_carried_out(
    desk: tuple[Desk, FrameWorker, Socket],
) -> None:
    desk_, worker, _ = desk
    await work(worker, "a", "close", "b")
    assert (desk_.done, desk_.finished) == (["a", "close"], ["a", "close", "b"])
