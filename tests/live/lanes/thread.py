"""A thread of one user, and its runs, as they must be."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.live.client import parse_id
from tests.live.lanes.dues import Entry
from tests.live.lanes.plot import Plot


@dataclass
class Run:
    """A run; it stands in the line of its thread until it ends."""

    run_id: str
    thread_id: str
    plot: Plot
    state: str = "queued"
    outcome: str | None = None
    is_stopped: bool = False
    """Whether it was stopped before its turn."""
    has_slot: bool = True
    first: int = 0
    standing: int = 0
    """How many messages stood before it began."""
    said: str = ""


@dataclass
class Thread:
    """A thread: its log, its messages, and the runs that stand in line, the one under way first."""

    title: str = ""
    epoch: str | None = None
    """Known once an id was seen."""
    entries: list[Entry] = field(default_factory=list)
    messages: list[tuple[str, str]] = field(default_factory=list)
    line: list[Run] = field(default_factory=list)
    is_unheard: bool = False
    """Whether something was logged that no device followed."""

    @property
    def active(self) -> Run | None:
        """The run under way."""
        return self.line[0] if self.line else None

    @property
    def questions(self) -> str:
        """All that was asked."""
        return "".join(content for role, content in self.messages if role == "user")

    @property
    def shown_messages(self) -> list[tuple[str, str]]:
        """The messages of finished runs."""
        return self.messages[: self.active.standing] if self.active else self.messages

    @property
    def shown_head(self) -> int:
        """The place in the log that they are as of."""
        return self.active.first - 1 if self.active else len(self.entries)

    @property
    def head(self) -> str:
        """The newest id."""
        return f"{self.epoch}-{len(self.entries)}"

    def find(self, after: str | None) -> int | str:
        """Return the place in the log that an id names, or why it names none."""
        epoch, seq = ("", 0) if after is None else parse_id(after)
        if seq and epoch != self.epoch:
            return "resume_expired"
        return seq if seq <= len(self.entries) else "invalid_cursor"
