"""Records that a door reads from the log in one go, without following it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection
from typing import Final

from isolane.context import EventId, ThreadKey
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
