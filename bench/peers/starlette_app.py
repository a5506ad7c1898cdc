"""Stock Starlette on uvicorn: it sends the same frames, and keeps nothing."""

from __future__ import annotations

import asyncio

from pace import produce, to_text
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect


async def serve_socket(socket: WebSocket) -> None:
    """Speak as each text asks, until the client goes."""
    await socket.accept()
    tasks: list[asyncio.Task[None]] = []
    try:
        while True:
            asked = await socket.receive_text()
            speaking = produce(socket.send_text, to_text, asked)
            tasks.append(asyncio.create_task(speaking))
    except WebSocketDisconnect:
        for task in tasks:
            task.cancel()


app = Starlette(routes=[WebSocketRoute("/ws", serve_socket)])
