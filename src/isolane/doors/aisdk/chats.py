"""Steps that AI SDK's two doors share: asking a turn of a chat, and following one as chunks."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from itertools import count
from typing import Final
from uuid import uuid4

import msgspec

from isolane.context import EventId, ThreadKey, UserExecutionContext
from isolane.contracts import RunState, RunTicket, Store, Turn, TurnBook, TurnRun
from isolane.doors.event_stream import Streams, follow_to_the_end
from isolane.doors.records import read_kept
from isolane.errors import CursorExpired
from isolane.events.event import Record, decode_event
from isolane.events.left_out import LeftOut
from isolane.events.transcript import calls_of
from isolane.ids import check_wire_id
from isolane.log.feed import Feed
from isolane.runs import AgentService
from isolane.runs.question import says_the_same
from isolane.wire.aisdk.chunks import Chunk, UIChunks
from isolane.wire.aisdk.requests import REGENERATE, Chat, to_frame
from isolane.wire.frames import read_run, to_run_input
from isolane.wire.lists import Known

_OF_ANSWERS: Final = tuple(
    b'{"type":"%b"' % kind for kind in (b"RUN_STARTED", b"TOOL_CALL_START", b"TOOL_CALL_RESULT")
)
"""Beginnings of events that tell which calls are answered."""
_CALL: Final = b'{"type":"TOOL_CALL_END"'

UNNAMED: Final = "ai-"
"""Prefix of ids that stand for runs without an id of their client. No run has such an id."""

Told = tuple[int, bytes]
"""A chunk's number in the stream, and the chunk as JSON in UTF-8."""


async def ask(
    service: AgentService,
    store: Store,
    context: UserExecutionContext,
    chat: Chat,
    *,
    agent: str,
    on_disconnect: str | None = None,
) -> RunTicket:
    """Start a chat's turn; a question that is already being answered attaches to that answer.

    `on_disconnect` is the fate of the run without a reader, when the request may choose it. Errors
    and cancelling are those of `AgentService.start`.
    """
    own = context.for_thread(chat.thread_id).for_run(chat.run_id or f"ai-{uuid4()}")
    calls, questions = await _load_open(store, own.thread_key) if chat.has_answers else ({}, ())
    body = to_frame(
        chat,
        own.run_key.run_id,
        open_calls=calls,
        questions=questions,
        rewinds=await _is_known(service, store, own, chat),
    )
    if on_disconnect is not None:
        body["forwardedProps"]["onDisconnect"] = on_disconnect
    left_out = LeftOut()
    return await service.start(
        own,
        to_run_input(read_run(body), left_out),
        agent=agent,
        left_out=left_out,
        over_http=on_disconnect is not None,
        must_add=not (chat.asks or "resume" in body),
    )


async def load_known(
    service: AgentService, context: UserExecutionContext, chat_id: object, *, run_id: object
) -> Known:
    """Return what a chat's thread knows, so that its client needn't send it.

    `run_id` is the run that the client names, or None.

    Raises:
        InvalidInput: An id is wrong.
    """
    own = context.for_thread(check_wire_id("id", chat_id))
    named = UNNAMED if run_id is None else check_wire_id("runId", run_id)
    return await service.load_known(own.for_run(named))


async def _load_open(store: Store, key: ThreadKey) -> tuple[Mapping[str, str], Sequence[str]]:
    """Return the thread's open calls and questions.

    Each call comes with the id of the message that will answer it.
    """
    snapshot = await store.load_snapshot(key)
    if snapshot is None:
        return {}, ()
    calls: dict[str, None] = {}
    for message in map(msgspec.json.decode, snapshot.messages):
        calls.update(dict.fromkeys(call["id"] for call in calls_of(message)))
        calls.pop(message.get("toolCallId"), None)
    known = await store.load_known_ids(key)
    answers = {call_id: _new_answer_id(call_id, known) for call_id in calls}
    return answers, [str(question["id"]) for question in snapshot.interrupts]


def _new_answer_id(call_id: str, known: Collection[str]) -> str:
    """Return an id for the answer to a call that no earlier message has.

    Earlier calls may have had the same id, and may have been answered or taken back.
    """
    own = f"tool_{call_id}"
    others = (f"{own}#{number}" for number in count(2))
    return own if own not in known else next(one for one in others if one not in known)


async def _is_known(
    service: AgentService, store: Store, context: UserExecutionContext, chat: Chat
) -> bool:
    """Say whether a chat's last message stands in its thread and is asked again.

    A message of an unfinished run with the same words isn't asked again; the request attaches to
    that run. A waiting run is removed from the queue when its message is asked anew.
    """
    if not chat.asks:
        return False
    message = chat.users[-1]
    known = await store.load_known(context.thread_key, message["id"])
    holder = service.find_run_of(context, message["id"])
    if known is None:
        if holder is not None and chat.trigger == REGENERATE:
            await service.abort(context.for_run(holder))
        return False
    is_same = known.message is not None and says_the_same(message, known.message)
    is_repeated = chat.trigger != REGENERATE and is_same and holder is not None
    return known.stands and not is_repeated


@dataclass(slots=True)
class Numbered:
    """Makes numbered chunks from a turn's events."""

    fold: UIChunks
    number: int = 0

    def tell(self, records: Sequence[Record]) -> list[Told]:
        """Return the chunks of records."""
        return [
            self._tell(chunk)
            for record in records
            for chunk in self.fold.add(decode_event(record.payload))
        ]

    def _tell(self, chunk: Chunk) -> Told:
        number, self.number = self.number, self.number + 1
        return number, msgspec.json.encode(chunk)


async def follow_run(
    streams: Streams, book: TurnBook, context: UserExecutionContext, *, after: EventId
) -> AsyncGenerator[list[Told], None]:
    """Yield the chunks that the context's run adds to its turn's message, live to its end.

    Numbers begin at 0. The client has the earlier runs of the turn already, so they are read and
    not told. Safe to cancel.

    Raises:
        NotFound: The thread was deleted meanwhile.
        GoingAway: The gateway closes.
    """
    numbered: Numbered | None = None
    ahead: _Ahead | None = None
    async with aclosing(follow_to_the_end(streams, context, after=after)) as batches:
        async for records in batches:
            if numbered is None or ahead is None:
                run_id = records[0].run_id
                fold, own = await _remember(streams.feed, book, context.thread_key, run_id)
                numbered = Numbered(fold)
                ahead = await _look_ahead(streams.feed, context.thread_key, own, fold)
            await ahead.look(records)
            yield numbered.tell(records)


async def _remember(
    feed: Feed, book: TurnBook, key: ThreadKey, run_id: str
) -> tuple[UIChunks, Sequence[TurnRun]]:
    """Return the fold of a run's turn after the turn's earlier runs, and the run itself."""
    turn = await book.load_turn(key, run_id)
    if turn is None:  # the turn was taken back meanwhile
        return UIChunks(run_id), ()
    place = next((n for n, run in enumerate(turn.runs) if run.run_id == run_id), 0)
    fold = UIChunks(turn.turn_id)
    async with aclosing(read_kept(feed, key, turn.runs[:place])) as records:
        async for record in records:
            fold.add(decode_event(record.payload))
    return fold, turn.runs[place : place + 1]


@dataclass(slots=True)
class _Ahead:
    """Finds the calls that the log answered before a reader came, for the reader's fold.

    Most turns have no calls. So the log is searched only from the first call on.
    """

    feed: Feed
    key: ThreadKey
    runs: Sequence[TurnRun]
    fold: UIChunks
    end_seq: int
    """Number of the last log entry at the time when the reader came."""
    is_done: bool = False

    async def look(self, records: Sequence[Record]) -> None:
        """Search the log for answers to the first calls in the next records."""
        if self.is_done or not any(one.payload.startswith(_CALL) for one in records):
            return
        self.is_done = True
        if records[0].id.seq > self.end_seq:  # from here on the run is told live
            return
        following = read_kept(self.feed, self.key, self.runs, after_seq=records[0].id.seq - 1)
        async with aclosing(following):
            told = [
                decode_event(record.payload)
                async for record in following
                if record.payload.startswith(_OF_ANSWERS) and record.id.seq <= self.end_seq
            ]
        self.fold.look_ahead(told)


async def _look_ahead(
    feed: Feed, key: ThreadKey, runs: Sequence[TurnRun], fold: UIChunks
) -> _Ahead:
    """Return a search in the log of runs, after its first step."""
    end_seq = runs[-1].last_seq if runs else 0
    if end_seq is None:
        end_seq = (await feed.load_bounds(key)).head.seq
    return _Ahead(feed, key, runs, fold, end_seq)


async def follow_turn(
    streams: Streams, context: UserExecutionContext, turn: Turn
) -> AsyncGenerator[list[Told], None]:
    """Yield all chunks of a turn, numbered from 0, live until its last run has ended.

    Runs whose events are no longer kept are left out. Safe to cancel.

    Raises:
        NotFound: The thread was deleted meanwhile.
        GoingAway: The gateway closes.
    """
    numbered = Numbered(UIChunks(turn.turn_id))
    ahead = await _look_ahead(streams.feed, context.thread_key, turn.runs, numbered.fold)
    for run in turn.runs:
        try:
            own = context.for_run(run.run_id)
            async with aclosing(follow_to_the_end(streams, own)) as batches:
                async for records in batches:
                    await ahead.look(records)
                    yield numbered.tell(records)
        except CursorExpired:
            continue


async def find_turn(streams: Streams, book: TurnBook, key: ThreadKey) -> Turn | None:
    """Return the turn for a reader who comes back: the active one, else the last one.

    The result is None without one, or when its last run ended longer ago than `ai_replay_s` of the
    settings or isn't kept.
    """
    turn = await book.load_open_turn(key)
    if turn is not None:
        return turn
    turn = await book.load_last_turn(key)
    last = None if turn is None else turn.runs[-1]
    if last is None or last.state is not RunState.ENDED or last.first_seq is None:
        return None
    replay_ms = streams.settings.ai_replay_s * 1000
    is_late = last.ended_at is None or streams.clock() - last.ended_at >= replay_ms
    bounds = await streams.feed.load_bounds(key)
    return None if is_late or last.first_seq <= bounds.trimmed_seq else turn
