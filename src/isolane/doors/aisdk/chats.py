"""What AI SDK's two doors share: asking a turn of a chat, and following one as chunks."""

# Long because: to ask, to follow and to load a chat read a turn in the same way.

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from itertools import count
from typing import Final
from uuid import uuid4

import msgspec

from isolane.context import EventId, ThreadKey, UserExecutionContext
from isolane.contracts import EventLog, RunState, RunTicket, StandingTurn, Turn, TurnRun
from isolane.doors.gateway import Gateway
from isolane.doors.parts import Storage
from isolane.errors import CursorExpired
from isolane.events.event import Record, decode_event
from isolane.events.left_out import LeftOut
from isolane.events.transcript import Message, calls_of
from isolane.ids import check_wire_id
from isolane.runs.question import says_the_same
from isolane.wire.aisdk.chunks import ID_PREFIX, Chunk, UIChunks
from isolane.wire.aisdk.history import answer_calls, to_assistant_message, to_user_message
from isolane.wire.aisdk.messages import UIMessage, UIMessageFold
from isolane.wire.aisdk.requests import REGENERATE, Chat, to_frame
from isolane.wire.frames import read_run, to_run_input
from isolane.wire.lists import Known

STEP_RECORDS: Final = 1000
"""Records that are read at once of a turn that has ended, a count."""
STEP_BYTES: Final = 1 << 20
PAGE_BYTES: Final = 4 << 20
"""Bytes of events of which one page of messages is made."""
_OF_ANSWERS: Final = tuple(
    b'{"type":"%b"' % kind for kind in (b"RUN_STARTED", b"TOOL_CALL_START", b"TOOL_CALL_RESULT")
)
"""How events begin that tell which calls are answered."""
_CALL: Final = b'{"type":"TOOL_CALL_END"'

UNNAMED: Final = "ai-"
"""Stands for the id of a run that a page doesn't name. No run is called so."""

Told = tuple[int, bytes]
"""A chunk as JSON in UTF-8, and its number in the stream."""


async def ask(
    gateway: Gateway,
    context: UserExecutionContext,
    chat: Chat,
    *,
    agent: str,
    on_disconnect: str | None = None,
) -> RunTicket:
    """Take a chat's turn on. A question that is being answered already attaches to that answer.

    `on_disconnect` is what becomes of the run without a reader, where the request may say so. Its
    errors, and what cancelling the caller means, are those of `AgentService.start`.
    """
    own = context.for_thread(chat.thread_id).for_run(chat.run_id or f"ai-{uuid4()}")
    calls, questions = (
        await _load_open(gateway.storage, own.thread_key) if chat.has_answers else ({}, ())
    )
    body = to_frame(
        chat,
        own.run_key.run_id,
        open_calls=calls,
        questions=questions,
        rewinds=await _is_known(gateway, own, chat),
    )
    if on_disconnect is not None:
        body["forwardedProps"]["onDisconnect"] = on_disconnect
    left_out = LeftOut()
    return await gateway.service.start(
        own,
        to_run_input(read_run(body), left_out),
        agent=agent,
        left_out=left_out,
        over_http=on_disconnect is not None,
        must_add=not (chat.asks or "resume" in body),
    )


async def load_known(
    gateway: Gateway, context: UserExecutionContext, chat_id: object, *, run_id: object
) -> Known:
    """Return what a chat has, which its client's list needn't bring.

    `run_id` is that of the run, where the client names one. Raises `InvalidInput` for wrong ids.
    """
    own = context.for_thread(check_wire_id("id", chat_id))
    named = UNNAMED if run_id is None else check_wire_id("runId", run_id)
    return await gateway.service.load_known(own.for_run(named))


async def _load_open(storage: Storage, key: ThreadKey) -> tuple[Mapping[str, str], Sequence[str]]:
    """Return what of a thread waits for an answer: calls and questions, by their ids.

    Each call has the id that the message with its answer will have.
    """
    snapshot = await storage.store.load_snapshot(key)
    if snapshot is None:
        return {}, ()
    calls: dict[str, None] = {}
    for message in map(msgspec.json.decode, snapshot.messages):
        calls.update(dict.fromkeys(call["id"] for call in calls_of(message)))
        calls.pop(message.get("toolCallId"), None)
    known = await storage.store.load_known_ids(key)
    answers = {call_id: _new_answer_id(call_id, known) for call_id in calls}
    return answers, [str(question["id"]) for question in snapshot.interrupts]


def _new_answer_id(call_id: str, known: Collection[str]) -> str:
    """Return an id for the answer to a call that no message ever had.

    Earlier calls may have had the id of this one, and been answered or taken back.
    """
    own = f"tool_{call_id}"
    others = (f"{own}#{number}" for number in count(2))
    return own if own not in known else next(one for one in others if one not in known)


async def _is_known(gateway: Gateway, context: UserExecutionContext, chat: Chat) -> bool:
    """Say whether a chat's last message stands in its thread and is asked again.

    One that a run holds which hasn't ended isn't asked again when it comes with the same words: it
    attaches. One that waits in line is taken out of it when it is to be asked anew.
    """
    if not chat.asks:
        return False
    message = chat.users[-1]
    known = await gateway.storage.store.load_known(context.thread_key, message["id"])
    holder = gateway.service.find_run_of(context, message["id"])
    if known is None:
        if holder is not None and chat.trigger == REGENERATE:
            await gateway.service.abort(context.for_run(holder))
        return False
    is_same = known.message is not None and says_the_same(message, known.message)
    is_repeated = chat.trigger != REGENERATE and is_same and holder is not None
    return known.stands and not is_repeated


@dataclass(slots=True)
class Numbered:
    """Makes numbered chunks of a turn's events."""

    fold: UIChunks
    number: int = 0

    def tell(self, records: Sequence[Record]) -> list[Told]:
        """Return what records add to the stream."""
        return [
            self._tell(chunk)
            for record in records
            for chunk in self.fold.add(decode_event(record.payload))
        ]

    def _tell(self, chunk: Chunk) -> Told:
        number, self.number = self.number, self.number + 1
        return number, msgspec.json.encode(chunk)


async def follow_run(
    gateway: Gateway, context: UserExecutionContext, *, after: EventId
) -> AsyncGenerator[list[Told], None]:
    """Yield what the context's run adds to its turn's message, numbered from 0, live to its end.

    The earlier runs of the turn are what the client has already: they are read, and not told.
    Raises `NotFound` when the thread is deleted meanwhile, `GoingAway` when the gateway closes.
    Safe to cancel.
    """
    numbered: Numbered | None = None
    ahead: _Ahead | None = None
    async with aclosing(_to_the_end(gateway, context, after=after)) as batches:
        async for records in batches:
            if numbered is None or ahead is None:
                fold, own = await _remember(gateway.storage, context, records[0].run_id)
                numbered = Numbered(fold)
                ahead = await _look_ahead(gateway, context.thread_key, own, fold)
            await ahead.look(records)
            yield numbered.tell(records)


async def _to_the_end(
    gateway: Gateway, context: UserExecutionContext, *, after: EventId | None = None
) -> AsyncGenerator[Sequence[Record], None]:
    """Yield the records of the context's run; raises why there are no more before its end."""
    is_over = False
    async with aclosing(gateway.service.follow_batches(context, after=after)) as batches:
        async for records in batches:
            is_over = records[-1].is_end
            yield records
    if not is_over:
        raise gateway.why_unfinished()


async def _remember(
    storage: Storage, context: UserExecutionContext, run_id: str
) -> tuple[UIChunks, Sequence[TurnRun]]:
    """Return the fold of a run's turn, with the turn's earlier runs in its memory, and the run."""
    key = context.thread_key
    turn = await storage.turn_book.load_turn(key, run_id)
    if turn is None:  # rewound meanwhile
        return UIChunks(run_id), ()
    place = next((n for n, run in enumerate(turn.runs) if run.run_id == run_id), 0)
    fold = UIChunks(turn.turn_id)
    async for record in _read(storage.log, key, turn.runs[:place]):
        fold.add(decode_event(record.payload))
    return fold, turn.runs[place : place + 1]


@dataclass(slots=True)
class _Ahead:
    """Finds the calls that the log answered before a reader came, for the fold of what they read.

    Most turns call nothing, so the log is read for it only once a call is there, and from there on.
    """

    log: EventLog
    key: ThreadKey
    runs: Sequence[TurnRun]
    fold: UIChunks
    end_seq: int
    """The last log entry that was there when the reader came."""
    is_done: bool = False

    async def look(self, records: Sequence[Record]) -> None:
        """Look for the answers to the first calls among the records that are read next."""
        if self.is_done or not any(one.payload.startswith(_CALL) for one in records):
            return
        self.is_done = True
        if records[0].id.seq > self.end_seq:  # it is told live
            return
        following = _read(self.log, self.key, self.runs, after=records[0].id.seq - 1)
        async with aclosing(following):
            told = [
                decode_event(record.payload)
                async for record in following
                if record.payload.startswith(_OF_ANSWERS) and record.id.seq <= self.end_seq
            ]
        self.fold.look_ahead(told)


async def _look_ahead(
    gateway: Gateway, key: ThreadKey, runs: Sequence[TurnRun], fold: UIChunks
) -> _Ahead:
    """Return what looks ahead in the log of runs, as far as that goes now."""
    end_seq = runs[-1].last_seq if runs else 0
    if end_seq is None:
        end_seq = (await gateway.feed.load_bounds(key)).head.seq
    return _Ahead(gateway.storage.log, key, runs, fold, end_seq)


async def follow_turn(
    gateway: Gateway, context: UserExecutionContext, turn: Turn
) -> AsyncGenerator[list[Told], None]:
    """Yield all chunks of a turn, numbered from 0, live until its last run has ended.

    Runs whose events are no longer kept are left out. Raises `NotFound` when the thread is deleted
    meanwhile, `GoingAway` when the gateway closes. Safe to cancel.
    """
    numbered = Numbered(UIChunks(turn.turn_id))
    ahead = await _look_ahead(gateway, context.thread_key, turn.runs, numbered.fold)
    for run in turn.runs:
        try:
            own = context.for_run(run.run_id)
            async with aclosing(_to_the_end(gateway, own)) as batches:
                async for records in batches:
                    await ahead.look(records)
                    yield numbered.tell(records)
        except CursorExpired:
            continue


async def _read(
    log: EventLog, key: ThreadKey, runs: Sequence[TurnRun], *, after: int = 0
) -> AsyncGenerator[Record, None]:
    """Yield the records of runs behind the log entry `after`, as far as the log has them now."""
    begun = [run for run in runs if run.first_seq is not None]
    if not begun:
        return
    bounds = await log.load_bounds(key)
    first = max(int(begun[0].first_seq or 0) - 1, bounds.trimmed_seq, after)
    own = {run.run_id for run in begun}
    place = EventId(bounds.head.epoch, first)
    while place.seq < bounds.head.seq:
        records = await log.read(key, after=place, limit=STEP_RECORDS, max_bytes=STEP_BYTES)
        for record in records:
            if record.run_id in own:
                yield record
        if not records or records[-1].id.seq >= _last_of(begun, bounds.head.seq):
            return
        place = records[-1].id


def _last_of(runs: Sequence[TurnRun], head: int) -> int:
    """Return the number of the last entry of runs, as far as they have one."""
    last = runs[-1].last_seq
    return head if last is None else last


async def find_turn(gateway: Gateway, key: ThreadKey, *, replay_s: float) -> Turn | None:
    """Return the turn that a reader who comes back wants: the one under way, else the last one.

    None when there is none, or when its last run ended more than `replay_s` ago or isn't kept.
    """
    turn = await gateway.storage.turn_book.load_open_turn(key)
    if turn is not None:
        return turn
    turn = await gateway.storage.turn_book.load_last_turn(key)
    last = None if turn is None else turn.runs[-1]
    if last is None or last.state is not RunState.ENDED or last.first_seq is None:
        return None
    is_late = last.ended_at is None or gateway.clock() - last.ended_at >= replay_s * 1000
    bounds = await gateway.feed.load_bounds(key)
    return None if is_late or last.first_seq <= bounds.trimmed_seq else turn


async def load_messages(
    storage: Storage, key: ThreadKey, *, before: str | None, limit: int
) -> list[UIMessage] | None:
    """Return a page of a chat's messages, the oldest first; None when there is no such chat.

    `limit` counts turns. Fewer come when their events have more than `PAGE_BYTES`, one always.
    Raises `InvalidCursor` when `before` names no message that stands.
    """
    place = None if before is None else before.removeprefix(ID_PREFIX)
    page = await storage.turn_book.load_turns(key, before=place, limit=limit)
    if page is None:
        return None
    bounds = await storage.log.load_bounds(key)
    turns: list[list[UIMessage]] = []
    answers: list[Message] = []  # what tools returned in later turns: it came with a question
    size = 0
    for turn in page.turns:
        records = await _load_kept(storage, key, turn, trimmed_seq=bounds.trimmed_seq)
        size += sum(len(record.payload) for record in records)
        if turns and size > PAGE_BYTES:
            break
        turns.append(await asyncio.to_thread(_to_messages, turn, records, tuple(answers)))
        answers = _answers_before(turn, turns[-1], answers)
    return [message for turn in reversed(turns) for message in turn]


async def _load_kept(
    storage: Storage, key: ThreadKey, turn: StandingTurn, *, trimmed_seq: int
) -> list[Record]:
    """Return the records of a turn; none when a part of it isn't kept, or was taken back."""
    begun = [one.run.first_seq for one in turn.runs if one.run.first_seq is not None]
    is_kept = begun and begun[0] > trimmed_seq and all(one.is_whole for one in turn.runs)
    runs = [one.run for one in turn.runs]
    return [record async for record in _read(storage.log, key, runs)] if is_kept else []


def _to_messages(
    turn: StandingTurn, records: Sequence[Record], answers: Sequence[Message]
) -> list[UIMessage]:
    """Return what the user said in a turn, and what a client made of the answer.

    `answers` are results of tools that came later.
    """
    asked = [message for one in turn.runs for message in one.added if message["role"] == "user"]
    said = [to_user_message(message) for message in asked]
    if records:
        events = [decode_event(record.payload) for record in records]
        chunks = UIChunks(turn.turn_id)
        chunks.look_ahead(events)
        grown = UIMessageFold()
        for event in events:
            for chunk in chunks.add(event):
                grown.add(chunk)
        answer = grown.to_message()
        answer_calls(answer, answers)
        return [*said, answer]
    runs = [[*_tools_in(one.added), *one.left] for one in turn.runs]
    answer = to_assistant_message(turn.turn_id, runs)
    answer_calls(answer, answers)
    return [*said, answer] if answer["parts"] else said


def _answers_before(
    turn: StandingTurn, shown: Sequence[UIMessage], later: Sequence[Message]
) -> list[Message]:
    """Return the results of tools that came with a turn or later, for calls of earlier turns."""
    own = {part.get("toolCallId") for message in shown for part in message["parts"]}
    first, *others = [_tools_in(one.added) for one in turn.runs]
    came = [*later, *(message for messages in others for message in messages)]
    return [*(one for one in came if one["toolCallId"] not in own), *first]


def _tools_in(messages: Sequence[Message]) -> list[Message]:
    return [message for message in messages if message["role"] == "tool"]
