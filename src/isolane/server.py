"""The server that `isolane serve` starts: uvicorn, with our protocols and a drain."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager, suppress
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
from isolane.serving.systemd import ADDRESS_VARIABLE, READY, STOPPING, notify
from isolane.serving.websocket import WebSocketProtocol
from isolane.settings import Settings

SWITCH_INTERVAL_S: Final = 0.0002
"""How long a thread may hold the interpreter when another wants it. The default of 5 ms is what a
database thread then waits for a busy loop after each statement."""

BYE_S: Final = 3.0
BYE_SPREAD_S: Final = 2.0
"""Over how long the last words are spread, where there are many to hear them: all of them come
back."""
DEFLATES_FROM: Final = 17
"""Since this release websockets refuses every compressed frame that it should refuse. Older ones
also answer a client that asks for the smallest window with 500."""
ACCEPTS_EACH_PASS: Final = 16
"""When thousands knock, a pass takes milliseconds, and whoever knocks last is let in last."""

Greet = Callable[[Gateway, str], Awaitable[None]]
"""Called with the gateway and its address once it answers."""

_M_ARENA_MAX: Final = -8
"""As malloc.h has it."""

_log = structlog.get_logger(__name__)


class StartFailed(Exception):
    """The gateway can't be opened; one sentence says why."""


class Server(uvicorn.Server):
    """Drains before it stops, and ends with exit code 0."""

    def __init__(
        self, config: uvicorn.Config, *, greet: Greet | None, systemd_address: str | None = None
    ) -> None:
        """Serve the FastAPI app of `config`, whose lifespan gives the gateway."""
        super().__init__(config)
        self._greet = greet
        self._systemd_address = systemd_address
        self._state: Mapping[str, Any] = {}
        self._drain: asyncio.Task[None] | None = None

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the gateway, serve it until a signal, close it. Raises `StartFailed`.

        uvicorn would open it too, but would log a traceback where a sentence says it.
        """
        app: FastAPI = cast("Any", self.config.app)
        with self.capture_signals():
            async with AsyncExitStack() as stack:
                try:
                    opened = await stack.enter_async_context(app.router.lifespan_context(app))
                except Exception as error:
                    raise StartFailed(_to_sentence(error)) from error
                self._state = opened or {}
                await self._serve(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept, tell systemd so, then greet."""
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
        """Accept more than one connection in each pass of the loop: libuv takes one a listener."""
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
        """Take the signals over: uvicorn would close with 1012 at once and die of the signal."""
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
        # A terminal that closes may send several SIGHUP: nobody asked to hurry by them.
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
    """Return what begins a drain; SIGHUP stays ignored where `nohup` has begun the process."""
    asked = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        asked.append(signal.SIGHUP)
    return asked


def _to_sentence(error: Exception) -> str:
    """Return one line that says why the gateway can't be opened."""
    said = next(iter(str(error).splitlines()), "")  # sqlalchemy adds a link to each
    if isinstance(error, IsolaneError):
        return said
    return f"The gateway can't be opened: {said or type(error).__name__}"


async def drain(gateway: Gateway) -> None:
    """Take nothing new, let runs go on for as long as the settings say, then close with 1001."""
    timeout_s = gateway.settings.drain_timeout_s
    _log.info("draining", timeout_s=timeout_s, runs=gateway.service.active_count)
    gateway.sockets.begin_drain(deadline_ms=now_ms() + round(timeout_s * 1000))
    try:
        await gateway.service.drain(timeout_s=timeout_s)
    except Exception as error:  # noqa: BLE001 - whatever it is, sockets are still to be closed
        _log.error("drain_failed", chain=chain_of(error))
    await gateway.factory.shutdown(spread_s=BYE_SPREAD_S)
    gateway.feed.close()


def share_heap() -> None:
    """Let all threads allocate from one heap, where the C library is glibc.

    It gives each thread a heap of its own, and each keeps what was freed: the database's threads
    held some 3 % more after a thousand connections, of nothing. Small blocks are each thread's own
    still. To be called before there are threads.
    """
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def freeze_startup_objects() -> None:
    """Let the garbage collector look at what comes from now on only.

    What was imported stays for good, and is most of what there is: to look through it held up
    everybody for 0.1 s and more, some times a minute when much comes and goes.
    """
    gc.collect()
    gc.freeze()


def raise_open_files() -> None:
    """Take as many open files as the system grants: each socket is one, and 1,024 are soon gone."""
    with suppress(ImportError, OSError, ValueError):
        import resource  # noqa: PLC0415 - not on Windows

        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def make_config(app: FastAPI, settings: Settings, *, host: str, port: int) -> uvicorn.Config:
    """Return uvicorn's settings, as they fit the gateway's own."""
    make_http = partial(HttpProtocol, send_timeout_s=settings.send_timeout_s)
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        loop="uvloop",
        lifespan="off",  # `Server` opens and closes the app itself
        workers=1,  # else uvicorn reads WEB_CONCURRENCY
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
    """Serve `app` until a signal ends it; returns when everything is closed.

    `greet` is called once the gateway answers, with the address that it answers at. Raises
    `CannotListen` before the gateway is opened, and `StartFailed` when it can't be.
    """
    _check_compression(settings)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    share_heap()
    raise_open_files()
    write_beside()
    freeze_startup_objects()
    _warn_of_workers(os.environ)
    sockets = open_sockets(host, port)
    config = make_config(app, settings, host=host, port=port)
    # Taken out of the environment, so that no process of an agent speaks for the service.
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
    """Say that one process serves, where the environment asks for more: uvicorn would obey it."""
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
    """End the process when a task swallowed its cancellation: everything is closed already."""
    mine = asyncio.current_task()
    stuck = [task for task in asyncio.all_tasks() if task is not mine and not task.done()]
    if not stuck:
        return
    _log.warning("tasks_left_behind", tasks=sorted(task.get_name() for task in stuck))
    logging.shutdown()
    finish_writing()
    os._exit(0)
