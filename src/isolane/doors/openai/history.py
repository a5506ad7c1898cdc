"""The thread of a response: one that goes on, a branch, or a thread of its own.

The server keeps the history. A branch is a new thread that begins with the history up to the
previous response.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Final

import msgspec

from isolane.context import EventId, ThreadKey, UserExecutionContext
from isolane.contracts import (
    Opening,
    RunState,
    Seed,
    StandingRun,
    StandingTurn,
    Store,
    StoredRun,
    ThreadKind,
    TurnBook,
)
from isolane.doors.openai.runs import claimed_opening
from isolane.doors.parts import Storage
from isolane.doors.records import read_runs
from isolane.errors import NotFound, RunConflict, TooLarge, UnknownResponse
from isolane.events.event import decode_event
from isolane.events.transcript import Message
from isolane.ids import WIRE_ID, check_wire_id
from isolane.log.feed import Feed
from isolane.runs import AgentService
from isolane.wire.openai.asking import ResponseAsked, get_instructions, get_unheard
from isolane.wire.openai.response import ID_PREFIX, ResponseFold

SEED_ROLES: Final = frozenset({"user", "assistant", "tool", "system", "developer"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The thread of a run, and the run's messages."""

    thread_id: str
    messages: Sequence[Message]
    opening: Opening | None = None
    """Opening of a thread that begins with the run; None for a thread that goes on."""
    instructions: str | None = None
    """Instructions for the agent in this run only."""
    policy: str | None = None
    """Policy for a busy thread; None leaves it to the server."""


async def find_place(
    service: AgentService,
    storage: Storage,
    context: UserExecutionContext,
    asked: ResponseAsked,
    *,
    own_thread_id: str,
    most_bytes: int,
) -> Place:
    """Return the place of a request's run.

    A branch has a history of twice `most_bytes` at most.

    Raises:
        UnknownResponse: The previous response doesn't exist, or isn't this user's.
        RunConflict: The previous response is still being made.
        TooLarge: Its history is too large for a branch.
    """
    if asked.previous_id is not None:
        previous = await _load_previous(service, storage, context, asked.previous_id)
        key = ThreadKey(context.user_id, previous.thread_id)
        if asked.is_stored and await _is_last(storage.turn_book, key, previous.run_id):
            # A second request at the same moment finds the thread busy, and gets a branch when it
            # is repeated.
            return _go_on(asked, previous.thread_id, policy="reject")
        history = await _load_history(
            storage.turn_book, key, previous.run_id, most_bytes=most_bytes
        )
        return _branch(asked, own_thread_id, history)
    if asked.conversation_id is None:
        return _begin(asked, own_thread_id)
    thread_id = check_wire_id("conversation", asked.conversation_id)
    key = ThreadKey(context.user_id, thread_id)
    if await _has_run(storage.turn_book, key):
        return _go_on(asked, thread_id, policy=None)
    return _begin(asked, thread_id)


def _begin(asked: ResponseAsked, thread_id: str) -> Place:
    """Return the place of a run that is the first of its thread."""
    return Place(
        thread_id=thread_id,
        messages=asked.added,
        opening=claimed_opening(asked),
        instructions=asked.instructions,
    )


def _go_on(asked: ResponseAsked, thread_id: str, *, policy: str | None) -> Place:
    """Return the place of a run that continues a history on the server."""
    return Place(
        thread_id=thread_id,
        messages=get_unheard(asked),
        instructions=_join_instructions(asked),
        policy=policy,
    )


def _join_instructions(asked: ResponseAsked) -> str | None:
    """Return the instructions of a request for this run only.

    Instructions in a list count as such too, because the history has no place for them.
    """
    texts = [
        *([asked.instructions] if asked.instructions else []),
        *get_instructions(asked.history),
    ]
    return "\n\n".join(texts) or None


def _branch(asked: ResponseAsked, thread_id: str, history: Sequence[Message]) -> Place:
    """Return the place of a run on a new thread that begins with a history of the server's."""
    kind = ThreadKind.CHAT if asked.is_stored else ThreadKind.REQUEST
    opening = Opening(kind, Seed(history, is_claimed=False))
    return replace(_go_on(asked, thread_id, policy=None), opening=opening)


async def _load_previous(
    service: AgentService, storage: Storage, context: UserExecutionContext, previous_id: str
) -> StoredRun:
    """Return the run behind the previous response, which has ended."""
    try:
        previous = await load_response(service, storage.store, context, previous_id)
    except NotFound as error:
        raise UnknownResponse(f"no response {previous_id[:128]}") from error
    if previous.state is not RunState.ENDED:
        raise RunConflict("the previous response has not ended yet", retryable=True)
    return previous


async def load_response(
    service: AgentService, store: Store, context: UserExecutionContext, response_id: str
) -> StoredRun:
    """Return the run behind a response of the user.

    Raises:
        NotFound: There is no such response, it was deleted, or it was not to be stored and has
            ended.
    """
    run_id = response_id.removeprefix(ID_PREFIX)
    if run_id == response_id or not WIRE_ID.fullmatch(run_id):
        raise NotFound(f"no response {response_id[:128]}")
    stored = await service.load_run(context, run_id)
    if stored.draft.is_forgotten:
        raise NotFound(f"response {run_id} was deleted")
    if stored.state is RunState.ENDED:
        thread = await store.load_thread(ThreadKey(context.user_id, stored.thread_id))
        if thread is None or thread.kind is ThreadKind.REQUEST:
            raise NotFound(f"response {run_id} was not to be stored")
    return stored


def new_fold(stored: StoredRun) -> ResponseFold:
    """Return the fold of a response before its first event."""
    return ResponseFold(stored.run_id, model=stored.draft.agent, created_at=stored.created_at)


async def load_fold(feed: Feed, context: UserExecutionContext, stored: StoredRun) -> ResponseFold:
    """Return the fold of the response's events that the log has now.

    Raises:
        CursorExpired: The log no longer keeps the events.
    """
    fold = new_fold(stored)
    if stored.first_seq is None:
        return fold
    key = ThreadKey(context.user_id, stored.thread_id)
    head = (await feed.load_bounds(key)).head
    last_seq = head.seq if stored.last_seq is None else stored.last_seq
    begin = EventId(head.epoch, stored.first_seq - 1)
    reading = read_runs(feed, key, {stored.run_id}, after=begin, last_seq=last_seq)
    async with aclosing(reading):
        async for record in reading:
            fold.add(decode_event(record.payload))
    return fold


async def _has_run(book: TurnBook, key: ThreadKey) -> bool:
    """Say whether a thread has a standing or a waiting run."""
    return bool(await book.load_open_turn(key) or await book.load_last_turn(key))


async def _is_last(book: TurnBook, key: ThreadKey, run_id: str) -> bool:
    """Say whether a run is the last one of its thread, without a waiting one after it."""
    if await book.load_open_turn(key) is not None:
        return False
    last = await book.load_last_turn(key)
    return last is not None and last.runs[-1].run_id == run_id


async def _load_history(
    book: TurnBook, key: ThreadKey, run_id: str, *, most_bytes: int
) -> Sequence[Message]:
    """Return the messages of a thread up to the end of a run.

    Raises `UnknownResponse` when the run was taken back, and `TooLarge` when that has more than
    twice `most_bytes`.
    """
    size = 0
    runs: list[StandingRun] = []
    before: str | None = None
    while True:
        page = await book.load_turns(key, before=before)
        if page is None:
            raise UnknownResponse(f"run {run_id} is gone")
        for turn in page.turns:
            runs = [*_up_to(turn, run_id), *runs] if not runs else [*turn.runs, *runs]
        size += len(msgspec.json.encode(page.turns)) if runs else 0
        if size > 2 * most_bytes:
            raise TooLarge(f"previous_response_id: its history has more than {most_bytes} bytes")
        if not page.has_older:
            break
        before = page.turns[-1].turn_id
    if not runs:
        raise UnknownResponse(f"run {run_id} was taken back")
    said = [one for run in runs for one in (*run.added, *run.left)]
    return [one for one in (*page.seed, *said) if one["role"] in SEED_ROLES]


def _up_to(turn: StandingTurn, run_id: str) -> Sequence[StandingRun]:
    """Return the runs of a turn up to the named one; empty when the turn doesn't have it."""
    ids = [each.run.run_id for each in turn.runs]
    return turn.runs[: ids.index(run_id) + 1] if run_id in ids else ()
