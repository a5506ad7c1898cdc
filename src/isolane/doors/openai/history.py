"""Where a response belongs: to a thread that goes on, to a branch of one, or to one of its own.

The server keeps the history. A branch is a new thread that begins with what was said up to the
response that it leaves from.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    StoredRun,
    ThreadKind,
    TurnBook,
)
from isolane.doors.gateway import Gateway
from isolane.doors.openai.runs import claimed_opening
from isolane.errors import NotFound, RunConflict, TooLarge, UnknownResponse
from isolane.events.event import decode_event
from isolane.events.transcript import Message
from isolane.ids import WIRE_ID, check_wire_id
from isolane.wire.openai.asking import ResponseAsked, get_instructions, get_unheard
from isolane.wire.openai.response import ID_PREFIX, ResponseFold

READ_RECORDS: Final = 256
READ_BYTES: Final = 1 << 20
"""Records, and bytes of them, that are folded before others get their turn."""
SEED_ROLES: Final = frozenset({"user", "assistant", "tool", "system", "developer"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a run belongs, and what it brings there."""

    thread_id: str
    messages: Sequence[Message]
    opening: Opening | None = None
    """How its thread begins with the run; None where the thread goes on."""
    instructions: str | None = None
    """What its agent is told in this run alone."""
    policy: str | None = None
    """What it wants of a busy thread; None leaves that to the server."""


async def find_place(
    gateway: Gateway, context: UserExecutionContext, asked: ResponseAsked, *, own_thread_id: str
) -> Place:
    """Return where the run of a request belongs.

    Raises:
        UnknownResponse: the previous response isn't there, or isn't this user's.
        RunConflict: it goes on still.
        TooLarge: its history is too large for a branch.

    """
    if asked.previous_id is not None:
        return await _after_response(gateway, context, asked, asked.previous_id, own_thread_id)
    if asked.conversation_id is None:
        return _begin(asked, own_thread_id)
    thread_id = check_wire_id("conversation", asked.conversation_id)
    key = ThreadKey(context.user_id, thread_id)
    if await _has_run(gateway.storage.turn_book, key):
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
    """Return the place of a run that goes on where the server has the history."""
    return Place(
        thread_id=thread_id,
        messages=get_unheard(asked),
        instructions=_join_instructions(asked),
        policy=policy,
    )


def _join_instructions(asked: ResponseAsked) -> str | None:
    """Return what a request tells the agent in this run alone.

    The history has no place for what a list says as its instructions, so they count as such.
    """
    texts = [
        *([asked.instructions] if asked.instructions else []),
        *get_instructions(asked.history),
    ]
    return "\n\n".join(texts) or None


async def _after_response(
    gateway: Gateway,
    context: UserExecutionContext,
    asked: ResponseAsked,
    previous_id: str,
    own_thread_id: str,
) -> Place:
    try:
        previous = await load_response(gateway, context, previous_id)
    except NotFound as error:
        raise UnknownResponse(f"no response {previous_id[:128]}") from error
    if previous.state is not RunState.ENDED:
        raise RunConflict("the previous response has not ended yet", retryable=True)
    key = ThreadKey(context.user_id, previous.thread_id)
    book = gateway.storage.turn_book
    if asked.is_stored and await _is_last(book, key, previous.run_id):
        # Who comes at the same time finds the thread busy, and a branch when asking again.
        return _go_on(asked, previous.thread_id, policy="reject")
    most_bytes = gateway.settings.limit_frame_bytes
    history = await _load_history(book, key, previous.run_id, most_bytes=most_bytes)
    kind = ThreadKind.CHAT if asked.is_stored else ThreadKind.REQUEST
    opening = Opening(kind, Seed(history, is_claimed=False))
    return replace(_go_on(asked, own_thread_id, policy=None), opening=opening)


async def load_response(
    gateway: Gateway, context: UserExecutionContext, response_id: str
) -> StoredRun:
    """Return the run behind a response of the user's.

    Raises `NotFound`, also for one that was deleted, and for one that wasn't to be stored and has
    ended.
    """
    run_id = response_id.removeprefix(ID_PREFIX)
    if run_id == response_id or not WIRE_ID.fullmatch(run_id):
        raise NotFound(f"no response {response_id[:128]}")
    stored = await gateway.service.load_run(context, run_id)
    if stored.draft.is_forgotten:
        raise NotFound(f"response {run_id} was deleted")
    if stored.state is RunState.ENDED:
        thread = await gateway.storage.store.load_thread(
            ThreadKey(context.user_id, stored.thread_id)
        )
        if thread is None or thread.kind is ThreadKind.REQUEST:
            raise NotFound(f"response {run_id} was not to be stored")
    return stored


def new_fold(stored: StoredRun) -> ResponseFold:
    """Return the fold of a response before its first event."""
    return ResponseFold(stored.run_id, model=stored.draft.agent, created_at=stored.created_at)


async def load_fold(
    gateway: Gateway, context: UserExecutionContext, stored: StoredRun
) -> ResponseFold:
    """Return the fold of what the log has of a response now.

    Raises `CursorExpired` when that is no longer kept.
    """
    fold = new_fold(stored)
    if stored.first_seq is None:
        return fold
    key = ThreadKey(context.user_id, stored.thread_id)
    head = (await gateway.feed.load_bounds(key)).head
    last = head.seq if stored.last_seq is None else stored.last_seq
    place = EventId(head.epoch, stored.first_seq - 1)
    while place.seq < last:
        records = await gateway.storage.log.read(
            key, after=place, limit=READ_RECORDS, max_bytes=READ_BYTES
        )
        for record in records:
            if record.run_id == stored.run_id:
                fold.add(decode_event(record.payload))
        if not records:
            break
        place = records[-1].id
    return fold


async def _has_run(book: TurnBook, key: ThreadKey) -> bool:
    """Say whether a thread has a run that stands, or one that waits."""
    return bool(await book.load_open_turn(key) or await book.load_last_turn(key))


async def _is_last(book: TurnBook, key: ThreadKey, run_id: str) -> bool:
    """Say whether a run is the last one of its thread, and nothing waits behind it."""
    if await book.load_open_turn(key) is not None:
        return False
    last = await book.load_last_turn(key)
    return last is not None and last.runs[-1].run_id == run_id


async def _load_history(
    book: TurnBook, key: ThreadKey, run_id: str, *, most_bytes: int
) -> Sequence[Message]:
    """Return what was said on a thread up to the end of a run.

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
    """Return the runs of a turn up to one of them; none when that isn't there."""
    ids = [each.run.run_id for each in turn.runs]
    return turn.runs[: ids.index(run_id) + 1] if run_id in ids else ()
