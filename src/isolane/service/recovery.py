"""What another life left behind: runs without an end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing

from isolane.context import EventId
from isolane.contracts import StoredRun
from isolane.errors import AgentLost
from isolane.events import Event, decode_event, run_started
from isolane.feed import Feed
from isolane.service.run import Ending, Run, end_run
from isolane.service.writer import RunWriter


async def bury(run: Run, stored: StoredRun, writer: RunWriter, feed: Feed) -> None:
    """End a run whose process died: close what is open in its log, and say that it was lost."""
    written = [event async for event in _written(run, stored, feed)]
    if not written:
        started = run_started(
            thread_id=run.thread_id,
            run_id=run.run_id,
            messages=run.draft.messages,
            rewind_to=run.draft.rewind_to,
        )
        await writer.start(started)
    writer.replay(written[1:])
    await end_run(run, writer, Ending(error=AgentLost("the process died under the run")))


async def _written(run: Run, stored: StoredRun, feed: Feed) -> AsyncIterator[Event]:
    """Yield what the log has of the run."""
    key = run.context.thread_key
    head = (await feed.load_bounds(key)).head
    start = EventId(head.epoch, (stored.first_seq or head.seq + 1) - 1)
    if start.seq >= head.seq:
        return
    async with aclosing(feed.follow(key, after=start)) as records:
        async for record in records:
            if record.run_id == run.run_id:
                yield decode_event(record.payload)
            if record.id.seq >= head.seq:
                return
