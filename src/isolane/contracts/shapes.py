"""The values that cross contracts: frozen, without behaviour."""

# Long because: these values are fields and docstrings, and they refer to one another.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from isolane.context import EventId, RunIds, RunKey, UserExecutionContext
from isolane.errors import AgentFailed, CursorExpired, InvalidCursor
from isolane.events.interrupts import Interrupt
from isolane.events.transcript import Message


class Verdict(StrEnum):
    """What became of one frame on one connection."""

    DELIVERED = "delivered"
    FAILED = "failed"
    CLOSED = "closed"


Delivery = Mapping[str, Verdict]
"""A verdict for each connection id. Delivered means handed to the socket, no sooner."""


@dataclass(frozen=True, slots=True)
class ConnectionHealth:
    """What a manager holds for its user now."""

    user_id: str
    connections: int
    open_connections: int
    followers: int
    window_records: int
    window_bytes: int


class Disposition(StrEnum):
    """What became of a run frame."""

    STARTED = "started"
    QUEUED = "queued"
    ATTACHED = "attached"


@dataclass(frozen=True, slots=True)
class RunTicket:
    """A run that was taken on. `after` is the place in the log before its first event."""

    context: UserExecutionContext
    disposition: Disposition
    after: EventId
    position: int | None = None
    """Place in the thread's queue; 1 is next."""


class RunState(StrEnum):
    """Where a run stands."""

    QUEUED = "queued"
    RUNNING = "running"
    ENDED = "ended"


class ThreadKind(StrEnum):
    """What a thread is for."""

    CHAT = "chat"
    """A conversation: in the list of threads, and kept until somebody deletes it."""
    REQUEST = "request"
    """One request: in no list, told to nobody, and removed some time after its run ended."""


@dataclass(frozen=True, slots=True)
class Seed:
    """A history that a thread begins with: messages of all roles, which no run of it added."""

    messages: Sequence[Message]
    is_claimed: bool
    """Whether it is the caller's word only. False for what the gateway itself has kept."""

    def to_stand_in(self) -> Message:
        """Return what stands for the seed among the messages that its run asked."""
        return {"id": "\0seed", "messages": list(self.messages)}


@dataclass(frozen=True, slots=True)
class Opening:
    """How a thread begins with its first run. Only a door may say it, never a client's input."""

    kind: ThreadKind = ThreadKind.CHAT
    """Counts for a thread that comes into being with the run; another one stays what it is."""
    seed: Seed | None = None


@dataclass(frozen=True, slots=True)
class RunDraft:
    """What a run frame asks for: kept whole until the run starts, for a restart may come first."""

    agent: str
    messages: Sequence[Message]
    """User and tool messages; once stored, only those that are new to the thread."""
    rewind_to: str | None
    request: Mapping[str, Any]
    """The rest of the input: tools, context, state, forwardedProps, resume, parentRunId."""
    stopped_at: int | None = None
    """When the run was stopped while it waited, in milliseconds since 1970."""
    asks_again: bool = False
    """Whether it asks the thread's last question once more, and takes back what followed that.
    `messages` is that question alone then, and `rewind_to` its id."""
    is_forgotten: bool = False
    """Whether its user had the id of the run deleted. What it said stays in its thread."""
    opening: Opening | None = None
    """How the thread begins with this run. It isn't kept with the run."""
    must_add: bool = False
    """Whether it is refused when none of its messages is new: it only brings answers of tools, and
    another device may bring them at the same time."""

    @property
    def seed(self) -> Seed | None:
        """The history that the thread is to begin with."""
        return None if self.opening is None else self.opening.seed


NO_DRAFT: Final = RunDraft("", (), None, {})
"""Stands for a draft that can't be read."""


class StoppedBy(StrEnum):
    """What it took until a stopped run had ended."""

    GATEWAY = "gateway"
    """Its agent had not begun."""
    AGENT = "agent"
    """Its agent ended by itself once it was told."""
    CANCELLATION = "cancellation"
    """Its agent had to be cancelled."""
    ABANDONMENT = "abandonment"
    """Its agent swallowed its cancellation, and goes on without being heard."""


@dataclass(frozen=True, slots=True)
class RunStop:
    """How a run was stopped; times in milliseconds, `requested_at` since 1970."""

    requested_at: int
    took_ms: int
    by: StoppedBy


@dataclass(frozen=True, slots=True)
class KnownMessage:
    """What a thread knows of the id of a message."""

    message: Message | None
    """None when it was taken back long ago: only its id is kept then."""
    stands: bool
    """Whether it is part of the conversation, and wasn't taken back."""
    is_last_question: bool
    """Whether it stands, and no message of a user stands behind it."""


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A run as the store has it."""

    key: RunKey
    """Its own address, also when it was looked up by the id of a run that attached to it."""
    thread_id: str
    state: RunState
    draft: RunDraft
    """What it asks for. Once it has ended only its agent is left of that."""
    first_seq: int | None
    last_seq: int | None
    created_at: int
    started_at: int | None
    ended_at: int | None
    outcome: str | None
    """`success`, `cancelled`, `interrupt`, or the code of the error."""
    error_id: str | None
    stop: RunStop | None
    agent_code: str | None = None
    """The code of the error that its agent ended it with, if it did."""
    agent_message: str | None = None
    """The text of that error, if the agent made it public."""
    asked: Mapping[bytes, bytes] = field(default_factory=dict)
    """Fingerprints of the messages that it asked, by those of their ids: they outlive the draft."""

    @property
    def run_id(self) -> str:
        """Its own id, also when it was looked up by that of a run that attached to it."""
        return self.key.run_id


@dataclass(frozen=True, slots=True)
class BegunRun:
    """A run whose turn has come: what it added, what its agent sees, where its events begin."""

    added: Sequence[Message]
    history: Sequence[Message]
    after: EventId
    agent_ids: RunIds
    """By which its agent knows the thread, the run and its parent. They are no other user's."""
    rewound: frozenset[str] = frozenset()
    """Ids that were edited away and may not come back; none for a run that rewinds itself."""
    state: Any = None
    """AG-UI's shared state that the agent gets: what the run brings, else what the thread has.
    None when there is neither."""
    kind: ThreadKind = ThreadKind.CHAT
    """What the thread is for."""
    is_history_claimed: bool = False
    """Whether a part of `history` is what a caller claims that was said."""


@dataclass(frozen=True, slots=True)
class RunEnd:
    """How a run ended; written together with its terminal event."""

    run_id: str
    outcome: str
    error_id: str | None
    messages: Sequence[Message]
    ended_at: int
    stop: RunStop | None = None
    interrupts: Sequence[Interrupt] = ()
    """What it asks of a person, when its outcome is `interrupt`."""
    state: bytes | None = None
    """The thread's shared state from now on, as JSON in UTF-8; None when the run left it as it
    was."""
    failure: AgentFailed | None = None
    """The error that its agent ended it with, if it did."""


@dataclass(frozen=True, slots=True)
class LogBounds:
    """What a log holds: entries after `trimmed_seq` up to `head`."""

    trimmed_seq: int
    head: EventId

    def check_cursor(self, after: EventId) -> None:
        """Raise when nobody can go on from `after` without a gap.

        `CursorExpired` when what follows is no longer kept or the epoch is another,
        `InvalidCursor` when `after` is ahead of the log. Number 0 is the start, whatever its epoch.
        """
        if after.seq > 0 and after.epoch != self.head.epoch:
            raise CursorExpired(f"{after} is of another numbering than {self.head}")
        if after.seq > self.head.seq:
            raise InvalidCursor(f"after: {after} is ahead of the log, which ends at {self.head}")
        if after.seq < self.trimmed_seq:
            raise CursorExpired(f"{after} is older than the first entry kept")


@dataclass(frozen=True, slots=True)
class ThreadSummary:
    """One thread as a list shows it."""

    thread_id: str
    title: str
    created_at: int
    updated_at: int
    active_run_id: str | None = None
    kind: ThreadKind = ThreadKind.CHAT


@dataclass(frozen=True, slots=True)
class ThreadPage:
    """Some threads of a user; `cursor` asks for the next ones, None when these were the last."""

    threads: Sequence[ThreadSummary]
    cursor: str | None


@dataclass(frozen=True, slots=True)
class ThreadSnapshot:
    """A page of a thread's messages, and the place in its log that they are as of."""

    thread: ThreadSummary
    messages: Sequence[bytes]
    """The newest of them, or those before a place, each as JSON in UTF-8; the oldest first."""
    before: str | None
    """Asks for the page of the older ones; None when there are none."""
    head: EventId
    interrupts: Sequence[Interrupt]
    """What its last run asks of a person, as long as nobody answered."""
    state: bytes | None = None
    """Its shared state as JSON in UTF-8; None when it has none, and on pages of older messages."""


@dataclass(frozen=True, slots=True)
class TurnRun:
    """A run as part of a turn. One that waits has no place in the log yet."""

    run_id: str
    state: RunState
    first_seq: int | None
    last_seq: int | None
    ended_at: int | None


@dataclass(frozen=True, slots=True)
class Turn:
    """What was asked at once, and the runs that answered it, the oldest first.

    Its id is that of the run that began it.
    """

    turn_id: str
    runs: Sequence[TurnRun]


@dataclass(frozen=True, slots=True)
class StandingRun:
    """A run of a turn with those of its messages that stand, in order."""

    run: TurnRun
    added: Sequence[Message]
    """What its client brought: messages of users and results of tools."""
    left: Sequence[Message]
    """What its agent said; nothing before the run has ended."""
    is_whole: bool
    """Whether no rewind took back a part of it. Otherwise its log tells more than what stands."""


@dataclass(frozen=True, slots=True)
class StandingTurn:
    """A turn with its messages. `runs` are the oldest first."""

    turn_id: str
    runs: Sequence[StandingRun]


@dataclass(frozen=True, slots=True)
class TurnPage:
    """Some turns of a thread, the newest first."""

    turns: Sequence[StandingTurn]
    has_older: bool
    seed: Sequence[Message] = ()
    """Messages that the thread began with and no run of it added. They are on the last page."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """A page of a thread's messages as they stand now, by the runs that added them."""

    runs: Sequence[Sequence[bytes]]
    """The messages of each run, as JSON in UTF-8; the oldest run first. Of a run under way they are
    what it was asked."""
    before: str | None
    """Asks for the page of the older runs; None when there are none."""
    active_run_id: str | None = None
    """The run under way, if there is one; None on pages of older runs, as is what follows."""
    asking_run_id: str | None = None
    """The last run, where it asks something of a person that nobody answered."""
    interrupts: Sequence[Interrupt] = ()
    """What it asks."""


class Scope(StrEnum):
    """What a credential may do."""

    READ = "threads:read"
    """Read and follow threads and runs."""
    WRITE = "runs:write"
    """Run agents, stop runs, make, rename and delete threads."""
    CHECK = "check"
    """Use the agent `check`, and with it the threads of its own user."""
    ADMIN = "admin"
    """Sign other users out, and see how much each keeps."""


PLAIN: Final = frozenset[str]({Scope.READ, Scope.WRITE})
"""What a user may do whose credential names no scope."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a credential speaks for, and for what; times in milliseconds since 1970."""

    user_id: str
    expires_at: int | None = None
    """When the credential behind it dies; None lives as long as its session."""
    scopes: frozenset[str] = PLAIN
    session_id: str | None = None
    """The session behind the credential, if one is: ending it ends what it opened."""
    issued_at: int | None = None
    """When it was given out. Who is signed out everywhere loses what was issued before; None is
    for those who vouch anew each time."""
    key_id: str | None = None
    """The key of ours that signed it, if one did: it dies with that key."""
