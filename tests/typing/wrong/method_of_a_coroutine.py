# gate: mypy [attr-defined]
"""`'coroutine' object has no attribute 'add_connection'`, found before it runs."""

from isolane import UserExecutionContext, WebSocketConnection, create_websocket_manager


async def join(context: UserExecutionContext, connection: WebSocketConnection) -> None:
    await create_websocket_manager(context).add_connection(connection)  # here
