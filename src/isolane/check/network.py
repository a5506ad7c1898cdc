"""The layers below the conversation: name, TCP, TLS, upgrade, subprotocol, credential.

Name, TCP and TLS are tried with bare connections, because the clients of HTTP and of WebSockets do
all three in one step and tell only that it failed. Everything above goes through those clients.
"""

from __future__ import annotations

import asyncio
import json
import socket as sockets
import ssl
from collections.abc import Sequence
from time import time
from typing import Any, Final

from isolane.check.finding import Below, Broken, Skipped
from isolane.check.lane import Lane
from isolane.check.target import Target, find_secret
from isolane.check.walk import Walk
from isolane.check.wire import AGENT, PATIENCE_S, SUBPROTOCOL, Refusal, Socket, open_socket

_FOREIGN: Final = "isolane-check.v0"
"""A subprotocol that no server has."""
_GARBAGE: Final = "bm90.YQ.dG9rZW4"
_UNAUTHENTICATED: Final = 4401
_DAY_S: Final = 86400


async def check_name(walk: Walk) -> str:
    """The host's name resolves."""
    target = walk.request.target
    try:
        async with asyncio.timeout(PATIENCE_S):
            found = await asyncio.get_running_loop().getaddrinfo(
                target.host, target.port, type=sockets.SOCK_STREAM
            )
    except (OSError, TimeoutError) as error:
        raise Broken(
            f"the name {target.host} does not resolve",
            sent=f"look-up of {target.host}",
            came=error,
            expected="an address",
        ) from error
    addresses = dict.fromkeys(str(place[4][0]) for place in found)
    return ", ".join(addresses)


async def check_tcp(walk: Walk) -> str:
    """The port accepts a connection."""
    target = walk.request.target
    name = await _connect(target, None)
    return f"connected to {name['peer']}"


async def check_tls(walk: Walk) -> str:
    """The certificate is verified."""
    if walk.tls is None:
        raise Skipped("the URL asks for none: what is sent can be read on the way")
    target = walk.request.target
    try:
        certificate = (await _connect(target, walk.tls))["certificate"]
    except ssl.SSLCertVerificationError as error:
        raise Broken(
            f"the certificate is not trusted: {error.verify_message}",
            sent=f"TLS to {target.host}:{target.port}",
            came=error,
            expected=f"a certificate for {target.host} from an authority that this machine trusts",
        ) from error
    except (ssl.SSLError, ConnectionError) as error:
        raise Broken(
            "the port does not speak TLS as it should",
            sent=f"TLS to {target.host}:{target.port}",
            came=error,
            expected="a handshake",
        ) from error
    return _describe(certificate)


async def _connect(target: Target, tls: ssl.SSLContext | None) -> dict[str, Any]:
    """Connect and return facts about the peer.

    Raises:
        Broken: Nobody answers.
    """
    try:
        async with asyncio.timeout(PATIENCE_S):
            _, writer = await asyncio.open_connection(target.host, target.port, ssl=tls)
    except (ssl.SSLError, ConnectionResetError):
        raise
    except (OSError, TimeoutError) as error:
        raise Broken(
            f"no connection to {target.host}:{target.port}",
            sent="SYN",
            came=str(error) or "nothing",
            expected="a connection",
        ) from (error if str(error) else Below(f"no answer in {PATIENCE_S:g} s"))
    peer, certificate = writer.get_extra_info("peername"), writer.get_extra_info("peercert")
    writer.transport.abort()
    return {"peer": peer[0], "certificate": certificate}


def _describe(certificate: dict[str, Any]) -> str:
    issuer = {name: value for ((name, value),) in certificate.get("issuer", ())}
    by = issuer.get("organizationName") or issuer.get("commonName") or "an unnamed authority"
    days = (ssl.cert_time_to_seconds(certificate["notAfter"]) - time()) // _DAY_S
    return f"issued by {by}, valid until {certificate['notAfter']} ({days:.0f} days)"


async def check_upgrade(walk: Walk) -> str:
    """The socket's address answers 101, before any credential is checked."""
    try:
        walk.baseline = await walk.metrics.load()
    except (Skipped, Broken) as reason:
        walk.baseline = reason if isinstance(reason, Skipped) else Skipped(str(reason))
    socket = await open_socket(walk.request.target, walk.tls)
    await socket.close()
    answer = socket.connection.response
    server = None if answer is None else answer.headers.get("server")
    return f"101 from {server or 'a server without a name'}"


async def check_subprotocol(walk: Walk) -> str:
    """The offered subprotocol is selected, and no other one."""
    target, tls = walk.request.target, walk.tls
    for offered in ((SUBPROTOCOL,), (_FOREIGN, SUBPROTOCOL)):
        socket = await open_socket(target, tls, offered=offered)
        await socket.close()
        _check_selected(socket, offered, SUBPROTOCOL)
    try:
        socket = await open_socket(target, tls, offered=(_FOREIGN,))
    except Refusal as refusal:
        _check_status(refusal, 400, "an offer without agui.v1")
        return f"{SUBPROTOCOL} is selected; an offer without it is refused"
    await socket.close()
    raise Broken(
        "a client that doesn't offer agui.v1 is let in",
        sent=f"subprotocols {_FOREIGN}",
        came=f"101, selected {socket.connection.subprotocol}",
        expected="400",
    )


def _check_selected(socket: Socket, offered: Sequence[str], wanted: str | None) -> None:
    selected = [value for name, value in socket.headers if name.lower() == "sec-websocket-protocol"]
    if selected != ([] if wanted is None else [wanted]):
        raise Broken(
            "another subprotocol is selected than should be",
            sent=f"subprotocols {', '.join(offered) or 'none'}",
            came=f"selected {selected}",
            expected=f"selected {wanted}",
        )


def _check_status(refusal: Refusal, status: int, what: str) -> None:
    if refusal.status != status:
        raise Broken(
            f"{what} is refused otherwise", sent=refusal.sent, came=refusal.came, expected=status
        ) from refusal


async def check_credential(walk: Walk) -> str:
    """A missing or bad token is refused, and each valid token is accepted and never repeated."""
    for token, reason in ((None, "missing"), (_GARBAGE, "invalid")):
        await _check_status_of(walk, token, reason)
        await _check_close_of(walk, token, reason)
    for lane in walk.lanes:
        await _check_accepted(lane)
    return f"none and garbage are refused, {len(walk.lanes)} accepted, none repeated"


async def _check_status_of(walk: Walk, token: str | None, reason: str) -> None:
    """A client without a subprotocol gets an HTTP status."""
    sent = f"no subprotocol, {'no token' if token is None else 'a garbage token'}"
    try:
        socket = await open_socket(walk.request.target, walk.tls, offered=(), token=token)
    except Refusal as refusal:
        _check_status(refusal, 401, sent)
        _check_reason(refusal.body, reason, sent)
        return
    await socket.close()
    raise Broken("somebody without a credential is let in", sent=sent, came="101", expected="401")


def _check_reason(body: bytes | str, reason: str, sent: str) -> None:
    try:
        told = json.loads(body)
    except ValueError as error:
        raise Broken("a refusal is no JSON", sent=sent, came=body, expected="a problem") from error
    if (told.get("code"), told.get("reason")) != ("unauthenticated", reason):
        raise Broken("a refusal says another reason", sent=sent, came=told, expected=reason)


async def _check_close_of(walk: Walk, token: str | None, reason: str) -> None:
    """A browser can't read a status, so it gets the upgrade, an error frame and a close."""
    offered = [SUBPROTOCOL] if token is None else [SUBPROTOCOL, f"bearer.{token}"]
    socket = await open_socket(walk.request.target, walk.tls, offered=offered)
    frames, code, _ = await socket.read_to_close()
    _check_selected(socket, offered, SUBPROTOCOL)
    if len(frames) != 1 or code != _UNAUTHENTICATED:
        raise Broken(
            "somebody without a credential is not sent away as they should be",
            sent=f"subprotocols {offered}",
            came=f"{frames}, then close {code}",
            expected=f"one error frame, then close {_UNAUTHENTICATED}",
        )
    _check_reason(json.dumps(frames[0]), reason, f"subprotocols {offered}")


async def _check_accepted(lane: Lane) -> None:
    by_name = [SUBPROTOCOL, f"bearer.{lane.token}"]
    for offered, token, selected in (
        ((), lane.token, None),
        ((SUBPROTOCOL,), lane.token, SUBPROTOCOL),
        (by_name, None, SUBPROTOCOL),
    ):
        socket = await _open_accepted(lane, offered, token)
        _check_selected(socket, ["…" if o.startswith("bearer.") else o for o in offered], selected)
        if any(find_secret(f"{name}: {value}", [lane.token]) for name, value in socket.headers):
            raise Broken("a header of the answer repeats the token", expected="nothing of it")
        await _check_stays(socket, offered)
        await socket.close()


async def _open_accepted(lane: Lane, offered: Sequence[str], token: str | None) -> Socket:
    try:
        socket = await open_socket(lane.target, lane.tls, offered=offered, token=token)
    except Refusal as refusal:
        raise _blame(refusal.came) from refusal
    lane.sockets.append(socket)
    return socket


async def _check_stays(socket: Socket, offered: Sequence[str]) -> None:
    """No refusal follows the upgrade: the next frame is a pong."""
    if not offered:
        return
    try:
        await socket.ask({"type": "hello", "v": 1}, "welcome")
    except Broken as refusal:
        raise _blame(f"{socket.heard[:1]}; {refusal.came}") from refusal


def _blame(came: str) -> Broken:
    hint = (
        f"a token with the scope `{AGENT}`: isolane token --user NAME --scope {AGENT}"
        if "forbidden" in came
        else "a token that this gateway accepts"
    )
    return Broken("the token is not accepted", sent="a token", came=came, expected=hint)
