"""One socket of one user."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import structlog

from isolane.context import UserExecutionContext
from isolane.contracts import Delivery, Identity, Verdict
from isolane.errors import (
    ConnectionFailed,
    IsolaneError,
    Unauthenticated,
    chain_of,
    traceback_of,
)
from isolane.events.event import Record
from isolane.ids import new_error_id
from isolane.sockets.interest import Interest
from isolane.sockets.writer import CLOSE_NORMAL, Send, SocketWriter
from isolane.tasks import TaskOwner
from isolane.wire.frames import encode_frame, error_frame

NEWCOMER_S: Final = 2.0
"""Seconds in which a new socket is not idle: its client had no time yet to ask for anything."""

_log = structlog.get_logger(__name__)


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
        """Whether its peer has said hello. Only such a peer is sent control frames unasked."""
        self.is_quiet = False
        """Whether its peer knows no frame but the answers to its own requests."""
        self.is_replay = False
        """A read-only socket that was opened to replay one run, and ends with it."""
        self.is_busy = False
        """Whether a frame of it is being carried out."""
        self._interests: dict[str, Interest] = {}
        self._loop = asyncio.get_running_loop()
        self._opened_at_s = self._loop.time()
        self._writer = SocketWriter(
            self.id,
            send,
            tasks=tasks,
            send_timeout_s=send_timeout_s,
            abort=abort,
            write_texts=write_texts,
        )

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
        return self._writer.is_open

    @property
    def is_closing(self) -> bool:
        """Say whether we have ended it: what its peer has asked for meanwhile is not done."""
        return self._writer.is_closing

    @property
    def is_idle(self) -> bool:
        """Say whether it wants nothing of any thread and nothing is done for it, for now."""
        if self._loop.time() - self._opened_at_s < NEWCOMER_S:
            return False
        has_work = self.is_busy or self.is_replay or any(self._interests.values())
        return self.is_open and not has_work

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
        return await self._writer.put([encode_frame(frame)])

    def post(self, frame: Mapping[str, object]) -> None:
        """Put a frame in line without waiting; what finds the line full closes the socket."""
        if self.is_open:
            self._writer.post(encode_frame(frame))

    def say_goodbye(self, frame: Mapping[str, object]) -> None:
        """Put the frame in line that says why the socket ends, where its peer knows it."""
        if not self.is_quiet:
            self.post(frame)

    async def send_texts(self, texts: Sequence[str]) -> Verdict:
        """Send frames that are text already; as `send`."""
        return await self._writer.put(texts)

    async def deliver(self, interest: Interest, records: Sequence[Record]) -> Verdict:
        """Send those of `records` that `interest` selects, each in its envelope."""
        wanted = interest.select(records)
        if not wanted:
            return Verdict.DELIVERED if self.is_open else Verdict.CLOSED
        return await self._writer.put([record.envelope for record in wanted])

    def hand(self, interest: Interest, records: Sequence[Record]) -> bool:
        """Deliver without waiting, where that can be done; False when nothing was delivered.

        It can't be done while frames wait for the socket, or when the records end the interest.
        """
        may_end = not interest.has_all and any(record.is_end for record in records)
        if may_end or not interest or not self._writer.is_free:
            return False
        wanted = interest.select(records)
        if wanted:
            self._writer.hand([record.envelope for record in wanted])
        return True

    async def close(self, code: int = CLOSE_NORMAL, reason: str = "") -> None:
        """Send what waits, close, and return when the socket is closed. The first call counts."""
        await self._writer.close(code, reason)

    def request_close(self, code: int = CLOSE_NORMAL, reason: str = "") -> None:
        """Close after what waits now, without waiting for it."""
        self._writer.request_close(code, reason)

    def revoke(self) -> None:
        """Close the socket, because its credential counts no more. Doesn't wait."""
        self.request_close(Unauthenticated.close_code or CLOSE_NORMAL, "revoked")

    def give_up(self, error: IsolaneError) -> None:
        """End a socket that takes nothing: nothing more can be said to it. Doesn't wait."""
        self._writer.give_up(error)

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
        await self._writer.dispose()


async def send_to_each(
    connections: Iterable[WebSocketConnection], message: Mapping[str, object]
) -> Delivery:
    """Send `message` to every greeted connection at once; one that hangs delays no other's."""
    greeted = [connection for connection in connections if connection.has_greeted]
    verdicts = await asyncio.gather(*(connection.send(message) for connection in greeted))
    return {connection.id: verdict for connection, verdict in zip(greeted, verdicts, strict=True)}
