"""The window keeps each record once, and counts what it keeps."""

from __future__ import annotations

from isolane.context import EventId, ThreadKey
from isolane.events.event import Record
from isolane.log.window import Window

KEY = ThreadKey("alice", "thread")
START = EventId("e", 0)


def records(first: int, last: int) -> list[Record]:
    """Return records of one byte each."""
    return [Record(KEY, EventId("e", seq), "run", b"x") for seq in range(first, last + 1)]


def kept(window: Window, after: EventId = START) -> list[int]:
    return [record.id.seq for record in window.get_after(after) or ()]


def test_page_that_overlaps_the_window_is_kept_once() -> None:
    window = Window()
    window.take(records(1, 5))
    window.learn(EventId("e", 2), records(3, 8))
    assert kept(window) == list(range(1, 9))
    assert window.size == (8, 8)


def test_page_larger_than_the_window_pushes_all_others_out() -> None:
    window = Window((4, 1_000))
    window.take(records(1, 3))
    window.take(records(4, 12))
    assert kept(window, EventId("e", 8)) == [9, 10, 11, 12]
    assert window.size == (4, 4)


def test_page_behind_the_window_goes_before_it() -> None:
    window = Window((6, 1_000))
    window.begin_at(EventId("e", 5))
    window.learn(EventId("e", 2), records(3, 5))
    assert kept(window, EventId("e", 2)) == [3, 4, 5]
    assert window.end == EventId("e", 5)
