"""The writer of one socket: one queue in order, a verdict per waiting sender, one close."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any, Final

import structlog

from isolane.contracts import Verdict
from isolane.errors import (
    ConnectionFailed,
    IsolaneError,
    SlowConsumer,
    chain_of,
    traceback_of,
)
from isolane.tasks import TaskOwner, end_task

OUTBOX_MAX: Final = 256
"""Batches that may wait for one socket. Followers and doors wait for theirs to be written, so only
what the server says unasked can pile up. A peer that lets that happen is a slow consumer."""

PATIENCE_STEPS: Final = 8
"""Parts of the send timeout after which it begins anew for a peer that takes frames. Setting the
timer costs some, so it isn't set for each frame."""

CLOSE_NORMAL: Final = 1000
GOING_AWAY: Final = 1001
CLOSE_GRACE_S: Final = 2.0
"""Seconds that a close may take until the socket is reset."""

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_log = structlog.get_logger(__name__)


class _Batch:
    """Frames that go out together, and who waits to hear what became of them."""

    __slots__ = ("done", "error", "place", "texts")

    def __init__(self, texts: Sequence[str], done: asyncio.Future[Verdict] | None = None) -> None:
        self.texts = texts
        self.done = done
        self.place = 0
        """Number of first texts that the socket has taken."""
        self.error: Exception | None = None
        """What the socket raised when it was handed the texts at once."""

    def settle(self, verdict: Verdict) -> None:
        if self.done is not None and not self.done.done():
            self.done.set_result(verdict)


class SocketWriter:
    """Writes what is put in line to one accepted socket.

    All that goes out goes through it in the order it was given. Nothing else writes. While nothing
    waits and the socket takes frames, they are written at once. A task writes all others.
    """

    def __init__(
        self,
        connection_id: str,
        send: Send,
        *,
        tasks: TaskOwner,
        send_timeout_s: float,
        abort: Callable[[], None] | None,
        write_texts: Callable[[Sequence[str], int], int] | None,
    ) -> None:
        """Begin to write. `send_timeout_s` is how long, in seconds, a peer may take nothing.

        `abort` and `write_texts` are what some servers have; see `WebSocketConnection`.
        """
        self.id = connection_id
        self._send = send
        self._abort = abort
        self._write_texts = write_texts
        self._send_timeout_s = send_timeout_s
        self._loop = asyncio.get_running_loop()
        self._outbox: list[_Batch] = []  # a deque takes 760 bytes, also while it is empty
        self.is_open = True
        """True while frames still go out."""
        self._close: tuple[int, str] | None = None
        self._is_over = False
        """True once the socket is closed or dead, and nothing can be written any more."""
        self._over: asyncio.Event | None = None
        self._tasks = tasks
        self._task: asyncio.Task[None] | None = None
        """Writes what waits; None while nothing does."""

    @property
    def is_closing(self) -> bool:
        """Say whether we have ended the socket."""
        return self._close is not None

    async def put(self, texts: Sequence[str]) -> Verdict:
        """Put frames in line, and return what became of them. Cancelling doesn't take them back."""
        if not self.is_open:
            return Verdict.CLOSED
        batch = _Batch(texts)
        if self._write_at_once(batch):
            return Verdict.DELIVERED
        batch.done = self._loop.create_future()
        self._enqueue(batch)
        return await batch.done

    def post(self, text: str) -> None:
        """Put a frame in line of an open socket without waiting; a full line ends the socket."""
        if len(self._outbox) >= OUTBOX_MAX:
            self.give_up(SlowConsumer("more frames wait than a living client lets wait"))
            return
        self.hand([text])

    @property
    def is_free(self) -> bool:
        """True while frames can be written at once: nothing waits, and the server can do it."""
        return self.is_open and self._task is None and self._write_texts is not None

    def hand(self, texts: Sequence[str]) -> None:
        """Write frames at once where that can be; put in line what the socket doesn't take."""
        batch = _Batch(texts)
        if not self._write_at_once(batch):
            self._enqueue(batch)

    async def close(self, code: int, reason: str) -> None:
        """Send what waits, close, and return when the socket is closed. The first call counts."""
        self.request_close(code, reason)
        if not self._is_over:
            self._over = self._over or asyncio.Event()
            await self._over.wait()

    def request_close(self, code: int, reason: str) -> None:
        """Close after what waits now, without waiting for it."""
        if self._close is None:
            self._close = (code, reason)
        self.is_open = False
        self._begin()

    def give_up(self, error: IsolaneError) -> None:
        """End a socket that takes nothing: nothing more can be said to it. Doesn't wait."""
        _log.info("connection_abandoned", connection_id=self.id, code=error.code)
        self._drop_outbox(Verdict.FAILED)
        self.request_close(error.close_code or CLOSE_NORMAL, error.code)
        if self._abort is not None:
            self._abort()

    async def dispose(self) -> None:
        """Let everything go, for the peer is gone. Idempotent."""
        self.is_open = False
        if self._task is not None:
            await end_task(self._task)
        self._end()

    def _write_at_once(self, batch: _Batch) -> bool:
        """Hand frames to a socket that nothing waits for; say whether it took all of them."""
        if not self.is_free or self._write_texts is None:
            return False
        try:
            batch.place = self._write_texts(batch.texts, 0)
        except Exception as error:  # noqa: BLE001 - the task ends the socket because of it
            batch.error = error
        return batch.place == len(batch.texts) and batch.error is None

    def _enqueue(self, batch: _Batch) -> None:
        self._outbox.append(batch)
        self._begin()

    def _begin(self) -> None:
        """Let the task write what waits, and then the close; it ends when nothing waits."""
        if self._task is None and not self._is_over:
            self._task = self._tasks.start(self._write(), name=f"writer {self.id}")

    def _end(self) -> None:
        self._is_over = True
        self.is_open = False
        self._drop_outbox(Verdict.CLOSED)
        if self._over is not None:
            self._over.set()

    def _drop_outbox(self, verdict: Verdict) -> None:
        while self._outbox:
            self._outbox.pop(0).settle(verdict)

    async def _write(self) -> None:
        is_over = True
        try:
            is_over = await self._write_waiting()
        except Exception as error:  # noqa: BLE001 - the top of the task that writes to a socket
            _log.error(
                "socket_failed",
                connection_id=self.id,
                chain=chain_of(error),
                exception=traceback_of(error),
            )
            await self._write_close(ConnectionFailed.close_code or CLOSE_NORMAL, "internal")
        finally:
            self._task = None
            if is_over:
                self._end()

    async def _write_waiting(self) -> bool:
        """Write what waits, and then the close, if one was asked for; say whether all is over."""
        while self._outbox:
            if not await self._write_batch(self._outbox.pop(0)):
                return True
        if self._close is not None:
            await self._write_close(*self._close)
        return self._close is not None

    async def _write_batch(self, batch: _Batch) -> bool:
        """Hand a batch to the socket; False when the socket is no more."""
        verdict = Verdict.FAILED
        try:
            await self._send_rest(batch)
            verdict = Verdict.DELIVERED
        except TimeoutError:
            batch.settle(verdict)  # who waits for it need not wait for the close as well
            self.give_up(SlowConsumer("nothing could be sent in time"))
            await self._write_close(*(self._close or (CLOSE_NORMAL, "")))
        except (OSError, RuntimeError):  # what servers raise on a dead socket, each its own
            self.is_open = False
        except Exception as error:  # noqa: BLE001 - a socket that may live on, and takes nothing
            _log.error("socket_failed", connection_id=self.id, exception=traceback_of(error))
            self.give_up(ConnectionFailed(f"connection {self.id} can't be written to"))
            await self._write_close(*(self._close or (CLOSE_NORMAL, "")))
        finally:
            batch.settle(verdict)
        return verdict is Verdict.DELIVERED

    async def _send_rest(self, batch: _Batch) -> None:
        """Send what the socket hasn't taken of a batch; raise what the socket raises."""
        if batch.error is not None:
            raise batch.error
        async with asyncio.timeout(self._send_timeout_s) as patience:
            began = self._loop.time()
            while batch.place < len(batch.texts):
                if self._write_texts is not None:
                    batch.place += self._write_texts(batch.texts, batch.place)
                if batch.place < len(batch.texts):
                    await self._send({"type": "websocket.send", "text": batch.texts[batch.place]})
                    batch.place += 1
                now = self._loop.time()
                if now - began > self._send_timeout_s / PATIENCE_STEPS:
                    patience.reschedule(now + self._send_timeout_s)
                    began = now

    async def _write_close(self, code: int, reason: str) -> None:
        try:
            async with asyncio.timeout(CLOSE_GRACE_S):
                await self._send({"type": "websocket.close", "code": code, "reason": reason})
        except (OSError, RuntimeError, TimeoutError):  # the peer is gone, or takes nothing
            return
        except Exception as error:  # noqa: BLE001 - a peer that wasn't told may stay for ever
            _log.error("close_failed", connection_id=self.id, exception=traceback_of(error))
            if self._abort is not None:
                self._abort()
