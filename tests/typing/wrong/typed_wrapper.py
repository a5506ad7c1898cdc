# gate: mypy [return-value]
"""A plain wrapper around an async factory: its caller gets a coroutine for a manager."""

from isolane import (
    UserExecutionContext,
    WebSocketManagerProtocol,
    create_websocket_manager,
)


def make_manager(context: UserExecutionContext) -> WebSocketManagerProtocol:
    return create_websocket_manager(context)  # here
