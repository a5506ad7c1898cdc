"""OpenAI's Responses: a response is a run, and its events are those of the run's log."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing, suppress
from functools import partial
from typing import Annotated, Final, Literal

import msgspec
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from isolane.context import EventId, UserExecutionContext
from isolane.contracts import Identity, RunState, StoredRun
from isolane.doors.answers import Load, UnreadAnswers
from isolane.doors.credentials import ReadContext, Reader, WriteContext, Writer
from isolane.doors.dependencies import (
    AnswersDep,
    FeedDep,
    IntakeDep,
    ServiceDep,
    StorageDep,
    StreamsDep,
)
from isolane.doors.event_stream import (
    HEADERS,
    EventStream,
    Followed,
    Streams,
    follow_to_the_end,
    open_stream,
)
from isolane.doors.openai.completions import EITHER_ANSWER
from isolane.doors.openai.history import (
    Place,
    find_place,
    load_fold,
    load_response,
    new_fold,
)
from isolane.doors.openai.items import load_output, with_items
from isolane.doors.openai.runs import (
    JSON_BODY,
    IdempotencyKey,
    Wanted,
    choose_agent,
    find_repeated,
    read_asked,
    run_headers,
    start_run,
    take_on,
)
from isolane.doors.openai.stream import WholeAnswer, answer_response, tell_response
from isolane.doors.openai_errors import REFUSED
from isolane.doors.request import UserRoute
from isolane.events.event import RUN_STARTED, decode_event
from isolane.log.feed import Feed
from isolane.runs import AgentService
from isolane.runs.readers import HttpReader, OnDisconnect
from isolane.wire.openai.asking import ResponseAsked, read_response
from isolane.wire.openai.items import to_input_items, to_page
from isolane.wire.openai.words import Said

router = APIRouter(
    prefix="/v1/responses", tags=["openai"], route_class=UserRoute, responses=REFUSED
)

END_PATIENCE_S: Final = 5.0
"""Seconds for which the answer to a cancellation waits for the end of the run."""

StartingAfter = Annotated[int, Query(ge=0, le=2**53)]
ITEMS_MAX: Final = 100
"""Maximum number of input items of one page, as in OpenAI's own API."""


@router.post("", responses=EITHER_ANSWER, openapi_extra=JSON_BODY)
async def create_response(
    intake: IntakeDep,
    storage: StorageDep,
    streams: StreamsDep,
    answers: AnswersDep,
    identity: Writer,
    *,
    context: WriteContext,
    request: Request,
    key: IdempotencyKey = None,
) -> Response:
    """Run an agent, and answer with the response or with its events.

    A background run is answered at once, and goes on when the client leaves.
    """
    most_bytes, service = intake.frame_bytes, streams.service
    output = partial(load_output, streams, storage.store, context)
    reading = read_asked(
        intake,
        identity,
        request,
        read_response,
        key=key,
        name="input",
        fill=partial(with_items, output, most_bytes=most_bytes),
    )
    async with reading as (ids, asked):
        agent = choose_agent(service, identity, asked.agent)
        repeated = await find_repeated(storage.store, context, ids, asked)
        find = partial(find_place, service, storage, context, asked, most_bytes=most_bytes)
        place = (
            await find(own_thread_id=ids.thread_id)
            if repeated is None
            else Place(thread_id=repeated.thread_id, messages=())
        )
        own = context.for_thread(place.thread_id).for_run(ids.run_id)
        wanted = _to_wanted(own, agent, asked, place, repeated=repeated)
        if asked.is_background and not asked.is_streamed:
            stored = await start_run(service, wanted)
            return _answer_now(streams.feed, answers, wanted.context, stored)
        return await _follow_new(streams, identity, wanted, asked)


def _to_wanted(
    own: UserExecutionContext,
    agent: str,
    asked: ResponseAsked,
    place: Place,
    *,
    repeated: StoredRun | None,
) -> Wanted:
    return Wanted(
        context=own,
        agent=agent,
        asked=asked,
        messages=place.messages,
        opening=place.opening,
        instructions=place.instructions,
        policy=place.policy,
        repeated=repeated,
        on_disconnect=None if asked.is_background else OnDisconnect.STOP,
    )


async def _follow_new(
    streams: Streams, identity: Identity, wanted: Wanted, asked: ResponseAsked
) -> EventStream:
    own = wanted.context

    async def start(reader: HttpReader) -> EventStream:
        taken = await take_on(streams, identity, wanted, reader)
        fold, headers = new_fold(taken.stored), run_headers(own)
        if asked.is_streamed:
            tell = partial(tell_response, fold=fold)
            return EventStream(taken.followed, tell, reader=reader, headers=HEADERS | headers)
        answer = partial(answer_response, fold=fold)
        return WholeAnswer(taken.followed, answer, reader=reader, headers=headers)

    return await open_stream(streams, identity, own.thread_key, start, run_id=own.run_id)


@router.get("/{response_id}", responses=EITHER_ANSWER)
async def get_response(
    storage: StorageDep,
    streams: StreamsDep,
    answers: AnswersDep,
    identity: Reader,
    context: ReadContext,
    *,
    response_id: str,
    stream: bool = False,
    starting_after: StartingAfter | None = None,
) -> Response:
    """Return a response in its current state, or its events from any of them on."""
    service = streams.service
    stored = await load_response(service, storage.store, context, response_id)
    own = context.for_thread(stored.thread_id).for_run(stored.run_id)
    if not stream:
        return _answer_now(streams.feed, answers, own, stored)

    async def start(reader: HttpReader) -> EventStream:
        begin = await service.load_start(own)
        (await streams.feed.load_bounds(own.thread_key)).check_cursor(begin)
        followed = Followed(streams, identity, follow_to_the_end(streams, own, after=begin))
        after = -1 if starting_after is None else starting_after
        tell = partial(tell_response, fold=new_fold(stored), starting_after=after)
        return EventStream(followed, tell, reader=reader, headers=HEADERS | run_headers(own))

    return await open_stream(streams, identity, own.thread_key, start, run_id=own.run_id)


@router.get("/{response_id}/input_items")
async def list_input_items(
    service: ServiceDep,
    storage: StorageDep,
    feed: FeedDep,
    answers: AnswersDep,
    context: ReadContext,
    *,
    response_id: str,
    after: str | None = None,
    limit: Annotated[int, Query(ge=1, le=ITEMS_MAX)] = 20,
    order: Literal["asc", "desc"] = "desc",
) -> Response:
    """Return a page of the input items of a response, strictly after an item."""
    stored = await load_response(service, storage.store, context, response_id)
    own = context.for_thread(stored.thread_id).for_run(stored.run_id)

    async def load() -> bytes:
        items = await _load_items(feed, own, stored)
        page = to_page(items, after=after, limit=limit, is_newest_first=order == "desc")
        return msgspec.json.encode(page)

    return _answer_largely(answers, own, load)


@router.post("/{response_id}/cancel")
async def cancel_response(
    service: ServiceDep,
    storage: StorageDep,
    feed: FeedDep,
    answers: AnswersDep,
    context: WriteContext,
    *,
    response_id: str,
) -> Response:
    """Stop a response's run, and answer when it has ended, or after 5 s with its current state."""
    stored = await load_response(service, storage.store, context, response_id)
    own = context.for_thread(stored.thread_id).for_run(stored.run_id)
    await _stop(service, feed, own)
    return _answer_now(feed, answers, own, await service.load_run(own, stored.run_id))


@router.delete("/{response_id}")
async def delete_response(
    service: ServiceDep, storage: StorageDep, context: WriteContext, response_id: str
) -> dict[str, object]:
    """Stop a response's run and forget its id; its messages stay in the thread."""
    stored = await load_response(service, storage.store, context, response_id)
    own = context.for_thread(stored.thread_id).for_run(stored.run_id)
    await storage.store.forget_run(own.run_key)
    await service.abort(own)
    return {"id": response_id, "object": "response", "deleted": True}


async def _stop(service: AgentService, feed: Feed, own: UserExecutionContext) -> None:
    """Stop a run, and wait a few seconds for its end."""
    head = (await feed.load_bounds(own.thread_key)).head
    await service.abort(own)
    batches = service.follow_batches(own, after=head)
    async with aclosing(batches):
        with suppress(TimeoutError):
            async with asyncio.timeout(END_PATIENCE_S):
                async for _ in batches:
                    pass


def _answer_now(
    feed: Feed, answers: UnreadAnswers, own: UserExecutionContext, stored: StoredRun
) -> Response:
    """Return a response as its log has it now; it counts as unread until it is sent."""

    async def load() -> bytes:
        said = (await load_fold(feed, own, stored)).to_response()
        if stored.state is RunState.RUNNING and said["status"] == "queued":
            said["status"] = "in_progress"  # its first event is being written
        return msgspec.json.encode(said)

    return _answer_largely(answers, own, load)


def _answer_largely(answers: UnreadAnswers, own: UserExecutionContext, load: Load) -> Response:
    answer = answers.answer(own.user_id, load)
    answer.headers.update({**run_headers(own), "cache-control": "no-store"})
    return answer


async def _load_items(feed: Feed, own: UserExecutionContext, stored: StoredRun) -> Sequence[Said]:
    """Return the input of a run: of a waiting run from its draft, else from its first log entry.

    Raises:
        CursorExpired: The log no longer keeps that entry.
    """
    if stored.state is not RunState.ENDED:
        return to_input_items(stored.draft.messages, stored.draft.request.get("resume") or ())
    if stored.first_seq is None:
        return ()
    head = (await feed.load_bounds(own.thread_key)).head
    before = EventId(head.epoch, stored.first_seq - 1)
    for record in await feed.read(own.thread_key, after=before, limit=1, max_bytes=1):
        event = decode_event(record.payload)
        if record.run_id == stored.run_id and event["type"] == RUN_STARTED:
            return to_input_items(event["input"]["messages"], event["input"].get("resume") or ())
    return ()
