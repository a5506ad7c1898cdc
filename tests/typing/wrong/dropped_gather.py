# gate: mypy [unused-awaitable]
"""Awaitables that are gathered and then forgotten."""

import asyncio

from isolane import WebSocketManagerProtocol


async def leave(*managers: WebSocketManagerProtocol) -> None:
    asyncio.gather(*(manager.close() for manager in managers))  # here
