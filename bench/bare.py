"""The yardstick: a server that only sends. `python bare.py PORT`.

It has the same uvicorn settings and the same frames as Isolane, but no identity, no log and no
resume.
"""

from __future__ import annotations

import sys
from typing import Any
from uuid import uuid4

import msgspec
import uvicorn
from pace import Pace
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect


class Stream:
    """One run, whose events are numbered and put into envelopes like Isolane's."""

    def __init__(self, socket: WebSocket, frame: dict[str, Any]) -> None:
        """Answer the run frame from `socket`."""
        self._socket = socket
        self._pace = Pace.parse(frame["forwardedProps"])
        self._names = {"threadId": frame["threadId"], "runId": frame["runId"]}
        self._epoch = uuid4().hex[:16]
        self._seq = 0

    async def run(self) -> None:
        """Send the run from its first event to its last."""
        message = {"messageId": f"msg_{uuid4()}"}
        await self._send({"type": "RUN_STARTED", **self._names})
        await self._send({"type": "TEXT_MESSAGE_START", **message, "role": "assistant"})
        for number in range(self._pace.events):
            delta = await self._pace.wait(number)
            await self._send({"type": "TEXT_MESSAGE_CONTENT", **message, "delta": delta})
        await self._send({"type": "TEXT_MESSAGE_END", **message})
        await self._send({"type": "RUN_FINISHED", **self._names, "outcome": {"type": "success"}})

    async def _send(self, chunk: dict[str, Any]) -> None:
        self._seq += 1
        envelope = {"id": f"{self._epoch}-{self._seq}", "chunk": chunk, **self._names}
        await self._socket.send_text(msgspec.json.encode(envelope).decode())


async def serve_socket(socket: WebSocket) -> None:
    """Answer each run frame in turn until the client goes."""
    await socket.accept()
    try:
        while True:
            await Stream(socket, msgspec.json.decode(await socket.receive_text())).run()
    except WebSocketDisconnect:
        return


def main() -> None:
    """Serve on the port that the command line names."""
    uvicorn.run(
        Starlette(routes=[WebSocketRoute("/ws", serve_socket)]),
        port=int(sys.argv[1]),
        loop="uvloop",
        ws="websockets-sansio",
        ws_per_message_deflate=False,
        access_log=False,
        log_level="warning",
        server_header=False,
    )


if __name__ == "__main__":
    main()
