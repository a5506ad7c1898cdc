"""Routes for the user's threads and runs."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field

from isolane.contracts import RunStop, StoppedBy, StoredRun, ThreadSnapshot, ThreadSummary
from isolane.doors.credentials import ReadContext, WriteContext
from isolane.doors.dependencies import AnswersDep, FactoryDep, ServiceDep, StorageDep
from isolane.doors.request import UserRoute
from isolane.errors import NotFound
from isolane.ids import check_wire_id, new_thread_id

router = APIRouter(prefix="/api", tags=["threads"], route_class=UserRoute)

PAGE_DEFAULT: Final = 50
PAGE_MAX: Final = 200
MESSAGES_MAX: Final = 200
"""Maximum number of messages of a page, and their number without a `limit`."""
TITLE_MAX_CHARACTERS: Final = 200

# ruff: noqa: N815 - the fields below are the wire's names


class Thread(BaseModel):
    """One thread; times are milliseconds since 1970."""

    threadId: str
    title: str
    createdAt: int
    updatedAt: int
    activeRunId: str | None


class Threads(BaseModel):
    """A page of threads, the latest change first; `nextCursor` asks for the next page."""

    threads: list[Thread]
    nextCursor: str | None


class ThreadDetail(Thread):
    """One thread with a page of its messages, as of `head`.

    A subscription after `head` continues without a gap and without a duplicate.
    """

    messages: list[dict[str, Any]]
    before: str | None
    """Cursor of the page with older messages; null when there are none."""
    head: str
    interrupts: list[dict[str, Any]]
    """Open questions of the last run to a person: AG-UI's interrupts."""
    state: Any
    """AG-UI's shared state, `{}` without one; null on pages of older messages."""


class NewThread(BaseModel):
    """A thread to create; without an id the server chooses one."""

    threadId: str | None = None
    title: str = Field(default="", max_length=TITLE_MAX_CHARACTERS)


class Rename(BaseModel):
    """A thread's new title."""

    title: str = Field(max_length=TITLE_MAX_CHARACTERS)


class StopOut(BaseModel):
    """The stop of a run: the time of the request, the duration, and what ended the run."""

    requestedAt: int
    tookMs: int
    by: StoppedBy


class RunOut(BaseModel):
    """One run: its state, its times, and the reason of its end."""

    runId: str
    threadId: str
    agent: str
    state: str
    createdAt: int
    startedAt: int | None
    endedAt: int | None
    outcome: str | None
    errorId: str | None
    agentCode: str | None
    agentMessage: str | None
    stop: StopOut | None


class Stopping(BaseModel):
    """A run that was told to stop; its end event follows in its log."""

    runId: str
    status: str = "stopping"


@router.get("/threads", response_model=Threads)
async def list_threads(
    storage: StorageDep,
    answers: AnswersDep,
    context: ReadContext,
    cursor: str | None = None,
    limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = PAGE_DEFAULT,
) -> Response:
    """List the user's threads, page by page."""

    async def load() -> bytes:
        page = await storage.store.load_threads(context.user_id, before=cursor, limit=limit)
        threads = [_thread(thread) for thread in page.threads]
        return Threads(threads=threads, nextCursor=page.cursor).model_dump_json().encode()

    return answers.answer(context.user_id, load)


@router.post("/threads", status_code=201)
async def create_thread(
    storage: StorageDep, service: ServiceDep, context: WriteContext, given: NewThread
) -> Thread:
    """Create a thread, or return the one with that id."""
    own = context.for_thread(given.threadId or new_thread_id())
    thread = await storage.store.add_thread(own.thread_key, title=given.title)
    await service.tell_thread(own)
    return _thread(thread)


@router.get("/threads/{thread_id}", response_model=ThreadDetail)
async def get_thread(
    storage: StorageDep,
    answers: AnswersDep,
    context: ReadContext,
    *,
    thread_id: str,
    before: str | None = None,
    limit: Annotated[int, Query(ge=1, le=MESSAGES_MAX)] = MESSAGES_MAX,
) -> Response:
    """Return a thread, a page of its messages and its head, all of one moment.

    A page ends early when its messages have more than a megabyte.
    """
    key = context.for_thread(thread_id).thread_key

    async def load() -> bytes:
        snapshot = await storage.store.load_snapshot(key, before=before, limit=limit)
        if snapshot is None:
            raise NotFound(f"no thread {thread_id}")
        return await asyncio.to_thread(_encode, snapshot, is_first=before is None)

    return answers.answer(context.user_id, load)


def _encode(snapshot: ThreadSnapshot, *, is_first: bool) -> bytes:
    """Return the JSON of a `ThreadDetail`; stored messages are copied without decoding."""
    no_state = b"{}" if is_first else b"null"
    return msgspec.json.encode(
        {
            **_thread(snapshot.thread).model_dump(),
            "messages": [msgspec.Raw(message) for message in snapshot.messages],
            "before": snapshot.before,
            "head": str(snapshot.head),
            "interrupts": snapshot.interrupts,
            "state": msgspec.Raw(snapshot.state or no_state),
        }
    )


@router.patch("/threads/{thread_id}")
async def rename_thread(
    storage: StorageDep,
    service: ServiceDep,
    context: WriteContext,
    thread_id: str,
    given: Rename,
) -> Thread:
    """Rename a thread."""
    own = context.for_thread(thread_id)
    thread = await storage.store.set_title(own.thread_key, given.title)
    await service.tell_thread(own)
    return _thread(thread)


@router.delete("/threads/{thread_id}", status_code=204, response_model=None)
async def delete_thread(
    service: ServiceDep, factory: FactoryDep, context: WriteContext, thread_id: str
) -> None:
    """Delete a thread with its log and messages, and end its runs."""
    own = context.for_thread(thread_id)
    await service.delete_thread(own)
    await factory.close_thread(own.thread_key)


@router.get("/runs/{run_id}")
async def get_run(service: ServiceDep, context: ReadContext, run_id: str) -> RunOut:
    """Return the state of a run."""
    return _run(await service.load_run(context, check_wire_id("runId", run_id)))


@router.post("/runs/{run_id}/abort", status_code=202)
async def abort_run(service: ServiceDep, context: WriteContext, run_id: str) -> Stopping:
    """Stop a run. An ended run stays ended; a run that arrives soon is stopped on arrival."""
    try:
        own = await service.locate(context, check_wire_id("runId", run_id))
    except NotFound:
        await service.remember_abort(context.user_id, run_id)
        raise
    await service.abort(own)
    return Stopping(runId=run_id)


def _thread(thread: ThreadSummary) -> Thread:
    return Thread(
        threadId=thread.thread_id,
        title=thread.title,
        createdAt=thread.created_at,
        updatedAt=thread.updated_at,
        activeRunId=thread.active_run_id,
    )


def _run(run: StoredRun) -> RunOut:
    return RunOut(
        runId=run.key.run_id,
        threadId=run.thread_id,
        agent=run.draft.agent,
        state=run.state,
        createdAt=run.created_at,
        startedAt=run.started_at,
        endedAt=run.ended_at,
        outcome=run.outcome,
        errorId=run.error_id,
        agentCode=run.agent_code,
        agentMessage=run.agent_message,
        stop=None if run.stop is None else _stop(run.stop),
    )


def _stop(stop: RunStop) -> StopOut:
    return StopOut(requestedAt=stop.requested_at, tookMs=stop.took_ms, by=stop.by)
