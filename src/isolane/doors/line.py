"""The frames of one socket that wait for their turn, and which of them need not wait."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from isolane.doors.handshake import Message, Receive
from isolane.doors.parts import Intake
from isolane.doors.room import SMALL_BYTES, Room
from isolane.errors import IsolaneError
from isolane.flag import Flag
from isolane.sockets.connection import WebSocketConnection
from isolane.tasks import TaskOwner, end_task
from isolane.wire.frames import Abort, Ping, Run, decode_frame

TURN_FRAMES: Final = 8
"""So many frames that wait are taken in a row; then others have their turn."""
WAITING_MAX: Final = 64
"""So many frames of a socket may wait; nothing more is read of it while they do."""
URGENT_CHARACTERS: Final = 1024
"""An abort or a ping with more than this waits like any other frame."""
PATIENCE_S: Final = 0.25
"""Seconds that a ping waits for the frames before it. Most of them take milliseconds, so that
answers come in the order of the questions; a frame that takes longer holds up no ping."""


class _Frame:
    """A frame that waits, or is just carried out."""

    __slots__ = ("_run_id", "held", "message", "text")

    def __init__(self, message: Message) -> None:
        self.message = message
        self.text: str = message.get("text") or ""
        self.held = len(self.text) if len(self.text) > SMALL_BYTES else 0
        self._run_id: str | None = None

    @property
    def run_id(self) -> str | None:
        """Which run it wants to start. Found once only: a large frame takes a while to read."""
        if self._run_id is None:
            frame = _decode(self.text)
            self._run_id = frame.run_id if isinstance(frame, Run) else ""
        return self._run_id


class Line:
    """The frames of one socket in their order. Who puts one in waits while the line is full."""

    __slots__ = (
        "_busy_since",
        "_changed",
        "_current",
        "_frames",
        "_most",
        "_room",
        "_size",
        "_user_id",
    )

    def __init__(self, most_bytes: int, *, room: Room, user_id: str) -> None:
        """Have room for that many characters; a single frame always has room.

        A large frame needs the user's `room` as well, which all their sockets share.
        """
        self._most = most_bytes
        self._room = room
        self._user_id = user_id
        self._frames: list[_Frame] = []  # a few at most, and a deque takes 760 bytes
        self._size = 0
        self._current: _Frame | None = None
        self._busy_since = 0.0
        self._changed = Flag()

    def __bool__(self) -> bool:
        """Say whether a frame waits."""
        return bool(self._frames)

    async def put(self, message: Message) -> None:
        """Put a frame last in the line, once there is room."""
        frame = _Frame(message)
        while self._frames and not self._has_room(len(frame.text)):
            await self._wait()
        if frame.held:
            await self._room.take(self._user_id, frame.held)
        if self._is_idle:
            self._busy_since = asyncio.get_running_loop().time()
        self._frames.append(frame)
        self._size += len(frame.text)
        self._changed.set()

    def take(self) -> Message | None:
        """Return the next frame, which is carried out until `take` is called again, or None."""
        self.finish()
        if not self._frames:
            return None
        self._current = self._frames.pop(0)
        self._size -= len(self._current.text)
        self._changed.set()
        return self._current.message

    def finish(self) -> None:
        """Say that the frame that was taken is carried out."""
        self._let_go_of(self._current)
        self._current = None
        self._changed.set()

    async def pass_by(self) -> None:
        """Return when all frames are carried out, or don't come to that within `PATIENCE_S`."""
        with suppress(TimeoutError):
            async with asyncio.timeout_at(self._busy_since + PATIENCE_S):
                while not self._is_idle:
                    await self._wait()

    def close(self) -> None:
        """Give back all room: nothing that waits is carried out any more."""
        while self._frames:
            self._let_go_of(self._frames.pop(0))
        self.finish()

    def holds_run(self, run_id: str) -> bool:
        """Say whether a frame that waits, or is just carried out, is to start that run."""
        held = self._frames if self._current is None else (self._current, *self._frames)
        return any(run_id in frame.text and frame.run_id == run_id for frame in held)

    @property
    def _is_idle(self) -> bool:
        return not self._frames and self._current is None

    def _let_go_of(self, frame: _Frame | None) -> None:
        if frame is not None and frame.held:
            self._room.give_back(self._user_id, frame.held)

    def _has_room(self, size: int) -> bool:
        return len(self._frames) < WAITING_MAX and self._size + size <= self._most

    async def _wait(self) -> None:
        self._changed.clear()
        await self._changed.wait()


class FrameWorker:
    """Carries out the frames of one socket one after the other, while more of them are read.

    There is a task for it only while a frame waits: most sockets say nothing most of the time.
    """

    __slots__ = ("_carry_out", "_connection", "_finish", "_tasks", "_work", "line")

    def __init__(
        self,
        connection: WebSocketConnection,
        intake: Intake,
        tasks: TaskOwner,
        *,
        carry_out: Callable[[Message], Awaitable[None]],
        finish: Callable[[Message], Awaitable[None]],
    ) -> None:
        """Begin with nothing read.

        `carry_out` does what a frame asks for. `finish` comes after it, also where the socket was
        closed meanwhile and the frame wasn't carried out.
        """
        self._connection = connection
        self._tasks = tasks
        self._carry_out = carry_out
        self._finish = finish
        self.line = Line(intake.frame_bytes, room=intake.room, user_id=connection.user_id)
        self._work: asyncio.Task[None] | None = None

    async def put(self, message: Message) -> None:
        """Put a frame last in the line, once there is room. Safe to cancel: it isn't there then."""
        await self.line.put(message)
        if self._work is None:
            name = f"frames {self._connection.id}"
            self._work = self._tasks.start(self._carry_out_all(), name=name)

    async def run(self, listen: Callable[[Receive], Awaitable[str]], receive: Receive) -> str:
        """Call `listen`, which puts frames in line, and return its answer once all are carried out.

        Raises what `listen` raises. Safe to cancel: what waits in line isn't carried out then.
        """
        try:
            reason = await listen(receive)
            if self._work is not None:
                await asyncio.wait({self._work})  # what came before the end counts
            return reason
        finally:
            if self._work is not None:
                await end_task(self._work)
            self.line.close()

    async def _carry_out_all(self) -> None:
        """Carry out what waits in line. Where that breaks the socket ends, and nothing waits on."""
        try:
            await self._work_through()
        except Exception as error:  # noqa: BLE001 - the top of the task that carries out frames
            self._connection.fail("what waits in line", error)
            self.line.close()
        finally:
            self._work = None

    async def _work_through(self) -> None:
        taken = 0
        while (message := self.line.take()) is not None:
            taken += 1
            if taken % TURN_FRAMES == 0:
                await asyncio.sleep(0)
            try:
                if not self._connection.is_closing:
                    await self._carry_out(message)
            except Exception as error:  # noqa: BLE001 - what still waits has to be taken
                self._connection.fail("a frame", error)
            self.line.finish()
            await self._finish(message)


def find_urgent(message: Message) -> Abort | Ping | None:
    """Return the frame when it is one that overtakes those that take long, else None."""
    text = message.get("text") or ""
    if len(text) > URGENT_CHARACTERS or not ('"abort"' in text or '"ping"' in text):
        return None
    frame = _decode(text)
    return frame if isinstance(frame, Abort | Ping) else None


def _decode(text: str) -> object:
    """Return the frame that `text` is; None for none, of which the client is told in its turn."""
    try:
        return decode_frame(text)
    except IsolaneError:
        return None
