"""uvicorn's HTTP protocol with deadlines and bounds that it lacks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, Final, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from isolane.serving.endings import LINGER_S, end, let_go, refusal, reset
from isolane.serving.watch import PROGRESS_S, SLICE, Progress, Watch

HEAD_S: Final = 10.0
"""Seconds for a request's line and headers, from the connection or from the first byte of a later
request."""
HEADERS_MAX: Final = 64 * 1024
"""Maximum bytes of a request's line and headers."""
CHUNKS_MAX: Final = 2048
CHUNK_BYTES: Final = 64
"""Bounds on the chunks of a body. A body may have 2,048 line ends, and one more per 64 bytes,
because each chunk has two."""
UNWANTED_BYTES: Final = 1 << 20
"""Maximum bytes of an answered body that are read and dropped. Simple clients send their whole body
before they read, and so still get their answer."""


class _Line:
    """A transport for uvicorn's own code, whose close is decided here."""

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        self._transport = transport
        self.close = close

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - any attribute of the transport
        return getattr(self._transport, name)


class HttpProtocol(H11Protocol):
    """uvicorn's HTTP protocol, for peers that send too little, too much or too slowly."""

    def __init__(self, *args: Any, send_timeout_s: float, **kwargs: Any) -> None:  # noqa: ANN401 - uvicorn's arguments
        """Reset readers that take nothing for `send_timeout_s` seconds."""
        super().__init__(*args, **kwargs)
        self._send_timeout_s = send_timeout_s
        self._head = Watch(lambda: False, self._refuse_slow)
        self._body = Progress(lambda: self.flow.read_paused, self._reset)
        self._backlog = bytearray()
        self._is_scheduled = False
        self._lines = 0
        """Line ends in a chunked body, two per chunk."""
        self._wire = 0
        self._unwanted: int | None = None
        """Bytes of a body that came after its answer; None without such a body."""
        self._reader = Watch(self._has_taken, self._reset)
        self._unread = 0
        self._is_over = False
        """True when further bytes are dropped, or belong to another protocol."""
        self._leaving: asyncio.TimerHandle | None = None
        self._dropped = 0
        """Bytes that came after the half-close."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a request, and offer `isolane.transport` to the app, as for sockets."""
        super().connection_made(transport)
        self._transport = transport
        self.transport = cast("asyncio.Transport", _Line(transport, self._close))
        self._head.begin(HEAD_S)
        app: Any = self.app
        leave = partial(reset, transport)

        async def app_with_transport(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401
            scope.setdefault("extensions", {})["isolane.transport"] = {"abort": leave}
            await app(scope, receive, send)

        self.app = app_with_transport

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel every timer."""
        self._drop_rest()
        self._is_over = True
        if self._leaving is not None:
            self._leaving.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse the received bytes slice by slice, so that a head is measured while it grows."""
        if self._is_over:
            self._count_dropped(len(data))
            return
        self._backlog += data
        if not self._is_scheduled:
            self._take_slice()
        if self._backlog:
            self.transport.pause_reading()

    def _take_slice(self) -> None:
        self._is_scheduled = False
        if self._is_over:
            return
        piece = bytes(self._backlog[:SLICE])
        del self._backlog[:SLICE]
        self._body.count(len(piece))
        super().data_received(piece)
        self._count_chunks(piece)
        self._count_unwanted(len(piece))
        self._watch()
        if self._backlog:
            self._is_scheduled = True
            self.loop.call_soon(self._take_slice)
        else:
            self._read_on()

    def _read_on(self) -> None:
        if not (self._is_over or self.flow.read_paused or self.transport.is_closing()):
            self.transport.resume_reading()

    def on_response_complete(self) -> None:
        """Continue with the next request; the rest of an answered body belongs to no request."""
        if self.conn.their_state is h11.SEND_BODY:
            self._unwanted = 0
        super().on_response_complete()
        self._watch()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        """Hand the connection over to the WebSocket protocol."""
        self._drop_rest()
        self._is_over = True
        self.transport = self._transport
        self.transport.resume_reading()
        super().handle_websocket_upgrade(event)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's parameter
        """Refuse bytes that are no request, or a request whose head is too large."""
        cycle: Any = self.cycle  # None before the first request, although its type doesn't say so
        if cycle and not cycle.response_complete:  # in the middle of a body
            self._reset()
            return
        if len(self.conn.trailing_data[0]) > HEADERS_MAX:
            self.transport.write(refusal(b"431 Request Header Fields Too Large"))
        else:
            self.transport.write(refusal(b"400 Bad Request"))
        self._let_go()

    def pause_writing(self) -> None:
        """Start to watch whether the reader takes anything."""
        super().pause_writing()
        self._unread = self.transport.get_write_buffer_size()
        self._reader.begin(self._send_timeout_s)

    def resume_writing(self) -> None:
        """Stop watching a reader that takes bytes again."""
        self._reader.end()
        super().resume_writing()

    def _watch(self) -> None:
        """Watch only the head or body that has begun."""
        if self._is_over:
            return
        state = self.conn.their_state
        if state is not h11.IDLE:
            self._head.end()
        elif self.conn.trailing_data[0]:
            self._head.begin(HEAD_S)
        if state is h11.SEND_BODY:
            self._body.begin(PROGRESS_S)
        else:
            self._body.end()

    def _count_chunks(self, piece: bytes) -> None:
        """Reset a peer that sends tiny chunks, because each costs as much as a large one."""
        if self.conn.their_state is not h11.SEND_BODY:
            self._lines = self._wire = 0
            return
        self._wire += len(piece)
        if (b"transfer-encoding", b"chunked") in self.headers:
            self._lines += piece.count(b"\r\n")
        if self._lines > CHUNKS_MAX + self._wire // CHUNK_BYTES:
            self._reset()

    def _count_unwanted(self, size: int) -> None:
        """Bound the bytes that are read for no request; uvicorn would read them without end."""
        if self._unwanted is None:
            return
        if self.conn.their_state is not h11.SEND_BODY:
            self._unwanted = None
            return
        self._unwanted += size
        if self._unwanted > UNWANTED_BYTES:
            self._let_go()

    def _has_taken(self) -> bool:
        before, self._unread = self._unread, self.transport.get_write_buffer_size()
        return self._unread < before

    def _refuse_slow(self) -> None:
        if self.conn.trailing_data[0]:
            self.transport.write(refusal(b"408 Request Timeout"))
        self.transport.close()

    def _reset(self) -> None:
        self._is_over = True
        reset(self.transport)

    def _close(self) -> None:
        """Close; for a client that still sends its body, half-close first."""
        if self.conn.their_state is h11.SEND_BODY and not self._is_over:
            self._let_go(PROGRESS_S)
        else:
            self._transport.close()

    def _let_go(self, linger_s: float = LINGER_S) -> None:
        """Drop further bytes, and close `linger_s` seconds later."""
        if self._is_over:
            return
        self._drop_rest()
        self._is_over = True
        let_go(self._transport)
        self._leaving = self.loop.call_later(linger_s, end, self._transport)

    def _count_dropped(self, size: int) -> None:
        """Bound the dropped bytes of a body."""
        self._dropped += size
        if self._dropped > UNWANTED_BYTES and self._leaving is not None:
            self._leaving.cancel()
            self._leaving = None
            end(self._transport)

    def _drop_rest(self) -> None:
        self._backlog.clear()
        for watch in (self._head, self._body, self._reader):
            watch.end()
