# gate: mypy [unused-coroutine]
"""A coroutine that stands alone as a statement: nothing is ever closed."""

from isolane import WebSocketManagerProtocol


async def leave(manager: WebSocketManagerProtocol) -> None:
    manager.close()  # here
