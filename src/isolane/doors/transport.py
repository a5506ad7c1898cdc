"""What `isolane serve` lets a door do with the line below it. Other servers offer nothing of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from starlette.types import Scope


def get_abort(scope: Scope) -> Callable[[], None] | None:
    """Return what resets the connection at once, where a close would wait for the peer."""
    extensions: dict[str, Any] = scope.get("extensions", {})
    abort: Callable[[], None] | None = extensions.get("isolane.transport", {}).get("abort")
    return abort


WriteTexts = Callable[[Sequence[str], int], int]
"""Writes texts from a place in their list on, each as a message, as many as the socket takes
without waiting; returns how many. The next one must go by `send` then, which waits."""


def get_write_texts(scope: Scope) -> WriteTexts | None:
    """Return what writes many texts at once."""
    extensions: dict[str, Any] = scope.get("extensions", {})
    write: WriteTexts | None = extensions.get("isolane.transport", {}).get("write_texts")
    return write


LARGE: Final = "isolane.large"
"""Type of the message that says that one is coming which is large. Nothing more of that is read
until the app asks for the next message, which is the large one or the end."""
CONTENT: Final = "isolane.content"
"""Where that next message has its text, as bytes that nobody has decoded. They may be no UTF-8."""


def take_large(scope: Scope, *, most_bytes: int, large_bytes: int) -> None:
    """Take messages of up to `most_bytes` from this socket, and say when one is large.

    Large ones have more than `large_bytes`. To be called before the socket is accepted. Elsewhere
    the server's own limit holds, and every message comes as text.
    """
    extensions: dict[str, Any] = scope.get("extensions", {})
    take = extensions.get("isolane.transport", {}).get("take_large")
    if take is not None:
        take(most_bytes=most_bytes, large_bytes=large_bytes)
