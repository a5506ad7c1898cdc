"""The server that `isolane serve` starts: uvicorn, with what it leaves open closed."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import socket
import struct
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Final, cast

import structlog
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame
from websockets.http11 import Request

from isolane.clock import now_ms
from isolane.doors.gateway import STATE_KEY, Gateway
from isolane.settings import Settings

SWITCH_INTERVAL_S: Final = 0.0002
"""How long a thread may hold the interpreter when another wants it. The default of 5 ms is what a
database thread then waits for a busy loop after each statement."""

BYE_S: Final = 3.0

Greet = Callable[[Gateway, str], Awaitable[None]]
"""Called with the gateway and its address once it answers."""

_HEADERS_TOO_LARGE: Final = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    b"Connection: close\r\n"
    b"Content-Length: 0\r\n"
    b"\r\n"
)

_M_ARENA_MAX: Final = -8
"""As malloc.h has it."""
_LINGER_ZERO: Final = struct.pack("ii", 1, 0)
"""SO_LINGER on, 0 s: closing resets the connection."""

_log = structlog.get_logger(__name__)


def reset(transport: asyncio.BaseTransport) -> None:
    """End a connection with a reset: what the peer didn't take is dropped, in the kernel too.

    After a plain abort the kernel goes on offering it, for many minutes, from memory of its own.
    """
    raw = transport.get_extra_info("socket")
    if raw is not None and raw.fileno() >= 0:
        # A descriptor of our own: the loop's stand-in for a socket takes no options.
        with socket.socket(fileno=os.dup(raw.fileno())) as own:
            own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
    cast("asyncio.WriteTransport", transport).abort()


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol, with a hard way out for sockets that take nothing."""

    def handle_connect(self, event: Request) -> None:
        """Offer `isolane.transport` to the app: a reset, where a close would wait for the peer."""
        super().handle_connect(event)
        scope: Any = getattr(self, "scope", None)  # absent when the upgrade was refused
        if scope is not None:
            scope["extensions"]["isolane.transport"] = {"abort": partial(reset, self.transport)}

    def data_received(self, data: bytes) -> None:
        """Answer an upgrade whose headers can't be read; uvicorn would keep it waiting."""
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.handshake_initiated:
            self.transport.write(_HEADERS_TOO_LARGE)
            self.transport.close()

    async def send(self, message: Any) -> None:  # noqa: ANN401 - ASGI's
        """Send, and know that an upgrade refused by a status is answered: uvicorn logs an error."""
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body"):
            self.handshake_complete = True

    def handle_close(self, event: Frame) -> None:
        """Answer a close; behind an unread backlog the answer would wait for ever."""
        super().handle_close(event)
        if not self.writable.is_set():
            reset(self.transport)

    def keepalive_timeout(self) -> None:
        """Reset a peer that answered no ping: there is nobody to say goodbye to."""
        super().keepalive_timeout()
        reset(self.transport)


class HttpProtocol(H11Protocol):
    """uvicorn's HTTP protocol, with the same way out for event streams that nobody reads."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Offer `isolane.transport` to the app, as for sockets."""
        super().connection_made(transport)
        app: Any = self.app
        leave = partial(reset, transport)

        async def app_with_transport(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401
            scope.setdefault("extensions", {})["isolane.transport"] = {"abort": leave}
            await app(scope, receive, send)

        self.app = app_with_transport


class Server(uvicorn.Server):
    """Drains before it stops, and ends with exit code 0."""

    def __init__(self, config: uvicorn.Config, *, greet: Greet | None) -> None:
        """Serve the app of `config`; its lifespan's state holds the gateway."""
        super().__init__(config)
        self._greet = greet
        self._drain: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen, then greet."""
        await super().startup(sockets)
        gateway: Gateway | None = self.lifespan.state.get(STATE_KEY)
        if self.started and self._greet is not None and gateway is not None:
            host, port, *_ = self.servers[0].sockets[0].getsockname()
            name = f"[{host}]" if ":" in host else host
            await self._greet(gateway, f"http://{name}:{port}")

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take the signals over: uvicorn would close with 1012 at once and die of the signal."""
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self._on_signal)
        try:
            yield
        finally:
            for signum in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(signum)

    def _on_signal(self) -> None:
        if self._drain is None:
            self._drain = asyncio.get_running_loop().create_task(self._drain_and_stop())
        else:
            self.should_exit = True

    async def _drain_and_stop(self) -> None:
        try:
            gateway: Gateway | None = self.lifespan.state.get(STATE_KEY)
            if gateway is not None:
                await drain(gateway)
        finally:
            self.should_exit = True


async def drain(gateway: Gateway) -> None:
    """Take nothing new, let runs go on for as long as the settings say, then close with 1001."""
    timeout_s = gateway.settings.drain_timeout_s
    gateway.state = "draining"
    _log.info("draining", timeout_s=timeout_s, runs=gateway.service.active_count)
    gateway.factory.begin_drain(deadline_ms=now_ms() + round(timeout_s * 1000))
    await gateway.service.drain(timeout_s=timeout_s)
    await gateway.factory.shutdown()
    gateway.feed.close()


def share_heap() -> None:
    """Let all threads allocate from one heap, where the C library is glibc.

    It gives each thread a heap of its own, and each keeps what was freed: the database's threads
    held some 3 % more after a thousand connections, of nothing. Small blocks are each thread's own
    still. To be called before there are threads.
    """
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def make_config(app: FastAPI, settings: Settings, *, host: str, port: int) -> uvicorn.Config:
    """Return uvicorn's settings, as they fit the gateway's own."""
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        loop="uvloop",
        http=HttpProtocol,
        ws=WebSocketProtocol,
        ws_max_size=2 * settings.limit_frame_bytes,
        ws_ping_interval=settings.heartbeat_s,
        ws_ping_timeout=settings.heartbeat_s,
        ws_per_message_deflate=False,
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=round(BYE_S),
    )


def serve(
    app: FastAPI, settings: Settings, *, host: str, port: int, greet: Greet | None = None
) -> None:
    """Serve `app` until a signal ends it; returns when everything is closed.

    `greet` is called once the gateway answers, with the address that it answers at.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    share_heap()
    config = make_config(app, settings, host=host, port=port)
    server = Server(config, greet=greet)
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(_run(server))
    if not server.started:
        raise SystemExit(3)


async def _run(server: Server) -> None:
    await server.serve()
    _leave_if_stuck()


def _leave_if_stuck() -> None:
    """End the process when a task swallowed its cancellation: everything is closed already."""
    mine = asyncio.current_task()
    stuck = [task for task in asyncio.all_tasks() if task is not mine and not task.done()]
    if not stuck:
        return
    _log.warning("leaving tasks behind", tasks=sorted(task.get_name() for task in stuck))
    logging.shutdown()
    os._exit(0)
