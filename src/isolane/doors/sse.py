"""The same log over server-sent events: a thread's, or AG-UI's HTTP binding for one run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Annotated, Any, Final, TypeVar

import msgspec
from fastapi import APIRouter, Header, Request
from fastapi.responses import StreamingResponse

from isolane.agents import check
from isolane.context import EventId, UserExecutionContext
from isolane.contracts import Identity
from isolane.doors.bodies import read_new, reading
from isolane.doors.credentials import (
    ReadContext,
    Reader,
    Writer,
    make_context,
    require_agent,
)
from isolane.doors.dependencies import IntakeDep, ServiceDep, StorageDep, StreamsDep
from isolane.doors.event_stream import (
    EventStream,
    Followed,
    Streams,
    Tell,
    open_stream,
    tell_batches,
)
from isolane.doors.framing import JSON_LINES, SERVER_SENT, Framing, framing_of
from isolane.doors.parts import Intake
from isolane.doors.rate import check_rate
from isolane.doors.request import UserRoute
from isolane.doors.schema import run_input_schema
from isolane.errors import IsolaneError, NotFound
from isolane.events.event import Record
from isolane.events.left_out import LeftOut
from isolane.events.older import to_older
from isolane.runs import AgentService
from isolane.runs.readers import HttpReader
from isolane.wire.frames import Run, read_run, run_error, speaks_agui_1, to_run_input
from isolane.wire.lists import Known, WholeList

router = APIRouter(route_class=UserRoute)
LastEventId = Annotated[str | None, Header(alias="last-event-id")]
LONG_LIST: Final = 1000
"""Messages that are gone through on the event loop, in some milliseconds."""
STREAM: Final[dict[int | str, dict[str, Any]]] = {200: {"content": {SERVER_SENT.media_type: {}}}}
EITHER_STREAM: Final[dict[int | str, dict[str, Any]]] = {
    200: {"content": {SERVER_SENT.media_type: {}, JSON_LINES.media_type: {}}}
}
RUN_BODY: Final = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": run_input_schema()}},
    }
}
"""What the route reads by itself, once it knows who asks."""

Records = Sequence[Record]
"""Records of a log that are there at once."""
_Made = TypeVar("_Made")
Dress = Callable[[Record], bytes]
"""Returns a record's event as its reader can read it."""


def _as_it_is(record: Record) -> bytes:
    return record.payload


def _to_older_bytes(record: Record) -> bytes:
    """Return a record's event for clients that know neither `cancelled` nor all else of 1.0."""
    return to_older(record.payload)


def _telling(*, dress: Dress, framing: Framing, run_id: str | None) -> Tell[Records]:
    """Return what tells records as events with their ids.

    An error names `run_id`, where the stream is a run's own.
    """

    def frame(records: Records) -> Iterator[bytes]:
        return (framing.frame(record.id, dress(record)) for record in records)

    def frame_error(error: IsolaneError, error_id: str) -> bytes:
        event = msgspec.json.encode(run_error(error, error_id, run_id=run_id))
        return framing.frame(None, event)

    return partial(tell_batches, frame=frame, frame_error=frame_error, beat=framing.beat)


@router.get(
    "/api/threads/{thread_id}/events",
    tags=["threads"],
    response_class=StreamingResponse,
    responses=STREAM,
)
async def follow_thread(
    storage: StorageDep,
    streams: StreamsDep,
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

    async def start(reader: HttpReader) -> EventStream:
        if await storage.store.load_thread(key) is None:
            raise NotFound(f"no thread {thread_id}")
        bounds = await streams.feed.load_bounds(key)
        given = last_event_id or after
        place = EventId(bounds.head.epoch, 0) if given is None else EventId.parse(given)
        bounds.check_cursor(place)
        followed = Followed(streams, identity, streams.feed.follow_batches(key, after=place))
        tell = _telling(dress=_as_it_is, framing=SERVER_SENT, run_id=None)
        return EventStream(followed, tell, reader=reader)

    return await open_stream(streams, identity, key, start)


@router.post(
    "/agui",
    tags=["agui"],
    response_class=StreamingResponse,
    responses=EITHER_STREAM,
    openapi_extra=RUN_BODY,
)
async def run_default_agent(
    intake: IntakeDep,
    streams: StreamsDep,
    identity: Writer,
    request: Request,
    last_event_id: LastEventId = None,
) -> EventStream:
    """Run the default agent: AG-UI's RunAgentInput in, its events out.

    Leaving stops nothing, unless `forwardedProps.onDisconnect` or the server's setting is `stop`.
    """
    return await _run(intake, streams, identity, request, agent=None, last_event_id=last_event_id)


@router.post(
    "/agui/{agent}",
    tags=["agui"],
    response_class=StreamingResponse,
    responses=EITHER_STREAM,
    openapi_extra=RUN_BODY,
)
async def run_agent(
    intake: IntakeDep,
    streams: StreamsDep,
    identity: Writer,
    request: Request,
    *,
    agent: str,
    last_event_id: LastEventId = None,
) -> EventStream:
    """Run an agent by name."""
    return await _run(intake, streams, identity, request, agent=agent, last_event_id=last_event_id)


@router.get("/agui/{agent}/capabilities", tags=["agui"])
async def capabilities(
    service: ServiceDep, identity: Reader, agent: str
) -> dict[str, dict[str, Any]]:
    """Say what an agent's door can do, in AG-UI's words."""
    name = service.check_agent(agent)
    if name == check.NAME:
        require_agent(identity, name)
    return {
        "identity": {"name": name},
        "transport": {"streaming": True, "websocket": True, "resumable": True},
        "humanInTheLoop": {"supported": True, "interrupts": True},
    }


async def _run(
    intake: Intake,
    streams: Streams,
    identity: Identity,
    request: Request,
    *,
    agent: str | None,
    last_event_id: str | None,
) -> EventStream:
    check_rate(intake.limits, identity.user_id)
    service = streams.service
    chosen = service.check_agent(agent)
    require_agent(identity, chosen)
    load_known = partial(_load_known, service, identity, request)
    async with reading(request, intake, identity.user_id) as body:
        run = read_run(await read_new(body, intake, identity.user_id, load_known))
        own = _context_of(identity, request, run)
        asked = None if last_event_id is None else EventId.parse(last_event_id)

        dress = _as_it_is if speaks_agui_1(run) else _to_older_bytes
        framing = framing_of(request)
        tell = _telling(dress=dress, framing=framing, run_id=run.run_id)

        async def start(reader: HttpReader) -> EventStream:
            if asked is not None:  # before the run: what is refused starts nothing
                (await streams.feed.load_bounds(own.thread_key)).check_cursor(asked)
            left_out = LeftOut()
            made = await _go_through(run, partial(to_run_input, run, left_out))
            ticket = await service.start(own, made, agent=chosen, left_out=left_out, over_http=True)
            reader.run_id = ticket.context.run_id
            begin = _later(asked, ticket.after)
            batches = service.follow_batches(ticket.context, after=begin)
            followed = Followed(streams, identity, batches)
            return EventStream(followed, tell, reader=reader, media_type=framing.media_type)

        return await open_stream(streams, identity, own.thread_key, start, run_id=run.run_id)


async def _go_through(run: Run, work: Callable[[], _Made]) -> _Made:
    """Do what goes through a run's list: a long one beside the event loop."""
    is_long = len(run.body["messages"]) > LONG_LIST
    return await asyncio.to_thread(work) if is_long else work()


async def _load_known(
    service: AgentService, identity: Identity, request: Request, whole: WholeList
) -> Known:
    """Return what the thread has that a body names; raises `InvalidInput` for wrong ids."""
    props = whole.rest.get("forwardedProps")
    return await service.load_known(
        _context_of(identity, request, read_run(whole.rest)),
        rewind_to=props.get("rewindTo") if isinstance(props, dict) else None,
        has_results=whole.has_results,
    )


def _context_of(identity: Identity, request: Request, run: Run) -> UserExecutionContext:
    return make_context(identity, request.scope).for_thread(run.thread_id).for_run(run.run_id)


def _later(asked: EventId | None, begin: EventId) -> EventId:
    """Return where a reader goes on; a place of another epoch is of a thread that was deleted."""
    if asked is None or asked.epoch != begin.epoch:
        return begin
    return max(asked, begin, key=lambda event_id: event_id.seq)


async def join_run(
    streams: Streams,
    identity: Identity,
    context: UserExecutionContext,
    *,
    after: EventId | None,
    framing: Framing,
) -> EventStream:
    """Return the events of the context's run, from its start or strictly after an id, and live.

    Whoever joins by an address has said no version of the protocol, so `cancelled` is left out.

    Raises:
        NotFound: The user has no such run.
        CursorExpired: The place is no longer kept.
        InvalidCursor: The place is ahead of the log.
        LimitExceeded: The user has as many connections as the limit says.
    """
    key = context.thread_key

    async def start(reader: HttpReader) -> EventStream:
        begin = await streams.service.load_start(context)
        bounds = await streams.feed.load_bounds(key)
        bounds.check_cursor(begin if after is None else after)
        place = begin if after is None else max(begin, after, key=lambda one: one.seq)
        batches = streams.service.follow_batches(context, after=place)
        followed = Followed(streams, identity, batches)
        tell = _telling(dress=_to_older_bytes, framing=framing, run_id=context.run_id)
        return EventStream(followed, tell, reader=reader, media_type=framing.media_type)

    return await open_stream(streams, identity, key, start, run_id=context.run_id)
