"""Asks an agent that runs elsewhere as a server of AG-UI over HTTP, and passes its events on.

    REMOTE_URL=http://127.0.0.1:9000/agent isolane serve --agent examples.remote:agent

For a framework whose packages don't fit beside Isolane's. `REMOTE_TOKEN`, when it is set, is sent
as `Bearer`. A stop closes the connection, which is how such a server learns of it.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator

import httpx
from ag_ui.core import RunAgentInput


async def agent(input: RunAgentInput) -> AsyncIterator[object]:  # noqa: A002 - AG-UI's name for it
    """Yield the events of the remote run, which has the ids of this one."""
    headers = {"Accept": "text/event-stream"}
    if token := os.environ.get("REMOTE_TOKEN"):
        headers["Authorization"] = f"Bearer {token}"
    body = input.model_dump(mode="json", by_alias=True, exclude_none=True)
    body = {"state": {}, "tools": [], "context": [], "forwardedProps": {}, **body}
    async with (
        httpx.AsyncClient(timeout=httpx.Timeout(10, read=None)) as http,
        http.stream("POST", os.environ["REMOTE_URL"], json=body, headers=headers) as answer,
    ):
        answer.raise_for_status()
        async for line in answer.aiter_lines():
            if line.startswith("data:"):
                yield json.loads(line.removeprefix("data:"))
