"""One socket of one user."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any, Final

import structlog

from isolane.context import UserExecutionContext
from isolane.contracts import Identity, Verdict
from isolane.errors import (
    ConnectionFailed,
    IsolaneError,
    SlowConsumer,
    Unauthenticated,
    chain_of,
    traceback_of,
)
from isolane.events.event import Record
from isolane.ids import new_error_id
from isolane.sockets.interest import Interest
from isolane.tasks import TaskOwner, end_task
from isolane.wire.frames import encode_frame, error_frame

OUTBOX_MAX: Final = 256
"""Batches that may wait for the socket. Followers and the door wait for theirs, so only what the
server says unasked can pile up; who lets that happen is a slow consumer."""

PATIENCE_STEPS: Final = 8
"""A peer that takes frames has its time begin anew, in steps: setting the clock costs some."""

NEWCOMER_S: Final = 2.0
"""Who has just come hasn't had the time to say what it wants."""

CLOSE_NORMAL: Final = 1000
GOING_AWAY: Final = 1001
CLOSE_GRACE_S: Final = 2.0

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_log = structlog.get_logger(__name__)


class _Batch:
    """Frames that go out together, and who waits to hear what became of them."""

    __slots__ = ("done", "texts")

    def __init__(self, texts: Sequence[str], done: asyncio.Future[Verdict] | None) -> None:
        self.texts = texts
        self.done = done

    def settle(self, verdict: Verdict) -> None:
        if self.done is not None and not self.done.done():
            self.done.set_result(verdict)


class WebSocketConnection:
    """One socket of one user: its id, its user, one bounded writer, one close.

    Everything that goes out goes through one queue in the order it was given, so `subscribed`
    stands before the first record and `accepted` before the first envelope. Nothing else writes.
    """

    def __init__(
        self,
        context: UserExecutionContext,
        identity: Identity,
        send: Send,
        *,
        tasks: TaskOwner,
        send_timeout_s: float,
        abort: Callable[[], None] | None = None,
        write_texts: Callable[[Sequence[str], int], int] | None = None,
    ) -> None:
        """Take over an accepted socket.

        Where the server has them, `abort` resets the TCP link, and `write_texts` writes texts from
        a place in their list on, as many as the socket takes without waiting, and says how many.
        """
        assert context.connection_id is not None  # noqa: S101 - the door has just made it
        self.id = context.connection_id
        self.context = context
        self.identity = identity
        self.has_greeted = False
        self.is_quiet = False
        """Whether its peer knows no frame but the answers to its own requests."""
        self.is_replay = False
        """A read-only socket that was opened to replay one run, and ends with it."""
        self.is_busy = False
        """Whether a frame of it is being carried out."""
        self._interests: dict[str, Interest] = {}
        self._send = send
        self._abort = abort
        self._write_texts = write_texts
        self._send_timeout_s = send_timeout_s
        self._loop = asyncio.get_running_loop()
        self._opened_at_s = self._loop.time()
        self._outbox: deque[_Batch] = deque()
        self._filled = asyncio.Event()
        self._is_open = True
        self._close: tuple[int, str] | None = None
        self._closed = asyncio.Event()
        self._writer = tasks.start(self._write(), name=f"writer {self.id}")

    def __repr__(self) -> str:
        """Name the socket and its user."""
        return f"<WebSocketConnection {self.id} of {self.user_id}>"

    @property
    def user_id(self) -> str:
        """Whose socket this is; it never becomes another's."""
        return self.context.user_id

    @property
    def is_open(self) -> bool:
        """Say whether frames still go out."""
        return self._is_open

    @property
    def is_closing(self) -> bool:
        """Say whether we have ended it: what its peer has asked for meanwhile is not done."""
        return self._close is not None

    @property
    def is_idle(self) -> bool:
        """Say whether it wants nothing of any thread and nothing is done for it, for now."""
        if self._loop.time() - self._opened_at_s < NEWCOMER_S:
            return False
        has_work = self.is_busy or self.is_replay or any(self._interests.values())
        return self._is_open and not has_work

    def get_interest(self, thread_id: str) -> Interest:
        """Return what this connection wants of a thread; nothing, to begin with."""
        return self._interests.setdefault(thread_id, Interest())

    def renew_interest(self, thread_id: str) -> Interest:
        """Return a blank interest in a thread; whoever still serves the old one serves nothing."""
        self.lose_interest(thread_id)
        return self.get_interest(thread_id)

    def lose_interest(self, thread_id: str) -> None:
        """Want nothing more of a thread."""
        interest = self._interests.pop(thread_id, None)
        if interest is not None:
            interest.want_nothing()

    def wants_run(self, thread_id: str, run_id: str) -> bool:
        """Say whether that run's events go out here."""
        interest = self._interests.get(thread_id)
        return interest is not None and (interest.has_all or run_id in interest.run_ids())

    def wants(self, thread_id: str) -> bool:
        """Say whether anything of the thread is still to come."""
        return bool(self._interests.get(thread_id))

    async def send(self, frame: Mapping[str, object]) -> Verdict:
        """Send a frame and wait until the socket has taken it. Cancelling doesn't take it back."""
        return await self._put([encode_frame(frame)])

    def post(self, frame: Mapping[str, object]) -> None:
        """Put a frame in line without waiting; what finds the line full closes the socket."""
        if not self._is_open:
            return
        if len(self._outbox) >= OUTBOX_MAX:
            self.give_up(SlowConsumer("more frames wait than a living client lets wait"))
            return
        self._enqueue(_Batch([encode_frame(frame)], None))

    def say_goodbye(self, frame: Mapping[str, object]) -> None:
        """Put the frame in line that says why the socket ends, where its peer knows it."""
        if not self.is_quiet:
            self.post(frame)

    async def send_texts(self, texts: Sequence[str]) -> Verdict:
        """Send frames that are text already; as `send`."""
        return await self._put(texts)

    async def deliver(self, interest: Interest, records: Sequence[Record]) -> Verdict:
        """Send those of `records` that `interest` selects, each in its envelope."""
        wanted = interest.select(records)
        if not wanted:
            return Verdict.DELIVERED if self._is_open else Verdict.CLOSED
        return await self._put([record.envelope for record in wanted])

    async def close(self, code: int = CLOSE_NORMAL, reason: str = "") -> None:
        """Send what waits, close, and return when the socket is closed. The first call counts."""
        self.request_close(code, reason)
        await self._closed.wait()

    def request_close(self, code: int = CLOSE_NORMAL, reason: str = "") -> None:
        """Close after what waits now, without waiting for it."""
        if self._close is None:
            self._close = (code, reason)
        self._is_open = False
        self._filled.set()

    def revoke(self) -> None:
        """Close the socket, because its credential counts no more. Doesn't wait."""
        self.request_close(Unauthenticated.close_code or CLOSE_NORMAL, "revoked")

    def give_up(self, error: IsolaneError) -> None:
        """End a socket that takes nothing: nothing more can be said to it. Doesn't wait."""
        _log.info("connection_abandoned", connection_id=self.id, code=error.code)
        self._drop_outbox(Verdict.FAILED)
        self.request_close(error.close_code or CLOSE_NORMAL, error.code)
        if self._abort is not None:
            self._abort()

    def fail(self, served: str, cause: Exception) -> None:
        """End the socket for what nobody foresaw, so that its client comes back and resumes.

        The client is told an `errorId`; the log tells the rest, from surface to root.
        """
        failed = ConnectionFailed(f"connection {self.id} failed while serving {served}")
        failed.__cause__ = cause
        error_id = new_error_id()
        _log.error(
            "internal_error",
            error_id=error_id,
            code=failed.code,
            chain=chain_of(failed),
            exception=traceback_of(failed),
            connection_id=self.id,
        )
        self.say_goodbye(error_frame(failed, error_id))
        self.request_close(failed.close_code or CLOSE_NORMAL, failed.code)

    async def dispose(self) -> None:
        """Let everything go, for the peer is gone. Idempotent."""
        self._is_open = False
        await end_task(self._writer)
        self._drop_outbox(Verdict.CLOSED)
        self._closed.set()

    async def _put(self, texts: Sequence[str]) -> Verdict:
        if not self._is_open:
            return Verdict.CLOSED
        done: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        self._enqueue(_Batch(texts, done))
        return await done

    def _enqueue(self, batch: _Batch) -> None:
        self._outbox.append(batch)
        self._filled.set()

    def _drop_outbox(self, verdict: Verdict) -> None:
        while self._outbox:
            self._outbox.popleft().settle(verdict)

    async def _write(self) -> None:
        try:
            await self._write_until_closed()
        except Exception as error:  # noqa: BLE001 - the top of the task that writes to a socket
            _log.error(
                "socket_failed",
                connection_id=self.id,
                chain=chain_of(error),
                exception=traceback_of(error),
            )
            await self._write_close(ConnectionFailed.close_code or CLOSE_NORMAL, "internal")
        finally:
            self._is_open = False
            self._drop_outbox(Verdict.CLOSED)
            self._closed.set()

    async def _write_until_closed(self) -> None:
        while True:
            await self._filled.wait()
            self._filled.clear()
            while self._outbox:
                if not await self._write_batch(self._outbox.popleft()):
                    return
            if self._close is not None:
                await self._write_close(*self._close)
                return

    async def _write_batch(self, batch: _Batch) -> bool:
        """Hand a batch to the socket; False when the socket is no more."""
        verdict = Verdict.FAILED
        try:
            async with asyncio.timeout(self._send_timeout_s) as patience:
                began = self._loop.time()
                place = 0
                while place < len(batch.texts):
                    if self._write_texts is not None:
                        place += self._write_texts(batch.texts, place)
                    if place < len(batch.texts):
                        await self._send({"type": "websocket.send", "text": batch.texts[place]})
                        place += 1
                    now = self._loop.time()
                    if now - began > self._send_timeout_s / PATIENCE_STEPS:
                        patience.reschedule(now + self._send_timeout_s)
                        began = now
            verdict = Verdict.DELIVERED
        except TimeoutError:
            batch.settle(verdict)  # who waits for it need not wait for the close as well
            self.give_up(SlowConsumer("nothing could be sent in time"))
            await self._write_close(*(self._close or (CLOSE_NORMAL, "")))
        except (OSError, RuntimeError):  # what servers raise on a dead socket, each its own
            self._is_open = False
        except Exception as error:  # noqa: BLE001 - a socket that may live on, and takes nothing
            _log.error("socket_failed", connection_id=self.id, exception=traceback_of(error))
            self.give_up(ConnectionFailed(f"connection {self.id} can't be written to"))
            await self._write_close(*(self._close or (CLOSE_NORMAL, "")))
        finally:
            batch.settle(verdict)
        return verdict is Verdict.DELIVERED

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
