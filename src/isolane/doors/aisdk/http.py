"""AI SDK over HTTP: a chat's turn in, a UI message stream out, and the chat's messages.

It speaks to `DefaultChatTransport` of the package `ai`. The client's `stop()` only drops the
request, which looks like a lost network. So a dropped request stops nothing; the stop route does.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from fastapi import APIRouter, Header, HTTPException, Query, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel

from isolane.context import UserExecutionContext
from isolane.doors.aisdk.chats import (
    ask,
    find_turn,
    follow_run,
    follow_turn,
    load_known,
)
from isolane.doors.aisdk.history import load_messages
from isolane.doors.aisdk.stream import answer_stream
from isolane.doors.bodies import read_new, reading
from isolane.doors.credentials import (
    ReadContext,
    Reader,
    WriteContext,
    Writer,
    make_context,
    require_agent,
)
from isolane.doors.dependencies import (
    AnswersDep,
    FeedDep,
    IntakeDep,
    ServiceDep,
    StorageDep,
    StreamsDep,
)
from isolane.doors.event_stream import EventStream, open_stream
from isolane.doors.rate import check_rate
from isolane.doors.request import UserRoute
from isolane.doors.sse import STREAM, LastEventId
from isolane.errors import InvalidInput, NotFound
from isolane.runs import AgentService
from isolane.runs.readers import HttpReader
from isolane.wire.aisdk.requests import read_chat
from isolane.wire.lists import Known, WholeList

router = APIRouter(route_class=UserRoute, tags=["AI SDK"])

TURNS_MAX: Final = 200
MAYBE_STREAM: Final[dict[int | str, dict[str, Any]]] = {
    **STREAM,
    204: {"description": "Nothing to resume"},
}
CHAT_BODY: Final = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["id", "messages"],
                    "properties": {
                        "id": {"type": "string", "description": "The chat: a thread's id."},
                        "trigger": {"enum": ["submit-message", "regenerate-message"]},
                        "messageId": {"type": "string"},
                        "messages": {"type": "array", "items": {"type": "object"}},
                        "runId": {"type": "string", "description": "So that it runs once."},
                        "policy": {"enum": ["queue", "reject", "interrupt"]},
                    },
                }
            }
        },
    }
}
"""Description of the body in the OpenAPI document; the route reads the body after
authentication."""


class StoppedRuns(BaseModel):
    """Runs that were told to stop; their end events follow."""

    runIds: list[str]  # noqa: N815 - the name on the wire


Route = TypeVar("Route", bound=Callable[..., Any])
AgentName = Annotated[str | None, "an agent's name; the default's for None"]
"""Agent of the path, or of the query when the path has none. All agents share a user's chats."""
OnDisconnect = Annotated[
    Literal["continue", "stop"] | None, Header(alias="x-isolane-on-disconnect")
]


def _at_agents(
    declare: Callable[..., Callable[[Route], Route]],
    path: str,
    **options: Any,  # noqa: ANN401 - FastAPI's own, which it checks
) -> Callable[[Route], Route]:
    """Declare a route at the default agent's address, and at every agent's."""

    def add(route: Route) -> Route:
        return declare(f"/ai{path}", **options)(declare(f"/ai/{{agent}}{path}", **options)(route))

    return add


@_at_agents(
    router.post,
    "/chat",
    response_class=StreamingResponse,
    responses=STREAM,
    openapi_extra=CHAT_BODY,
)
async def send_turn(
    intake: IntakeDep,
    storage: StorageDep,
    streams: StreamsDep,
    identity: Writer,
    request: Request,
    *,
    agent: AgentName = None,
    on_disconnect: OnDisconnect = None,
) -> EventStream:
    """Run an agent for a chat's turn: AI SDK's messages in, its UI message stream out.

    Only new messages count. When the client leaves, the run goes on, unless the header
    `X-Isolane-On-Disconnect` is `stop`.
    """
    check_rate(intake.limits, identity.user_id)
    service = streams.service
    chosen = service.check_agent(agent)
    require_agent(identity, chosen)
    whose = make_context(identity, request.scope)
    async with reading(request, intake, identity.user_id) as body:
        load_known = partial(_load_known, service, whose)
        given = await read_new(body, intake, identity.user_id, load_known, pick=WholeList.pick_turn)
        chat = read_chat(given.get("id"), given, given)
        context = whose.for_thread(chat.thread_id)
        stops = "stop" if on_disconnect == "stop" else None

        async def start(reader: HttpReader) -> EventStream:
            ticket = await ask(
                service, storage.store, context, chat, agent=chosen, on_disconnect=stops
            )
            reader.run_id = ticket.context.run_id
            told = follow_run(streams, storage.turn_book, ticket.context, after=ticket.after)
            own = {"x-isolane-thread": chat.thread_id, "x-isolane-run": reader.run_id or ""}
            return answer_stream(streams, identity, told, reader, headers=own)

        return await open_stream(streams, identity, context.thread_key, start)


async def _load_known(
    service: AgentService, context: UserExecutionContext, whole: WholeList
) -> Known:
    rest = whole.rest
    return await load_known(service, context, rest.get("id"), run_id=rest.get("runId"))


@_at_agents(router.get, "/chat", status_code=426, include_in_schema=False)
async def need_upgrade() -> Response:
    """Say that this address is a WebSocket's."""
    raise HTTPException(
        426, "this address takes WebSocket upgrades and POST", headers={"upgrade": "websocket"}
    )


@_at_agents(
    router.get,
    "/chat/{chat_id}/stream",
    response_class=StreamingResponse,
    responses=MAYBE_STREAM,
)
async def resume_turn(
    storage: StorageDep,
    streams: StreamsDep,
    identity: Reader,
    context: ReadContext,
    chat_id: str,
    *,
    agent: AgentName = None,
    after: Annotated[int | None, Query(ge=-1)] = None,
    last_event_id: LastEventId = None,
) -> Response:
    """Replay the chat's turn from its start, and follow it live; 204 without one.

    The turn is the active one, else the last one for a while after its end. With `after` or
    `Last-Event-ID`, only chunks with a greater number are sent.
    """
    streams.service.check_agent(agent)
    key = context.for_thread(chat_id).thread_key
    place = _place_of(after, last_event_id)
    turn = await find_turn(streams, storage.turn_book, key)
    if turn is None:
        return Response(status_code=204)

    async def start(reader: HttpReader) -> EventStream:
        reader.run_id = turn.runs[-1].run_id
        told = follow_turn(streams, context.for_thread(chat_id), turn)
        return answer_stream(streams, identity, told, reader, after=place)

    return await open_stream(streams, identity, key, start)


@_at_agents(router.post, "/chat/{chat_id}/stop", status_code=202)
async def stop_chat(
    service: ServiceDep, context: WriteContext, chat_id: str, agent: AgentName = None
) -> StoppedRuns:
    """Stop every unfinished run of the chat, waiting ones included."""
    service.check_agent(agent)
    key = context.for_thread(chat_id).thread_key
    return StoppedRuns(runIds=await service.stop_thread(key))


@_at_agents(router.get, "/chat/{chat_id}/messages", response_model=list[dict[str, Any]])
async def get_messages(
    service: ServiceDep,
    storage: StorageDep,
    feed: FeedDep,
    answers: AnswersDep,
    context: ReadContext,
    *,
    chat_id: str,
    agent: AgentName = None,
    before: str | None = None,
    limit: Annotated[int, Query(ge=1, le=TURNS_MAX)] = TURNS_MAX,
) -> Response:
    """Return the chat as AI SDK's messages, the oldest first.

    `limit` counts turns, from the newest. `before` is the id of a message, and asks for the turns
    before its own. Large turns make a shorter page.
    """
    service.check_agent(agent)
    own = context.for_thread(chat_id)

    async def load() -> bytes:
        messages = await load_messages(
            feed, storage.turn_book, own.thread_key, before=before, limit=limit
        )
        if messages is None:
            raise NotFound(f"no chat {chat_id}")
        return msgspec.json.encode(messages)

    return answers.answer(context.user_id, load)


def _place_of(after: int | None, last_event_id: str | None) -> int:
    """Return the number of the reader's last chunk; -1 without one."""
    if last_event_id is None:
        return -1 if after is None else after
    if not last_event_id.isdecimal() or len(last_event_id) > len(str(2**53)):
        raise InvalidInput("Last-Event-ID", "must be the number of a chunk")
    return int(last_event_id)
