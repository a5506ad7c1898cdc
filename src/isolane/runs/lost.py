"""The ends of runs that their own process never ended, and of runs that can't begin."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Final

import structlog

from isolane.backoff import Backoff
from isolane.context import EventId
from isolane.contracts import RunLease, StoppedBy, Store, StoredRun
from isolane.errors import (
    AgentLost,
    DatabaseFailed,
    IsolaneError,
    RunConflict,
    Unavailable,
    caused,
    chain_of,
)
from isolane.events.event import Event, decode_event
from isolane.events.shared_state import SharedState, decode_state
from isolane.log.feed import Feed
from isolane.runs.ending import CANCELLED, Ending, end_run
from isolane.runs.run import Run
from isolane.runs.writer import RunWriter, Share

OpenWriter = Callable[[RunLease | None, Iterable[str], SharedState | None], RunWriter]
"""Opens the run's writer. Arguments: its lease, the ids of its thread's messages, its state."""

_LOST: Final = AgentLost("the process died under the run")
_log = structlog.get_logger(__name__)


async def end_lost_run(
    run: Run, stored: StoredRun, open_writer: OpenWriter, feed: Feed, store: Store
) -> Event | None:
    """End a run whose process died: close what is open in its log, and say that it was lost.

    A run whose events can't be read ends without messages. Returns the end when the database
    refuses it for good, else None. Cancelling leaves the run without an end.
    """
    try:
        lease, known_ids, state, written = await _load(run, stored, feed, store)
        return await _go_on(run, open_writer(lease, known_ids, state), written)
    except Exception as error:  # noqa: BLE001 - whatever it is, the run must end
        return await _end_lost(run, open_writer(None, (), None), error)


async def _load(
    run: Run, stored: StoredRun, feed: Feed, store: Store
) -> tuple[RunLease, Iterable[str], SharedState, Sequence[Event]]:
    """Take the run over. Return its lease, the ids of its thread's messages, its state, its events.

    While the database can't be read, try again.
    """
    backoff = Backoff()
    while True:
        try:
            # Before the reads, so that no other process writes after them.
            lease = await feed.take_over(run.context.thread_key, run.run_id)
            known_ids = await store.load_known_ids(run.context.thread_key)
            kept = await store.load_state(run.context.thread_key)
            before = None if kept is None else decode_state(kept)
            state = SharedState.of(stored.draft.request.get("state"), kept=before)
            return (
                lease,
                known_ids,
                state,
                await load_written(run, feed, first_seq=stored.first_seq),
            )
        except Unavailable as error:
            _log.error("run_recovery_postponed", run_id=run.run_id, reason=str(error))
            await backoff.pause()  # between two tries; the run waits for the disk


async def _go_on(run: Run, writer: RunWriter, written: Sequence[Event]) -> Event | None:
    """End a run whose log has the events `written`."""
    try:
        if not written:
            await writer.start(run.to_started())
        writer.replay(written[1:])
    except Exception as error:  # noqa: BLE001 - whatever it is, the run must end
        return await _end_lost(run, writer, error)
    return await end_run(run, writer, _ending_of(run))


async def _end_lost(run: Run, writer: RunWriter, error: Exception) -> Event | None:
    """End a run with its terminal event alone; `error` says why nothing else can be written."""
    _log.error("run_recovery_failed", run_id=run.run_id, chain=chain_of(error))
    return await end_run(run, writer, replace(_ending_of(run), share=Share.END))


def _ending_of(run: Run) -> Ending:
    """Return how a run ends that another node had under way."""
    return CANCELLED if run.stop.by is StoppedBy.FENCE else Ending(error=_LOST)


async def end_unbegun(run: Run, writer: RunWriter, error: Exception) -> Event | None:
    """End a run that waited for its turn and can't begin; see `end_run` for the result."""
    if isinstance(error, RunConflict):  # its start must tell no change, because it made none
        run.draft = replace(run.draft, messages=(), rewind_to=None)
        refused: IsolaneError = error
    else:
        refused = caused(DatabaseFailed("the run can't begin"), error)
    writer.start_with_end(run.to_started())
    return await end_run(run, writer, Ending(error=refused, share=Share.EVENTS))


async def load_written(run: Run, feed: Feed, *, first_seq: int | None) -> list[Event]:
    """Return the events that the log has of the run; None for `first_seq` says that it has none.

    Raises:
        Unavailable: The log can't be read now.
    """
    key = run.context.thread_key
    found: list[Event] = []
    head = (await feed.load_bounds(key)).head
    start = EventId(head.epoch, (first_seq or head.seq + 1) - 1)
    if start.seq >= head.seq:
        return found
    async with aclosing(feed.follow(key, after=start)) as records:
        async for record in records:
            if record.run_id == run.run_id:
                found.append(decode_event(record.payload))
            if record.id.seq >= head.seq:
                break
    return found
