"""Requests of TanStack AI's client at `/agui` after its page was reloaded or cut off.

With `threadId` it asks for the conversation, with `runId` for the events of the active run.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from isolane.agents import check
from isolane.context import EventId
from isolane.contracts import Conversation, Identity
from isolane.doors.answers import Load
from isolane.doors.credentials import Reader, make_context, require_agent
from isolane.doors.dependencies import AnswersDep, StorageDep, StreamsDep
from isolane.doors.event_stream import Streams
from isolane.doors.framing import JSON_LINES, SERVER_SENT, framing_of, rebuilding
from isolane.doors.parts import Storage
from isolane.doors.request import UserRoute
from isolane.doors.sse import LastEventId, join_run
from isolane.errors import InvalidInput, NotFound
from isolane.ids import check_wire_id
from isolane.wire.tanstack import UiMessage, to_ui_messages

router = APIRouter(route_class=UserRoute, tags=["agui"])

MESSAGES_MAX: Final = 200
"""Maximum number of messages of a page, and their number without a `limit`. A page has whole
runs."""
FROM_START: Final = "-1"
"""The offset before a run's first event."""

# ruff: noqa: N815 - the fields below are the wire's names


class Wanted(BaseModel):
    """A request for a thread's messages, or for a run's events."""

    threadId: str | None = None
    limit: Annotated[int | None, Field(ge=1)] = None
    before: str | None = None
    runId: str | None = None
    offset: str | None = None


class ActiveRun(BaseModel):
    """The active run, whose events can be requested by `runId`."""

    runId: str


class Pending(BaseModel):
    """Open questions of the last run to a person, as AG-UI's interrupts."""

    runId: str
    pending: list[dict[str, Any]]


class HistoryPage(BaseModel):
    """A flag for older messages, and the cursor for them, to be sent as `before`."""

    truncated: bool
    cursor: str | None = None


class Hydration(BaseModel):
    """A page of a thread's messages in the form of TanStack AI's client."""

    messages: list[dict[str, Any]]
    activeRun: ActiveRun | None
    interrupts: Pending | None
    page: HistoryPage


ANSWERS: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "model": Hydration,
        "content": {SERVER_SENT.media_type: {}, JSON_LINES.media_type: {}},
    }
}


@router.get("/agui", response_class=Response, responses=ANSWERS)
async def hydrate_default_agent(
    storage: StorageDep,
    streams: StreamsDep,
    answers: AnswersDep,
    identity: Reader,
    request: Request,
    *,
    wanted: Annotated[Wanted, Query()],
    last_event_id: LastEventId = None,
) -> Response:
    """Return a thread's messages by `threadId`, or by `runId` the events of one run, and live.

    Messages are in TanStack AI's form, with the question of the active run. A page has whole runs:
    about `limit` messages, at most 200 unless one run has more. `before` asks for older ones.
    Events come strictly after `Last-Event-ID` or `offset`, or from the start (`-1`).
    """
    streams.service.check_agent(None)
    if wanted.runId is not None:
        return await _join(streams, identity, request, wanted, last=last_event_id)
    return answers.answer(identity.user_id, _loading(storage, identity, request, wanted))


@router.get("/agui/{agent}", response_class=Response, responses=ANSWERS)
async def hydrate_agent(
    storage: StorageDep,
    streams: StreamsDep,
    answers: AnswersDep,
    identity: Reader,
    request: Request,
    *,
    wanted: Annotated[Wanted, Query()],
    agent: str,
    last_event_id: LastEventId = None,
) -> Response:
    """Do the same at an agent's address.

    Threads and runs are the user's, whatever agent answered.
    """
    if streams.service.check_agent(agent) == check.NAME:
        require_agent(identity, agent)
    if wanted.runId is not None:
        return await _join(streams, identity, request, wanted, last=last_event_id)
    return answers.answer(identity.user_id, _loading(storage, identity, request, wanted))


async def _join(
    streams: Streams, identity: Identity, request: Request, wanted: Wanted, *, last: str | None
) -> Response:
    """Return the events of a run."""
    if wanted.threadId is not None:
        raise InvalidInput("runId", "asks for events and threadId for messages: send only one")
    own = make_context(identity, request.scope)
    context = await streams.service.locate(own, check_wire_id("runId", wanted.runId))
    after = _parse_offset(wanted.offset if last is None else last)
    framing = framing_of(request)
    framing = rebuilding(framing) if after is None else framing
    return await join_run(streams, identity, context, after=after, framing=framing)


def _parse_offset(text: str | None) -> EventId | None:
    return None if text is None or text == FROM_START else EventId.parse(text)


def _loading(storage: Storage, identity: Identity, request: Request, wanted: Wanted) -> Load:
    """Return a function that loads a page of a thread's messages."""
    thread_id = wanted.threadId
    if thread_id is None:
        raise InvalidInput("threadId", "is missing; it asks for messages, and runId for events")
    key = make_context(identity, request.scope).for_thread(thread_id).thread_key
    limit = min(wanted.limit or MESSAGES_MAX, MESSAGES_MAX)

    async def load() -> bytes:
        found = await storage.store.load_conversation(key, before=wanted.before, limit=limit)
        if found is None:
            raise NotFound(f"no thread {thread_id}")
        return await asyncio.to_thread(_encode, found)

    return load


def _encode(found: Conversation) -> bytes:
    """Return the JSON of a `Hydration`."""
    active, asking = found.active_run_id, found.asking_run_id
    pending = {"runId": asking, "pending": found.interrupts}
    return msgspec.json.encode(
        {
            "messages": _to_messages(found),
            "activeRun": None if active is None else {"runId": active},
            "interrupts": None if asking is None else pending,
            "page": {"truncated": found.before is not None, "cursor": found.before},
        }
    )


def _to_messages(found: Conversation) -> list[UiMessage]:
    runs = [[msgspec.json.decode(message) for message in run] for run in found.runs]
    shown = to_ui_messages(runs, found.interrupts)
    # A client that joins the active run drops an assistant's message that is last, because it takes
    # it for the beginning of that run's answer. So an earlier answer must not be last.
    if found.active_run_id is not None and shown and shown[-1]["role"] == "assistant":
        shown.append({"id": f"{found.active_run_id}~", "role": "assistant", "parts": []})
    return shown
