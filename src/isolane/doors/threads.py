"""The user's threads and runs over HTTP."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from isolane.contracts import RunStop, StoppedBy, StoredRun, ThreadSummary
from isolane.doors.credentials import ReadContext, WriteContext
from isolane.doors.gateway import OpenGateway
from isolane.errors import NotFound
from isolane.ids import check_wire_id, new_thread_id

router = APIRouter(prefix="/api", tags=["threads"])

PAGE_DEFAULT: Final = 50
PAGE_MAX: Final = 200
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
    """Some threads, the newest change first; `nextCursor` asks for the next page."""

    threads: list[Thread]
    nextCursor: str | None


class ThreadDetail(Thread):
    """One thread with its messages; subscribing after `head` goes on without gap or double."""

    messages: list[dict[str, Any]]
    head: str
    interrupts: list[dict[str, Any]]
    """What the last run asks of a person, as long as nobody answered: AG-UI's interrupts."""


class NewThread(BaseModel):
    """A thread to make; without an id it gets one."""

    threadId: str | None = None
    title: str = Field(default="", max_length=TITLE_MAX_CHARACTERS)


class Rename(BaseModel):
    """A thread's new title."""

    title: str = Field(max_length=TITLE_MAX_CHARACTERS)


class StopOut(BaseModel):
    """How a run was stopped: when it was asked to, how long it took, and what it took."""

    requestedAt: int
    tookMs: int
    by: StoppedBy


class RunOut(BaseModel):
    """One run: where it stands, when it did what, and why it ended."""

    runId: str
    threadId: str
    agent: str
    state: str
    createdAt: int
    startedAt: int | None
    endedAt: int | None
    outcome: str | None
    errorId: str | None
    stop: StopOut | None


class Stopping(BaseModel):
    """A run that was told to stop; its own end follows in its log."""

    runId: str
    status: str = "stopping"


@router.get("/threads")
async def list_threads(
    gateway: OpenGateway,
    context: ReadContext,
    cursor: str | None = None,
    limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = PAGE_DEFAULT,
) -> Threads:
    """List the user's threads, page by page."""
    page = await gateway.store.load_threads(context.user_id, before=cursor, limit=limit)
    return Threads(threads=[_thread(thread) for thread in page.threads], nextCursor=page.cursor)


@router.post("/threads", status_code=201)
async def create_thread(gateway: OpenGateway, context: WriteContext, given: NewThread) -> Thread:
    """Make a thread, or return the one that has the id."""
    own = context.for_thread(given.threadId or new_thread_id())
    thread = await gateway.store.add_thread(own.thread_key, title=given.title)
    await gateway.service.tell_thread(own)
    return _thread(thread)


@router.get("/threads/{thread_id}")
async def get_thread(gateway: OpenGateway, context: ReadContext, thread_id: str) -> ThreadDetail:
    """Return a thread, its messages and its head, of one moment."""
    snapshot = await gateway.store.load_snapshot(context.for_thread(thread_id).thread_key)
    if snapshot is None:
        raise NotFound(f"no thread {thread_id}")
    return ThreadDetail(
        **_thread(snapshot.thread).model_dump(),
        messages=list(snapshot.messages),
        head=str(snapshot.head),
        interrupts=[dict(interrupt) for interrupt in snapshot.interrupts],
    )


@router.patch("/threads/{thread_id}")
async def rename_thread(
    gateway: OpenGateway, context: WriteContext, thread_id: str, given: Rename
) -> Thread:
    """Give a thread another title."""
    own = context.for_thread(thread_id)
    thread = await gateway.store.set_title(own.thread_key, given.title)
    await gateway.service.tell_thread(own)
    return _thread(thread)


@router.delete("/threads/{thread_id}", status_code=204)
async def delete_thread(gateway: OpenGateway, context: WriteContext, thread_id: str) -> None:
    """Remove a thread with its log and messages, and end its runs."""
    own = context.for_thread(thread_id)
    await gateway.service.delete_thread(own)
    await gateway.factory.close_thread(own.thread_key)


@router.get("/runs/{run_id}")
async def get_run(gateway: OpenGateway, context: ReadContext, run_id: str) -> RunOut:
    """Say where a run stands."""
    return _run(await gateway.service.load_run(context, check_wire_id("runId", run_id)))


@router.post("/runs/{run_id}/abort", status_code=202)
async def abort_run(gateway: OpenGateway, context: WriteContext, run_id: str) -> Stopping:
    """Stop a run; one that has ended stays as it is."""
    own = await gateway.service.locate(context, check_wire_id("runId", run_id))
    await gateway.service.abort(own)
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
        stop=None if run.stop is None else _stop(run.stop),
    )


def _stop(stop: RunStop) -> StopOut:
    return StopOut(requestedAt=stop.requested_at, tookMs=stop.took_ms, by=stop.by)
