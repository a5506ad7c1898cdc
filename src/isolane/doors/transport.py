"""What `isolane serve` lets a door do with the line below it. Other servers offer nothing of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.types import Scope


def get_abort(scope: Scope) -> Callable[[], None] | None:
    """Return what resets the connection at once, where a close would wait for the peer."""
    extensions: dict[str, Any] = scope.get("extensions", {})
    abort: Callable[[], None] | None = extensions.get("isolane.transport", {}).get("abort")
    return abort
