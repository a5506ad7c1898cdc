"""Removes the threads of requests, some time after their runs have ended."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from isolane.clock import Clock
from isolane.context import ThreadKey
from isolane.contracts import Store
from isolane.errors import NotFound, chain_of
from isolane.runs.service import AgentService

AT_ONCE: Final = 64
"""Threads that are looked for in one read."""
INTERVAL_MAX_S: Final = 60.0
INTERVAL_MIN_S: Final = 0.25

CloseThread = Callable[[ThreadKey], Awaitable[None]]
"""Ends what follows a thread that was deleted."""

_log = structlog.get_logger(__name__)


async def remove_for_ever(
    store: Store, service: AgentService, close: CloseThread, *, kept_s: float, clock: Clock
) -> None:
    """Remove threads of requests `kept_s` seconds after their runs have ended, until cancelled.

    Each is removed at most a quarter of that time later, or a minute. What another life of the
    gateway has left is removed as well.
    """
    interval_s = min(INTERVAL_MAX_S, max(kept_s / 4, INTERVAL_MIN_S))
    while True:
        await asyncio.sleep(interval_s)  # the pace of removal
        try:
            await remove_due(store, service, close, older_than=clock() - round(kept_s * 1000))
        except Exception as error:  # noqa: BLE001 - whatever it is, the next round must come
            _log.warning("request_removal_postponed", chain=chain_of(error))


async def remove_due(
    store: Store, service: AgentService, close: CloseThread, *, older_than: int
) -> int:
    """Remove the threads of requests that have not changed since `older_than`; return how many.

    `older_than` is in milliseconds since 1970. Cancelling leaves the others for the next round.
    """
    count = 0
    while True:
        due = await store.load_ended_requests(older_than=older_than, limit=AT_ONCE)
        removed = [await _remove(service, close, key, older_than) for key in due]
        count += sum(removed)
        if not any(removed):  # none is left, or those that are left are in use again
            return count


async def _remove(
    service: AgentService, close: CloseThread, key: ThreadKey, older_than: int
) -> bool:
    try:
        if not await service.remove_request(key, older_than=older_than):
            return False
    except NotFound:  # its user deleted it just now
        return False
    await close(key)
    return True
