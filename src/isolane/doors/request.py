"""One HTTP request of a user: who asks is known, and counted, before its body is read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Final

from fastapi import Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send

from isolane.doors.credentials import identify
from isolane.doors.gateway import Gateway, get_gateway
from isolane.errors import LimitExceeded

LIMIT: Final = "requestsPerUser"
ENDINGS: Final = ("/abort", "/cancel", "/sign-out", "/stop")
"""Paths of requests that only end something. They are never refused for their number."""
REFUSED_PAUSE_S: Final = 1.0
"""A request above the number is answered after this pause, so that a flood is read no faster."""

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class UserRoute(APIRoute):
    """A route that counts each request as one of its user's, up to the last byte of its answer.

    Event streams count as connections instead, from where they begin. A route that asks for no
    identity stays as it is.
    """

    def get_route_handler(self) -> Handler:
        """Return what answers a request."""
        handle = super().get_route_handler()
        if not _asks_for_identity(self.dependant):
            return handle
        is_delete = self.methods == {"DELETE"}
        is_ending = is_delete or self.path.endswith(ENDINGS)

        async def handle_of_user(request: Request) -> Response:
            gateway = get_gateway(request.scope)
            identity = await identify(gateway, request)
            if is_ending:
                return await handle(request)
            return await _count(gateway, identity.user_id, partial(handle, request))

        return handle_of_user


async def _count(
    gateway: Gateway, user_id: str, answer: Callable[[], Coroutine[Any, Any, Response]]
) -> Response:
    """Return the answer to a request that counts until that is sent, or refuse the request."""
    limits = gateway.limits
    try:
        limits.take(user_id, LIMIT)
    except LimitExceeded:
        await asyncio.sleep(REFUSED_PAUSE_S)  # the answer to who asks too much at once
        raise
    release = partial(limits.give_back, user_id, LIMIT)
    try:
        await gateway.turns.take(user_id)  # each pass of the loop begins one request
        response = await answer()
    except BaseException:
        release()
        raise
    if getattr(response, "is_connection", False):
        release()
        return response
    return _Counted(response, release)


class _Counted(Response):
    """An answer whose request counts until it is sent."""

    def __init__(self, response: Response, release: Callable[[], None]) -> None:
        super().__init__()
        self._response = response
        self._release = release

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._response(scope, receive, send)
        finally:
            self._release()


def _asks_for_identity(dependant: Dependant) -> bool:
    return dependant.call is identify or any(map(_asks_for_identity, dependant.dependencies))
