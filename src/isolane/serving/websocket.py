"""uvicorn's WebSocket protocol with bounds that it lacks."""

# Long because: one protocol class of uvicorn's, of which each method is taken over.

from __future__ import annotations

import struct
import zlib
from collections.abc import Generator, Sequence
from functools import partial
from typing import Any, Final

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import CloseCode, Frame
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.streams import StreamReader

from isolane.doors.transport import CONTENT, LARGE
from isolane.flag import Flag
from isolane.serving.endings import LINGER_S, RULES, end, let_go, refusal, reset
from isolane.serving.inbox import Inbox
from isolane.serving.watch import PROGRESS_S, SLICE, Progress

FRAGMENTS_MAX: Final = 1024
"""Maximum number of fragments of one message. 1 MiB in pieces of a network packet (1,300 bytes) has
807."""
CONTROLS_MAX: Final = 100
CONTROLS_S: Final = 10.0
"""Maximum number of pings and pongs of a peer, and the seconds over which they are counted. Clients
send one in ten seconds or fewer."""
TEXT_WHOLE: Final = 0x81
"""First byte of a frame that is a whole text message."""
LINE_MAX: Final = 64 * 1024
"""Maximum bytes of one line of an upgrade's head. A token may have 16 KiB; websockets stops at 8
KiB."""


PIECE_BYTES: Final = 64 * 1024
"""Bytes of texts that are written at once. For a slow reader, one such piece may wait beyond the
transport's own limit."""


_PLAIN: Final = ServerProtocol()
SIZE_NAME: Final = "current_size" if hasattr(_PLAIN, "current_size") else "cur_size"
"""Attribute with the size of the current message. Its name is `cur_size` in websockets 15."""
MOST_NAME: Final = "max_message_size" if hasattr(_PLAIN, "max_message_size") else "max_size"
"""Attribute with the largest allowed size of a message. Its name is `max_size` in websockets 15."""


class LongLineReader(StreamReader):
    """A reader of websockets that accepts lines of up to `LINE_MAX` bytes."""

    def read_line(self, m: int, *args: Any, **kwargs: Any) -> Generator[None, None, bytearray]:  # noqa: ANN401 - websockets'
        """Read a line, with the larger limit also for callers that ask for a smaller one."""
        return super().read_line(max(m, LINE_MAX), *args, **kwargs)


def take_long_lines(connection: ServerProtocol) -> None:
    """Make a new connection accept lines of up to `LINE_MAX` bytes."""
    connection.reader = LongLineReader()
    connection.parser = connection.parse()  # the parser that has begun holds the old reader
    next(connection.parser)


def add_rules(connection: ServerProtocol) -> None:
    """Add headers for browsers to refusals of the connection itself.

    It refuses a malformed upgrade, and an upgrade that the app gave no answer.
    """
    plain = connection.reject

    def reject(status: int, text: str) -> Response:
        response = plain(status, text)
        for name, value in RULES:
            response.headers[name] = value
        return response

    connection.reject = reject  # type: ignore[method-assign]


def head_of_text(size: int) -> bytes:
    """Return the head of a whole, unmasked text frame of that size (RFC 6455, 5.2)."""
    if size < 126:  # noqa: PLR2004 - the bounds are the RFC's
        return bytes((TEXT_WHOLE, size))
    if size < 1 << 16:
        return struct.pack("!BBH", TEXT_WHOLE, 126, size)
    return struct.pack("!BBQ", TEXT_WHOLE, 127, size)


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol, for peers that flood, trickle, or take nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - uvicorn's arguments
        """Begin without waiting bytes."""
        super().__init__(*args, **kwargs)
        self._replace_queues()
        take_long_lines(self.conn)
        add_rules(self.conn)
        self._backlog = bytearray()
        self._is_scheduled = False
        self._is_over = False
        """True when further bytes are dropped."""
        self._message = Progress(lambda: self.read_paused, self._refuse_slow)
        self._fragments = 0
        """Fragments of the unfinished message."""
        self._controls = 0
        self._controls_since = 0.0
        self._large_bytes: int | None = None
        """Size above which the app is told of a message before the rest is read; None for never."""
        self._fragments_max = FRAGMENTS_MAX
        self._is_large = False
        """True when the app was told of the current message."""
        self._is_held = False
        """True when nothing is read until the app asks, because it was told of a large message."""

    def _replace_queues(self) -> None:
        """Take 4 KB less per connection: uvicorn's queue and event hold five deques."""
        lean: Any = self  # they are no `asyncio.Queue` and no `asyncio.Event`
        lean.queue, lean.writable = Inbox(), Flag()
        lean.writable.set()

    def handle_connect(self, event: Request) -> None:
        """Offer `isolane.transport` to the app: a reset, where a close would wait for the peer."""
        super().handle_connect(event)
        event.headers.clear()  # the scope has them, and the parser holds this as long as it lives
        scope: Any = getattr(self, "scope", None)  # absent when the upgrade was refused
        if scope is not None:
            scope["extensions"]["isolane.transport"] = {
                "abort": partial(reset, self.transport),
                "take_large": self._take_large,
                "write_texts": self._write_texts,
            }

    def _take_large(self, *, most_bytes: int, large_bytes: int) -> None:
        """Accept messages of up to `most_bytes`, uncompressed; see `isolane.doors.transport`.

        A compressed frame is inflated whole before its size is known.
        """
        self._large_bytes = large_bytes
        self._fragments_max = FRAGMENTS_MAX * -(-most_bytes // large_bytes)
        setattr(self.conn, MOST_NAME, most_bytes)
        self.conn.extensions = []
        self.response.headers.pop("Sec-WebSocket-Extensions", None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Release everything that waits."""
        self._drop_rest()
        super().connection_lost(exc)

    # --- what comes in ---------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Parse received bytes slice by slice, and no faster than the app takes messages."""
        if self._is_over:
            return
        self._backlog += data
        if not self._is_scheduled:
            self._take_slice()

    async def receive(self) -> Any:  # noqa: ANN401 - ASGI's
        """Return the next message; waiting bytes are parsed before new ones are read."""
        if self._is_held:
            self._is_held = self.read_paused = False
            self._schedule()
        message: Any = await super().receive()
        if message["type"] == LARGE and not self._is_over:
            self._is_held = self.read_paused = True
            self.transport.pause_reading()
        if self._backlog and not self.read_paused:
            self._schedule()
        return message

    def _schedule(self) -> None:
        """Schedule the next slice, after other tasks have run."""
        self.transport.pause_reading()
        if not self._is_scheduled:
            self._is_scheduled = True
            self.loop.call_soon(self._take_next)

    def _take_next(self) -> None:
        self._is_scheduled = False
        if self.read_paused or self._is_over:  # the app has enough messages for now
            return
        self._take_slice()
        self._read_on()

    def _read_on(self) -> None:
        if not (self._backlog or self.read_paused or self.transport.is_closing()):
            self.transport.resume_reading()

    def _take_slice(self) -> None:
        if self.read_paused:
            return
        piece = bytes(self._backlog[:SLICE])
        del self._backlog[:SLICE]
        self._message.count(len(piece))
        super().data_received(piece)
        self._renew_inflaters()
        if self._is_over:
            return
        if self.conn.handshake_exc is not None and not self.handshake_initiated:
            self._refuse_head()
            return
        if self._fragments or self.conn.reader.buffer:
            self._message.begin(PROGRESS_S)
        else:
            self._message.end()
        self._look_at_size()
        if self._backlog and not self.read_paused:
            self._schedule()

    def _look_at_size(self) -> None:
        """Tell the app of a message that has become large, and read no more of it for now."""
        if self._large_bytes is None:
            return
        size = (getattr(self.conn, SIZE_NAME) or 0) + len(self.conn.reader.buffer)
        if size <= self._large_bytes:
            return
        if self.close_sent:  # nobody needs the message, and the peer's close comes after it
            self._let_go()
        elif not self._is_large:
            self._is_large = self.read_paused = True
            self._tell({"type": LARGE})
            self.transport.pause_reading()

    def _tell(self, message: Any) -> None:  # noqa: ANN401 - a message that ASGI doesn't define
        self.queue.put_nowait(message)

    def _renew_inflaters(self) -> None:
        """Begin a new stream where the peer ended one, which is allowed (RFC 7692, 7.2.3.4).

        Otherwise zlib would collect the bytes after that end, inflate them to nothing, and never
        reach a limit.
        """
        for extension in self.conn.extensions:
            if not isinstance(extension, PerMessageDeflate):
                continue
            decoder = getattr(extension, "decoder", None)  # absent before its first message
            if decoder is not None and decoder.eof:
                bits = extension.remote_max_window_bits
                extension.decoder = zlib.decompressobj(wbits=-bits)

    def _refuse_head(self) -> None:
        """Answer an upgrade whose headers can't be parsed; uvicorn would keep it waiting."""
        self.transport.write(refusal(b"431 Request Header Fields Too Large"))
        self._let_go()

    # --- what is too much ------------------------------------------------------------------------

    def handle_text(self, event: Frame) -> None:
        """Begin a message."""
        self._fragments = 0 if event.fin else 1
        super().handle_text(event)
        event.data = b""  # the parser holds its last frame until the next one comes

    def handle_bytes(self, event: Frame) -> None:
        """Begin a message."""
        self._fragments = 0 if event.fin else 1
        super().handle_bytes(event)
        event.data = b""

    def handle_cont(self, event: Frame) -> None:
        """Continue a message; a million empty fragments have no size, but a cost."""
        self._fragments += 1
        if self._fragments > self._fragments_max:
            self._refuse(CloseCode.MESSAGE_TOO_BIG, "too many fragments")
        if event.fin:
            self._fragments = 0
        if not self._is_over:
            super().handle_cont(event)
        event.data = b""

    def handle_ping(self) -> None:
        """Answer a ping, unless there are too many."""
        self._count_control()
        if not self._is_over:
            super().handle_ping()

    def handle_pong(self, event: Frame) -> None:
        """Note that the peer is alive, unless there are too many pongs."""
        self._count_control()
        super().handle_pong(event)

    def _count_control(self) -> None:
        now = self.loop.time()
        if now - self._controls_since > CONTROLS_S:
            self._controls, self._controls_since = 0, now
        self._controls += 1
        if self._controls > CONTROLS_MAX:
            self._refuse(CloseCode.POLICY_VIOLATION, "too many pings")

    def send_receive_event_to_app(self) -> None:
        """Pass a whole message on; uvicorn would log a traceback for each invalid UTF-8."""
        if self._is_over:
            return
        is_large, self._is_large = self._is_large, False
        if is_large and self.curr_msg_data_type == "text":
            self._hand_on_large()
            return
        if self.curr_msg_data_type == "text":
            self.frames = [b"".join(self.frames)]
            try:
                self.frames[0].decode()
            except UnicodeDecodeError:
                self._refuse(CloseCode.INVALID_DATA, "no UTF-8")
                return
        super().send_receive_event_to_app()

    def _hand_on_large(self) -> None:
        """Pass a large text on as bytes, because decoding it would block other connections."""
        content = b"".join(self.frames)
        self.frames = []
        if not self.close_sent:
            self._tell({"type": "websocket.receive", CONTENT: content})
            self.read_paused = True
            self.transport.pause_reading()

    def _refuse_slow(self) -> None:
        self._refuse(CloseCode.POLICY_VIOLATION, "message too slow")

    # --- what goes out ---------------------------------------------------------------------------

    def _write_texts(self, texts: Sequence[str], start: int) -> int:
        """Write texts in few pieces; see `isolane.doors.transport`.

        uvicorn's own `send` makes a system call per text, which costs more than the text.
        """
        place = start
        while place < len(texts) and self._takes_text():
            pieces: list[bytes] = []
            size = 0
            while place < len(texts) and size < PIECE_BYTES:
                data = texts[place].encode()
                pieces += (head_of_text(len(data)), data)
                size += len(data)
                place += 1
            self.transport.write(b"".join(pieces))
        return place - start

    def _takes_text(self) -> bool:
        """Say whether a text may be written now: without compression and without waiting."""
        return (
            self.writable.is_set()
            and self.conn.state is State.OPEN
            and not (self.close_sent or self.conn.extensions or self.transport.is_closing())
        )

    # --- how it ends -----------------------------------------------------------------------------

    async def send(self, message: Any) -> None:  # noqa: ANN401 - ASGI's
        """Send a message.

        A refused upgrade counts as answered, where uvicorn would log an error.
        """
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body"):
            self.handshake_complete = True
        if message["type"] == "websocket.accept":
            self.response.headers.clear()  # they are sent
        # nobody asks for messages now, and the peer's close is among them
        if self.close_sent and self._backlog:
            self._schedule()

    def handle_close(self, event: Frame) -> None:
        """Answer a close; behind an unread backlog the answer would wait for ever."""
        super().handle_close(event)
        if not self.writable.is_set():
            reset(self.transport)

    def keepalive_timeout(self) -> None:
        """Reset a peer that answered no ping, because nobody is there to read a close.

        The pong may be behind a large message. While that message arrives, the peer is alive.
        """
        if self._is_large and not self.close_sent:
            self.pong_timer = None
            self.pending_ping_payload = None
            self.schedule_ping()
            return
        super().keepalive_timeout()
        reset(self.transport)

    def handle_parser_exception(self) -> None:
        """End the connection because of invalid bytes, in a way that the peer learns why."""
        if self._is_over:
            return
        sent = self.conn.close_sent
        code, reason = (sent.code, sent.reason) if sent is not None else (1006, "")
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self._let_go()

    def _refuse(self, code: CloseCode, reason: str) -> None:
        if not self.close_sent:
            self.conn.fail(code, reason)
            self.handle_parser_exception()

    def _let_go(self) -> None:
        """Drop further bytes, and close a moment later."""
        self._drop_rest()
        self.stop_keepalive()
        let_go(self.transport)
        if self.close_timer is not None:
            self.close_timer.cancel()
        self.close_timer = self.loop.call_later(LINGER_S, end, self.transport)

    def _drop_rest(self) -> None:
        """Release received bytes, which may be large, while the connection ends."""
        self._is_over = True
        self._backlog.clear()
        self.frames = []
        self.conn.reader.buffer.clear()
        self.conn.parser_exc = None
        self._message.end()
