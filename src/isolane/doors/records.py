"""Records that a door reads from the log in one go, without following it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import aclosing
from typing import Final

from isolane.context import EventId, ThreadKey
from isolane.contracts import TurnRun
from isolane.events.event import Record
from isolane.log.feed import Feed

READ_RECORDS: Final = 256
READ_BYTES: Final = 1 << 20
"""Maximum number of records, and bytes of records, that are read before other tasks run."""


async def read_runs(
    feed: Feed, key: ThreadKey, run_ids: Collection[str], *, after: EventId, last_seq: int
) -> AsyncGenerator[Record, None]:
    """Yield the records of runs strictly after `after` and up to number `last_seq`.

    Safe to cancel.

    Raises:
        CursorExpired: The log no longer keeps the next records.
    """
    place = after
    while place.seq < last_seq:
        records = await feed.read(key, after=place, limit=READ_RECORDS, max_bytes=READ_BYTES)
        for record in records:
            if record.run_id in run_ids:
                yield record
        if not records:
            return
        place = records[-1].id


async def read_kept(
    feed: Feed, key: ThreadKey, runs: Sequence[TurnRun], *, after_seq: int = 0
) -> AsyncGenerator[Record, None]:
    """Yield the records of runs after number `after_seq`, as far as the log has them now.

    Runs are neighbours in the log, the oldest first. Safe to cancel.
    """
    begun = [run for run in runs if run.first_seq is not None]
    if not begun:
        return
    bounds = await feed.load_bounds(key)
    head, last_seq = bounds.head, begun[-1].last_seq
    first = max(int(begun[0].first_seq or 0) - 1, bounds.trimmed_seq, after_seq)
    following = read_runs(
        feed,
        key,
        {run.run_id for run in begun},
        after=EventId(head.epoch, first),
        last_seq=head.seq if last_seq is None else last_seq,
    )
    async with aclosing(following):
        async for record in following:
            yield record
