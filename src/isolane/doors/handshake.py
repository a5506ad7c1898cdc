"""Parsing and refusing of WebSocket upgrades. Pure, apart from sending the refusal."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl

from isolane.doors.credentials import get_bearer
from isolane.doors.problems import close_code_of, to_problem
from isolane.errors import InvalidFrame, IsolaneError, Unauthenticated
from isolane.wire.frames import SUBPROTOCOL, encode_frame, error_frame

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

BEARER_PROTOCOL: Final = "bearer."
"""Prefix of a token among the offered subprotocols."""


@dataclass(frozen=True, slots=True)
class Replay:
    """A read-only socket that replays one run from an offset."""

    run_id: str
    offset: str


@dataclass(frozen=True, slots=True)
class Handshake:
    """The parts of one upgrade request."""

    agent: str | None
    offered: tuple[str, ...]
    token: str | None = field(repr=False)
    ticket: str | None = field(repr=False)
    replay: Replay | None
    spoken: str = SUBPROTOCOL
    """The subprotocol of the door in question."""

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol to select: the door's own when it was offered, else None."""
        return self.spoken if self.spoken in self.offered else None

    def check_offer(self) -> None:
        """Check that the client offered the door's subprotocol, or none at all.

        Raises:
            InvalidFrame: It offered only others; the status is 400.
        """
        if self.offered and self.subprotocol is None:
            raise InvalidFrame(f"of the subprotocols only {self.spoken} is spoken here")


def read_handshake(scope: Scope, *, spoken: str = SUBPROTOCOL) -> Handshake:
    """Return the parts of an upgrade at a door whose subprotocol is `spoken`."""
    offered = tuple(scope.get("subprotocols", ()))
    text = scope.get("query_string", b"").decode("latin-1")
    query = dict(reversed(parse_qsl(text, keep_blank_values=True)))
    run_id, offset = query.get("runId"), query.get("offset")
    return Handshake(
        agent=scope.get("path_params", {}).get("agent"),
        offered=offered,
        token=_token(scope, offered),
        ticket=query.get("ticket"),
        replay=Replay(run_id, offset) if run_id is not None and offset is not None else None,
        spoken=spoken,
    )


def _token(scope: Scope, offered: tuple[str, ...]) -> str | None:
    """Return the bearer token of the header, else of the subprotocol.

    A malformed header is invalid.
    """
    token = get_bearer(scope)
    if token is not None:
        return token
    for protocol in offered:
        if protocol.startswith(BEARER_PROTOCOL):
            return protocol.removeprefix(BEARER_PROTOCOL)
    return None


async def refuse(
    scope: Scope, send: Send, handshake: Handshake, error: IsolaneError, error_id: str
) -> None:
    """Refuse an upgrade in a way that its client can read.

    Browsers can't read a refused upgrade. So a client that offered our protocol gets the upgrade,
    one `error` frame and a close code. Every other client gets the HTTP status. At doors of other
    protocols there is no frame, because their clients don't know it.
    """
    if handshake.subprotocol is not None:
        await send({"type": "websocket.accept", "subprotocol": handshake.subprotocol})
        if handshake.spoken == SUBPROTOCOL:
            told = encode_frame(error_frame(error, error_id))
            await send({"type": "websocket.send", "text": told})
        close = {"code": close_code_of(error), "reason": _close_reason(error)}
        await send({"type": "websocket.close", **close})
        return
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": close_code_of(error)})
        return
    status, headers, body = to_problem(error, error_id)
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "websocket.http.response.start", "status": status, "headers": pairs})
    await send({"type": "websocket.http.response.body", "body": json.dumps(body).encode()})


def _close_reason(error: IsolaneError) -> str:
    return error.reason if isinstance(error, Unauthenticated) else error.code
