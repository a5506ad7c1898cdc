"""The one who writes a run into its log: in order, legal, encoded once, never too far ahead."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from enum import IntEnum
from functools import partial
from typing import Final

import structlog

from isolane.clock import Clock
from isolane.context import EventId, ThreadKey
from isolane.contracts import RunEnd, RunLease, RunStop
from isolane.errors import (
    AgentFailed,
    AgentProtocolError,
    DatabaseFailed,
    IsolaneError,
    NoActiveRun,
    NotFound,
    RunTooLarge,
    chain_of,
)
from isolane.events.event import Event, Record, encode_event, encode_mended
from isolane.events.fitting import Fitting
from isolane.events.grammar import RunGrammar
from isolane.events.interrupts import Interrupt
from isolane.events.shared_state import DELTA, SNAPSHOT, SharedState
from isolane.events.surrogates import mend_names
from isolane.events.transcript import Transcript
from isolane.log.feed import Feed
from isolane.tasks import TaskOwner, end_task

UNCOMMITTED_MAX: Final = 64
"""Events that a run may be ahead of its commits; what floods waits here."""


STEPS_AT_ONCE: Final = 128
"""Steps of a STATE_DELTA that are applied on the event loop; more are applied beside it."""

_log = structlog.get_logger(__name__)

Pending = tuple[bytes, asyncio.Future[EventId] | None]
"""An event that waits for its commit, and who wants to know its id."""


class Share(IntEnum):
    """How much of a run its end brings into the log and the store."""

    WHOLE = 0
    """The events that wait for their commit, and the messages."""
    EVENTS = 1
    """The events that wait. The run leaves no messages of its agent behind."""
    END = 2
    """The terminal event alone."""


class RunWriter:
    """Writes one run's events. One commit is under way; what comes meanwhile is the next."""

    def __init__(
        self,
        feed: Feed,
        key: ThreadKey,
        run_id: str,
        *,
        lease: RunLease | None,
        known_ids: Iterable[str],
        state: SharedState | None = None,
        event_max_bytes: int,
        run_max_bytes: int = sys.maxsize,
        run_max_events: int = sys.maxsize,
        tasks: TaskOwner,
        clock: Clock,
    ) -> None:
        """Begin before RUN_STARTED with `lease`; None takes the run over with the first write.

        `known_ids` are the messages that the thread had before, `state` is what the agent was given
        as its shared state.
        """
        self._feed = feed
        self._key = key
        self._run_id = run_id
        self._lease = lease
        self._batch = 0
        """Number of the last batch that is known to be committed."""
        self._unsure = 0
        """Number of first events in `_pending` that were sent and may have been committed."""
        self._event_max_bytes = event_max_bytes
        self._room_bytes = run_max_bytes
        """Payload bytes that the run may still add to its log."""
        self._room_events = run_max_events
        """Events that the run may still add."""
        self._limits = {"runBytes": run_max_bytes, "runEvents": run_max_events}
        self._clock = clock
        self._grammar = RunGrammar()
        self._fitting = Fitting(event_max_bytes)
        self._transcript = Transcript(known_ids=known_ids)
        self._state = state or SharedState.of(None, kept=None)
        self.head: EventId | None = None
        """The newest id that it wrote."""
        self._pending: list[Pending] = []
        self._filled = asyncio.Event()
        self._settled = asyncio.Event()
        self._uncommitted = 0
        self._asked: set[asyncio.Future[EventId]] = set()
        """Those who wait for the id of an event that they emitted."""
        self._failure: Exception | None = None
        self._is_ended = False
        self._pump = tasks.start(self._commit(), name=f"writer of {run_id}")

    async def start(self, event: Event) -> None:
        """Write RUN_STARTED, which is the gateway's own: outside the grammar, of any size."""
        self._enqueue(encode_event(event, max_bytes=sys.maxsize), None)

    def start_with_end(self, event: Event) -> None:
        """Write RUN_STARTED in one transaction with the end, of a run that can't begin.

        Who asks where such a run begins would else find the log with its start, but no run yet.
        """
        self._pending.append((encode_event(event, max_bytes=sys.maxsize), None))

    async def write(self, event: Event) -> None:
        """Write one event of the agent's; waits while too much is uncommitted.

        Raises `AgentProtocolError` when it may not stand here, `RunTooLarge` when the run may add
        no more, `Unavailable` when the log can't be written, `NotFound` when the thread is gone.
        """
        for legal in self._grammar.accept(_with_whole_names(event)):
            for fitting in self._fitting.fit(legal):
                await self._write_one(fitting)

    async def _write_one(self, event: Event) -> None:
        if event["type"] in {SNAPSHOT, DELTA}:
            await self._write_state(event)
        else:
            self._transcript.add(await self._put(event))

    async def _write_state(self, event: Event) -> None:
        """Write a change of the shared state, behind the state itself where nobody knows that."""
        if event["type"] == DELTA and self._state.is_untold:
            await self._put(self._state.to_snapshot(), max_bytes=sys.maxsize)
        payload, written = encode_mended(event, max_bytes=self._event_max_bytes)
        change = partial(
            self._state.after, written, size=len(payload), max_bytes=self._event_max_bytes
        )
        is_heavy = len(written.get("delta", ())) > STEPS_AT_ONCE
        changed = await asyncio.to_thread(change) if is_heavy else change()
        await self._put_payload(written["type"], payload)
        self._state = changed

    async def emit(self, event: Event) -> EventId:
        """Write one event from beside the agent and return its id once it is committed.

        Raises `NoActiveRun` when the run has ended, `NotFound` when its thread was deleted
        meanwhile, `RunTooLarge` when the run has no room for it, `Unavailable` when the log can't
        be written now.
        """
        if self._is_ended and not isinstance(self._failure, NotFound):
            raise NoActiveRun("the run is over")
        if self._failure is not None:
            raise self._failure
        committed: asyncio.Future[EventId] = asyncio.get_running_loop().create_future()
        payload = encode_event(event, max_bytes=self._event_max_bytes)
        self._check_room(payload)
        self._enqueue(payload, committed)
        self._asked.add(committed)
        committed.add_done_callback(self._asked.discard)
        return await committed

    def disown(self) -> None:
        """Write nothing more: the thread is gone, and what comes after it is another's."""
        self._is_ended = True
        self._failure = NotFound("the thread was deleted")
        self._refuse(self._failure)
        self._settled.set()

    def close(self) -> None:
        """Let nobody wait for what is written no more: the run has ended, however it did."""
        self._is_ended = True
        self._refuse(self._failure or NoActiveRun("the run is over"))

    def replay(self, events: Iterable[Event]) -> None:
        """Take in what the log already has of this run, without writing."""
        for event in events:
            for legal in self._grammar.accept(event):
                self._transcript.add(legal)
                self._state = self._state.after(legal, size=0, max_bytes=self._event_max_bytes)

    async def finish(
        self,
        terminal: Event,
        *,
        outcome: str,
        error_id: str | None,
        failure: AgentFailed | None = None,
        stop: RunStop | None = None,
        interrupts: Sequence[Interrupt] = (),
        share: Share = Share.WHOLE,
    ) -> None:
        """Close what is open, write the end, and with it the run's row and messages, at once.

        Raises `Unavailable` when the log can't be written now; call again then. Raises
        `DatabaseFailed` when it never can; call again with a smaller `share` then.
        """
        self._is_ended = True
        if isinstance(self._failure, NotFound):
            await end_task(self._pump)
            raise self._failure
        if not self._pump.done():
            await self._drained()
            await end_task(self._pump)
        await self._settle_unsure()
        self._close_open()
        if share is Share.END:
            self._refuse(self._failure or NoActiveRun("the run is over"))
            self._pending = []
        rest = self._pending
        last = encode_event(terminal, max_bytes=self._event_max_bytes)
        end = RunEnd(
            self._run_id,
            outcome,
            error_id,
            self._transcript.messages() if share is Share.WHOLE else (),
            self._clock(),
            stop,
            interrupts,
            self._state.to_payload() if share is Share.WHOLE else None,
            failure,
        )
        payloads = [*(payload for payload, _ in rest), last]
        records = await self._append(payloads, end=end)
        _tell(rest, records)

    def _close_open(self) -> None:
        """Close what is open. These events are the gateway's own: of any size, as the start is."""
        for event in self._grammar.close():
            for fitting in self._fitting.fit(event):
                payload, written = encode_mended(fitting, max_bytes=sys.maxsize)
                self._enqueue(payload, None)
                self._transcript.add(written)

    async def _put(self, event: Event, *, max_bytes: int | None = None) -> Event:
        """Write an event, and return it as it was written: without halves of characters."""
        payload, written = encode_mended(event, max_bytes=max_bytes or self._event_max_bytes)
        await self._put_payload(event["type"], payload)
        return written

    async def _put_payload(self, kind: str, payload: bytes) -> None:
        if self._is_ended:
            raise AgentProtocolError(f"{kind} comes after the run's end")
        while self._uncommitted >= UNCOMMITTED_MAX and self._failure is None:
            self._settled.clear()
            await self._settled.wait()
        if self._failure is not None:
            raise self._failure
        self._check_room(payload)  # who emits from beside may have taken it meanwhile
        self._enqueue(payload, None)

    def _check_room(self, payload: bytes) -> None:
        """Raise `RunTooLarge` when `payload` is more than the run may still add to its log."""
        if self._room_events < 1:
            raise RunTooLarge("runEvents", self._limits["runEvents"])
        if self._room_bytes < len(payload):
            raise RunTooLarge("runBytes", self._limits["runBytes"])

    def _enqueue(self, payload: bytes, committed: asyncio.Future[EventId] | None) -> None:
        self._room_events -= 1
        self._room_bytes -= len(payload)
        self._pending.append((payload, committed))
        self._uncommitted += 1
        self._filled.set()

    async def _drained(self) -> None:
        while self._uncommitted and self._failure is None:
            self._settled.clear()
            await self._settled.wait()

    async def _commit(self) -> None:
        while self._failure is None:
            await self._filled.wait()
            self._filled.clear()
            batch, self._pending = self._pending, []
            try:
                await self._commit_batch(batch)
            except Exception as error:  # noqa: BLE001 - handed to who writes, and to who waits
                self._fail(batch, error)
            self._settled.set()

    async def _commit_batch(self, batch: list[Pending]) -> None:
        records = await self._append([payload for payload, _ in batch])
        self.head = records[-1].id if records else self.head
        self._uncommitted -= len(batch)
        _tell(batch, records)

    async def _append(
        self, payloads: Sequence[bytes], *, end: RunEnd | None = None
    ) -> list[Record]:
        """Commit the next batch. After an answer that got lost, the same call is safe to repeat."""
        try:
            if self._lease is None:
                self._lease = await self._feed.take_over(self._key, self._run_id)
            batch = self._batch + 1
            records = await self._feed.append(self._lease, payloads, batch=batch, end=end)
        except NotFound as error:
            self._failure = error
            raise
        self._batch = batch
        return records

    async def _settle_unsure(self) -> None:
        """Send the batch again whose answer got lost, as it was: it may have been committed.

        Only then is it known with which number the rest goes on.
        """
        if not self._unsure:
            return
        batch = self._pending[: self._unsure]
        with suppress(DatabaseFailed):  # it isn't in the log, and goes along with the end
            await self._commit_batch(batch)
            del self._pending[: self._unsure]
        self._unsure = 0

    def _fail(self, batch: list[Pending], error: Exception) -> None:
        """Keep what was not written: the run's end takes it along, so that no event is skipped."""
        self._unsure = 0 if isinstance(error, DatabaseFailed) else len(batch)
        if not isinstance(error, IsolaneError):
            _log.error("run_write_failed", run_id=self._run_id, chain=chain_of(error))
        self._failure = error
        self._pending = [*batch, *self._pending]
        self._refuse(error)

    def _refuse(self, error: Exception) -> None:
        """Tell all who wait for an id that there may be none."""
        for committed in tuple(self._asked):
            if not committed.done():
                committed.set_exception(error)


def _with_whole_names(event: Event) -> Event:
    try:
        return mend_names(event)
    except ValueError as error:
        raise AgentProtocolError(f"{event['type']}: {error}") from error


def _tell(batch: Sequence[Pending], records: Sequence[Record]) -> None:
    for (_, committed), record in zip(batch, records, strict=False):
        if committed is not None and not committed.done():
            committed.set_result(record.id)
