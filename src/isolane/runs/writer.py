"""The writer of one run: its events are legal, fit into the log, and are encoded once."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable, Sequence
from enum import IntEnum
from functools import partial
from typing import Final

import msgspec

from isolane.clock import Clock
from isolane.context import EventId, ThreadKey
from isolane.contracts import RunEnd, RunLease, RunStop
from isolane.errors import AgentFailed, AgentProtocolError, NoActiveRun, NotFound
from isolane.events.event import Event, encode_event, encode_mended, run_restarted
from isolane.events.fitting import FILLS, Fitting
from isolane.events.grammar import RunGrammar
from isolane.events.interrupts import Interrupt
from isolane.events.shared_state import DELTA, SNAPSHOT, SharedState
from isolane.events.surrogates import mend_names
from isolane.events.transcript import Message, Transcript
from isolane.log.feed import Feed
from isolane.runs.appender import RunAppender
from isolane.runs.short_road import Road, is_plain_piece, open_road
from isolane.tasks import TaskOwner

STEPS_AT_ONCE: Final = 128
"""Steps of a STATE_DELTA that are applied on the event loop. More are applied in a thread."""


class Share(IntEnum):
    """How much of a run its end brings into the log and the store."""

    WHOLE = 0
    """The events that wait for their commit, and the messages."""
    EVENTS = 1
    """The events that wait. The run leaves no messages of its agent behind."""
    END = 2
    """The terminal event alone."""


class RunWriter:
    """Writes one run's events, and keeps what they add up to: messages and a shared state."""

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

        `known_ids` are the messages that the thread had before. `state` is the shared state that
        the agent was given.
        """
        self._run_id = run_id
        self._event_max_bytes = event_max_bytes
        self._clock = clock
        self._known_ids = tuple(known_ids)
        self._first_state = state or SharedState.of(None, kept=None)
        self._is_ended = False
        self._begin()
        self._appender = RunAppender(
            feed,
            key,
            run_id,
            lease=lease,
            max_bytes=run_max_bytes,
            max_events=run_max_events,
            tasks=tasks,
        )

    def _begin(self) -> None:
        """Have nothing of the run yet."""
        self._grammar = RunGrammar()
        self._fitting = Fitting(self._event_max_bytes)
        self._transcript = Transcript(known_ids=self._known_ids)
        self._state = self._first_state
        self._road: Road | None = None

    @property
    def head(self) -> EventId | None:
        """The newest id that it wrote."""
        return self._appender.head

    async def start(self, event: Event) -> None:
        """Write RUN_STARTED, which is the gateway's own: outside the grammar, of any size."""
        self._appender.put_own(encode_event(event, max_bytes=sys.maxsize))

    def start_with_end(self, event: Event) -> None:
        """Write RUN_STARTED in one transaction with the end, for a run that can't begin.

        Otherwise the log would have the start of a run that the run book doesn't know yet.
        """
        self._appender.keep_for_end(encode_event(event, max_bytes=sys.maxsize))

    async def write(self, event: Event) -> None:
        """Write one event of the agent. Wait while too many events are uncommitted.

        Cancelling may leave out a part of an event that becomes several ones.

        Raises:
            AgentProtocolError: The event may not stand here.
            RunTooLarge: The run may add no more.
            Unavailable: The log can't be written now.
            NotFound: The thread is gone.
        """
        kind, is_plain = event["type"], is_plain_piece(event)
        if is_plain and self.write_piece(kind, event[FILLS[kind]], event["delta"]):
            return
        self._road = None
        for legal in self._grammar.accept(_with_whole_names(event)):
            for fitting in self._fitting.fit(legal):
                if fitting["type"] in _OF_THE_STATE:
                    await self._write_state(fitting)
                    continue
                payload, written = encode_mended(fitting, max_bytes=self._event_max_bytes)
                if self._is_ended or self._appender.is_full:
                    await self._put(fitting["type"], payload)
                else:  # mostly there is room, and then another coroutine would only cost time
                    self._appender.put(payload)
                self._transcript.add(written)
        if is_plain:
            self._road = open_road(kind, event[FILLS[kind]], self._transcript, self._fitting)

    def write_piece(self, kind: str, thing_id: str, text: str) -> bool:
        """Write a piece of a message at once, as `write` would; False when that can't be.

        `write` has then to write it. It can be while nothing but plain pieces of that message is
        written, and there is room. A piece takes a fifth of the CPU here.

        Raises:
            RunTooLarge: The run may add no more.
            Unavailable: The log can't be written now.
            NotFound: The thread is gone.
        """
        road = self._road
        if road is None or road.id != thing_id or road.kind != kind:
            return False
        if len(text) > road.characters_max or self._is_ended or self._appender.is_full:
            return False
        try:
            words = msgspec.json.encode(text)
        except UnicodeEncodeError:  # half a character
            return False
        self._appender.put(road.head + words + b"}")
        road.add(text)
        return True

    async def _write_state(self, event: Event) -> None:
        """Write a change of the shared state, behind the state itself if clients don't know it."""
        if event["type"] == DELTA and self._state.is_untold:
            snapshot = self._state.to_snapshot()
            await self._put(SNAPSHOT, encode_event(snapshot, max_bytes=sys.maxsize))
        payload, written = encode_mended(event, max_bytes=self._event_max_bytes)
        change = partial(
            self._state.after, written, size=len(payload), max_bytes=self._event_max_bytes
        )
        is_heavy = len(written.get("delta", ())) > STEPS_AT_ONCE
        changed = await asyncio.to_thread(change) if is_heavy else change()
        await self._put(written["type"], payload)
        self._state = changed

    async def _put(self, kind: str, payload: bytes) -> None:
        """Put an event of the agent into the next batch, as soon as there is room."""
        appender = self._appender
        while appender.is_full and not self._is_ended:
            await appender.wait_for_commit()
        if self._is_ended:
            raise AgentProtocolError(f"{kind} comes after the run's end")
        appender.put(payload)

    async def emit(self, event: Event) -> EventId:
        """Write one event from beside the agent, and return its id once it is committed.

        Cancelling doesn't take the event back.

        Raises:
            NoActiveRun: The run has ended.
            NotFound: The thread was deleted meanwhile.
            RunTooLarge: The run has no room for the event.
            Unavailable: The log can't be written now.
        """
        if self._is_ended and not isinstance(self._appender.failure, NotFound):
            raise NoActiveRun("the run is over")
        payload = encode_event(event, max_bytes=self._event_max_bytes)
        return await self._appender.put_and_wait(payload)

    def disown(self) -> None:
        """Write nothing more: the thread is gone, and what comes after it is another's."""
        self._is_ended = True
        self._appender.disown()

    def close(self) -> None:
        """Let no caller wait any longer, because the run has ended, in whatever way."""
        self._is_ended = True
        self._appender.refuse(NoActiveRun("the run is over"))

    def replay(self, events: Iterable[Event]) -> None:
        """Take in what the log already has of this run, without writing."""
        for event in events:
            for legal in self._grammar.accept(event):
                self._transcript.add(legal)
                self._state = self._state.after(legal, size=0, max_bytes=self._event_max_bytes)

    def begin_anew(self, *, attempt: int, history: Sequence[Message]) -> None:
        """Take back what was replayed: another attempt of the run begins after it.

        What is open is closed. Clients get the messages as of the run's beginning, `history`, where
        an event has room for them, and the shared state of then.
        """
        self._close_open()
        state = [self._first_state.to_snapshot()] if self._state != self._first_state else []
        for event in [*run_restarted(attempt, history), *state]:
            payload = encode_event(event, max_bytes=sys.maxsize)
            if len(payload) <= self._event_max_bytes:
                self._appender.put_own(payload)
        self._begin()

    async def let_go(self) -> None:
        """Write nothing more. What was accepted and isn't committed yet is lost, untold.

        Raises:
            Unavailable: The log can't be written now.
            NotFound: The thread is gone.
        """
        self._is_ended = True
        self._appender.refuse(NoActiveRun("the run goes on elsewhere"))
        await self._appender.stop()

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
        """Close what is open, and write the end together with the run's row and messages.

        Safe to repeat after an error.

        Raises:
            Unavailable: The log can't be written now; call again later.
            DatabaseFailed: The log can never take it; call again with a smaller `share`.
            NotFound: The thread is gone.
        """
        self._is_ended = True
        await self._appender.stop()
        self._close_open()
        if share is Share.END:
            self._appender.refuse(NoActiveRun("the run is over"))
            self._appender.drop_pending()
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
        await self._appender.append_end(
            encode_event(terminal, max_bytes=self._event_max_bytes), end
        )

    def _close_open(self) -> None:
        """Close what is open. These events are the gateway's own: of any size, as the start is."""
        for event in self._grammar.close():
            for fitting in self._fitting.fit(event):
                payload, written = encode_mended(fitting, max_bytes=sys.maxsize)
                self._appender.put_own(payload)
                self._transcript.add(written)


_OF_THE_STATE: Final = frozenset({SNAPSHOT, DELTA})


def _with_whole_names(event: Event) -> Event:
    try:
        return mend_names(event)
    except ValueError as error:
        raise AgentProtocolError(f"{event['type']}: {error}") from error
