"""The way of a run's encoded events into its log: one commit is under way, the next one fills."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import structlog

from isolane.context import EventId, ThreadKey
from isolane.contracts import Batch, RunEnd, RunLease
from isolane.errors import DatabaseFailed, IsolaneError, NotFound, RunTooLarge, chain_of
from isolane.events.event import Record
from isolane.log.feed import Feed
from isolane.tasks import TaskOwner, end_task

UNCOMMITTED_MAX: Final = 64
"""Events that a run may be ahead of its commits. A flood waits here."""

Pending = tuple[bytes, asyncio.Future[EventId] | None]
"""An event that waits for its commit, and the future of the caller that wants its id."""

_log = structlog.get_logger(__name__)


class RunAppender:
    """Appends one run's events in batches. Nothing is lost by a failure: the end takes it along.

    It is a `BatchSource`: the log takes what waits whenever it begins a commit.
    """

    def __init__(
        self,
        feed: Feed,
        key: ThreadKey,
        run_id: str,
        *,
        lease: RunLease | None,
        max_bytes: int = sys.maxsize,
        max_events: int = sys.maxsize,
        tasks: TaskOwner,
    ) -> None:
        """Append with `lease`. None takes the run over with the first batch.

        The run may add `max_events` with `max_bytes` of payload in total. The gateway's own events
        count, but always have room.
        """
        self._feed = feed
        self._key = key
        self._run_id = run_id
        self._lease = lease
        self._batch = 0
        """Number of the last batch that is known to be committed."""
        self._unsure = 0
        """Number of first events in `_pending` that were sent and may have been committed."""
        self._room_bytes = max_bytes
        """Payload bytes that the run may still add to its log."""
        self._room_events = max_events
        """Events that the run may still add."""
        self._limits = {"runBytes": max_bytes, "runEvents": max_events}
        self.head: EventId | None = None
        """The newest id that was committed here."""
        self._pending: list[Pending] = []
        self._sent: list[Pending] = []
        """The batch whose commit is under way."""
        self._is_asked = False
        """Whether the log was asked to take a batch, and hasn't told what became of it."""
        self._is_stopped = False
        self._taking: asyncio.Task[None] | None = None
        self._tasks = tasks
        self._settled = asyncio.Event()
        self.uncommitted = 0
        """Number of events that wait for a commit, or whose commit is under way."""
        self._asked: set[asyncio.Future[EventId]] = set()
        """Futures of the callers that wait for the id of their event."""
        self.failure: Exception | None = None
        """Why nothing can be appended any more; None while all is well."""

    @property
    def is_full(self) -> bool:
        """True when an event has to wait for a commit first."""
        return self.uncommitted >= UNCOMMITTED_MAX and self.failure is None

    async def wait_for_commit(self) -> None:
        """Return once the commit under way has come to an end. Safe to cancel."""
        self._settled.clear()
        await self._settled.wait()

    def put(self, payload: bytes, committed: asyncio.Future[EventId] | None = None) -> None:
        """Put an event of the run into the next batch; `committed` gets its id.

        Raises:
            RunTooLarge: The run may add no more.
            Unavailable: The log can't be written now.
            NotFound: The thread is gone.
        """
        if self.failure is not None:
            raise self.failure
        if self._room_events < 1:
            raise RunTooLarge("runEvents", self._limits["runEvents"])
        if self._room_bytes < len(payload):
            raise RunTooLarge("runBytes", self._limits["runBytes"])
        self.put_own(payload, committed)

    def put_own(self, payload: bytes, committed: asyncio.Future[EventId] | None = None) -> None:
        """Put an event into the next batch in any case, as the gateway does with its own events."""
        self._room_events -= 1
        self._room_bytes -= len(payload)
        self._pending.append((payload, committed))
        self.uncommitted += 1
        self._ask()

    def keep_for_end(self, payload: bytes) -> None:
        """Keep an event for the transaction of the run's end."""
        self._pending.append((payload, None))

    async def put_and_wait(self, payload: bytes) -> EventId:
        """Put an event into the next batch, and return its id once it is committed.

        Cancelling doesn't take the event back.

        Raises:
            RunTooLarge: The run may add no more.
            Unavailable: The log can't be written now.
            NotFound: The thread is gone.
            NoActiveRun: The run ended meanwhile.
        """
        committed: asyncio.Future[EventId] = asyncio.get_running_loop().create_future()
        self.put(payload, committed)
        self._asked.add(committed)
        committed.add_done_callback(self._asked.discard)
        return await committed

    def disown(self) -> None:
        """Append nothing more, because the thread was deleted."""
        self.failure = NotFound("the thread was deleted")
        self.refuse(self.failure)
        self._settled.set()

    def refuse(self, error: Exception) -> None:
        """Tell all callers that wait for an id that there may be none."""
        for committed in tuple(self._asked):
            if not committed.done():
                committed.set_exception(self.failure or error)

    async def stop(self) -> None:
        """Wait until everything is committed that can be, and begin no more batches.

        What failed waits for `append_end`. Safe to repeat.

        Raises:
            Unavailable: The log can't be written now; call again then.
            NotFound: The thread is gone.
        """
        while self.uncommitted and not self._is_stopped and self.failure is None:
            await self.wait_for_commit()
        self._is_stopped = True
        if isinstance(self.failure, NotFound):
            if self._taking is not None:
                await end_task(self._taking)
            raise self.failure
        await self._settle_unsure()

    def drop_pending(self) -> None:
        """Forget the events that wait, so that the end goes without them."""
        self._pending = []

    async def append_end(self, terminal: bytes, end: RunEnd) -> None:
        """Commit the events that wait and the terminal one, together with the run's end.

        Raises:
            Unavailable: The log can't be written now; call again then.
            DatabaseFailed: The log can never take this.
            NotFound: The thread is gone.
        """
        rest = self._pending
        records = await self._append([*(payload for payload, _ in rest), terminal], end=end)
        _tell(rest, records)

    def _ask(self) -> None:
        """Have the log take what waits, if it hasn't been asked yet."""
        if self._is_asked or self._is_stopped or self.failure is not None:
            return
        self._is_asked = True
        if self._lease is None:
            self._taking = self._tasks.start(self._take_over(), name=f"writer of {self._run_id}")
        else:
            self._feed.commit_soon(self)

    async def _take_over(self) -> None:
        try:
            self._lease = await self._feed.take_over(self._key, self._run_id)
        except Exception as error:  # noqa: BLE001 - handed to those who write or wait
            self.settle(error)
        else:
            self._feed.commit_soon(self)

    def take_batch(self) -> Batch | None:
        """Return all events that wait; None when the thread is gone."""
        if self._lease is None or self.failure is not None:
            return None
        self._sent, self._pending = self._pending, []
        payloads = [payload for payload, _ in self._sent]
        return Batch(self._lease, payloads, self._batch + 1)

    def settle(self, outcome: list[Record] | Exception) -> None:
        """Hear what became of the batch, and ask for the next one."""
        batch, self._sent, self._is_asked = self._sent, [], False
        if self.failure is not None:  # the thread was deleted meanwhile
            return
        if isinstance(outcome, Exception):
            self._fail(batch, outcome)
        else:
            self._batch += 1
            self._note(batch, outcome)
            self._feed.announce(self._key, outcome)
        self._settled.set()
        if self._pending:
            self._ask()

    def _note(self, batch: list[Pending], records: Sequence[Record]) -> None:
        self.head = records[-1].id if records else self.head
        self.uncommitted -= len(batch)
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
            self.failure = error
            raise
        self._batch = batch
        return records

    async def _settle_unsure(self) -> None:
        """Send the batch again whose answer got lost, unchanged, because it may be committed.

        Only then the number of the next batch is known.
        """
        if not self._unsure:
            return
        batch = self._pending[: self._unsure]
        with suppress(DatabaseFailed):  # it isn't in the log, and goes along with the end
            self._note(batch, await self._append([payload for payload, _ in batch]))
            del self._pending[: self._unsure]
        self._unsure = 0

    def _fail(self, batch: list[Pending], error: Exception) -> None:
        """Keep what was not written. The run's end takes it along, so that no event is skipped."""
        self._unsure = 0 if isinstance(error, DatabaseFailed) else len(batch)
        if not isinstance(error, IsolaneError):
            _log.error("run_write_failed", run_id=self._run_id, chain=chain_of(error))
        self.failure = error
        self._pending = [*batch, *self._pending]
        self.refuse(error)


def _tell(batch: Sequence[Pending], records: Sequence[Record]) -> None:
    """Tell the callers that wait for ids."""
    for (_, committed), record in zip(batch, records, strict=False):
        if committed is not None and not committed.done():
            committed.set_result(record.id)
