"""An agent with the mistake that a server's output tells of."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator


async def agent(input: object) -> AsyncIterator[str]:  # noqa: A002, ARG001 - the field's word
    """Forget an await, and answer all the same."""
    asyncio.sleep(0)  # type: ignore[unused-coroutine]  # the mistake itself
    yield "Done."
