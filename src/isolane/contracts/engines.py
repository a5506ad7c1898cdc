"""The contracts of the engines: what may be replaced by another technology."""

# Long because: a contract is mostly docstrings; who writes an engine reads all of them.

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol, runtime_checkable

from ag_ui.core import RunAgentInput

from isolane.context import EventId, RunKey, ThreadKey, UserExecutionContext
from isolane.contracts.shapes import (
    Conversation,
    Identity,
    KnownMessage,
    LogBounds,
    RunEnd,
    RunLease,
    StoredRun,
    ThreadPage,
    ThreadSnapshot,
    ThreadSummary,
    Turn,
    TurnPage,
)
from isolane.events.event import Record
from isolane.events.transcript import Message


@runtime_checkable
class EventLog(Protocol):
    """One ordered log per `ThreadKey`, which exists from the start and is empty until used.

    Reading is safe to cancel. Every method raises `Unavailable` when the log can't be reached.
    """

    async def append(
        self,
        lease: RunLease,
        payloads: Sequence[bytes],
        *,
        batch: int,
        end: RunEnd | None = None,
    ) -> list[Record]:
        """Commit `payloads` in order and return their records.

        Calls commit in the order in which they were made. With `end`, the run's row and messages
        are written in the same transaction, and the lease ends. `batch` counts the batches of a
        lease from 1. A batch that comes twice is written once: the second call returns the records
        of the first. So after `Unavailable`, which leaves open whether the batch was written, send
        the same batch again.

        Cancelling doesn't take it back: who is cancelled doesn't know whether it was committed.

        Raises:
        - `NotFound` when the thread was deleted, also when there is a new one of its id.
        - `Fenced` when somebody else has the lease, when it has ended, or when `batch` isn't the
          next one of the lease. Nothing was written.
        - `Unavailable` when nothing can be written now.
        - `DatabaseFailed` when these payloads can never be written. Nothing was written.
        """
        ...

    async def take_over(self, key: ThreadKey, run_id: str) -> RunLease:
        """Return a new lease of a run that hasn't ended; whoever had one before writes no more.

        `RunBook` gives a run its first lease. Cancelling doesn't take it back. Raises `NotFound`
        when the thread has no such run, or the run has ended.
        """
        ...

    async def read(
        self, key: ThreadKey, *, after: EventId, limit: int, max_bytes: int = sys.maxsize
    ) -> list[Record]:
        """Return up to `limit` records (a count) strictly after `after`, oldest first.

        The record that reaches `max_bytes` of payload is the last, and there is always one when
        the log has any. Raises `CursorExpired` when records after `after` are no longer kept or the
        epoch is another, `InvalidCursor` when `after` is ahead of the log. Safe to cancel.
        """
        ...

    async def load_bounds(self, key: ThreadKey) -> LogBounds:
        """Return what the log holds now; that of a thread which nobody has used ends at `START`.

        Safe to cancel.
        """
        ...

    async def delete(self, key: ThreadKey) -> frozenset[str]:
        """Remove a thread with everything it has; its next numbering is of another epoch.

        Nothing of it is there from then on; its rows leave the disk later, in the steps of `sweep`.
        Returns the ids of its runs that haven't ended, and of the newest, whose end may not be
        known to its writer yet. A run that is stored later is the next thread's. Raises `NotFound`.
        An append that comes later raises it, too. Cancelling doesn't take it back.
        """
        ...

    async def trim(
        self, *, older_than: int, told: Callable[[ThreadKey], None] | None = None
    ) -> int:
        """Let go of finished runs that ended before `older_than`; return how many entries went.

        `older_than` is in milliseconds since 1970. Whole runs from the old end only, never an
        active one. What exceeds the thread's own maximum goes when a run ends. Works in small
        steps, so that appends wait for none of it, and looks only at what is due. `told` hears of
        each thread that lost entries. Cancelling doesn't take it back.
        """
        ...

    async def sweep(self) -> None:
        """Remove from the disk what was let go and what was deleted, until none is left.

        Works in steps of a few milliseconds, so that appends wait for none of it. Cancelling
        leaves the rest for the next sweep, in this process or in another one.
        """
        ...


@runtime_checkable
class Bell(Protocol):
    """Says that a log has grown. A hint: a ring may be lost, the log has the record."""

    def ring(self, key: ThreadKey, records: Sequence[Record]) -> None:
        """Tell all listeners of `key`, without waiting for any. Plain, and raises nothing."""
        ...

    async def listen(
        self, key: ThreadKey, listener: Callable[[Sequence[Record]], None]
    ) -> Callable[[], None]:
        """Call `listener` at each ring from now on; return the function that ends it.

        `listener` is plain and quick. The function that ends it is plain and idempotent. Raises
        `Unavailable`. Cancelled before it returned, nothing listens.
        """
        ...


@runtime_checkable
class Store(Protocol):
    """Threads, messages and runs. Every method takes the context or the key first.

    Methods called `load_` and `has_` change nothing and are safe to cancel. Cancelling one that
    writes doesn't take the write back: it may have happened. Every method raises `Unavailable` when
    the store can't be reached.
    """

    async def load_run(self, key: RunKey) -> StoredRun | None:
        """Return the user's run of that id, whatever its thread; None when there is none.

        The id of a run that attached leads to the run that it attached to. What that one `asked`
        is what the frame of the attached one repeated of it.
        """
        ...

    async def forget_run(self, key: RunKey) -> None:
        """Keep that a run's id was deleted by its user: `RunDraft.is_forgotten`.

        Nothing else changes for the run. Without a run of that id nothing is kept.
        """
        ...

    async def load_thread(self, key: ThreadKey) -> ThreadSummary | None:
        """Return the thread, or None when nobody used it yet."""
        ...

    async def load_threads(self, user_id: str, *, before: str | None, limit: int) -> ThreadPage:
        """Return up to `limit` (a count) of the user's threads, the newest change first.

        `before` is a page's own cursor, None for the first page. Raises `InvalidCursor` for a
        cursor that no page gave out. Threads of requests are not among them.
        """
        ...

    async def load_ended_requests(self, *, older_than: int, limit: int) -> list[ThreadKey]:
        """Return up to `limit` (a count) threads of requests of all users, the oldest first.

        Their runs have ended, and nothing of them has changed since `older_than`, in milliseconds
        since 1970. For their removal only.
        """
        ...

    async def load_snapshot(
        self,
        key: ThreadKey,
        *,
        before: str | None = None,
        limit: int = 200,
        max_bytes: int = 1 << 20,
    ) -> ThreadSnapshot | None:
        """Return the thread with its newest messages and the place to follow it from.

        While a run is active both are as of before its first event. A page has `limit` messages
        (a count) and `max_bytes` of their JSON at most, but one message always. With `before`, a
        page's own place, it has the messages before that, as of the moment of the first page: what
        is added or rewound meanwhile changes nothing. Raises `InvalidCursor` for a place that no
        page gave out, `CursorExpired` when that moment is no longer kept or the thread is another.
        """
        ...

    async def load_conversation(
        self,
        key: ThreadKey,
        *,
        before: str | None = None,
        limit: int = 200,
        max_bytes: int = 1 << 20,
    ) -> Conversation | None:
        """Return the thread's messages as they stand now, in whole runs; None without a thread.

        What the run under way was asked is among them. A page ends before a run that a user's
        message begins, once it has `limit` messages (a count) or `max_bytes` of their JSON, and
        before any run once it has twice as much. `before` is as with `load_snapshot`; so is what
        is raised.
        """
        ...

    async def add_thread(self, key: ThreadKey, *, title: str) -> ThreadSummary:
        """Make a thread, or return the one there is.

        Raises `LimitExceeded` when a new one doesn't fit into what its user may keep.
        """
        ...

    async def set_title(self, key: ThreadKey, title: str) -> ThreadSummary:
        """Name a thread; raises `NotFound`."""
        ...

    async def load_known_ids(self, key: ThreadKey, *, before: str | None = None) -> frozenset[str]:
        """Return the ids of all messages that the thread ever had, rewound ones included.

        With `before`, the id of a message that stands, of those only that stand before it.
        """
        ...

    async def load_answered_calls(
        self, key: ThreadKey, *, before: str | None = None
    ) -> frozenset[str]:
        """Return the ids of the calls that those messages answer; `before` as above.

        An id that names a newer call, which waits for its answer, is not among them.
        """
        ...

    async def has_message(self, key: ThreadKey, message_id: str) -> bool:
        """Say whether the message stands now."""
        ...

    async def load_known(
        self, key: ThreadKey, message_id: str, *, rewind_to: str | None = None
    ) -> KnownMessage | None:
        """Return what the thread knows of a message's id; None when it never had it.

        With `rewind_to` as it will be after a rewind to that message.
        """
        ...

    async def load_state(self, key: ThreadKey) -> bytes | None:
        """Return the thread's shared state now, as JSON in UTF-8; None when it has none."""
        ...

    async def load_messages_before(
        self, key: ThreadKey, seq: int, *, max_bytes: int = sys.maxsize
    ) -> list[Message]:
        """Return the messages as they stood before the log entry `seq`.

        Raises `TooLarge` when they have more than `max_bytes` as JSON.
        """
        ...


@runtime_checkable
class TurnBook(Protocol):
    """The turns of threads: each is what was asked at once, and the runs that answered it.

    A run that adds a message of a user begins a turn, also when it asks a known question again.
    Runs after it that add none belong to the same turn. So does the first run of a thread to its
    own. A turn that was rewound is not told any more. Every method changes nothing, is safe to
    cancel, and raises `Unavailable` when the store can't be reached.
    """

    async def load_turn(self, key: ThreadKey, run_id: str) -> Turn | None:
        """Return the turn of a run of the thread, with all of its runs that stand.

        The id of a run that attached leads to the run that it attached to. A run that waits is the
        last one of the turn that it will belong to, as things are now. None for an unknown run,
        and for one that was rewound.
        """
        ...

    async def load_last_turn(self, key: ThreadKey) -> Turn | None:
        """Return the thread's newest turn that stands; None when there is none."""
        ...

    async def load_open_turn(self, key: ThreadKey) -> Turn | None:
        """Return the turn of the thread's oldest unfinished run, which is the last of its runs.

        That is the run under way; without one, the run that is next. None when all runs have ended.
        """
        ...

    async def load_turns(
        self,
        key: ThreadKey,
        *,
        before: str | None = None,
        limit: int = 200,
        max_bytes: int = 1 << 20,
    ) -> TurnPage | None:
        """Return turns that stand, the newest first, with their messages; None without a thread.

        A page has `limit` turns (a count) and `max_bytes` of their messages' JSON at most, but one
        turn always. `before` names a turn, or a message of one: the page has older ones then.
        Raises `InvalidCursor` when it names nothing that stands.
        """
        ...


@runtime_checkable
class Limits(Protocol):
    """Counts what each user holds, by the published names of the limits."""

    def take(self, user_id: str, limit: str) -> AbstractAsyncContextManager[None]:
        """Hold one of the user's places for the time of the block.

        Looking and counting is one step, however many ask at once. Safe to cancel: a caller that
        is cancelled on entering holds nothing, and one that is cancelled on leaving has given the
        place back.

        Raises:
            LimitExceeded: On entering, the user holds all places that there are.
        """
        ...

    def hit(self, user_id: str, limit: str) -> None:
        """Count one event against a rate; raises `LimitExceeded` with when to come back."""
        ...

    def weigh(self, user_id: str, size: int) -> float:
        """Count a frame of `size` bytes; when the user's are too many for now, don't.

        Returns the seconds after which to ask again, or 0 when it was counted.
        """
        ...


@runtime_checkable
class Authenticator(Protocol):
    """Tells who a credential speaks for. A host that has users of its own brings one."""

    async def authenticate(self, token: str) -> Identity | None:
        """Return who `token` speaks for; None denies.

        A token is what came as `Bearer`, as subprotocol `bearer.…` or in the host's own cookie, and
        whatever anybody sent. Raises `Unauthenticated` to deny with a reason, `Unavailable` when it
        can't be found out now. Safe to cancel.
        """
        ...


@runtime_checkable
class StopSignal(Protocol):
    """How an agent learns that nobody wants its answer any more."""

    def is_set(self) -> bool:
        """Say whether the run was stopped."""
        ...

    async def wait(self) -> object:
        """Return once the run is stopped; what it returns says nothing. Safe to cancel."""
        ...


@runtime_checkable
class Agent(Protocol):
    """Whatever answers."""

    def run(
        self,
        input: RunAgentInput,  # noqa: A002 - the field's word for it
        context: UserExecutionContext,
        stop: StopSignal,
    ) -> AsyncGenerator[object, None]:
        """Yield text, mappings or AG-UI events until the answer is whole.

        May raise anything: the run ends in an error then. A stopped run's `stop` is set; an agent
        that goes on is cancelled a second later, at whatever it awaits. An agent whose attribute
        `hears_stop` is False is cancelled at once.

        `input` names thread, run and parent by random ids that no other user has, so that memory
        keyed by them is one user's. An agent whose attribute `raw_ids` is True gets the ids that
        the client chose, which another user may have chosen too. Events may name either.
        """
        ...
