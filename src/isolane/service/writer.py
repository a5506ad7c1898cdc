"""The one who writes a run into its log: in order, legal, encoded once, never too far ahead."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable, Sequence
from typing import Final

from isolane.clock import Clock
from isolane.context import EventId, ThreadKey
from isolane.contracts import RunEnd, RunStop
from isolane.errors import AgentProtocol, NoActiveRun, NotFound
from isolane.events import Event, Record, encode_event
from isolane.feed import Feed
from isolane.grammar import RunGrammar
from isolane.interrupts import Interrupt
from isolane.tasks import TaskOwner, end_task
from isolane.transcript import Transcript

UNCOMMITTED_MAX: Final = 64
"""Events that a run may be ahead of its commits; what floods waits here."""


Pending = tuple[bytes, asyncio.Future[EventId] | None]
"""An event that waits for its commit, and who wants to know its id."""


class RunWriter:
    """Writes one run's events. One commit is under way; what comes meanwhile is the next."""

    def __init__(
        self,
        feed: Feed,
        key: ThreadKey,
        run_id: str,
        *,
        epoch: str,
        known_ids: Iterable[str],
        event_max_bytes: int,
        tasks: TaskOwner,
        clock: Clock,
    ) -> None:
        """Begin before RUN_STARTED in the numbering `epoch`.

        `known_ids` are the messages that the thread had before.
        """
        self._feed = feed
        self._key = key
        self._run_id = run_id
        self._epoch = epoch
        self._event_max_bytes = event_max_bytes
        self._clock = clock
        self._grammar = RunGrammar()
        self._transcript = Transcript(known_ids=known_ids)
        self.head: EventId | None = None
        """The newest id that it wrote."""
        self._pending: list[Pending] = []
        self._filled = asyncio.Event()
        self._settled = asyncio.Event()
        self._uncommitted = 0
        self._failure: Exception | None = None
        self._is_ended = False
        self._pump = tasks.start(self._commit(), name=f"writer of {run_id}")

    async def start(self, event: Event) -> None:
        """Write RUN_STARTED, which is the gateway's own: outside the grammar, of any size."""
        self._enqueue(encode_event(event, max_bytes=sys.maxsize), None)

    async def write(self, event: Event) -> None:
        """Write one event of the agent's; waits while too much is uncommitted.

        Raises `AgentProtocol` when it may not stand here, `Unavailable` when the log can't be
        written, `NotFound` when the thread is gone.
        """
        for legal in self._grammar.accept(event):
            await self._put(legal)
            self._transcript.add(legal)

    async def emit(self, event: Event) -> EventId:
        """Write one event from beside the agent and return its id once it is committed."""
        if self._is_ended:
            raise NoActiveRun("the run is over")
        if self._failure is not None:
            raise self._failure
        committed: asyncio.Future[EventId] = asyncio.get_running_loop().create_future()
        self._enqueue(encode_event(event, max_bytes=self._event_max_bytes), committed)
        return await committed

    def disown(self) -> None:
        """Write nothing more: the thread is gone, and what comes after it is another's."""
        self._is_ended = True
        self._failure = NotFound("the thread was deleted")
        self._settled.set()

    def replay(self, events: Iterable[Event]) -> None:
        """Take in what the log already has of this run, without writing."""
        for event in events:
            for legal in self._grammar.accept(event):
                self._transcript.add(legal)

    async def finish(
        self,
        terminal: Event,
        *,
        outcome: str,
        error_id: str | None,
        stop: RunStop | None = None,
        interrupts: Sequence[Interrupt] = (),
    ) -> None:
        """Close what is open, write the end, and with it the run's row and messages, at once.

        Raises `Unavailable` when the log can't be written now; call again then.
        """
        self._is_ended = True
        if isinstance(self._failure, NotFound):
            await end_task(self._pump)
            raise self._failure
        if not self._pump.done():
            await self._drained()
            await end_task(self._pump)
        for event in self._grammar.close():  # the gateway's own: of any size, as the start is
            self._enqueue(encode_event(event, max_bytes=sys.maxsize), None)
        rest = self._pending
        last = encode_event(terminal, max_bytes=self._event_max_bytes)
        end = RunEnd(
            self._run_id,
            outcome,
            error_id,
            self._transcript.messages(),
            self._clock(),
            stop,
            interrupts,
        )
        payloads = [*(payload for payload, _ in rest), last]
        records = await self._feed.append(
            self._key, self._run_id, payloads, epoch=self._epoch, end=end
        )
        _tell(rest, records)

    async def _put(self, event: Event) -> None:
        payload = encode_event(event, max_bytes=self._event_max_bytes)
        if self._is_ended:
            raise AgentProtocol(f"{event['type']} comes after the run's end")
        while self._uncommitted >= UNCOMMITTED_MAX and self._failure is None:
            self._settled.clear()
            await self._settled.wait()
        if self._failure is not None:
            raise self._failure
        self._enqueue(payload, None)

    def _enqueue(self, payload: bytes, committed: asyncio.Future[EventId] | None) -> None:
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
        records = await self._feed.append(
            self._key, self._run_id, [payload for payload, _ in batch], epoch=self._epoch
        )
        self.head = records[-1].id if records else self.head
        self._uncommitted -= len(batch)
        _tell(batch, records)

    def _fail(self, batch: list[Pending], error: Exception) -> None:
        """Keep what was not written: the run's end takes it along, so that no event is skipped."""
        self._failure = error
        self._pending = [*batch, *self._pending]
        for _, committed in batch:
            if committed is not None and not committed.done():
                committed.set_exception(error)


def _tell(batch: Sequence[Pending], records: Sequence[Record]) -> None:
    for (_, committed), record in zip(batch, records, strict=False):
        if committed is not None and not committed.done():
            committed.set_result(record.id)
