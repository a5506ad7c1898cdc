"""Routes whose requests are authenticated and counted before their body is read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, Final

from fastapi import Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send

from isolane.contracts import Limits
from isolane.doors.credentials import identify
from isolane.doors.gateway import get_gateway
from isolane.errors import LimitExceeded
from isolane.health.fairness import Turns

LIMIT: Final = "requestsPerUser"
"""Name of the limit of concurrent requests."""
ENDINGS: Final = ("/abort", "/cancel", "/sign-out", "/stop")
"""Last parts of paths that only end something. Such requests are never refused for their number."""
REFUSED_PAUSE_S: Final = 1.0
"""Seconds before a request above the limit is answered, so that a flood is read slowly."""

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class UserRoute(APIRoute):
    """A route that counts each request of a user, up to the last byte of its answer.

    Event streams count as connections instead, from their start. A route that needs no identity
    counts nothing.
    """

    def get_route_handler(self) -> Handler:
        """Return the function that answers a request."""
        handle = super().get_route_handler()
        if not _asks_for_identity(self.dependant):
            return handle
        is_delete = self.methods == {"DELETE"}
        is_ending = is_delete or self.path.endswith(ENDINGS)

        async def handle_of_user(request: Request) -> Response:
            identity = await identify(request)
            if is_ending:
                return await handle(request)
            gateway = get_gateway(request.scope)
            answer = partial(handle, request)
            return await _count(gateway.limits, gateway.turns, identity.user_id, answer)

        return handle_of_user


async def _count(
    limits: Limits,
    turns: Turns,
    user_id: str,
    answer: Callable[[], Coroutine[Any, Any, Response]],
) -> Response:
    """Return the answer to a counted request, or refuse the request."""
    async with AsyncExitStack() as held:
        try:
            await held.enter_async_context(limits.take(user_id, LIMIT))
        except LimitExceeded:
            await asyncio.sleep(REFUSED_PAUSE_S)  # the pause slows a flood down
            raise
        await turns.take(user_id)  # each pass of the event loop begins one request
        response = await answer()
        if getattr(response, "is_connection", False):
            return response
        return _Counted(response, held.pop_all())


class _Counted(Response):
    """An answer whose request counts until it is sent."""

    def __init__(self, response: Response, held: AsyncExitStack) -> None:
        super().__init__()
        self._response = response
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._held:
            await self._response(scope, receive, send)


def _asks_for_identity(dependant: Dependant) -> bool:
    return dependant.call is identify or any(map(_asks_for_identity, dependant.dependencies))
