"""A thread's messages page by page, from the newest back, as of one moment.

A place names the moment and the oldest message that was read. It is told by places in the thread's
own log, because the numbers of rows would say how much other users write.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol, Self

from sqlalchemy import Connection, func, or_, select, tuple_

from isolane.attachments import load_whole
from isolane.context import EventId, ThreadKey
from isolane.contracts import LogBounds, ThreadSnapshot, ThreadSummary
from isolane.database import messages
from isolane.deletion import rows_of
from isolane.errors import InvalidCursor
from isolane.interrupts import Interrupt
from isolane.packing import size_of

PAGE_MAX: Final = 200
"""Messages of a page."""
PAGE_BYTES: Final = 1 << 20
"""Payload bytes that end a page. One message may have more; then it is a page of its own."""
_NUMBER: Final = r"(0|[1-9][0-9]{0,14})"
_PLACE: Final = re.compile(rf"([a-z0-9]{{1,32}}-{_NUMBER})~{_NUMBER}~{_NUMBER}", re.ASCII)


class Place(NamedTuple):
    """A message of a thread as it stood at `head`; older than it is what a page holds."""

    head: EventId
    since_seq: int
    """The first entry of the run that added the message."""
    rank: int
    """How many messages that run had added before it."""

    def __str__(self) -> str:
        """Return the wire form."""
        return f"{self.head}~{self.since_seq}~{self.rank}"

    @classmethod
    def newest(cls, head: EventId) -> Self:
        """Return the place behind the newest message."""
        return cls(head, head.seq + 1, 0)


@dataclass(frozen=True, slots=True)
class Page:
    """Some messages, the oldest first, and where the older ones are."""

    messages: Sequence[bytes]
    before: str | None

    def of(
        self, thread: ThreadSummary, head: EventId, interrupts: Sequence[Interrupt]
    ) -> ThreadSnapshot:
        """Return the page with what else is told of its thread."""
        return ThreadSnapshot(thread, self.messages, self.before, head, interrupts)


class LoadPage(Protocol):
    """Reads a page whose size is decided."""

    def __call__(self, connection: Connection, key: ThreadKey, place: Place) -> Page:
        """Return the messages before `place`."""
        ...


def parse_place(text: str) -> Place:
    """Return the place that a page gave out; raises `InvalidCursor` for any other text."""
    found = _PLACE.fullmatch(text)
    if found is None:
        raise _unknown()
    head, _, since_seq, rank = found.groups()
    return Place(EventId.parse(head), int(since_seq), int(rank))


def check_place(place: Place, bounds: LogBounds) -> None:
    """Raise when the moment of `place` can't be told any more.

    `CursorExpired` when it is older than the log, or of a thread that had the id before;
    `InvalidCursor` when it is ahead of the log.
    """
    try:
        bounds.check_cursor(place.head)
    except InvalidCursor as error:
        raise _unknown() from error


def _unknown() -> InvalidCursor:
    return InvalidCursor("before: must be as a page of this thread gave it")


def load_page(
    connection: Connection, key: ThreadKey, place: Place, *, limit: int, max_bytes: int
) -> Page:
    """Return up to `limit` messages before `place`, fewer when their payloads pass `max_bytes`."""
    until = place.head.seq + 1  # a message that was dropped by then is none
    row = tuple_(messages.c.since_seq, messages.c.number)
    query = (
        select(messages.c.since_seq, messages.c.number, messages.c.payload)
        .where(
            rows_of(messages, key),
            messages.c.since_seq < until,
            row < (place.since_seq, _load_number(connection, key, place)),
            or_(messages.c.until_seq.is_(None), messages.c.until_seq >= until),
            messages.c.payload != b"",  # of these retention has kept the id only
        )
        .order_by(messages.c.since_seq.desc(), messages.c.number.desc())
        .limit(limit + 1)
    )
    with connection.execute(query) as found:
        rows, is_last = _take(found, limit, max_bytes)
    before = None if is_last else str(_place_of(connection, key, place.head, rows[-1]))
    newest_last = [load_whole(connection, key, payload) for _, _, payload in reversed(rows)]
    return Page(newest_last, before)


_Row = tuple[int, int, bytes]


def _take(found: Iterable[Any], limit: int, max_bytes: int) -> tuple[list[_Row], bool]:
    """Return the rows of a page, and whether they are the last ones there are."""
    rows: list[_Row] = []
    size = 0
    for since_seq, number, payload in found:
        size += size_of(payload)
        if len(rows) == limit or (rows and size > max_bytes):
            return rows, False
        rows.append((since_seq, number, payload))
    return rows, True


def _load_number(connection: Connection, key: ThreadKey, place: Place) -> int:
    """Return the number of the message at `place`; 0 for the place behind the newest."""
    if place == Place.newest(place.head):
        return 0
    number: int | None = connection.execute(
        select(messages.c.number)
        .where(rows_of(messages, key), messages.c.since_seq == place.since_seq)
        .order_by(messages.c.number)
        .limit(1)
        .offset(place.rank)
    ).scalar_one_or_none()
    if number is None or place.since_seq > place.head.seq:
        raise _unknown()
    return number


def _place_of(connection: Connection, key: ThreadKey, head: EventId, row: _Row) -> Place:
    since_seq, number, _ = row
    rank = connection.execute(
        select(func.count()).where(
            rows_of(messages, key), messages.c.since_seq == since_seq, messages.c.number < number
        )
    ).scalar_one()
    return Place(head, since_seq, rank)
