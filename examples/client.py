"""A client that asks one question and prints the answer, however often its connection drops.

    python client.py ws://127.0.0.1:8000/ws "$(isolane token --user ada)" "What did I say?"

It remembers the id of the newest event it has applied. After a drop it subscribes again after
that id, and sends the same run frame again: a run id that the server knows is never run twice.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from typing import Any, Final
from uuid import uuid4

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

SUBPROTOCOL: Final = Subprotocol("agui.v1")
ARGUMENTS: Final = 3
REFUSED: Final = frozenset({1008, 4401, 4403})
"""Close codes that no other try makes better."""


class RunFailed(Exception):
    """The server won't answer, and asking again the same way is no use."""


class Question:
    """One run of one thread, and how much of its answer was applied."""

    def __init__(self, text: str) -> None:
        """Ask `text` in a thread of its own."""
        self.thread_id = str(uuid4())
        self.run_id = str(uuid4())
        self.last_id: str | None = None
        self.is_answered = False
        message = {"id": str(uuid4()), "role": "user", "content": text}
        self._run = {"threadId": self.thread_id, "runId": self.run_id, "messages": [message]}

    async def resume(self, socket: ClientConnection) -> None:
        """Tell a new connection where to go on; the server takes the run on once."""
        subscribe = {"type": "subscribe", "threadId": self.thread_id}
        if self.last_id is not None:
            subscribe["after"] = self.last_id
        for frame in ({"type": "hello", "v": 1}, subscribe, self._run):
            await socket.send(json.dumps(frame))

    def apply(self, frame: dict[str, Any]) -> str:
        """Take one frame in and return the text that it adds to the answer."""
        if frame.get("type") == "error" and not frame["retryable"]:
            raise RunFailed(f"{frame['code']}: {frame['message']} ({frame['errorId']})")
        if frame.get("type") == "subscribed" and not frame["recovered"]:
            raise RunFailed("what came meanwhile is no longer kept")
        if "chunk" not in frame:  # a control frame
            return ""
        self.last_id, event = frame["id"], frame["chunk"]
        if event["type"] == "RUN_ERROR":
            raise RunFailed(f"{event['code']}: {event['message']}")
        self.is_answered = event["type"] == "RUN_FINISHED"
        return str(event["delta"]) if event["type"] == "TEXT_MESSAGE_CONTENT" else ""


async def ask(address: str, token: str, text: str) -> AsyncIterator[str]:
    """Yield the answer to `text` as it comes. Raises `RunFailed`."""
    question = Question(text)
    headers = {"Authorization": f"Bearer {token}"}
    async for socket in connect(address, additional_headers=headers, subprotocols=[SUBPROTOCOL]):
        try:
            await question.resume(socket)
            async for received in socket:
                yield question.apply(json.loads(received))
                if question.is_answered:
                    return
        except ConnectionClosed as closed:  # the next round of the loop connects again
            if closed.rcvd is not None and closed.rcvd.code in REFUSED:
                raise RunFailed(f"refused: {closed.rcvd.reason}") from closed
        await asyncio.sleep(1)  # who drops us may be starting anew


async def main(address: str, token: str, text: str) -> None:
    """Print the answer."""
    async for piece in ask(address, token, text):
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")


if __name__ == "__main__":
    if len(sys.argv) != ARGUMENTS + 1:
        sys.exit('usage: client.py ADDRESS TOKEN "QUESTION"')
    try:
        asyncio.run(main(*sys.argv[1:]))
    except RunFailed as error:
        sys.exit(str(error))
