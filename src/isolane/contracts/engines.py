"""The contracts of the engines: what may be replaced by another technology."""

# Long because: a contract is mostly docstrings, and the author of an engine reads all of them.

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol, runtime_checkable

from ag_ui.core import RunAgentInput

from isolane.context import EventId, RunKey, ThreadKey, UserExecutionContext
from isolane.contracts.shapes import (
    Batch,
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


class BatchSource(Protocol):
    """Somebody whose events a log commits batch by batch: the writer of a run.

    Both methods are called on the event loop. They are plain and quick, and raise nothing.
    """

    def take_batch(self) -> Batch | None:
        """Return what is to be committed now; None when nothing is any more."""
        ...

    def settle(self, outcome: list[Record] | Exception) -> None:
        """Hear of the batch that was taken last: its records, or why there are none."""
        ...


@runtime_checkable
class EventLog(Protocol):
    """One ordered log per `ThreadKey`, which exists from the start and is empty until used.

    Reading is safe to cancel.

    Raises:
        Unavailable: The log can't be reached. Every method may raise it.
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

        Cancelling doesn't take the batch back: it may have been committed.

        Raises:
            NotFound: The thread was deleted. There may be a new thread of its id.
            Fenced: Somebody else has the lease, the lease has ended, or `batch` isn't its next one.
                Nothing was written.
            Unavailable: Nothing can be written now. The batch may have been written.
            DatabaseFailed: These payloads can never be written. Nothing was written.
        """
        ...

    def commit_soon(self, source: BatchSource) -> None:
        """Take a batch of `source` when the commit under way is done, and commit it.

        So everything that comes meanwhile is in one batch. A source asks once for each batch, and
        asks again when it has heard what became of the last one. It hears what `append` would
        return or raise. Plain, and doesn't wait.
        """
        ...

    async def append_beside(self, key: ThreadKey, payload: bytes) -> Record:
        """Commit an entry of the run under way on a thread, whichever process drives the run.

        It comes after the run's first entry and before its end, between two of its batches.
        Cancelling doesn't take it back: it may have been committed.

        Raises:
            NoActiveRun: No run is under way on the thread, or it has no entry yet.
            DatabaseFailed: This payload can never be written.
        """
        ...

    async def take_over(self, key: ThreadKey, run_id: str) -> RunLease:
        """Return a new lease of a run that hasn't ended; older leases of the run end.

        `RunBook` gives a run its first lease. Cancelling doesn't take it back.

        Raises:
            NotFound: The thread has no such run, or the run has ended.
        """
        ...

    async def read(
        self, key: ThreadKey, *, after: EventId, limit: int, max_bytes: int = sys.maxsize
    ) -> list[Record]:
        """Return up to `limit` records (a count) strictly after `after`, oldest first.

        The record that reaches `max_bytes` of payload is the last one. The list is empty only when
        the log has nothing after `after`. Safe to cancel.

        Raises:
            CursorExpired: Records after `after` are no longer kept, or the epoch is another.
            InvalidCursor: `after` is ahead of the log.
        """
        ...

    async def load_bounds(self, key: ThreadKey) -> LogBounds:
        """Return where the log begins and ends now. The log of an unused thread ends at `START`.

        Safe to cancel.
        """
        ...

    async def load_heads(self, keys: Sequence[ThreadKey]) -> dict[ThreadKey, EventId]:
        """Return where the logs of these threads end now, without those of unused threads.

        Safe to cancel.
        """
        ...

    async def delete(self, key: ThreadKey) -> frozenset[str]:
        """Delete a thread with everything it has; its next log has another epoch.

        The thread is gone at once. Its rows leave the disk later, in the steps of `sweep`. Returns
        the ids of its unfinished runs and of its newest run, whose writer may not know of its end
        yet. A run that is stored later belongs to the next thread. Cancelling doesn't take the
        deletion back.

        Raises:
            NotFound: There is no such thread. Later appends to the deleted thread raise it, too.
        """
        ...

    async def trim(
        self, *, older_than: int, told: Callable[[ThreadKey], None] | None = None
    ) -> int:
        """Trim runs that ended before `older_than`; return how many entries were trimmed.

        `older_than` is in milliseconds since 1970. Only whole runs at the old end of a log are
        trimmed, and no active run. What exceeds a thread's maximum is trimmed when a run ends. The
        work has small steps, so that no append waits, and reads only what is due. `told` is called
        with each thread that lost entries. Cancelling doesn't take it back.
        """
        ...

    async def sweep(self) -> None:
        """Delete from the disk what was trimmed, and the rows of deleted threads.

        The work has steps of a few milliseconds, so that no append waits. Cancelling leaves the
        rest to the next sweep, in this process or in another one.
        """
        ...


@runtime_checkable
class Bell(Protocol):
    """A signal that a log has grown. It is a hint: a ring may be lost; the log has the record."""

    @property
    def is_deaf(self) -> bool:
        """Say whether rings of other nodes may not reach this one now."""
        ...

    def ring(self, key: ThreadKey, records: Sequence[Record]) -> None:
        """Call all listeners of `key` without waiting for any. It raises nothing."""
        ...

    async def listen(
        self, key: ThreadKey, listener: Callable[[Sequence[Record]], None]
    ) -> Callable[[], None]:
        """Call `listener` at each ring from now on; return the function that ends that.

        `listener` is plain and quick. It gets no records when another node rang: the log has them.
        The returned function is plain and idempotent. A call that
        is cancelled leaves no listener.

        Raises:
            Unavailable: The bell can't be reached.
        """
        ...


@runtime_checkable
class Store(Protocol):
    """Threads, messages and runs. Every method takes the context or the key first.

    Methods called `load_` and `has_` change nothing and are safe to cancel. Cancelling one that
    writes doesn't take the write back: it may have happened.

    Raises:
        Unavailable: The store can't be reached. Every method may raise it.
    """

    async def load_run(self, key: RunKey) -> StoredRun | None:
        """Return the user's run of that id, whatever its thread; None without one.

        The id of a run that attached leads to the run that it attached to. Its `asked` then has the
        messages that the attached frame repeated.
        """
        ...

    async def forget_run(self, key: RunKey) -> None:
        """Write that the user deleted a run's id: `RunDraft.is_forgotten`.

        Nothing else changes for the run. Without a run of that id nothing is written.
        """
        ...

    async def load_thread(self, key: ThreadKey) -> ThreadSummary | None:
        """Return the thread, or None when nobody used it yet."""
        ...

    async def load_threads(self, user_id: str, *, before: str | None, limit: int) -> ThreadPage:
        """Return up to `limit` (a count) of the user's threads, the newest change first.

        `before` is the cursor of a page, None for the first page. Threads of requests aren't among
        them.

        Raises:
            InvalidCursor: No page gave this cursor out.
        """
        ...

    async def load_ended_requests(self, *, older_than: int, limit: int) -> list[ThreadKey]:
        """Return up to `limit` (a count) threads of requests of all users, the oldest first.

        Their runs have ended, and they haven't changed since `older_than`, in milliseconds since
        1970. The caller deletes them.
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

        While a run is active, both are as of before its first event. A page has at most `limit`
        messages (a count) and `max_bytes` of their JSON, but always one message. `before` is the
        place of a page; the next page has the messages before it, as of the moment of the first
        page. What is added or rewound meanwhile changes nothing.

        Raises:
            InvalidCursor: No page gave this place out.
            CursorExpired: That moment is no longer kept, or the thread is another.
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

        The question of the run under way is among them. A page with `limit` messages (a count) or
        `max_bytes` of their JSON ends before the next run that a user's message begins. A page with
        twice as much ends before any run. `before` is as with `load_snapshot`.

        Raises:
            InvalidCursor: No page gave this place out.
            CursorExpired: That moment is no longer kept, or the thread is another.
        """
        ...

    async def add_thread(self, key: ThreadKey, *, title: str) -> ThreadSummary:
        """Make a thread, or return the existing one.

        Raises:
            LimitExceeded: A new thread exceeds the user's quota.
        """
        ...

    async def set_title(self, key: ThreadKey, title: str) -> ThreadSummary:
        """Name a thread.

        Raises:
            NotFound: There is no such thread.
        """
        ...

    async def load_known_ids(self, key: ThreadKey, *, before: str | None = None) -> frozenset[str]:
        """Return the ids of all messages that the thread ever had, rewound ones included.

        `before` is the id of a standing message. With it only the messages that stand before it
        count.
        """
        ...

    async def load_answered_calls(
        self, key: ThreadKey, *, before: str | None = None
    ) -> frozenset[str]:
        """Return the ids of the calls that the messages of `load_known_ids` answer.

        An id that also names a newer call without an answer isn't among them.
        """
        ...

    async def has_message(self, key: ThreadKey, message_id: str) -> bool:
        """Say whether the message stands now."""
        ...

    async def load_known(
        self, key: ThreadKey, message_id: str, *, rewind_to: str | None = None
    ) -> KnownMessage | None:
        """Return what the thread knows of a message's id; None for an id that it never had.

        With `rewind_to` the answer is as after a rewind to that message.
        """
        ...

    async def load_state(self, key: ThreadKey) -> bytes | None:
        """Return the thread's shared state now, as JSON in UTF-8; None when it has none."""
        ...

    async def load_messages_before(
        self, key: ThreadKey, seq: int, *, max_bytes: int = sys.maxsize
    ) -> list[Message]:
        """Return the messages as they stood before the log entry `seq`.

        Raises:
            TooLarge: As JSON they have more than `max_bytes`.
        """
        ...


@runtime_checkable
class TurnBook(Protocol):
    """The turns of threads: each is a question and the runs that answered it.

    A run that adds a message of a user begins a turn, also when it asks a known question again.
    Later runs that add none belong to the same turn. The first run of a thread always begins one. A
    rewound turn isn't returned any more. Every method changes nothing and is safe to cancel.

    Raises:
        Unavailable: The store can't be reached. Every method may raise it.
    """

    async def load_turn(self, key: ThreadKey, run_id: str) -> Turn | None:
        """Return the turn of a run of the thread, with all of its runs that stand.

        The id of a run that attached leads to the run that it attached to. A waiting run is the
        last one of the turn that it will belong to, as things are now. None for an unknown run, and
        for a rewound run.
        """
        ...

    async def load_last_turn(self, key: ThreadKey) -> Turn | None:
        """Return the thread's newest standing turn; None without one."""
        ...

    async def load_open_turn(self, key: ThreadKey) -> Turn | None:
        """Return the turn of the thread's oldest unfinished run, which is the turn's last run.

        It is the run under way, or the next run without one. None when all runs have ended.
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

        A page has at most `limit` turns (a count) and `max_bytes` of their messages' JSON, but
        always one turn. `before` is the id of a turn, or of a message of one. The page then has
        older turns.

        Raises:
            InvalidCursor: `before` names nothing that stands.
        """
        ...


@runtime_checkable
class Limits(Protocol):
    """Counts what each user holds, by the published names of the limits."""

    def take(self, user_id: str, limit: str) -> AbstractAsyncContextManager[None]:
        """Hold one of the user's places for the block.

        Checking and counting is one step, however many ask at once. Safe to cancel. A caller that
        is cancelled on entering holds nothing. A caller that is cancelled on leaving has released
        the place.

        Raises:
            LimitExceeded: On entering, the user holds all places already.
        """
        ...

    def hit(self, user_id: str, limit: str) -> None:
        """Count one event against a rate.

        Raises:
            LimitExceeded: The rate is used up. The error has the time to wait.
        """
        ...

    def weigh(self, user_id: str, size: int) -> float:
        """Count a frame of `size` bytes, unless the user has sent too many bytes for now.

        Returns 0 when the frame was counted, or the seconds after which to ask again.
        """
        ...


@runtime_checkable
class Authenticator(Protocol):
    """Finds out whom a credential speaks for. A host with users of its own brings one."""

    async def authenticate(self, token: str) -> Identity | None:
        """Return whom `token` speaks for; None denies.

        A token came as `Bearer`, as subprotocol `bearer.…` or in the host's own cookie. Anybody may
        have sent it, so it may be any text. Safe to cancel.

        Raises:
            Unauthenticated: The token is denied with a reason.
            Unavailable: Whom the token speaks for can't be found out now.
        """
        ...


@runtime_checkable
class StopSignal(Protocol):
    """A signal to an agent that nobody wants its answer any more."""

    def is_set(self) -> bool:
        """Say whether the run was stopped."""
        ...

    async def wait(self) -> object:
        """Return once the run is stopped. The value means nothing. Safe to cancel."""
        ...


@runtime_checkable
class Agent(Protocol):
    """A program that answers."""

    def run(
        self,
        input: RunAgentInput,  # noqa: A002 - the field's word for it
        context: UserExecutionContext,
        stop: StopSignal,
    ) -> AsyncGenerator[object, None]:
        """Yield text, mappings or AG-UI events until the answer is complete.

        An agent may raise anything; the run then ends in an error. When a run is stopped, `stop` is
        set, and an agent that goes on is cancelled a second later. An agent whose attribute
        `hears_stop` is False is cancelled at once.

        `input` names thread, run and parent by random ids that no other user has, so that memory
        keyed by them is one user's. An agent whose attribute `raw_ids` is True gets the ids that
        the client chose, which another user may have chosen too. Events may name either.

        An agent whose attribute `restartable` is True may be called again for the same run, when
        the process that called it before died or ended: what it does outside happens at least
        once, and `context.run_id` tells the run again. `context.attempt` counts from 1.
        """
        ...
