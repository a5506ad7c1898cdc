"""Connections that keep what comes on them until it is judged: WebSockets and event streams."""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from collections import deque
from contextlib import suppress
from typing import Final

import httpx
from tests.live.client import Frame
from tests.live.lanes.dues import OVER, End
from tests.live.tcp import drop
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

BROKEN: Final[End] = (1006, "")


class Line(ABC):
    """One connection. `moved` is set whenever something comes on it, and when it ends."""

    def __init__(self, moved: asyncio.Event) -> None:
        self.received: deque[str] = deque()
        self.ended: End | None = None
        self._moved = moved
        self._reader = asyncio.create_task(self._read_on())

    @abstractmethod
    async def send(self, frame: Frame) -> None:
        """Say something; what can't be said any more is not, for the end says why."""

    @abstractmethod
    async def pass_fence(self) -> None:
        """Return once the peer has answered, where it can be asked without a frame."""

    async def close(self, *, is_reset: bool = False) -> None:
        """Hang up, and wait until all is read that came before; a reset says no goodbye."""
        if is_reset:
            self.reset()
        else:
            await self._hang_up()
        await asyncio.wait({self._reader})

    @abstractmethod
    def reset(self) -> None:
        """Break the connection: what was on its way is lost."""

    @abstractmethod
    async def _hang_up(self) -> None: ...

    @abstractmethod
    async def _read(self) -> End: ...

    async def _read_on(self) -> None:
        try:
            self.ended = await self._read()
        finally:
            self._moved.set()

    def _keep(self, text: str) -> None:
        self.received.append(text)
        self._moved.set()


class SocketLine(Line):
    """A WebSocket."""

    def __init__(self, websocket: ClientConnection, moved: asyncio.Event) -> None:
        self._websocket = websocket
        super().__init__(moved)

    async def send(self, frame: Frame) -> None:
        with suppress(ConnectionClosed):
            await self._websocket.send(json.dumps(frame))

    async def pass_fence(self) -> None:
        with suppress(ConnectionClosed):
            await (await self._websocket.ping())

    def reset(self) -> None:
        drop(self._websocket.transport, is_reset=True)

    async def _hang_up(self) -> None:
        await self._websocket.close()

    async def _read(self) -> End:
        with suppress(ConnectionClosed):
            while True:
                self._keep(str(await self._websocket.recv()))
        return self._websocket.close_code, self._websocket.close_reason or ""


class StreamLine(Line):
    """An event stream of one thread, whose events come as the envelopes that a socket has."""

    def __init__(self, response: httpx.Response, thread_id: str, moved: asyncio.Event) -> None:
        self._response = response
        self._thread_id = thread_id
        super().__init__(moved)

    async def send(self, frame: Frame) -> None:
        raise TypeError(f"nothing can be said to an event stream: {frame}")

    async def pass_fence(self) -> None:
        return

    def reset(self) -> None:
        self._reader.cancel()

    async def _hang_up(self) -> None:
        self._reader.cancel()  # which closes the response; a stream has no goodbye

    async def _read(self) -> End:
        event_id = ""
        try:
            async for line in self._response.aiter_lines():
                name, _, value = line.partition(": ")
                if name == "id":
                    event_id = value
                elif name == "data":
                    self._keep(self._to_envelope(event_id, value))
        except httpx.TransportError:
            return BROKEN
        finally:
            await self._response.aclose()
        return OVER

    def _to_envelope(self, event_id: str, event: str) -> str:
        if not event_id:  # an error that belongs to no log
            return event
        return f'{{"id":"{event_id}","chunk":{event},"threadId":"{self._thread_id}"}}'
