"""python-socketio on uvicorn: it sends the same frames as events of its own protocol."""

from __future__ import annotations

import asyncio

import socketio
from pace import produce, to_mapping

server = socketio.AsyncServer(async_mode="asgi", cors_allowed_origins="*", logger=False)
tasks: dict[str, asyncio.Task[None]] = {}


async def go(sid: str, asked: str) -> None:
    """Speak as a client asks."""

    async def send(event: dict[str, object]) -> None:
        await server.emit("e", event, to=sid)

    tasks[sid] = asyncio.create_task(produce(send, to_mapping, asked))


async def disconnect(sid: str, *_reason: object) -> None:
    """Stop speaking to a client that has gone."""
    task = tasks.pop(sid, None)
    if task is not None:
        task.cancel()


server.on("go", go)
server.on("disconnect", disconnect)
app = socketio.ASGIApp(server)
