"""Answers over HTTP that go on: what they tell, how they end, and the slot that each holds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import structlog
from fastapi.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from isolane.clock import Clock
from isolane.context import EventId, ThreadKey, UserExecutionContext
from isolane.contracts import Identity
from isolane.doors.framing import SERVER_SENT, in_pieces
from isolane.doors.problems import report
from isolane.doors.transport import get_abort
from isolane.errors import IsolaneError, SlowConsumer, Unauthenticated
from isolane.events.event import Record
from isolane.ids import new_connection_id
from isolane.log.feed import Feed
from isolane.runs import AgentService
from isolane.runs.readers import HttpReader
from isolane.settings import Settings
from isolane.sockets.registry import Sockets
from isolane.sockets.slot import Member, Slot
from isolane.tasks import TaskOwner, end_task

_log = structlog.get_logger(__name__)

HEADERS: Final = {"cache-control": "no-store", "x-accel-buffering": "no"}

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Streams:
    """Parts that event streams need."""

    settings: Settings
    clock: Clock
    tasks: TaskOwner
    sockets: Sockets
    service: AgentService
    feed: Feed
    own: Callable[[Slot, Member], None]
    """Keeps a stream in its slot; it ends at once when its credential was revoked meanwhile."""
    why_unfinished: Callable[[], IsolaneError]
    """Returns why the records of a run ended before the run did."""


class Followed(Generic[T]):
    """The batches that a stream tells, mostly records of a log, while its reader may hear them."""

    def __init__(
        self, streams: Streams, identity: Identity, batches: AsyncGenerator[T, None]
    ) -> None:
        """Take over `batches`, which end with the stream."""
        self.streams = streams
        self.identity = identity
        self._batches = batches
        self._ended: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()

    @property
    def has_ended(self) -> bool:
        """Say whether the stream ends with an error."""
        return self._ended.done()

    def end(self, error: Exception) -> None:
        """End the stream with an error, of which its reader is told. The first one counts."""
        if not self._ended.done():
            self._ended.set_result(error)

    async def with_beats(self) -> AsyncGenerator[T | None, None]:
        """Yield batches, and None at each quiet heartbeat. Raises why the stream has to end."""
        beats = _with_beats(self._batches, self.streams.settings.heartbeat_s, self._ended)
        # The inner one first: while it waits for a batch, the batches can't be closed.
        async with aclosing(self._batches), aclosing(beats):
            async for batch in beats:
                self._check_credential()
                yield batch

    def _check_credential(self) -> None:
        """Raise why a stream has to end: mostly its credential counts no more."""
        if self._ended.done():
            raise self._ended.result()
        expires_at = self.identity.expires_at
        if expires_at is not None and self.streams.clock() >= expires_at:
            raise Unauthenticated("expired", "the credential behind the stream expired")


Tell = Callable[[Followed[T]], AsyncGenerator[bytes, None]]
"""Makes the bytes of a stream of its records; whatever happens, its reader is told."""


async def tell_batches(
    followed: Followed[T],
    *,
    frame: Callable[[T], Iterable[bytes]],
    frame_error: Callable[[IsolaneError, str], bytes],
    beat: bytes = SERVER_SENT.beat,
) -> AsyncGenerator[bytes, None]:
    """Yield the framed batches in pieces, `beat` at each quiet heartbeat, and the error at the end.

    `frame_error` gets the error for the reader and its id in the log.
    """
    beats = followed.with_beats()
    async with aclosing(beats):
        try:
            async for batch in beats:
                if batch is None:
                    yield beat
                    continue
                for piece in in_pieces(frame(batch)):
                    yield piece
        except Exception as error:  # noqa: BLE001 - after any error the reader must be told
            yield frame_error(*report(error, user_id=followed.identity.user_id))


async def follow_to_the_end(
    streams: Streams, context: UserExecutionContext, *, after: EventId | None = None
) -> AsyncGenerator[Sequence[Record], None]:
    """Yield the records of the context's run. Safe to cancel.

    Half an answer must not look like a whole one.

    Raises:
        NotFound: The thread was deleted before the run's end.
        GoingAway: The gateway closed before the run's end.
    """
    is_over = False
    async with aclosing(streams.service.follow_batches(context, after=after)) as batches:
        async for records in batches:
            is_over = records[-1].is_end
            yield records
    if not is_over:
        raise streams.why_unfinished()


class EventStream(StreamingResponse):
    """A stream of records that ends with its reader, and lets its follower go then."""

    is_connection = True
    """It counts as a connection, not as a request."""

    def __init__(
        self,
        followed: Followed[T],
        tell: Tell[T],
        *,
        reader: HttpReader,
        media_type: str = SERVER_SENT.media_type,
        headers: Mapping[str, str] = HEADERS,
    ) -> None:
        """Send what `tell` makes of the records.

        `reader` is who counts as reading until the stream has ended.
        """
        self._followed = followed
        self._told = tell(followed)
        super().__init__(self._told, headers=headers, media_type=media_type)
        self._reader = reader
        self._streams = followed.streams
        self.id = new_connection_id()
        self.identity = followed.identity
        self._slot: Slot
        self._held: AsyncExitStack

    @property
    def is_open(self) -> bool:
        """Say whether the stream goes on."""
        return not self._followed.has_ended

    def keep(self, slot: Slot, held: AsyncExitStack) -> None:
        """Take over a slot, and all that is held until the stream has ended; `open_stream` does."""
        self._slot, self._held = slot, held

    def revoke(self) -> None:
        """End the stream with an error that says so: its credential counts no more."""
        error = Unauthenticated("revoked", "the credential behind the stream was revoked")
        self._followed.end(error)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the stream until it ends or its reader goes: a quiet one would not notice."""
        tasks, patience_s = self._streams.tasks, self._streams.settings.send_timeout_s

        async def send_in_time(message: Message) -> None:
            async with asyncio.timeout(patience_s):
                await send(message)

        abort = get_abort(scope)
        async with self._held:
            self._streams.own(self._slot, self)
            stream = tasks.start(self._stream(send_in_time, abort), name="event stream")
            gone = tasks.start(self._listen(receive), name="event stream's reader")
            try:
                await asyncio.wait({stream, gone}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                self._streams.service.leave(self._reader)  # first: the next question may be here
                await end_task(stream)
                await end_task(gone)

    async def _listen(self, receive: Receive) -> None:
        """Return when the reader has gone. Where that can't be found out the stream ends."""
        try:
            await self.listen_for_disconnect(receive)
        except Exception as error:  # noqa: BLE001 - the top of the task that waits for the reader
            self._followed.end(error)
            await asyncio.Event().wait()  # until the error is sent, and this is cancelled

    async def _stream(self, send: Send, abort: Callable[[], None] | None) -> None:
        try:
            # Closed here, also where its reader takes nothing: the follower behind it ends now,
            # and not when the garbage collector finds it.
            async with aclosing(self._told):
                await self.stream_response(send)
        except TimeoutError:
            if abort is not None:
                abort()
            _log.info(
                "event_stream_abandoned", code=SlowConsumer.code, user_id=self.identity.user_id
            )


Open = Callable[[HttpReader], Awaitable[EventStream]]
"""Starts what a stream tells; it may send its reader to another run of the thread."""


async def open_stream(
    streams: Streams, identity: Identity, key: ThreadKey, start: Open, *, run_id: str | None = None
) -> EventStream:
    """Return a stream that counts as one of the user's connections.

    The slot is reserved before anything is started, so nothing is started for one too many. So is
    the reader.
    """
    async with AsyncExitStack() as held:
        slot = await held.enter_async_context(streams.sockets.reserve(identity.user_id))
        reader = streams.service.enter(key, run_id)
        held.callback(streams.service.leave, reader)
        stream = await start(reader)
        stream.keep(slot, held.pop_all())
        return stream


async def _with_beats(
    batches: AsyncGenerator[T, None], heartbeat_s: float, ended: asyncio.Future[Exception]
) -> AsyncGenerator[T | None, None]:
    """Yield batches, and None whenever none came for a heartbeat, or the stream is to end."""
    waiting: asyncio.Task[T] | None = None
    try:
        while True:
            waiting = waiting or asyncio.ensure_future(anext(batches))
            first: set[asyncio.Future[Any]] = {waiting, ended}
            await asyncio.wait(first, timeout=heartbeat_s, return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                yield None
                continue
            try:
                yield waiting.result()
            except StopAsyncIteration:
                return
            waiting = None
    finally:
        if waiting is not None:
            await end_task(waiting)
