"""The removal of threads that were made for one request, some time after their runs ended."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from isolane.context import ThreadKey
from isolane.contracts import Store
from isolane.errors import NotFound
from isolane.runs.service import AgentService

AT_ONCE: Final = 64
"""Maximum number of threads per read."""

CloseThread = Callable[[ThreadKey], Awaitable[None]]
"""Closes the followers of a thread that was deleted."""


async def remove_due(
    store: Store, service: AgentService, close: CloseThread, *, older_than: int
) -> int:
    """Remove the threads of requests that have not changed since `older_than`; return how many.

    `older_than` is in milliseconds since 1970. Cancelling leaves the rest for the next call.
    """
    count = 0
    while True:
        due = await store.load_ended_requests(older_than=older_than, limit=AT_ONCE)
        removed = [await _remove(service, close, key, older_than) for key in due]
        count += sum(removed)
        if not any(removed):  # no thread is left, or all that are left are in use again
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
