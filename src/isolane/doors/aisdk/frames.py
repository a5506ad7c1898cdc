"""Frames of a chat socket with whole lists of messages; large frames are read in turn.

A frame above `frameBytes` is read further when there is room for it, like a body over HTTP. One
such frame per user is in memory, and all users together have a bound.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Final

from isolane.doors.aisdk.chats import load_known
from isolane.doors.bodies import GRACE_S, LEAST_BYTES_S, SENT_PER_NEW, come_in_time
from isolane.doors.handshake import Message, Receive
from isolane.doors.parts import Intake
from isolane.doors.rate import pace
from isolane.doors.room import SMALL_BYTES
from isolane.doors.transport import CONTENT, LARGE
from isolane.errors import TooLarge
from isolane.runs import AgentService
from isolane.sockets.connection import WebSocketConnection
from isolane.wire.frames import decode_object
from isolane.wire.lists import WholeList, find_request_id

PLACE: Final = "isolane.place"
"""Key of a message for its reserved place."""
WHOLE: Final = "isolane.whole"
"""Key of a long message for its list, until the new part is known."""


@dataclass(eq=False, slots=True)
class _Place:
    """The reserved place of a large frame."""

    room: AsyncExitStack = field(default_factory=AsyncExitStack)
    """The reserved room for the new part, held until the frame is done."""
    hall: AsyncExitStack = field(default_factory=AsyncExitStack)
    """The reserved hall for the whole frame, held until the new part is known."""


class ChatFrames:
    """Reads the frames of one socket."""

    def __init__(
        self,
        connection: WebSocketConnection,
        intake: Intake,
        service: AgentService,
        *,
        most_bytes: int,
    ) -> None:
        """Begin with a socket from which nothing was read; a frame has `most_bytes` at most."""
        self._connection = connection
        self._intake = intake
        self._service = service
        self._new_bytes = intake.frame_bytes
        self._most_bytes = most_bytes
        self._places: set[_Place] = set()

    async def receive(self, receive: Receive) -> Message:
        """Return the socket's next message; a large frame waits unread for its place.

        `release` gives the place back. Safe to cancel.

        Raises:
            Unavailable: Others wait, and the frame comes too slowly.
        """
        message = await receive()
        if message["type"] == LARGE:
            place = await self._take_place()
            try:
                message = await come_in_time(receive(), self._intake.hall, is_slow=self._is_slow)
            except BaseException:
                await self._give_back(place)
                raise
            message[PLACE] = place
            if CONTENT not in message:
                await self._give_back(message.pop(PLACE))
        elif self._is_large(message.get("text") or ""):  # a server that announces no large messages
            place = await self._take_place()
            content = await self._intake.read_beside(message["text"].encode)
            return {"type": message["type"], CONTENT: content, PLACE: place}
        return message

    def check_size(self, message: Message) -> None:
        """Check the size of a frame.

        Raises:
            TooLarge: It has more bytes than any frame may have.
        """
        size = len(message.get(CONTENT, b""))
        if size > self._most_bytes:
            raise TooLarge(f"a frame may have {self._most_bytes} bytes, this one has {size}")

    async def look_at(self, message: Message) -> Mapping[str, Any]:
        """Return a frame; of a long one only the fields beside its messages.

        Errors are those of `WholeList` and `decode_object`.
        """
        user_id, content = self._connection.user_id, message.get(CONTENT)
        if content is not None:
            await pace(self._intake.limits, user_id, len(content) // SENT_PER_NEW)
        else:
            text = message["text"]
            await pace(self._intake.limits, user_id, _size_of(text))
            if len(text) <= SMALL_BYTES:
                return decode_object(text)
            content = text.encode()
        whole = await self._intake.read_beside(WholeList, content, max_bytes=self._new_bytes)
        message[WHOLE] = whole
        return whole.rest

    async def read(self, message: Message, looked_at: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a whole frame; a long one has placeholders for messages that the chat has.

        The list is released afterwards. Errors are those of `WholeList.pick_turn` and
        `NewPart.read`.
        """
        whole: WholeList | None = message.pop(WHOLE, None)
        if whole is None:
            return looked_at
        body = whole.rest.get("body")
        run_id = body.get("runId") if isinstance(body, dict) else None
        context = self._connection.context
        known = await load_known(self._service, context, whole.rest.get("id"), run_id=run_id)
        new = await self._intake.read_beside(whole.pick_turn, known)
        del whole  # the list is large, and its place is free for others
        if message.pop(CONTENT, None) is not None:
            await message[PLACE].hall.aclose()
            await pace(self._intake.limits, self._connection.user_id, len(new.text))
        return await self._intake.read_beside(new.read)

    async def find_request_id(self, message: Message) -> str | None:
        """Return the `requestId` of a long frame that was refused as a whole, or None."""
        content = message.get(CONTENT) or (message.get("text") or "").encode()
        if len(content) <= SMALL_BYTES:
            return None
        return await self._intake.read_beside(find_request_id, content)

    async def release(self, message: Message) -> None:
        """Release a finished message, and give its place back."""
        place = message.pop(PLACE, None)
        message.clear()  # the task that waits for the next message still holds this one
        if place is not None:
            await self._give_back(place)

    async def close(self) -> None:
        """Give everything back."""
        for place in tuple(self._places):
            await self._give_back(place)

    def _is_large(self, text: str) -> bool:
        return len(text) > self._new_bytes or _size_of(text) > self._new_bytes

    async def _take_place(self) -> _Place:
        """Reserve room, then the hall, as bodies do, because otherwise both would wait."""
        user_id, place = self._connection.user_id, _Place()
        self._places.add(place)
        room, hall = self._intake.room, self._intake.hall
        await place.room.enter_async_context(room.hold(user_id, self._new_bytes))
        await place.hall.enter_async_context(hall.hold(user_id, self._most_bytes))
        return place

    async def _give_back(self, place: _Place) -> None:
        self._places.discard(place)
        await place.hall.aclose()
        await place.room.aclose()

    def _is_slow(self, passed_s: float) -> bool:
        return passed_s > GRACE_S + self._most_bytes / LEAST_BYTES_S


def _size_of(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())
