# gate: mypy [misc]
"""The mirror image: `await` on a plain getter."""

from isolane import WebSocketManagerFactory, get_websocket_manager_factory


async def factory() -> WebSocketManagerFactory:
    return await get_websocket_manager_factory()  # here
