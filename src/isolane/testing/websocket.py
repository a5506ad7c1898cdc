"""The server's side of a socket in process, under the control of a test."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any


class ScriptedSocket:
    """Keeps what was sent; it can also block, raise or hang.

    `send` and `abort` are the two functions of a `WebSocketConnection`. While `is_taking` is
    cleared, a send hangs. While `error` holds an error, each send raises it.
    """

    def __init__(self) -> None:
        """Begin by taking everything."""
        self.sent: list[dict[str, Any]] = []
        self.is_taking = asyncio.Event()
        self.is_taking.set()
        self.error: Exception | None = None
        self.aborted = 0
        """Count of resets."""

    async def send(self, message: Mapping[str, Any]) -> None:
        """Take one ASGI message. A send that is cancelled while it hangs has taken nothing."""
        await self.is_taking.wait()
        if self.error is not None:
            raise self.error
        self.sent.append(dict(message))

    def abort(self) -> None:
        """Count a reset."""
        self.aborted += 1

    @property
    def texts(self) -> list[str]:
        """The text frames that were taken."""
        return [str(message["text"]) for message in self.sent if "text" in message]

    @property
    def frames(self) -> list[Any]:
        """The JSON values of the text frames."""
        return [json.loads(text) for text in self.texts]

    @property
    def closes(self) -> list[tuple[int, str]]:
        """The closes that were taken, each with code and reason."""
        return [
            (message["code"], message["reason"])
            for message in self.sent
            if message["type"] == "websocket.close"
        ]
