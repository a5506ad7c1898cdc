"""What one device must still get, and nothing else: each frame that comes is held against it."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final, NamedTuple, TypeAlias

from tests.live.client import TERMINAL, Frame, outcome_of, parse_id

End: TypeAlias = tuple[int | None, str]
"""Close code and reason of a socket; no code is the end of an event stream."""
News: TypeAlias = tuple[str, str, bool]
"""What a `thread` frame says: which thread, its title, whether it is gone."""

OVER: Final[End] = (None, "")
DONE: Final[End] = (1000, "")
AWAY: Final[End] = (1001, "going_away")
UNKNOWN: Final[End] = (1008, "unknown run")
INVALID: Final[End] = (1008, "invalid_cursor")


class Kind(Enum):
    """What a device is now."""

    OFF = auto()
    PLAIN = auto()
    GREETED = auto()
    REPLAY = auto()
    STREAM = auto()


class Entry(NamedTuple):
    """One event of a log, as far as it can be known beforehand."""

    seq: int
    run_id: str
    kind: str
    detail: str

    @property
    def is_end(self) -> bool:
        """Whether it ends its run."""
        return self.kind in TERMINAL


def to_entry(frame: Frame, *, run_id: str) -> Entry:
    """Return what an envelope holds; an event stream's doesn't say whose run it is."""
    chunk = frame["chunk"]
    match chunk["type"]:
        case "TEXT_MESSAGE_CONTENT":
            detail = chunk["delta"]
        case "RUN_STARTED":
            detail = "".join(message["content"] for message in chunk["input"]["messages"])
        case "RUN_FINISHED" | "RUN_ERROR":
            detail = outcome_of(chunk)
        case _:
            detail = ""
    named = frame.get("runId", chunk.get("runId", run_id))
    return Entry(parse_id(frame["id"])[1], named, chunk["type"], detail)


@dataclass
class Device:
    """One device of a user: what it follows, and what is due to it."""

    name: str
    kind: Kind = Kind.OFF
    wants: dict[str, set[str] | None] = field(default_factory=dict)
    """The runs that it follows, by thread; None follows the thread."""
    due: defaultdict[str, deque[Entry]] = field(default_factory=lambda: defaultdict(deque))
    answers: deque[Frame] = field(default_factory=deque)
    news: Counter[News] = field(default_factory=Counter)
    rumours: Counter[News] = field(default_factory=Counter)
    """News that may come or not."""
    ends: frozenset[End] = frozenset()
    """How it must end, one of these ways; empty as long as it stays."""
    may_miss: bool = False
    """Whether it may end before it has all."""
    at: dict[str, str] = field(default_factory=dict)
    """The newest id that it has of each thread. Outlives its connections."""

    @property
    def missing(self) -> list[object]:
        """What has not come yet."""
        due = [(thread_id, *rest) for thread_id, rest in self.due.items() if rest]
        return [*due, *self.answers, *(+self.news)]

    def become(self, kind: Kind) -> None:
        """Be connected anew, or off: nothing of the connection before is due any more."""
        self.kind = kind
        for left in (self.wants, self.due, self.answers, self.news, self.rumours):
            left.clear()
        self.ends, self.may_miss = frozenset(), False

    def expect_end(self, *ways: End) -> None:
        """Be about to end in one of these ways."""
        self.ends = frozenset(ways)

    def expect(self, kind: str, **fields: object) -> None:
        """Expect an answer with at least these fields."""
        self.answers.append({"type": kind, **fields})

    def expect_error(self, code: str, **names: str) -> None:
        """Expect to be told of an error, in the words that it speaks."""
        if self.kind is Kind.GREETED:
            self.expect("error", code=code, **names)
        elif "runId" in names:
            self.expect("RUN_ERROR", code=code, runId=names["runId"])

    def follow(self, thread_id: str, entries: Iterable[Entry]) -> None:
        """Follow a thread, from these entries on."""
        self.wants[thread_id] = None
        self.due[thread_id].extend(entries)

    def follow_run(self, thread_id: str, run_id: str, entries: Iterable[Entry]) -> None:
        """Follow a run, from these entries on, unless it comes already."""
        runs = self.wants.setdefault(thread_id, set())
        if runs is None or run_id in runs:
            return
        runs.add(run_id)
        for entry in entries:
            self.offer(thread_id, entry)

    def offer(self, thread_id: str, entry: Entry) -> bool:
        """Make an entry due if it is followed; say whether it is."""
        runs = self.wants.get(thread_id, set())
        if runs is not None and entry.run_id not in runs:
            return False
        self.due[thread_id].append(entry)
        if runs is not None and entry.is_end:
            runs.discard(entry.run_id)
            self._end_if_spent()
        return True

    def lose(self, thread_id: str) -> None:
        """Follow a thread, or runs in it, no longer."""
        if self.wants.pop(thread_id, set()) != set():
            self._end_if_spent()

    def _end_if_spent(self) -> None:
        """End what was opened for the one thing that is over."""
        if self.kind is Kind.REPLAY:
            self.expect_end(DONE)
        elif self.kind is Kind.STREAM:
            self.expect_end(OVER)

    def take(self, frame: Frame) -> None:
        """Take a frame; fails when it isn't the next one that is due."""
        if "chunk" in frame:
            self._take_envelope(frame)
        elif frame["type"] == "thread":
            self._take_news((frame["threadId"], frame["title"], frame["deleted"]))
        elif frame != {"type": "ping"}:
            self._take_answer(frame)

    def _take_envelope(self, frame: Frame) -> None:
        thread_id = frame["threadId"]
        rest = self.due.get(thread_id)
        assert rest, f"{self.name} got {frame}, and nothing of {thread_id} was due"
        wanted = rest.popleft()
        given = to_entry(frame, run_id=wanted.run_id)
        assert given == wanted, f"{self.name} got {given} of {thread_id}, not {wanted}"
        self.at[thread_id] = frame["id"]

    def _take_news(self, news: News) -> None:
        expected = self.news if self.news[news] else self.rumours
        assert expected[news], f"{self.name} got the news {news}, not one of {[*+self.news]}"
        expected[news] -= 1

    def _take_answer(self, frame: Frame) -> None:
        assert self.answers, f"{self.name} got {frame}, and had asked nothing"
        wanted = self.answers.popleft()
        given = {name: frame.get(name) for name in wanted}
        assert given == wanted, f"{self.name} got {frame}, not {wanted}"
