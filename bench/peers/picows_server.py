"""A picows server: the fastest WebSocket server for Python, with one write per event.

`picows_server.py PORT`
"""

from __future__ import annotations

import asyncio
import sys

import uvloop
from pace import produce, to_text
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_create_server


class Listener(WSListener):  # type: ignore[misc] # picows is not installed where types are checked
    """One connection."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []
        self._can_write = asyncio.Event()
        self._can_write.set()

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Keep the transport."""
        self._transport = transport

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Speak as a text asks."""
        if frame.msg_type == WSMsgType.TEXT:
            asked = frame.get_payload_as_ascii_text()
            self._tasks.append(asyncio.create_task(produce(self._send, to_text, asked)))
        elif frame.msg_type == WSMsgType.CLOSE:
            transport.disconnect()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        """Stop speaking."""
        del transport
        for task in self._tasks:
            task.cancel()

    def pause_writing(self) -> None:
        """Wait, because the client reads slowly."""
        self._can_write.clear()

    def resume_writing(self) -> None:
        """Go on."""
        self._can_write.set()

    async def _send(self, text: str) -> None:
        if not self._can_write.is_set():
            await self._can_write.wait()
        self._transport.send(WSMsgType.TEXT, text.encode())


async def main() -> None:
    """Serve on the port that the command line names."""
    server = await ws_create_server(
        lambda _request: Listener(),
        "127.0.0.1",
        int(sys.argv[1]),
        backlog=4096,
        enable_auto_ping=False,
    )
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
