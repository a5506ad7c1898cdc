"""Functions of `isolane serve` that reach below ASGI. Other servers have none of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from starlette.types import Scope


def get_abort(scope: Scope) -> Callable[[], None] | None:
    """Return a function that resets the connection at once; a close would wait for the peer."""
    extensions: dict[str, Any] = scope.get("extensions", {})
    abort: Callable[[], None] | None = extensions.get("isolane.transport", {}).get("abort")
    return abort


WriteTexts = Callable[[Sequence[str], int], int]
"""Writes texts of a list from an index, each as a message, as many as the socket takes at once. It
returns how many. The next text must be sent by `send`, which waits."""


def get_write_texts(scope: Scope) -> WriteTexts | None:
    """Return the function that writes many texts at once, or None."""
    extensions: dict[str, Any] = scope.get("extensions", {})
    write: WriteTexts | None = extensions.get("isolane.transport", {}).get("write_texts")
    return write


LARGE: Final = "isolane.large"
"""Type of the message that announces a large one. Nothing more of the large one is read until the
app asks for the next message, which is the large message or the end."""
CONTENT: Final = "isolane.content"
"""Key of that next message for its text, as bytes that may be invalid UTF-8."""


def take_large(scope: Scope, *, most_bytes: int, large_bytes: int) -> None:
    """Accept messages of up to `most_bytes` on this socket, and announce large ones.

    A large message has more than `large_bytes`. The function is called before the socket is
    accepted. On other servers their own limit holds, and every message comes as text.
    """
    extensions: dict[str, Any] = scope.get("extensions", {})
    take = extensions.get("isolane.transport", {}).get("take_large")
    if take is not None:
        take(most_bytes=most_bytes, large_bytes=large_bytes)
