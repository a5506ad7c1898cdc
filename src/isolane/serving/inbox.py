"""The messages of a socket that its app hasn't taken yet."""

from __future__ import annotations

from typing import Any

from isolane.flag import Flag


class Inbox:
    """A queue with the methods that uvicorn calls. An `asyncio.Queue` takes 3 KB for its deques."""

    __slots__ = ("_arrived", "_messages")

    def __init__(self) -> None:
        """Begin empty."""
        self._messages: list[Any] = []  # a few at most: nothing more is read while some wait
        self._arrived = Flag()

    def empty(self) -> bool:
        """Say whether no message waits."""
        return not self._messages

    def put_nowait(self, message: Any) -> None:  # noqa: ANN401 - ASGI's
        """Put a message last."""
        self._messages.append(message)
        self._arrived.set()

    async def get(self) -> Any:  # noqa: ANN401 - ASGI's
        """Return the first message, once there is one. Safe to cancel."""
        while not self._messages:
            self._arrived.clear()
            await self._arrived.wait()
        return self._messages.pop(0)
