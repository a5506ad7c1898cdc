"""The same log over server-sent events: a thread's, or AG-UI's HTTP binding for one run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Annotated, Any, Final

import msgspec
import structlog
from fastapi import APIRouter, Header, Request
from fastapi.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from isolane.agents import check
from isolane.context import EventId
from isolane.contracts import Identity
from isolane.doors.credentials import (
    ReadContext,
    Reader,
    Writer,
    make_context,
    require_agent,
)
from isolane.doors.gateway import Gateway, OpenGateway
from isolane.doors.problems import report
from isolane.doors.schema import run_input_schema
from isolane.errors import IsolaneError, NotFound, SlowConsumer, Unauthenticated
from isolane.events import Record
from isolane.frames import decode_object, read_run, run_error, to_run_input
from isolane.tasks import end_task

router = APIRouter()
_log = structlog.get_logger(__name__)

LastEventId = Annotated[str | None, Header(alias="last-event-id")]
HEADERS: Final = {"cache-control": "no-store", "x-accel-buffering": "no"}


STREAM: Final[dict[int | str, dict[str, Any]]] = {200: {"content": {"text/event-stream": {}}}}
RUN_BODY: Final = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": run_input_schema()}},
    }
}
"""What the route reads by itself, once it knows who asks."""

Records = AsyncGenerator[Record, None]


class EventStream(StreamingResponse):
    """A stream of records that ends with its reader, and lets its follower go then."""

    media_type = "text/event-stream"

    def __init__(self, gateway: Gateway, identity: Identity, records: Records) -> None:
        """Send `records` while the credential lives; takes over a slot that was reserved."""
        self._revoked = asyncio.Event()
        super().__init__(_encode(gateway, identity, records, self._revoked), headers=HEADERS)
        self._gateway = gateway
        self.identity = identity

    def revoke(self) -> None:
        """End the stream with an error that says so: its credential counts no more."""
        self._revoked.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the stream until it ends or its reader goes: a quiet one would not notice."""
        tasks, patience_s = self._gateway.tasks, self._gateway.settings.send_timeout_s

        async def send_in_time(message: Message) -> None:
            async with asyncio.timeout(patience_s):
                await send(message)

        abort = scope.get("extensions", {}).get("isolane.transport", {}).get("abort")
        self._gateway.streams.add(self)
        if self._gateway.is_revoked(self.identity):  # while the stream was being opened
            self.revoke()
        stream = tasks.start(self._stream(send_in_time, abort), name="event stream")
        gone = tasks.start(self.listen_for_disconnect(receive), name="event stream's reader")
        try:
            await asyncio.wait({stream, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await end_task(stream)
            await end_task(gone)
            self._gateway.streams.discard(self)
            self._gateway.factory.release_slot(self.identity.user_id)

    async def _stream(self, send: Send, abort: Callable[[], None] | None) -> None:
        try:
            await self.stream_response(send)
        except TimeoutError:
            if abort is not None:
                abort()
            _log.info(
                "event stream given up", code=SlowConsumer.code, user_id=self.identity.user_id
            )


async def _open_stream(
    gateway: Gateway, identity: Identity, start: Callable[[], Awaitable[Records]]
) -> EventStream:
    """Return a stream that counts as one of the user's connections.

    The slot is reserved before anything is started, so nothing is started for one too many.
    """
    gateway.factory.reserve(identity.user_id)
    try:
        return EventStream(gateway, identity, await start())
    except BaseException:
        gateway.factory.release_slot(identity.user_id)
        raise


async def _encode(
    gateway: Gateway, identity: Identity, records: Records, revoked: asyncio.Event
) -> AsyncIterator[bytes]:
    """Yield each record as an event with its id, and a comment at each quiet heartbeat."""
    beats = _with_beats(records, gateway.settings.heartbeat_s, revoked)
    # The inner one first: while it waits for a record, the records can't be closed.
    async with aclosing(records), aclosing(beats):
        try:
            async for record in beats:
                if revoked.is_set():
                    raise Unauthenticated("revoked", "the credential behind the stream was revoked")
                if identity.expires_at is not None and gateway.clock() >= identity.expires_at:
                    raise Unauthenticated("expired", "the credential behind the stream expired")
                if record is None:
                    yield b": ping\n\n"
                else:
                    yield b"id: %b\ndata: %b\n\n" % (str(record.id).encode(), record.payload)
        except IsolaneError as error:
            known, error_id = report(error)
            event = msgspec.json.encode(run_error(known, error_id, run_id=None))
            yield b"data: %b\n\n" % event


async def _with_beats(
    records: Records, heartbeat_s: float, revoked: asyncio.Event
) -> AsyncGenerator[Record | None, None]:
    """Yield records, and None whenever none came for a heartbeat, or the stream is to end."""
    waiting: asyncio.Task[Record] | None = None
    ending = asyncio.ensure_future(revoked.wait())
    try:
        while True:
            waiting = waiting or asyncio.ensure_future(anext(records))
            await asyncio.wait(
                {waiting, ending}, timeout=heartbeat_s, return_when=asyncio.FIRST_COMPLETED
            )
            if not waiting.done():
                yield None
                continue
            try:
                yield waiting.result()
            except StopAsyncIteration:
                return
            waiting = None
    finally:
        left = {task for task in (waiting, ending) if task is not None}
        for task in left:
            task.cancel()
        await asyncio.wait(left)


@router.get(
    "/api/threads/{thread_id}/events",
    tags=["threads"],
    response_class=StreamingResponse,
    responses=STREAM,
)
async def follow_thread(
    gateway: OpenGateway,
    identity: Reader,
    context: ReadContext,
    *,
    thread_id: str,
    after: str | None = None,
    last_event_id: LastEventId = None,
) -> EventStream:
    """Follow a thread strictly after `after`, or after the last id that a reconnecting reader had.

    A place that is no longer kept is `resume_expired` (410): read the thread anew, go on from its
    head.
    """
    key = context.for_thread(thread_id).thread_key

    async def start() -> Records:
        if await gateway.store.load_thread(key) is None:
            raise NotFound(f"no thread {thread_id}")
        bounds = await gateway.feed.load_bounds(key)
        given = last_event_id or after
        place = EventId(bounds.head.epoch, 0) if given is None else EventId.parse(given)
        bounds.check_cursor(place)
        return gateway.feed.follow(key, after=place)

    return await _open_stream(gateway, identity, start)


@router.post(
    "/agui",
    tags=["agui"],
    response_class=StreamingResponse,
    responses=STREAM,
    openapi_extra=RUN_BODY,
)
async def run_default_agent(
    gateway: OpenGateway,
    identity: Writer,
    request: Request,
    last_event_id: LastEventId = None,
) -> EventStream:
    """Run the default agent: AG-UI's RunAgentInput in, its events out. Leaving stops nothing."""
    return await _run(gateway, identity, request, agent=None, last_event_id=last_event_id)


@router.post(
    "/agui/{agent}",
    tags=["agui"],
    response_class=StreamingResponse,
    responses=STREAM,
    openapi_extra=RUN_BODY,
)
async def run_agent(
    gateway: OpenGateway,
    identity: Writer,
    request: Request,
    agent: str,
    last_event_id: LastEventId = None,
) -> EventStream:
    """Run an agent by name."""
    return await _run(gateway, identity, request, agent=agent, last_event_id=last_event_id)


@router.get("/agui/{agent}/capabilities", tags=["agui"])
async def capabilities(
    gateway: OpenGateway, identity: Reader, agent: str
) -> dict[str, dict[str, Any]]:
    """Say what an agent's door can do, in AG-UI's words."""
    name = gateway.service.check_agent(agent)
    if name == check.NAME:
        require_agent(identity, name)
    return {
        "identity": {"name": name},
        "transport": {"streaming": True, "websocket": True, "resumable": True},
        "humanInTheLoop": {"supported": True, "interrupts": True},
    }


async def _run(
    gateway: Gateway,
    identity: Identity,
    request: Request,
    *,
    agent: str | None,
    last_event_id: str | None,
) -> EventStream:
    gateway.factory.check_rate(identity.user_id)
    chosen = gateway.service.check_agent(agent)
    require_agent(identity, chosen)
    body = await request.body()
    await gateway.factory.pace(identity.user_id, len(body))
    run = read_run(decode_object(body))
    own = make_context(identity, request.scope).for_thread(run.thread_id).for_run(run.run_id)
    asked = None if last_event_id is None else EventId.parse(last_event_id)

    async def start() -> Records:
        ticket = await gateway.service.start(own, to_run_input(run), agent=chosen)
        if asked is None:
            return gateway.service.follow(own, after=ticket.after)
        (await gateway.feed.load_bounds(own.thread_key)).check_cursor(asked)
        place = max(asked, ticket.after, key=lambda event_id: event_id.seq)
        return gateway.service.follow(own, after=place)

    return await _open_stream(gateway, identity, start)
