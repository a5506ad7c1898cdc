"""The server that `isolane serve` starts: uvicorn, with our protocols and a drain."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from importlib.metadata import version
from typing import Any, Final, cast

import structlog
import uvicorn
from fastapi import FastAPI

from isolane.clock import now_ms
from isolane.doors.gateway import STATE_KEY, Gateway
from isolane.errors import IsolaneError, chain_of
from isolane.health.output import finish_writing, write_beside
from isolane.serving.http import HEADERS_MAX, HttpProtocol
from isolane.serving.listening import BACKLOG, open_sockets
from isolane.serving.process import freeze_startup_objects, tune_process
from isolane.serving.systemd import ADDRESS_VARIABLE, READY, STOPPING, notify
from isolane.serving.websocket import WebSocketProtocol
from isolane.settings import Settings

BYE_S: Final = 3.0
"""Seconds that connections have to end after the drain."""
BYE_SPREAD_S: Final = 2.0
"""Seconds over which the closes of many sockets are spread, because all their clients come back."""
DEFLATES_FROM: Final = 17
"""First release of websockets that refuses every compressed frame that it should refuse. Older
releases also answer a client that asks for the smallest window with 500."""
ACCEPTS_EACH_PASS: Final = 16
"""Connections that are accepted in one pass of the event loop. With thousands of new connections a
pass takes milliseconds, and with one accept per pass the last client would wait for seconds."""

Greet = Callable[[Gateway, str], Awaitable[None]]
"""Function that is called with the gateway and its address once the gateway answers."""

_log = structlog.get_logger(__name__)


class StartFailed(Exception):
    """The gateway can't be opened, or can't go on; the text is one sentence for the operator."""


class Server(uvicorn.Server):
    """uvicorn's server, with a drain before it stops. The exit code is 0."""

    def __init__(
        self, config: uvicorn.Config, *, greet: Greet | None, systemd_address: str | None = None
    ) -> None:
        """Serve the FastAPI app of `config`, whose lifespan opens the gateway."""
        super().__init__(config)
        self._greet = greet
        self._systemd_address = systemd_address
        self._state: Mapping[str, Any] = {}
        self._drain: asyncio.Task[None] | None = None

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the gateway, serve it until a signal, and close it.

        uvicorn would open the gateway, too, but it logs a traceback instead of a sentence.

        Raises:
            StartFailed: The gateway can't be opened, or ends because it can't serve any more.
        """
        app: FastAPI = cast("Any", self.config.app)
        with self.capture_signals():
            async with AsyncExitStack() as stack:
                try:
                    opened = await stack.enter_async_context(app.router.lifespan_context(app))
                except Exception as error:
                    raise StartFailed(_to_sentence(error)) from error
                self._state = opened or {}
                gateway = self._gateway
                if gateway is None:  # a host's app may be served, too
                    return await self._serve(sockets)
                leaving = asyncio.create_task(self._end_with(gateway), name="end of the gateway")
                stack.callback(leaving.cancel)
                await self._serve(sockets)
                cause = gateway.draining.cause
        if cause is not None:
            raise StartFailed(_to_sentence(cause)) from cause
        return None

    async def _end_with(self, gateway: Gateway) -> None:
        """Begin the drain when the gateway itself finds that it can't serve any more."""
        await gateway.draining.wait()
        if self._drain is None:
            self._on_signal(signal.SIGTERM)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections, tell systemd, and then greet."""
        self.lifespan.state.update(self._state)
        await super().startup(sockets)
        await self._accept_more()
        if self.started:
            notify(self._systemd_address, READY)
        gateway = self._gateway
        if self.started and self._greet is not None and gateway is not None:
            host, port, *_ = self.servers[0].sockets[0].getsockname()
            name = f"[{host}]" if ":" in host else host
            await self._greet(gateway, f"http://{name}:{port}")

    @property
    def _gateway(self) -> Gateway | None:
        gateway: Gateway | None = self._state.get(STATE_KEY)
        return gateway

    async def _accept_more(self) -> None:
        """Accept more than one connection per pass of the loop.

        libuv accepts one connection per listener and pass, so each listener is duplicated.
        """
        listeners = [each for server in self.servers for each in server.sockets]
        for listener in listeners * (ACCEPTS_EACH_PASS - 1):
            twin = socket.socket(fileno=os.dup(listener.fileno()))
            self.servers.append(
                await asyncio.get_running_loop().create_server(
                    self._make_protocol, sock=twin, backlog=self.config.backlog
                )
            )

    def _make_protocol(self) -> asyncio.Protocol:
        make = cast("Callable[..., asyncio.Protocol]", self.config.http_protocol_class)
        return make(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals: uvicorn would close with 1012 at once, and end by the signal."""
        loop = asyncio.get_running_loop()
        taken = _get_stop_signals()
        for signum in taken:
            loop.add_signal_handler(signum, self._on_signal, signum)
        try:
            yield
        finally:
            for signum in taken:
                loop.remove_signal_handler(signum)

    def _on_signal(self, signum: signal.Signals) -> None:
        gateway = self._gateway
        if self._drain is None:
            notify(self._systemd_address, STOPPING)
            self._drain = asyncio.get_running_loop().create_task(self._drain_and_stop(gateway))
        # A terminal that closes may send several SIGHUP, and none of them asks to hurry.
        elif gateway is not None and signum != signal.SIGHUP:
            _log.info("hurrying")
            gateway.service.hurry()

    async def _drain_and_stop(self, gateway: Gateway | None) -> None:
        try:
            if gateway is not None:
                await drain(gateway)
        finally:
            self.should_exit = True


def _get_stop_signals() -> list[signal.Signals]:
    """Return the signals that begin a drain. A process under `nohup` goes on ignoring SIGHUP."""
    asked = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        asked.append(signal.SIGHUP)
    return asked


def _to_sentence(error: Exception) -> str:
    """Return one line that says why the gateway can't be opened."""
    said = next(iter(str(error).splitlines()), "")  # SQLAlchemy adds a line with a link
    if isinstance(error, IsolaneError):
        return said
    return f"The gateway can't be opened: {said or type(error).__name__}"


async def drain(gateway: Gateway) -> None:
    """Accept no more work, wait for runs up to `drain_timeout_s`, then close sockets with 1001."""
    timeout_s = gateway.settings.drain_timeout_s
    _log.info("draining", timeout_s=timeout_s, runs=gateway.service.active_count)
    gateway.sockets.begin_drain(deadline_ms=now_ms() + round(timeout_s * 1000))
    try:
        await gateway.service.drain(timeout_s=timeout_s)
    except Exception as error:  # noqa: BLE001 - after any error the sockets must still be closed
        _log.error("drain_failed", chain=chain_of(error))
    await gateway.factory.shutdown(spread_s=BYE_SPREAD_S)
    gateway.feed.close()


def make_config(app: FastAPI, settings: Settings, *, host: str, port: int) -> uvicorn.Config:
    """Return uvicorn's settings, derived from the gateway's."""
    make_http = partial(HttpProtocol, send_timeout_s=settings.send_timeout_s)
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        loop="uvloop",
        lifespan="off",  # `Server` opens and closes the app itself
        workers=1,  # otherwise uvicorn reads WEB_CONCURRENCY
        http=cast("Any", make_http),
        h11_max_incomplete_event_size=HEADERS_MAX,
        backlog=BACKLOG,
        ws=WebSocketProtocol,
        ws_max_size=2 * settings.limit_frame_bytes,
        ws_ping_interval=settings.heartbeat_s,
        ws_ping_timeout=settings.heartbeat_s,
        ws_per_message_deflate=settings.compression,
        proxy_headers=False,  # the app reads them, as ISOLANE_TRUSTED_PROXIES says
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=round(BYE_S),
    )


def serve(
    app: FastAPI, settings: Settings, *, host: str, port: int, greet: Greet | None = None
) -> None:
    """Serve `app` until a signal ends it; return when everything is closed.

    `greet` is called once the gateway answers, with its address.

    Raises:
        CannotListen: The address can't be used. The gateway wasn't opened.
        StartFailed: The gateway can't be opened, or ends because it can't serve any more.
    """
    _check_compression(settings)
    tune_process()
    write_beside()
    freeze_startup_objects()
    _warn_of_workers(os.environ)
    sockets = open_sockets(host, port)
    config = make_config(app, settings, host=host, port=port)
    # Removed from the environment, so that no process of an agent speaks for the service.
    systemd_address = os.environ.pop(ADDRESS_VARIABLE, None)
    server = Server(config, greet=greet, systemd_address=systemd_address)
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(_run(server, sockets))


def _check_compression(settings: Settings) -> None:
    found = version("websockets")
    if settings.compression and int(found.partition(".")[0]) < DEFLATES_FROM:
        raise StartFailed(
            f"ISOLANE_COMPRESSION can't be used with websockets {found}: it needs websockets "
            f"{DEFLATES_FROM}; install that, or unset it."
        )


def _warn_of_workers(environ: Mapping[str, str]) -> None:
    """Warn that one process serves, when the environment asks for more as for plain uvicorn."""
    count = environ.get("WEB_CONCURRENCY", "1")
    if count != "1":
        _log.warning("workers_ignored", web_concurrency=count, workers=1)


async def _run(server: Server, sockets: list[socket.socket]) -> None:
    try:
        await server.serve(sockets)
    finally:
        for each in sockets:
            each.close()
    _leave_if_stuck()


def _leave_if_stuck() -> None:
    """End the process when a task ignored its cancellation; everything is closed already."""
    mine = asyncio.current_task()
    stuck = [task for task in asyncio.all_tasks() if task is not mine and not task.done()]
    if not stuck:
        return
    _log.warning("tasks_left_behind", tasks=sorted(task.get_name() for task in stuck))
    logging.shutdown()
    finish_writing()
    os._exit(0)
