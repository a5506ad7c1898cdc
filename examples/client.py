"""A client that asks one question and prints the answer, however often its connection drops.

    python client.py ws://127.0.0.1:8000/ws "$(isolane token --user ada)" "What did I say?"

It remembers the id of the newest event it has applied. After a drop it subscribes again after
that id, and sends the same run frame again: a run id that the server knows is never run twice.
It gives up when the server can't be reached several times in a row.
"""

from __future__ import annotations

import asyncio
import json
import socket as sockets
import ssl
import sys
from collections.abc import AsyncIterator
from typing import Any, Final
from uuid import uuid4

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import (
    ConnectionClosed,
    InvalidHandshake,
    InvalidMessage,
    InvalidStatus,
    InvalidURI,
)
from websockets.typing import Subprotocol

SUBPROTOCOL: Final = Subprotocol("agui.v1")
ARGUMENTS: Final = 3
REFUSED: Final = frozenset({1008, 4401, 4403})
"""Close codes after which another try doesn't help."""
TRIES: Final = 4
"""Connections in a row that may fail. The pause before the next one begins at one second and
doubles."""
OPEN_TIMEOUT_S: Final = 5
INTERRUPTED: Final = 130
"""Exit code of a program that Ctrl-C ended."""


class RunFailed(Exception):
    """The server refuses to answer, and the same question would be refused again."""


class Question:
    """One run of one thread, and the part of its answer that was applied."""

    def __init__(self, text: str) -> None:
        """Ask `text` in a new thread."""
        self.thread_id = str(uuid4())
        self.run_id = str(uuid4())
        self.last_id: str | None = None
        self.is_answered = False
        message = {"id": str(uuid4()), "role": "user", "content": text}
        self._run = {"threadId": self.thread_id, "runId": self.run_id, "messages": [message]}

    async def resume(self, socket: ClientConnection) -> None:
        """Tell a new connection where to continue; the server starts the run only once."""
        subscribe = {"type": "subscribe", "threadId": self.thread_id}
        if self.last_id is not None:
            subscribe["after"] = self.last_id
        for frame in ({"type": "hello", "v": 1}, subscribe, self._run):
            await socket.send(json.dumps(frame))

    def apply(self, frame: dict[str, Any]) -> str:
        """Apply one frame, and return the text that it adds to the answer."""
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
    while not question.is_answered:
        socket = await open_socket(address, token)
        try:
            async for piece in listen(socket, question):
                yield piece
        except ConnectionClosed as closed:  # the loop connects again
            if closed.rcvd is not None and closed.rcvd.code in REFUSED:
                raise RunFailed(f"refused: {closed.rcvd.reason}") from closed
            await asyncio.sleep(1)  # the server may be starting again
        finally:
            await socket.close()


async def listen(socket: ClientConnection, question: Question) -> AsyncIterator[str]:
    """Yield what one connection brings of the answer. Raises `ConnectionClosed`, `RunFailed`."""
    await question.resume(socket)
    while not question.is_answered:
        yield question.apply(json.loads(await socket.recv()))


async def open_socket(address: str, token: str) -> ClientConnection:
    """Connect, at most `TRIES` times. Raises `RunFailed` with what is in the way."""
    headers = {"Authorization": f"Bearer {token}"}
    for attempt in range(TRIES):
        try:
            return await connect(
                address,
                additional_headers=headers,
                subprotocols=[SUBPROTOCOL],
                open_timeout=OPEN_TIMEOUT_S,
                max_size=None,  # the server's frames have a limit of its own, which may be higher
            )
        except (OSError, InvalidHandshake, InvalidURI, ValueError) as error:
            if attempt == TRIES - 1 or not may_pass(error):
                raise RunFailed(f"{explain(error)}: {address}") from error
        await asyncio.sleep(2**attempt)
    raise AssertionError("the last try returns or raises")


def may_pass(error: Exception) -> bool:
    """Say whether another try may succeed, because the server may be starting."""
    if isinstance(error, InvalidStatus):
        return error.response.status_code >= 500  # noqa: PLR2004 - HTTP's faults of a server
    if isinstance(error, (ssl.SSLError, sockets.gaierror)):
        return False
    return isinstance(error, (OSError, InvalidMessage))


def explain(error: Exception) -> str:
    """Return in a few words why there is no connection."""
    match error:
        case InvalidStatus():
            return f"the server answers {error.response.status_code} instead of a WebSocket"
        case ssl.SSLError():
            return f"the server's TLS is not good ({error.reason})"
        case sockets.gaierror():
            return "no such host"
        case TimeoutError():
            return f"no answer within {OPEN_TIMEOUT_S} s"
        # A name with several addresses fails with one error per address.
        case OSError() if "Connect call failed" in str(error):
            return "nobody listens there; start the server, or mend the address"
        case OSError():
            return f"no connection ({error.strerror or error})"
        case InvalidHandshake():
            return "what listens there is no WebSocket server"
        case _:
            return f"the address must be like ws://127.0.0.1:8000/ws ({error})"


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
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
