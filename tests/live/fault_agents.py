"""An agent that says when it spoke; served as `--agent clock=fault_agents:clock`."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ag_ui.core import RunAgentInput


async def clock(input: RunAgentInput) -> AsyncIterator[object]:  # noqa: A002  # AG-UI's name for it
    """Tell the time `events` times, `every_s`, in events of `size` characters; first wait a while.

    The time is the machine's monotonic clock in seconds, so that another process can compare.
    """
    asked = json.loads(str(input.messages[-1].content))
    due_s = time.monotonic() + asked["after_s"]
    for _ in range(asked["events"]):
        await asyncio.sleep(max(due_s - time.monotonic(), 0))
        due_s += asked["every_s"]
        value = {"at_s": time.monotonic(), "fill": "x" * asked["size"]}
        yield {"type": "CUSTOM", "name": "clock", "value": value}
