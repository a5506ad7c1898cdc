"""A run that joins its thread: its row, its messages, and the history that its agent gets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

import msgspec
from sqlalchemy import Connection

from isolane.clock import Clock
from isolane.context import EventId, UserExecutionContext
from isolane.contracts import BegunRun, RunDraft, RunLease, RunState, StoredRun
from isolane.errors import RunConflict
from isolane.events.transcript import Message
from isolane.ids import new_agent_id
from isolane.sql import attachments, usage
from isolane.sql.address import load_stored
from isolane.sql.agent_ids import load_agent_ids
from isolane.sql.drafts import asked_of, encode_joined, to_fingerprints
from isolane.sql.driver import execute, insert_row, load_value
from isolane.sql.heads import claim, load_bounds, next_run_no
from isolane.sql.messages import (
    add_messages,
    add_seed,
    load_last_question,
    load_messages,
    load_rewound,
    rewind,
    state_for,
    take_back,
)
from isolane.sql.new_messages import (
    check_added,
    has_question,
    new_messages,
    standing_before,
)
from isolane.sql.openings import check_seed, is_history_claimed, kind_of, load_kind
from isolane.sql.runs import (
    replace_draft,
    take_answers,
    update_run,
)
from isolane.sql.threads import title_of, touch_thread
from isolane.sql.turns import find_turn, move_question

CheckQuestion = Callable[[UserExecutionContext, RunDraft], None]
"""Raises when the messages of a draft are more than may be shown of a run's question."""
Values = dict[str, Any]
"""Values of a row by the names of their columns."""


class _Asked(NamedTuple):
    """Messages that a run adds to its thread, and all messages that stand there afterwards."""

    added: Sequence[Message]
    history: Sequence[Message]
    place: tuple[int, int] | None
    """The numbers of the first and the last of its messages' rows; None without any."""
    rewound: frozenset[str] = frozenset()


class Joining:
    """Writes runs into their threads, within somebody's transaction."""

    def __init__(self, *, clock: Clock, check_question: CheckQuestion) -> None:
        """Date rows by `clock`; `check_question` sees what a run adds, before that is kept."""
        self._clock = clock
        self._check_question = check_question

    def enter(self, connection: Connection, context: UserExecutionContext, draft: RunDraft) -> None:
        """Make the thread of a new run, and let the run answer what is asked there."""
        key = context.thread_key
        touch_thread(connection, key, self._clock(), kind=kind_of(draft.opening))
        if draft.seed is not None:
            check_seed(connection, key)
            add_seed(connection, key, draft.seed)
        take_answers(connection, context, draft.request.get("resume", ()))

    def keep(
        self, connection: Connection, context: UserExecutionContext, draft: RunDraft
    ) -> tuple[RunDraft, Values]:
        """Return what is kept of a run that waits, and what its row holds."""
        key = context.thread_key
        standing = load_messages(key, None, connection)
        rewound = load_rewound(key, draft, standing, connection)
        history = standing_before(draft.rewind_to, standing)  # what is dropped may be brought anew
        fresh = new_messages(draft.messages, history, rewound=rewound)
        check_added(draft, fresh)
        kept = replace(draft, messages=fresh, opening=None)
        self._check_question(context, kept)
        row = {
            "created_at": self._clock(),
            "state": RunState.QUEUED,
            "draft": msgspec.json.encode(kept),
            "asked": to_fingerprints(fresh),
            "agent_run_id": new_agent_id(),
            "turn_id": context.run_id if has_question(fresh) else None,
        }
        return kept, row

    def begin_new(
        self, connection: Connection, context: UserExecutionContext, draft: RunDraft
    ) -> tuple[BegunRun, Values]:
        """Begin a run that needn't wait; return what its row is to hold."""
        run_no = next_run_no(connection)
        lease = claim(connection, context.thread_key, context.run_key.run_id, run_no)
        begun, row = self._join(connection, context, draft, lease)
        check_added(draft, begun.added)
        return begun, {**row, "run_no": run_no, "created_at": row["started_at"]}

    def begin_waiting(
        self,
        connection: Connection,
        context: UserExecutionContext,
        stored: StoredRun,
        lease: RunLease,
    ) -> BegunRun:
        """Begin a run that has waited, and write that into its row."""
        before = usage.load_run_bytes(connection, context.run_key)
        begun, row = self._join(connection, context, stored.draft, lease)
        row["draft"] = replace_draft(connection, context, row["draft"])
        update_run(connection, lease.run_no, row)
        usage.count_run(connection, context.run_key, before=before)
        return begun

    def begin_again(
        self,
        connection: Connection,
        context: UserExecutionContext,
        stored: StoredRun,
        lease: RunLease,
    ) -> BegunRun:
        """Begin a run whose messages have joined the thread already, and write that it goes on."""
        key, draft = context.thread_key, stored.draft
        history = load_messages(key, None, connection)
        rewound = load_rewound(key, draft, history, connection)
        update_run(connection, lease.run_no, {"state": RunState.RUNNING})
        asked = _Asked(draft.messages, history, None, rewound)
        head = load_bounds(key, connection).head
        anew = {
            "attempt": load_value(connection, _ATTEMPT, (lease.run_no,)),
            "is_anew": head.seq > stored.after.seq,
        }
        return _to_begun(connection, context, draft, asked, after=stored.after, lease=lease, **anew)

    def _join(
        self,
        connection: Connection,
        context: UserExecutionContext,
        draft: RunDraft,
        lease: RunLease,
    ) -> tuple[BegunRun, Values]:
        """Apply a run's rewind and add its messages; return what its row holds from now on."""
        key = context.thread_key
        head = load_bounds(key, connection).head
        ask = self._ask_again if draft.asks_again else self._ask
        asked = ask(connection, context, draft, head, lease.run_no)
        touch_thread(connection, key, self._clock(), title=title_of(asked.added))
        begun = _to_begun(connection, context, draft, asked, after=head, lease=lease)
        row = {
            "state": RunState.RUNNING,
            "draft": encode_joined(draft, asked.place),
            "asked": to_fingerprints(asked_of(draft, asked.added)),
            "first_seq": head.seq + 1,
            "started_at": self._clock(),
            "agent_run_id": begun.agent_ids.run_id,
            "turn_id": _turn_for(connection, context, asked.added),
        }
        return begun, row

    def _ask(
        self,
        connection: Connection,
        context: UserExecutionContext,
        draft: RunDraft,
        head: EventId,
        run_no: int,
    ) -> _Asked:
        """Apply a run's rewind and add what is new."""
        key = context.thread_key
        if draft.rewind_to is not None:
            rewind(connection, key, draft.rewind_to, until=head.seq + 1)
        if draft.seed is None:
            history = load_messages(key, None, connection)
        else:  # it was written just now, and nothing else stands in a thread that takes one
            history = list(draft.seed.messages)
        rewound = load_rewound(key, draft, history, connection)
        added = new_messages(draft.messages, history, rewound=rewound)
        self._check_question(context, replace(draft, messages=added))
        place = add_messages(connection, key, run_no, added, since=head.seq + 1)
        return _Asked(added, [*history, *added], place, rewound)

    def _ask_again(
        self,
        connection: Connection,
        context: UserExecutionContext,
        draft: RunDraft,
        head: EventId,
        run_no: int,
    ) -> _Asked:
        """Take back what followed the thread's last question; else as `_ask`.

        The question itself stays as it is: its row is neither dropped nor written anew.
        """
        key = context.thread_key
        question = load_last_question(key, connection)
        if question is None or question.message_id != draft.rewind_to:
            raise RunConflict("another question was asked after the one that is asked again")
        number, since = question.number, question.since_seq
        move_question(connection, number, run_no)
        take_back(connection, key, number + 1, since=since, until=head.seq + 1)
        history = load_messages(key, None, connection)
        return _Asked(history[-1:], history, (number, number))


def _to_begun(
    connection: Connection,
    context: UserExecutionContext,
    draft: RunDraft,
    asked: _Asked,
    *,
    after: EventId,
    lease: RunLease,
    **anew: Any,  # noqa: ANN401 - fields of `BegunRun`
) -> BegunRun:
    """Return what the agent of a run gets, whose messages have joined the thread.

    `anew` is what else there is to tell of a run that was begun before.
    """
    key = context.thread_key
    return BegunRun(
        added=asked.added,
        history=asked.history,
        after=after,
        lease=lease,
        agent_ids=load_agent_ids(connection, context, draft),
        rewound=asked.rewound,
        state=state_for(draft, key, connection),
        kind=load_kind(connection, key),
        is_history_claimed=is_history_claimed(connection, key),
        **anew,
    )


_ATTEMPT: Final = "SELECT attempt FROM runs WHERE run_no = ?"
_DELETE_OLD: Final = """
DELETE FROM runs WHERE user_id = ? AND run_id = ?
AND NOT EXISTS (SELECT 1 FROM threads WHERE threads.thread_no = runs.thread_no)
"""


def insert_run(
    connection: Connection, context: UserExecutionContext, row: Mapping[str, Any]
) -> None:
    """Add the row of a run whose thread is there."""
    # The id may be that of a run whose thread was deleted, and whose row is still there.
    before = usage.load_run_bytes(connection, context.run_key)
    execute(connection, _DELETE_OLD, context.run_key)
    stored = load_stored(connection, context.thread_key)
    keys = {**context.run_key._asdict(), "thread_no": stored.thread_no}
    draft = attachments.keep(connection, stored, row["draft"])
    insert_row(connection, "runs", {**keys, **row, "draft": draft})
    usage.count_run(connection, context.run_key, before=before)


def _turn_for(
    connection: Connection, context: UserExecutionContext, added: Iterable[Message]
) -> str:
    """Return the turn of a run that begins now, whose messages have joined the thread."""
    run_id = context.run_key.run_id
    if has_question(added):
        return run_id
    return find_turn(connection, context.thread_key, run_id)
