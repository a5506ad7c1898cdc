"""The WebSocket doors: bare ASGI endpoints, one conversation a socket."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Protocol

import structlog

from isolane.agents import check
from isolane.contracts import Identity
from isolane.contracts import Scope as Rights
from isolane.doors.conversation import AguiConversation
from isolane.doors.credentials import (
    get_address,
    get_headers,
    judge_cookie,
    judge_token,
    make_context,
    require,
    require_agent,
)
from isolane.doors.gateway import Gateway, get_gateway
from isolane.doors.handshake import (
    Handshake,
    Receive,
    Scope,
    Send,
    read_handshake,
    refuse,
)
from isolane.doors.problems import report
from isolane.doors.transport import get_abort, get_write_texts, take_large
from isolane.errors import Unauthenticated
from isolane.ids import new_connection_id
from isolane.sockets.connection import WebSocketConnection
from isolane.sockets.slot import Slot
from isolane.wire.frames import SUBPROTOCOL

_log = structlog.get_logger(__name__)


class Conversation(Protocol):
    """What is done on a socket from its upgrade to its end."""

    async def serve(self, receive: Receive) -> str:
        """Serve until the peer or we hang up; return why, for the log."""
        ...


Converse = Callable[[Gateway, WebSocketConnection, Handshake, str], Conversation]
"""Begins the conversation of a socket that was let in, with an agent by its name."""


def speak_agui(
    gateway: Gateway, connection: WebSocketConnection, handshake: Handshake, agent: str
) -> AguiConversation:
    """Begin a conversation in `agui.v1`."""
    return AguiConversation(gateway, connection, agent=agent, replay=handshake.replay)


class WebSocketDoor:
    """Lets authenticated users in, and sees them out. An ASGI app; it keeps nothing of them."""

    def __init__(
        self,
        *,
        spoken: str = SUBPROTOCOL,
        converse: Converse = speak_agui,
        takes_large: bool = False,
    ) -> None:
        """Speak the subprotocol `spoken`, by `converse`.

        Where it `takes_large`, a frame may be a whole list of messages.
        """
        self._spoken = spoken
        self._converse = converse
        self._takes_large = takes_large

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one socket from its upgrade to its end."""
        await receive()
        handshake = read_handshake(scope, spoken=self._spoken)
        try:
            upgrade = await self._let_in(scope, send, handshake)
        except Exception as error:  # noqa: BLE001 - the door itself: whatever it is, the client is told
            known, error_id = report(error, agent=handshake.agent)
            with suppress(OSError, RuntimeError):
                await refuse(scope, send, handshake, known, error_id)
            return
        del handshake  # its token is kept no longer than it is needed
        await upgrade.serve(receive, converse=self._converse)

    async def _let_in(self, scope: Scope, send: Send, handshake: Handshake) -> _Upgrade:
        """Return an upgrade that may be accepted, with a slot.

        Raises why the upgrade is refused. Users of whom fewer wait go first; whoever waits for that
        has a slot already.
        """
        gateway = get_gateway(scope)
        identity = await _identify(gateway, scope, handshake)
        agent = gateway.service.check_agent(handshake.agent)
        require(identity, Rights.READ)
        if agent == check.NAME:
            require_agent(identity, agent)
        slot = await gateway.sockets.take_slot(identity.user_id)
        try:
            await gateway.turns.take(identity.user_id)
            gateway.check_ready()
            if self._takes_large:
                take_large(
                    scope,
                    most_bytes=gateway.settings.limit_chat_frame_bytes,
                    large_bytes=gateway.settings.limit_frame_bytes,
                )
        except BaseException:
            await gateway.sockets.release(slot)  # a client that takes no answer holds no slot
            raise
        handshake = replace(handshake, token=None, ticket=None)
        return _Upgrade(gateway, scope, send, handshake, identity, slot, agent)


async def _identify(gateway: Gateway, scope: Scope, handshake: Handshake) -> Identity:
    """Return who knocks; of those who can't say, only so many an address are heard."""
    try:
        return await _admit(gateway, scope, handshake)
    except Unauthenticated:
        address = get_address(scope)
        await gateway.turns.take(f"stranger at {address}")  # no user is called so: of a space
        gateway.credentials.strangers.count(address)
        raise


async def _admit(gateway: Gateway, scope: Scope, handshake: Handshake) -> Identity:
    """Return who knocks; the first credential that is present is the one that counts."""
    handshake.check_offer()
    gateway.check_ready()
    if handshake.token is not None:
        return await judge_token(gateway.credentials, handshake.token)
    if handshake.ticket is not None:
        origins = get_headers(scope, b"origin")
        found = await gateway.credentials.tickets.redeem(handshake.ticket, origins=origins)
        return gateway.credentials.check_revoked(found)
    return await judge_cookie(gateway.credentials, gateway.settings, scope, is_write=True)


@dataclass(frozen=True, slots=True)
class _Upgrade:
    """An upgrade that was let in: its slot is reserved, its socket not yet accepted."""

    gateway: Gateway
    scope: Scope
    send: Send
    handshake: Handshake
    identity: Identity
    slot: Slot
    agent: str

    async def serve(self, receive: Receive, *, converse: Converse) -> None:
        """Accept the socket, and serve it until it ends."""
        try:
            await self._serve(receive, converse)
        finally:
            await self.gateway.sockets.release(self.slot)

    async def _serve(self, receive: Receive, converse: Converse) -> None:
        subprotocol = self.handshake.subprotocol
        await self.send({"type": "websocket.accept", "subprotocol": subprotocol})
        connection = self._connect()
        self.gateway.own(self.slot, connection)
        names = {"connection_id": connection.id, "user_id": connection.user_id}
        context = connection.context
        _log.info(
            "connected",
            agent=self.agent,
            spoken=self.handshake.spoken,
            replay=self.handshake.replay is not None,
            request_id=context.request_id,
            parent_request_id=context.parent_request_id,
            **names,
        )
        conversation = converse(self.gateway, connection, self.handshake, self.agent)
        try:
            reason = await conversation.serve(receive)
        except Exception as error:  # noqa: BLE001 - the top of the task that serves a socket
            connection.fail("what comes in", error)
            await connection.close()
            reason = "internal"
        finally:
            await self.gateway.factory.release(connection)
        _log.info("disconnected", reason=reason, **names)

    def _connect(self) -> WebSocketConnection:
        return WebSocketConnection(
            make_context(self.identity, self.scope, connection_id=new_connection_id()),
            self.identity,
            self.send,
            tasks=self.gateway.tasks,
            send_timeout_s=self.gateway.settings.send_timeout_s,
            abort=get_abort(self.scope),
            write_texts=get_write_texts(self.scope),
        )
