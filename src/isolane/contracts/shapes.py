"""Values that cross the contracts: frozen data without behaviour."""

# Long because: these values are fields and docstrings, and they refer to one another.

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, NamedTuple

from isolane.context import EventId, RunIds, RunKey, ThreadKey, UserExecutionContext
from isolane.errors import AgentFailed, CursorExpired, InvalidCursor
from isolane.events.interrupts import Interrupt
from isolane.events.transcript import Message


class Verdict(StrEnum):
    """Result of sending one frame to one connection."""

    DELIVERED = "delivered"
    FAILED = "failed"
    CLOSED = "closed"


Delivery = Mapping[str, Verdict]
"""A verdict per connection id. `DELIVERED` means that the frame was handed to the socket."""


@dataclass(frozen=True, slots=True)
class ConnectionHealth:
    """Counts that a manager holds for its user now."""

    user_id: str
    connections: int
    open_connections: int
    followers: int
    window_records: int
    window_bytes: int


class Disposition(StrEnum):
    """Result of accepting a run frame."""

    STARTED = "started"
    QUEUED = "queued"
    ATTACHED = "attached"


@dataclass(frozen=True, slots=True)
class RunTicket:
    """An accepted run. `after` is the place in the log before its first event."""

    context: UserExecutionContext
    disposition: Disposition
    after: EventId
    position: int | None = None
    """Place in the thread's queue, from 1. None for a run that doesn't wait."""


class RunState(StrEnum):
    """Stage of a run's life."""

    QUEUED = "queued"
    RUNNING = "running"
    ENDED = "ended"


class ThreadKind(StrEnum):
    """Purpose of a thread."""

    CHAT = "chat"
    """A conversation. It is in the list of threads and is kept until somebody deletes it."""
    REQUEST = "request"
    """One request. It is in no list, no device is told of it, and it is removed some time after its
    run has ended."""


@dataclass(frozen=True, slots=True)
class Seed:
    """A history that a thread begins with: messages of all roles that no run has added."""

    messages: Sequence[Message]
    is_claimed: bool
    """True when only the caller says so. False when the gateway itself has kept the messages."""

    def to_stand_in(self) -> Message:
        """Return a message that stands for the seed in the fingerprints of its run's messages."""
        return {"id": "\0seed", "messages": list(self.messages)}


@dataclass(frozen=True, slots=True)
class Opening:
    """The first content of a new thread. Doors set it; a client's input can't."""

    kind: ThreadKind = ThreadKind.CHAT
    """Purpose of a new thread. A thread that exists keeps its own kind."""
    seed: Seed | None = None


@dataclass(frozen=True, slots=True)
class RunDraft:
    """The content of a run frame.

    It is stored whole until the run starts, so a restart loses nothing.
    """

    agent: str
    messages: Sequence[Message]
    """User and tool messages. In the store they are only those that are new to the thread."""
    rewind_to: str | None
    request: Mapping[str, Any]
    """The other fields of the input: tools, context, state, forwardedProps, resume, parentRunId."""
    asks_again: bool = False
    """True when the run asks the thread's last question again and takes back everything after it.
    `messages` is then that question alone, and `rewind_to` is its id."""
    is_forgotten: bool = False
    """True when the user had the run's id deleted. Its messages stay in the thread."""
    opening: Opening | None = None
    """Opening of a thread that begins with this run. The store doesn't keep this field."""
    must_add: bool = False
    """True when the run is refused unless it adds a message. Such a run brings only results of
    tools, and another device may bring the same results at the same time."""

    @property
    def seed(self) -> Seed | None:
        """The history that the thread is to begin with."""
        return None if self.opening is None else self.opening.seed


NO_DRAFT: Final = RunDraft("", (), None, {})
"""Placeholder for a stored draft that can't be read."""


class StoppedBy(StrEnum):
    """Cause of the end of a stopped run."""

    GATEWAY = "gateway"
    """The gateway ended the run before its agent began."""
    AGENT = "agent"
    """The agent ended by itself after it was told to stop."""
    CANCELLATION = "cancellation"
    """The agent's task had to be cancelled."""
    ABANDONMENT = "abandonment"
    """The agent ignored its cancellation. It may still work, but nothing reads its events."""
    FENCE = "fence"
    """The run's node did not obey, and another node ended the run. Its agent may still work."""


@dataclass(frozen=True, slots=True)
class RunStop:
    """The stop of a run. `requested_at` is in milliseconds since 1970, `took_ms` a duration."""

    requested_at: int
    took_ms: int
    by: StoppedBy


@dataclass(frozen=True, slots=True)
class KnownMessage:
    """Knowledge of a thread about one message id."""

    message: Message | None
    """The message. None when it was taken back long ago, because only its id is kept then."""
    stands: bool
    """True when the message is part of the conversation and wasn't taken back."""
    is_last_question: bool
    """True when the message stands and no later message of a user stands."""


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A run as the store has it."""

    key: RunKey
    """The run's own address, also when the run was found by the id of a run that attached to it."""
    thread_id: str
    state: RunState
    draft: RunDraft
    """Content of the run. After the run's end only the agent's name is left in it."""
    first_seq: int | None
    last_seq: int | None
    after: EventId
    """Place in the log before the run's first event. For a run that waits, the end of the log."""
    created_at: int
    started_at: int | None
    ended_at: int | None
    outcome: str | None
    """`success`, `cancelled`, `interrupt`, or the code of the error."""
    error_id: str | None
    stop: RunStop | None
    agent_code: str | None = None
    """Code of the agent's own error, when the agent ended the run with one."""
    agent_message: str | None = None
    """Text of the agent's own error, when the agent made it public."""
    asked: Mapping[bytes, bytes] = field(default_factory=dict)
    """Fingerprints of the run's messages by the fingerprints of their ids. They outlive the draft,
    so that a repeated run frame is recognised."""
    stop_at: int | None = None
    """Time at which somebody asked the run to stop, in milliseconds since 1970, or None."""

    @property
    def run_id(self) -> str:
        """The run's own id, also when the run was found by the id of a run that attached to it."""
        return self.key.run_id


@dataclass(frozen=True, slots=True)
class RunLease:
    """The right to write one run into the log of its thread, until somebody else takes it."""

    key: ThreadKey
    run_id: str
    epoch: str
    """The numbering that its entries get."""
    fence: int
    """Random token of 63 bits, new for each lease. It is compared for equality only."""
    thread_no: int
    """Number of the thread in the database."""
    run_no: int
    """Number of the run in the database."""

    @property
    def run_key(self) -> RunKey:
        """The address of the run."""
        return RunKey(self.key.user_id, self.run_id)


@dataclass(frozen=True, slots=True)
class Batch:
    """Events of one run that are committed together."""

    lease: RunLease
    payloads: Sequence[bytes]
    number: int
    """Its place among the batches of the lease, from 1."""
    end: RunEnd | None = None
    """The end of the run, written in the same transaction; None while the run goes on."""


@dataclass(frozen=True, slots=True)
class ClaimedRun:
    """A run whose turn has come, and that one node may begin."""

    run: StoredRun
    lease: RunLease
    """The right to begin the run and to write its events."""


@dataclass(frozen=True, slots=True)
class HeldRun:
    """A run that has its thread's turn in the name of a node."""

    lease: RunLease
    """The lease as the rows have it, whether or not the node knows it."""
    has_begun: bool
    """True when the run is under way. False when the node has only claimed it."""
    has_events: bool
    """True when the log has an event of the run."""


@dataclass(frozen=True, slots=True)
class BegunRun:
    """A run that starts now: its new messages, the agent's history, and its place in the log."""

    added: Sequence[Message]
    history: Sequence[Message]
    after: EventId
    lease: RunLease
    """The right to write its events."""
    agent_ids: RunIds
    """Ids by which the agent knows the thread, the run and its parent. No other user has them."""
    rewound: frozenset[str] = frozenset()
    """Ids of messages that were edited away and may not come back. Empty for a run that rewinds."""
    state: Any = None
    """AG-UI's shared state for the agent: the run's own, else the thread's, else None."""
    kind: ThreadKind = ThreadKind.CHAT
    """Purpose of the thread."""
    is_history_claimed: bool = False
    """True when a part of `history` is only the caller's word."""
    attempt: int = 1
    """How often its agent was begun, this time included; a hand-over isn't counted."""
    is_anew: bool = False
    """True when the log has events of the run already, which another process wrote."""


@dataclass(frozen=True, slots=True)
class Terms:
    """On which terms a run is let in."""

    policy: str = "queue"
    """Policy for a busy thread: `queue`, `reject`, or `interrupt`."""
    runs_per_user: int = sys.maxsize
    """Unfinished runs that the user may have, this one included."""
    queued_per_thread: int = sys.maxsize
    """Runs that may wait on the thread, this one included."""
    asked_at: int | None = None
    """When the run was asked for, in milliseconds since 1970: a revocation since then stops it.
    With None, revocations stop no run."""
    node_id: str = ""
    """The node that drives the run, if it begins at once."""
    is_restartable: bool = False
    """Whether another node may begin the run anew."""
    may_begin: bool = True
    """Whether that node serves the run's agent. Otherwise another node claims the run."""


class NodeRole(StrEnum):
    """What a process does for the database that it serves."""

    ALL = "all"
    """It has users and agents."""
    GATEWAY = "gateway"
    """It has users. Their runs are driven by other nodes."""
    WORKER = "worker"
    """It has agents. Users come to other nodes."""


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """What a process tells of itself to the others that serve its database."""

    name: str
    """What operators call it. A process that takes the name of another one takes its place."""
    role: NodeRole = NodeRole.ALL
    agents: tuple[str, ...] = ()
    """Names of the agents that it serves, the default's first."""
    version: str = ""
    """The release of Isolane that it runs."""
    key_proof: str = field(default="", repr=False)
    """Tells whether two processes sign with the same key, and nothing else of the key."""


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """A process that serves a database, as others see it."""

    node_id: str
    info: NodeInfo
    is_draining: bool = False
    beat_age_ms: int = 0
    """Milliseconds since its last beat, by the database's clock."""
    runs: int = 0
    """How many runs it drives, or is about to."""


class Signs(NamedTuple):
    """What there is to do for a node, by the rows of runs."""

    turns: bool = False
    """Runs wait on a thread on which nobody has the turn."""
    unclaimed: bool = False
    """Runs have the turn, and no node that lives has claimed them."""
    held: bool = False
    """Runs have the turn in the node's own name."""
    stops: bool = False
    """Runs of the node were stopped, and it hasn't obeyed."""
    unheard: bool = False
    """Runs of other nodes were stopped, and those haven't obeyed."""
    orphans: bool = False
    """Runs are under way whose node lives no more."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """A run that was let in."""

    draft: RunDraft
    """The stored draft. The draft of a waiting run has only messages that are new to the thread."""
    begun: BegunRun | None
    """Where it begins; None when it waits for its turn."""
    position: int
    """Its place in the thread's line: 0 has the turn, 1 is next. A run that has the turn and hasn't
    begun is left to another node."""
    after: EventId
    """Place in the log before the run's first event. For a run that waits, the end of the log."""
    ahead: str | None = None
    """The run whose turn it was. A run that interrupts has stopped that one."""
    stop_at: int | None = None
    """When it was asked to stop before it came, in milliseconds since 1970."""


@dataclass(frozen=True, slots=True)
class ActiveRun:
    """A run of a chat that is under way."""

    thread_id: str
    run_id: str
    head: EventId
    """End of the thread's log."""


@dataclass(frozen=True, slots=True)
class RunEnd:
    """The end of a run. It is committed together with the run's terminal event."""

    run_id: str
    outcome: str
    error_id: str | None
    messages: Sequence[Message]
    ended_at: int
    stop: RunStop | None = None
    interrupts: Sequence[Interrupt] = ()
    """Questions to a person, when the outcome is `interrupt`."""
    state: bytes | None = None
    """The thread's new shared state, as JSON in UTF-8. None when the run didn't change it."""
    failure: AgentFailed | None = None
    """The agent's own error, when the agent ended the run with one."""


@dataclass(frozen=True, slots=True)
class LogBounds:
    """The range that a log holds: entries after `trimmed_seq` up to `head`."""

    trimmed_seq: int
    head: EventId

    def check_cursor(self, after: EventId) -> None:
        """Check that a client can go on from `after` without a gap.

        Number 0 is the start of the log in every epoch.

        Raises:
            CursorExpired: The next entries are no longer kept, or the epoch is another one.
            InvalidCursor: The place `after` is ahead of the log.
        """
        if after.seq > 0 and after.epoch != self.head.epoch:
            raise CursorExpired(f"{after} is of another numbering than {self.head}")
        if after.seq > self.head.seq:
            raise InvalidCursor(f"after: {after} is ahead of the log, which ends at {self.head}")
        if after.seq < self.trimmed_seq:
            raise CursorExpired(f"{after} is older than the first entry kept")


@dataclass(frozen=True, slots=True)
class ThreadSummary:
    """One thread as the list of threads shows it."""

    thread_id: str
    title: str
    created_at: int
    updated_at: int
    active_run_id: str | None = None
    kind: ThreadKind = ThreadKind.CHAT


@dataclass(frozen=True, slots=True)
class ThreadPage:
    """A page of a user's threads. `cursor` asks for the next page; None on the last page."""

    threads: Sequence[ThreadSummary]
    cursor: str | None


@dataclass(frozen=True, slots=True)
class ThreadSnapshot:
    """A page of a thread's messages, and the place in its log at which they were read."""

    thread: ThreadSummary
    messages: Sequence[bytes]
    """The page's messages, each as JSON in UTF-8, the oldest first."""
    before: str | None
    """Cursor of the page with older messages; None when there are none."""
    head: EventId
    interrupts: Sequence[Interrupt]
    """Open questions of the thread's last run to a person."""
    state: bytes | None = None
    """The thread's shared state as JSON in UTF-8. None without one, and on pages of older
    messages."""


@dataclass(frozen=True, slots=True)
class TurnRun:
    """A run as part of a turn. A waiting run has no place in the log yet."""

    run_id: str
    state: RunState
    first_seq: int | None
    last_seq: int | None
    ended_at: int | None


@dataclass(frozen=True, slots=True)
class Turn:
    """One question and the runs that answered it, the oldest first.

    The turn's id is the id of its first run.
    """

    turn_id: str
    runs: Sequence[TurnRun]


@dataclass(frozen=True, slots=True)
class StandingRun:
    """A run of a turn with its messages that still stand, in order."""

    run: TurnRun
    added: Sequence[Message]
    """Messages that the client brought: questions of users and results of tools."""
    left: Sequence[Message]
    """Messages of the agent. Empty until the run has ended."""
    is_whole: bool
    """True when no rewind took back a part of the run. Otherwise its log has more than the
    messages."""


@dataclass(frozen=True, slots=True)
class StandingTurn:
    """A turn with its messages. `runs` are the oldest first."""

    turn_id: str
    runs: Sequence[StandingRun]


@dataclass(frozen=True, slots=True)
class TurnPage:
    """A page of a thread's turns, the newest first."""

    turns: Sequence[StandingTurn]
    has_older: bool
    seed: Sequence[Message] = ()
    """Messages that the thread began with. They are on the last page only."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """A page of a thread's standing messages, grouped by the runs that added them."""

    runs: Sequence[Sequence[bytes]]
    """Messages per run as JSON in UTF-8, the oldest run first. An active run has only its
    questions."""
    before: str | None
    """Cursor of the page with older runs; None when there are none."""
    active_run_id: str | None = None
    """Id of the active run. None without one, and on pages of older runs."""
    asking_run_id: str | None = None
    """Id of the last run when it waits for a person's answer. None on pages of older runs."""
    interrupts: Sequence[Interrupt] = ()
    """Open questions of that last run. Empty on pages of older runs."""


class Scope(StrEnum):
    """One thing that a credential may do."""

    READ = "threads:read"
    """Read and follow threads and runs."""
    WRITE = "runs:write"
    """Start and stop runs; create, rename and delete threads."""
    CHECK = "check"
    """Use the agent `check` and the threads of its own user."""
    ADMIN = "admin"
    """Sign other users out, and read how much each user keeps."""


PLAIN: Final = frozenset[str]({Scope.READ, Scope.WRITE})
"""Scopes of a credential that names none."""


@dataclass(frozen=True, slots=True)
class Identity:
    """The user behind a credential and the scopes of it. Times are milliseconds since 1970."""

    user_id: str
    expires_at: int | None = None
    """Time at which the credential expires. None means that it lives as long as its session."""
    scopes: frozenset[str] = PLAIN
    session_id: str | None = None
    """The session behind the credential, if there is one. Its end closes what the credential
    opened."""
    issued_at: int | None = None
    """Time at which the credential was issued. Signing out everywhere revokes older credentials.
    None for authenticators that check each request anew."""
    key_id: str | None = None
    """Id of our key that signed the credential, if one did. Removing the key revokes the
    credential."""
