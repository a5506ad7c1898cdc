"""The contracts of the engines: what may be replaced by another technology."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Protocol, runtime_checkable

from ag_ui.core import RunAgentInput

from isolane.context import EventId, RunKey, ThreadKey, UserExecutionContext
from isolane.contracts.shapes import (
    BegunRun,
    Identity,
    LogBounds,
    RunDraft,
    RunEnd,
    StoredRun,
    ThreadPage,
    ThreadSnapshot,
    ThreadSummary,
)
from isolane.events import Record
from isolane.transcript import Message


@runtime_checkable
class EventLog(Protocol):
    """One ordered log per `ThreadKey`, which exists from the start and is empty until used.

    Reading is safe to cancel. Every method raises `Unavailable` when the log can't be reached.
    """

    async def append(
        self,
        key: ThreadKey,
        run_id: str,
        payloads: Sequence[bytes],
        *,
        epoch: str | None = None,
        end: RunEnd | None = None,
    ) -> list[Record]:
        """Commit `payloads` in order and return their records.

        Calls commit in the order in which they were made. With `end`, the run's row and messages
        are written in the same transaction. `epoch` says which numbering the run began in. Raises
        `NotFound` when the thread was deleted, also when there is a new one of its id;
        `Unavailable` when nothing can be written; nothing is in the log then. Cancelling
        doesn't take it back: who is cancelled doesn't know whether it was committed.
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
        """Return what the log holds now; an unused one has its epoch already, and head 0.

        Safe to cancel.
        """
        ...

    async def delete(self, key: ThreadKey) -> frozenset[str]:
        """Remove a thread with everything it has; its next numbering is of another epoch.

        Returns the ids of its runs: a run that is stored later is the next thread's. Raises
        `NotFound`. An append that comes later raises it, too. Cancelling doesn't take it back.
        """
        ...

    async def trim(self, *, older_than: int) -> int:
        """Let go of finished runs that ended before `older_than`; return how many entries went.

        `older_than` is in milliseconds since 1970. Whole runs from the old end only, never an
        active one. What exceeds the thread's own maximum goes when a run ends. Cancelling doesn't
        take it back.
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
        """Return the user's run of that id, whatever its thread; None when there is none."""
        ...

    async def add_run(self, context: UserExecutionContext, draft: RunDraft) -> None:
        """Keep a run that waits for its turn; its thread comes into being with it.

        A run with answers takes the thread's open interrupts. Raises `RunConflict` when they were
        answered already, `InvalidInput` when it leaves one out; nothing is kept then.
        """
        ...

    async def begin_run(self, context: UserExecutionContext, draft: RunDraft) -> BegunRun:
        """Mark the run as running, apply its rewind, and join its new messages to the thread.

        All in one transaction. The thread comes into being with its first run. Raises what
        `add_run` raises.
        """
        ...

    async def begin_queued_run(self, context: UserExecutionContext, draft: RunDraft) -> BegunRun:
        """Do the same for a run that waited; raises `NotFound` when its thread is gone."""
        ...

    async def load_open_runs(self) -> list[StoredRun]:
        """Return every run that isn't ended, of all users, oldest first. For recovery only."""
        ...

    async def load_thread(self, key: ThreadKey) -> ThreadSummary | None:
        """Return the thread, or None when nobody used it yet."""
        ...

    async def load_threads(self, user_id: str, *, before: str | None, limit: int) -> ThreadPage:
        """Return up to `limit` (a count) of the user's threads, the newest change first.

        `before` is a page's own cursor, None for the first page. Raises `InvalidCursor` for a
        cursor that no page gave out.
        """
        ...

    async def load_snapshot(self, key: ThreadKey) -> ThreadSnapshot | None:
        """Return the thread with its messages and the place to follow it from, of one moment.

        While a run is active both are as of before its first event.
        """
        ...

    async def add_thread(self, key: ThreadKey, *, title: str) -> ThreadSummary:
        """Make a thread, or return the one there is."""
        ...

    async def set_title(self, key: ThreadKey, title: str) -> ThreadSummary:
        """Name a thread; raises `NotFound`."""
        ...

    async def load_known_ids(self, key: ThreadKey) -> frozenset[str]:
        """Return the ids of all messages that the thread ever had, rewound ones included."""
        ...

    async def has_message(self, key: ThreadKey, message_id: str) -> bool:
        """Say whether the message stands now."""
        ...

    async def load_messages_before(self, key: ThreadKey, seq: int) -> list[Message]:
        """Return the messages as they stood before the log entry `seq`."""
        ...


@runtime_checkable
class RunQueue(Protocol):
    """Whose turn it is on each thread: one run at a time, the others in order.

    Plain throughout: looking and taking are one step, with no await between.
    """

    def enter(self, key: ThreadKey, run_id: str, *, most: int) -> int:
        """Take a place and return it: 0 goes now, 1 is next.

        Raises `LimitExceeded` when `most` runs wait already, and takes no place then.
        """
        ...

    def leave(self, key: ThreadKey, run_id: str) -> str | None:
        """Give the place up; return the run whose turn it is now, if that changed. Idempotent."""
        ...

    def get_active(self, key: ThreadKey) -> str | None:
        """Return the run whose turn it is, None when the thread is free."""
        ...

    def get_position(self, key: ThreadKey, run_id: str) -> int | None:
        """Return the run's place, 0 for the one whose turn it is, None when it is not in line."""
        ...


@runtime_checkable
class Limits(Protocol):
    """Counts what each user holds, by the published names of the limits.

    Plain throughout: taking and counting is one step, with no await between.
    """

    def take(self, user_id: str, limit: str) -> None:
        """Count one more; raises `LimitExceeded` when the user holds all there is."""
        ...

    def give_back(self, user_id: str, limit: str) -> None:
        """Count one less; what was never taken stays at nothing."""
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
        that goes on is cancelled a second later, at whatever it awaits.
        """
        ...
