# gate: ruff RUF006
"""A task that nobody holds: the collector may take it, and nobody hears of its error."""

import asyncio

from isolane import AgentServiceProtocol


async def recover_later(service: AgentServiceProtocol) -> None:
    asyncio.create_task(service.recover())  # here
