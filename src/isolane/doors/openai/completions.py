"""OpenAI's Chat Completions and models: an agent is a model, and a completion is a run."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, Final

from fastapi import APIRouter, Header, Request
from fastapi.responses import Response

from isolane.agents import check
from isolane.contracts import Identity, Scope
from isolane.doors.credentials import Reader, WriteContext, Writer
from isolane.doors.dependencies import IntakeDep, ServiceDep, StorageDep, StreamsDep
from isolane.doors.event_stream import HEADERS, EventStream, open_stream
from isolane.doors.framing import SERVER_SENT
from isolane.doors.openai.runs import (
    JSON_BODY,
    IdempotencyKey,
    Taken,
    Wanted,
    choose_agent,
    claimed_opening,
    find_repeated,
    read_asked,
    run_headers,
    take_on,
)
from isolane.doors.openai.stream import WholeAnswer, answer_completion, tell_completion
from isolane.doors.openai_errors import REFUSED
from isolane.doors.request import UserRoute
from isolane.errors import InvalidInput, RunConflict
from isolane.ids import check_wire_id
from isolane.runs.readers import HttpReader, OnDisconnect
from isolane.wire.openai.asking import THREAD_KEY, CompletionAsked, get_unheard, read_completion
from isolane.wire.openai.completion import CompletionFold

router = APIRouter(prefix="/v1", tags=["openai"], route_class=UserRoute, responses=REFUSED)

EITHER_ANSWER: Final[dict[int | str, dict[str, Any]]] = {
    200: {"content": {"application/json": {}, SERVER_SENT.media_type: {}}}
}
THREAD_HEADER: Final = "x-isolane-thread"
LEAVING_HEADER: Final = "x-isolane-on-disconnect"

ThreadHeader = Annotated[str | None, Header(alias=THREAD_HEADER)]
LeavingHeader = Annotated[str | None, Header(alias=LEAVING_HEADER)]


def _to_model(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "isolane"}


@router.get("/models")
async def list_models(service: ServiceDep, identity: Reader) -> dict[str, object]:
    """List the agents as models."""
    names = [name for name in service.agent_names if _may_run(identity, name)]
    return {"object": "list", "data": [_to_model(name) for name in names]}


@router.get("/models/{model}")
async def get_model(service: ServiceDep, identity: Reader, model: str) -> dict[str, object]:
    """Return one agent as a model."""
    del identity
    return _to_model(service.check_agent(model))


def _may_run(identity: Identity, name: str) -> bool:
    return name != check.NAME or Scope.CHECK in identity.scopes


@router.post("/chat/completions", responses=EITHER_ANSWER, openapi_extra=JSON_BODY)
async def create_completion(
    intake: IntakeDep,
    storage: StorageDep,
    streams: StreamsDep,
    identity: Writer,
    context: WriteContext,
    *,
    request: Request,
    key: IdempotencyKey = None,
    thread: ThreadHeader = None,
    leaving: LeavingHeader = None,
) -> Response:
    """Run an agent on a list of messages, and answer with its words.

    Without a thread the list is the whole conversation. When the client leaves, the run stops,
    unless `X-Isolane-On-Disconnect` is `continue`, which needs a thread.
    """
    reading = read_asked(intake, identity, request, read_completion, key=key, name="messages")
    async with reading as (ids, asked):
        agent = choose_agent(streams.service, identity, asked.agent)
        thread_id = _choose_thread(asked, thread)
        on_disconnect = _choose_leaving(leaving, is_lasting=thread_id is not None)
        repeated = await find_repeated(storage.store, context, ids, asked)
        if repeated is not None and thread_id not in (None, repeated.thread_id):
            raise RunConflict("this Idempotency-Key was used on another thread")
        place = ids.thread_id if repeated is None else repeated.thread_id
        own = context.for_thread(thread_id or place).for_run(ids.run_id)
        wanted = Wanted(
            context=own,
            agent=agent,
            asked=asked,
            messages=asked.added if thread_id is None else get_unheard(asked),
            opening=claimed_opening(asked) if thread_id is None else None,
            repeated=repeated,
            on_disconnect=on_disconnect,
        )

        async def start(reader: HttpReader) -> EventStream:
            taken = await take_on(streams, identity, wanted, reader)
            return _tell(taken, asked, reader, run_headers(own))

        return await open_stream(streams, identity, own.thread_key, start, run_id=ids.run_id)


def _tell(
    taken: Taken, asked: CompletionAsked, reader: HttpReader, headers: Mapping[str, str]
) -> EventStream:
    """Return the answer that follows a run, streamed or whole."""
    stored = taken.stored
    fold = CompletionFold(
        stored.run_id,
        model=asked.agent,
        created_at=stored.created_at,
        tells_usage=asked.tells_usage,
    )
    if not asked.is_streamed:
        answer = partial(answer_completion, fold=fold)
        return WholeAnswer(taken.followed, answer, reader=reader, headers=headers)
    tell = partial(tell_completion, fold=fold)
    return EventStream(taken.followed, tell, reader=reader, headers={**HEADERS, **headers})


def _choose_thread(asked: CompletionAsked, header: str | None) -> str | None:
    """Return the thread that a request names in its header or its metadata."""
    in_metadata = asked.thread_id
    if header is not None and in_metadata not in (None, header):
        raise InvalidInput(f"metadata.{THREAD_KEY}", f"must be that of {THREAD_HEADER}")
    if header is not None:
        return check_wire_id(THREAD_HEADER, header)
    if in_metadata is None:
        return None
    return check_wire_id(f"metadata.{THREAD_KEY}", in_metadata)


def _choose_leaving(header: str | None, *, is_lasting: bool) -> OnDisconnect:
    """Return the fate of a run whose reader leaves."""
    if header is None:
        return OnDisconnect.STOP
    if header not in list(OnDisconnect):
        raise InvalidInput(LEAVING_HEADER, "must be continue or stop")
    if header == OnDisconnect.CONTINUE and not is_lasting:
        raise InvalidInput(LEAVING_HEADER, "needs a thread: nobody finds such a run again")
    return OnDisconnect(header)
