"""Agents that do what a host may: they ask the factory of the process that serves them.

Served as `--agent name=host_agents:attribute`. Whoever serves them has a hasty sweeper.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final

from isolane import (
    UserExecutionContext,
    create_websocket_manager,
    get_websocket_manager_factory,
)
from isolane.sockets.factory import WebSocketManagerFactory

if TYPE_CHECKING:
    from ag_ui.core import RunAgentInput

SWEEP_INTERVAL_S: Final = 0.4
_factory_defaults = WebSocketManagerFactory.__init__.__kwdefaults__
assert _factory_defaults is not None
# Agents are loaded before a factory is made, and no setting has the sweeper's pace.
_factory_defaults["sweep_interval_s"] = SWEEP_INTERVAL_S

FILLS: Final = (4 << 20, 1, 1)
"""How much each frame of a `teller` carries: the first is more than a socket's buffers hold."""


async def leaver(
    input: RunAgentInput,  # noqa: A002  # AG-UI's name for it
    context: UserExecutionContext,
) -> AsyncIterator[str]:
    """Ask for a manager, on behalf of no socket, and leave it."""
    del input
    await create_websocket_manager(UserExecutionContext(user_id=context.user_id).for_thread("left"))
    yield "left"


async def teller(
    input: RunAgentInput,  # noqa: A002
    context: UserExecutionContext,
) -> AsyncIterator[str]:
    """Send frames to the user's sockets, all at once, and tell what became of each.

    A socket that nobody reads takes the first, which fills its buffers. The next one is on its way
    then, and the last one waits in line.
    """
    del input
    factory, user_id = get_websocket_manager_factory(), context.user_id
    sendings = (
        factory.send_to_user(user_id, {"type": "notice", "fill": "x" * size}) for size in FILLS
    )
    yield json.dumps(await asyncio.gather(*sendings))
