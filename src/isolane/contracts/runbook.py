"""The contract of the book of runs: who is let in, whose turn it is, and who is stopped."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol, runtime_checkable

from isolane.context import RunKey, UserExecutionContext
from isolane.contracts.shapes import (
    ActiveRun,
    Admitted,
    BegunRun,
    ClaimedRun,
    HeldRun,
    NodeStatus,
    RunDraft,
    RunLease,
    Signs,
    StoredRun,
    Terms,
)
from isolane.events.transcript import Message


@runtime_checkable
class RunBook(Protocol):
    """Runs that haven't ended. One run per thread has the turn; the others wait.

    The rows are the truth, whatever a process remembers. Each method is one transaction. A run's
    end is written by `EventLog.append`, which hands the turn to the next run in the same
    transaction. Cancelling a method that writes doesn't undo the write: it may have happened.
    Methods called `load_` and `find_` change nothing and are safe to cancel.

    Raises:
        Unavailable: The book can't be reached. Every method may raise it.
    """

    async def admit(
        self, context: UserExecutionContext, draft: RunDraft, terms: Terms
    ) -> Admitted | StoredRun:
        """Admit a run: it begins now, or waits for its turn. A missing thread is made.

        A run id counts once: a run that has the id already is returned, and nothing changes. A run
        begins when its thread has no run that has the turn or waits. It applies its rewind, and its
        new messages join the thread. A message that was edited away is new only to a run that
        rewinds itself. Thread and run get random ids for the agent, kept as long as their rows. A
        parent that the user has no run of gets an id that no run has. The run's seed stands before
        its messages.

        A waiting run stands behind all others. A run with the policy `interrupt` stands before
        them, and the run that has the turn is stopped. A run with answers takes the thread's open
        interrupts. An abort up to 10 s before the run stops it, and so does a revocation after
        `terms.asked_at`. When an error is raised, nothing is kept.

        Raises:
            RunConflict: The thread is busy and the policy is `reject`. Or the interrupts were
                answered before. Or a waiting run brings a seed, or the thread of a seed has a run.
                Or a question that is asked again isn't the thread's last one.
            LimitExceeded: The user has too many runs, too many runs wait on the thread, or the run
                exceeds the user's quota.
            InvalidInput: The answers leave out an interrupt.
            TooLarge: The messages that the run adds are larger than a frame can show.
        """
        ...

    async def attach(
        self, context: UserExecutionContext, *, run_id: str, asked: Sequence[Message]
    ) -> int | None:
        """Let the context's run id lead to the user's run `run_id` of the same thread, for good.

        `asked` are the messages of that run which the attaching frame repeated. An abort of the
        context's id up to 10 s before stops that run. Returns the time of that abort, in
        milliseconds since 1970, or None without one.

        Raises:
            NotFound: The thread was deleted.
            LimitExceeded: The row exceeds the user's quota.
        """
        ...

    async def begin(
        self, context: UserExecutionContext, lease: RunLease, *, is_restartable: bool = False
    ) -> BegunRun:
        """Begin a claimed run, as `admit` begins one.

        A run that was begun before joins its thread no second time. So the call can be repeated
        after an answer that was lost. Another node may begin a run that `is_restartable` anew.

        Raises:
            NotFound: The thread was deleted.
            Fenced: The lease is no longer the run's, or something was written by it.
            RunConflict: The run asks a question again that isn't the thread's last one now.
            DatabaseFailed: The run can never begin.
        """
        ...

    async def load_signs(self, node_id: str) -> Signs:
        """Return what there is to do for a node. It costs as little as can be."""
        ...

    async def claim(
        self, node_id: str, *, room: int, agents: Collection[str] | None = None
    ) -> list[ClaimedRun]:
        """Claim up to `room` runs (a count) whose turn has come, for a node to begin them.

        They ask one of `agents`, or were stopped; None stands for every agent. While the node
        lives, no other node gets these runs. Nor does the node itself: a claim whose answer was
        lost ends with `give_back`.
        """
        ...

    async def load_held(self, node_id: str) -> list[HeldRun]:
        """Return the runs that have their thread's turn in the name of a node."""
        ...

    async def give_back(self, lease: RunLease) -> bool:
        """Let any node claim a run that was claimed or begun and has no event in the log.

        The run keeps its thread's turn, and its messages stay where it joined the thread. The lease
        ends: nothing begins or writes by it. False when the lease isn't the run's, or the run has
        an event. Then nothing changes.
        """
        ...

    async def hand_over(self, lease: RunLease) -> bool:
        """Let any node begin a restartable run anew that goes on by a lease, which ends.

        The run keeps its thread's turn, and what it has said stays in the log. False when the run
        was stopped, has ended, or isn't restartable, or when the lease isn't the run's. Then
        nothing changes.
        """
        ...

    async def begin_anew(self, key: RunKey) -> bool:
        """Let any node begin a restartable run anew whose node lives no more.

        Its lease ends. False when it was stopped, isn't restartable, or was begun three times.
        """
        ...

    async def give_up(self, key: RunKey) -> None:
        """Hand the turn on from a run whose end can't be written.

        The run stays unfinished on record. The next start of a gateway tries to end it again.

        Raises:
            DatabaseFailed: Not even this can be written.
        """
        ...

    async def mend_turns(self) -> int:
        """Hand the turn on where runs wait and nobody has it; return on how many threads."""
        ...

    async def request_stop(self, key: RunKey, *, asked_at: int) -> bool:
        """Write that a run is to stop; its own end follows. Say whether there is such a run.

        `asked_at` is in milliseconds since 1970. A run that has ended stays as it is. The id of a
        run that attached stops the one that it attached to. Without a run of that id the abort
        waits for it for 10 s, 100 aborts of a user at most.
        """
        ...

    async def request_stops(self, until: Mapping[str, int], *, asked_at: int) -> None:
        """Write that all runs of some users are to stop whose rows were made until a time.

        `until` has that time per user id. All times are in milliseconds since 1970. Runs that wait
        are stopped, too. A run that was stopped before keeps the time of its first stop.
        """
        ...

    async def load_stops(self, node_id: str) -> list[tuple[RunKey, int]]:
        """Return the runs of a node that were stopped and that it hasn't obeyed yet, with when."""
        ...

    async def note_stops(self, keys: Sequence[RunKey]) -> None:
        """Write that a node has obeyed these stops. To be called after it did."""
        ...

    async def find_unheard(self, node_id: str) -> list[StoredRun]:
        """Return the runs under way of other nodes that were stopped, and that haven't obeyed."""
        ...

    async def take_over(self, key: RunKey, node_id: str, *, is_unheard: bool = False) -> bool:
        """Make a run the node's own whose node lives no more; False when another has the turn.

        It is under way from then on, for the node to end it.
        """
        ...

    async def find_lost(self) -> list[StoredRun]:
        """Return the runs under way whose node lives no more, of all users, the oldest first.

        Those whose end could not be written are among them.
        """
        ...

    async def find_orphans(self, node_id: str) -> list[StoredRun]:
        """Return the runs under way of other nodes that live no more, of all users.

        Those whose end could not be written aren't among them: a new start tries them again.
        """
        ...

    async def find_wanted(self) -> frozenset[str]:
        """Return the agents of runs whose turn has come and that no node has claimed."""
        ...

    async def find_waiting(self) -> frozenset[RunKey]:
        """Return the keys of all runs that wait: for their turn, or for a node that begins them."""
        ...

    async def find_active(self, user_id: str) -> list[ActiveRun]:
        """Return the user's runs that are under way, in chats."""
        ...

    async def load_open_runs(self) -> list[StoredRun]:
        """Return every run that isn't ended, of all users: those that wait last, in their order."""
        ...


@runtime_checkable
class Members(Protocol):
    """Nodes that serve one database, as one of them sees it. A SQLite file has one node.

    Cancelling a method that writes doesn't undo the write.

    Raises:
        Unavailable: The database can't be reached. Every async method may raise it.
    """

    is_alone: bool
    """True where there can't be another node."""
    lease_ms: int
    """Milliseconds without a new beat after which others declare a node dead."""

    @property
    def node_id(self) -> str:
        """The id under which this process is registered; "" while it isn't."""
        ...

    async def register(self, node_id: str) -> None:
        """Count this process among those that live; `node_id` is new with each start.

        A process that had the same name lives no more: its runs are lost, and it learns that.
        """
        ...

    async def beat(self, node_id: str) -> bool:
        """Say that a node lives still; False when others have declared it dead.

        It registers under another id then: its runs are lost.

        Raises:
            NameTaken: Another process has registered under this one's name since.
        """
        ...

    def drain(self) -> None:
        """Tell the others with the next beat that this node takes nothing new."""
        ...

    async def leave(self, node_id: str) -> None:
        """Remove a node from those that live: its runs are lost from then on. Idempotent."""
        ...

    async def load_nodes(self) -> list[NodeStatus]:
        """Return the nodes that live, by name. Safe to cancel."""
        ...

    def get_others(self) -> Mapping[str, Sequence[str]]:
        """Return the agents of the other nodes by the ids of these, as of the last beat."""
        ...

    def clock_skew_ms(self) -> int:
        """Return by how much this node's clock is ahead of the database's, in milliseconds."""
        ...

    def lease_age_ms(self) -> int | None:
        """Return how long ago the last answered beat began, in milliseconds.

        None before the first one. Others declare a node dead when that is longer than `lease_ms`.
        """
        ...
