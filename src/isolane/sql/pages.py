"""A thread's messages page by page, from the newest back, as of one moment.

A place names the moment and the oldest message that was read. It uses places in the thread's own
log, because numbers of rows would tell how much other users write.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol, Self

import msgspec
from sqlalchemy import Connection

from isolane.context import EventId, ThreadKey
from isolane.contracts import LogBounds, ThreadSnapshot, ThreadSummary
from isolane.errors import InvalidCursor
from isolane.events.interrupts import Interrupt
from isolane.events.packing import size_of
from isolane.sql.address import StoredThread, load_stored
from isolane.sql.attachments import load_whole
from isolane.sql.driver import Cursor, load_value, stream

PAGE_MAX: Final = 200
"""Messages of a page."""
PAGE_BYTES: Final = 1 << 20
"""Payload bytes that end a page. One message may have more; then it is a page of its own."""
_NUMBER: Final = r"(0|[1-9][0-9]{0,14})"
# One index says which messages stood at a moment, so no payload is read of others.
# Of some messages retention has kept only the id. Their payload is empty.
_BEFORE: Final = """
SELECT since_seq, number, payload FROM messages
WHERE thread_no = ? AND since_seq < ? AND (since_seq, number) < (?, ?)
AND (until_seq IS NULL OR until_seq >= ?) AND length(payload) > 0
ORDER BY since_seq DESC, number DESC LIMIT ?
"""
_NUMBER_AT: Final = """
SELECT number FROM messages WHERE thread_no = ? AND since_seq = ? ORDER BY number LIMIT 1 OFFSET ?
"""
_RANK: Final = """
SELECT count(*) FROM messages WHERE thread_no = ? AND since_seq = ? AND number < ?
"""
_PLACE: Final = re.compile(rf"([a-z0-9]{{1,32}}-{_NUMBER})~{_NUMBER}~{_NUMBER}", re.ASCII)


class Place(NamedTuple):
    """A message of a thread as it stood at `head`. A page has the messages before it."""

    head: EventId
    since_seq: int
    """The first entry of the run that added the message."""
    rank: int
    """Number of messages that the run had added before it."""

    def __str__(self) -> str:
        """Return the wire form."""
        return f"{self.head}~{self.since_seq}~{self.rank}"

    @classmethod
    def newest(cls, head: EventId) -> Self:
        """Return the place behind the newest message."""
        return cls(head, head.seq + 1, 0)


@dataclass(frozen=True, slots=True)
class Page:
    """Some messages, the oldest first, and the place of the older ones."""

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


class LoadRuns(Protocol):
    """Reads a page of whole runs whose size is decided."""

    def __call__(
        self, connection: Connection, key: ThreadKey, place: Place
    ) -> tuple[list[list[bytes]], str | None]:
        """Return the messages before `place`, and where the older ones are."""
        ...


def parse_place(text: str) -> Place:
    """Return the place that a page gave out as text.

    Raises:
        InvalidCursor: No page gives out such a text.
    """
    found = _PLACE.fullmatch(text)
    if found is None:
        raise _unknown()
    head, _, since_seq, rank = found.groups()
    return Place(EventId.parse(head), int(since_seq), int(rank))


def check_place(place: Place, bounds: LogBounds) -> None:
    """Check that the moment of `place` is still kept.

    Raises:
        CursorExpired: It is older than the log, or belongs to an older thread of that id.
        InvalidCursor: It is ahead of the log.
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
    stored = load_stored(connection, key)
    edge = (place.since_seq, _load_number(connection, stored, place))
    with closing(_find_before(connection, stored, edge, place.head.seq + 1, limit + 1)) as found:
        rows, is_last = _take(found, limit, max_bytes)
    before = None if is_last else str(_place_of(connection, stored, place.head, rows[-1]))
    newest_last = [load_whole(connection, stored, payload) for _, _, payload in reversed(rows)]
    return Page(newest_last, before)


def load_runs(
    connection: Connection, key: ThreadKey, place: Place, *, limit: int, max_bytes: int
) -> tuple[list[list[bytes]], str | None]:
    """Return the messages before `place` in whole runs, and the place of the older ones.

    The newest page also has the question of the run under way, beyond its size.
    """
    stored = load_stored(connection, key)
    until = place.head.seq + 1
    edge = (place.since_seq, _load_number(connection, stored, place))
    if place == Place.newest(place.head):
        until, edge = until + 1, (until + 1, 0)
    taken = _Runs(limit, max_bytes)
    with closing(_find_before(connection, stored, edge, until)) as found:
        for since_seq, _, written in found:
            if taken.are_a_page_before(since_seq):
                return taken.oldest_first(), str(Place(place.head, taken.since_seq, 0))
            payload = load_whole(connection, stored, written)
            taken.add(since_seq, payload, counts=since_seq <= place.head.seq)
    return taken.oldest_first(), None


class _Runs:
    """Messages by the runs that added them, taken from the newest back until they are a page."""

    def __init__(self, limit: int, max_bytes: int) -> None:
        self._limit = limit
        self._max_bytes = max_bytes
        self._runs: list[list[bytes]] = []
        self._count = self._size = 0
        self.since_seq = 0
        """The first entry of the oldest run that was taken."""

    def are_a_page_before(self, since_seq: int) -> bool:
        """Say whether a page ends before another run, which has its first entry there.

        Answers to a question or a call stay beside it, unless that doubles the page.
        """
        share = max(self._count / self._limit, self._size / self._max_bytes)
        if since_seq == self.since_seq or share < 1:
            return False
        first = msgspec.json.decode(self._runs[-1][-1], type=RoleOf)
        return first.role == "user" or share >= 2  # noqa: PLR2004 - double

    def add(self, since_seq: int, payload: bytes, *, counts: bool) -> None:
        """Take the message that stands before those that were taken."""
        if since_seq != self.since_seq:
            self._runs.append([])
            self.since_seq = since_seq
        self._runs[-1].append(payload)
        if counts:
            self._count += 1
            self._size += len(payload)

    def oldest_first(self) -> list[list[bytes]]:
        """Return the runs, and in each its messages, in the order of the conversation."""
        return [run[::-1] for run in reversed(self._runs)]


class RoleOf(msgspec.Struct):
    """As much of a message as tells who said it."""

    role: str


_Row = tuple[int, int, bytes]


def _find_before(
    connection: Connection,
    stored: StoredThread,
    edge: tuple[int, int],
    until: int,
    limit: int = sys.maxsize,
) -> Cursor:
    """Find what stood before the log entry `until`, from before a row on, the newest first.

    `edge` is that row: the first entry of the run that added it, and its number.
    """
    return stream(connection, _BEFORE, (stored.thread_no, until, *edge, until, limit))


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


def _load_number(connection: Connection, stored: StoredThread, place: Place) -> int:
    """Return the number of the message at `place`; 0 for the place behind the newest."""
    if place == Place.newest(place.head):
        return 0
    found = (stored.thread_no, place.since_seq, place.rank)
    number: int | None = load_value(connection, _NUMBER_AT, found)
    if number is None or place.since_seq > place.head.seq:
        raise _unknown()
    return number


def _place_of(connection: Connection, stored: StoredThread, head: EventId, row: _Row) -> Place:
    since_seq, number, _ = row
    rank = load_value(connection, _RANK, (stored.thread_no, since_seq, number))
    return Place(head, since_seq, rank)
