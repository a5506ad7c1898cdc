# gate: ensure
"""A factory that came from a configuration, so it is Any: no type checker sees the coroutine."""

from typing import Any

from isolane import WebSocketManagerProtocol, ensure


async def _make_manager() -> object:
    return object()


def enter() -> WebSocketManagerProtocol:
    configured: dict[str, Any] = {"factory": _make_manager}
    manager: WebSocketManagerProtocol = configured["factory"]()
    return ensure(manager, WebSocketManagerProtocol)  # here
