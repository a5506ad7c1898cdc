"""The engines on the database: the log, the store, the books of runs, turns and nodes."""

from __future__ import annotations

from functools import partial

from isolane import clock, databases
from isolane.context import UserExecutionContext
from isolane.contracts import (
    EventLog,
    Members,
    NodeInfo,
    RunBook,
    RunDraft,
    Store,
    TurnBook,
    ensure,
)
from isolane.doors.parts import Storage
from isolane.events.event import check_question
from isolane.settings import Settings
from isolane.sql.database import Database
from isolane.sql.log import DatabaseEventLog
from isolane.sql.runbook import DatabaseRunBook
from isolane.sql.store import DatabaseStore
from isolane.sql.turns import DatabaseTurnBook
from isolane.sql.usage import Quotas, Usage
from isolane.tasks import TaskOwner


def make_storage(
    settings: Settings, database: Database, info: NodeInfo, *, tasks: TaskOwner
) -> Storage:
    """Return the engines of the log, the store and the book of runs of the node `info`."""
    url = settings.sqlalchemy_url
    members = databases.make_members(url, database, info, clock=clock.now_ms)
    quotas = Quotas(settings.limit_stored_threads_per_user, settings.limit_stored_bytes_per_user)
    store = DatabaseStore(database, clock=clock.now_ms, quotas=quotas)
    book = DatabaseRunBook(
        database,
        clock=clock.now_ms,
        timer=clock.new_steady_clock(),
        quotas=quotas,
        check_question=partial(_check_question, settings),
    )
    log = DatabaseEventLog(
        database,
        tasks=tasks,
        max_events=settings.log_max_events,
    )
    return Storage(
        store=ensure(store, Store),
        book=ensure(book, RunBook),
        members=ensure(members, Members),
        turn_book=ensure(DatabaseTurnBook(database), TurnBook),
        log=ensure(log, EventLog),
        usage=Usage(database),
    )


def _check_question(settings: Settings, context: UserExecutionContext, draft: RunDraft) -> None:
    check_question(
        context.thread_key,
        context.run_key.run_id,
        draft.messages,
        rewind_to=draft.rewind_to,
        request=draft.request,
        frame_max_bytes=settings.limit_frame_bytes,
    )
