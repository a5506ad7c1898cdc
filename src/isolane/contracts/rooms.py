"""The contracts of the rooms: what a host may bring of its own."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any, Protocol, TypeAlias, runtime_checkable

from ag_ui.core import RunAgentInput

from isolane.context import EventId, UserExecutionContext
from isolane.contracts.shapes import ConnectionHealth, Delivery, RunTicket
from isolane.events.event import Record

Socket: TypeAlias = Any
"""A `WebSocketConnection`: its room is above this one, so its name can't be used here."""


@runtime_checkable
class WebSocketManagerProtocol(Protocol):
    """The live read side of one thread of one user on this node.

    Methods called `get_` and `is_` are plain, answer from what is held, and change nothing: no
    count and no timeout. What any method returns is the caller's own copy. Ids of other users are
    answered as if nothing were there. After `close()` every method but `close()` raises
    `ManagerClosed`.
    """

    async def add_connection(self, connection: Socket, *, after: EventId | None = None) -> None:
        """Feed `connection` what comes strictly after `after`; None is from the start.

        Replaces what it was fed here before. Raises `ContractError` for a connection of
        another user. Returns before anything is delivered. Cancelled, it may leave the connection
        unfed: remove it then.
        """
        ...

    async def remove_connection(self, connection_id: str) -> None:
        """Stop feeding it, and wait until its follower is gone; the socket stays open.

        Idempotent; unknown ids too. The last one takes the manager along. Cancelled, it may be
        fed no more and still be here: remove it again.
        """
        ...

    def get_connection(self, connection_id: str) -> Socket | None:
        """Return the connection of that id, if it is here; only the user's own can be."""
        ...

    def get_user_connections(self, user_id: str) -> frozenset[str]:
        """Return the ids of the user's connections here; empty for another user."""
        ...

    def is_connection_active(self, user_id: str) -> bool:
        """Say whether the user has an open socket here; False for another user."""
        ...

    def get_connection_health(self, user_id: str) -> ConnectionHealth:
        """Return what is held for the user. Looking changes nothing, no timeout either."""
        ...

    async def send_to_user(self, user_id: str, message: Mapping[str, object]) -> Delivery:
        """Send a control frame to the user's greeted connections here; a verdict for each.

        Empty for another user. All are sent to at once; returns when the slowest has taken it or
        its `sendTimeoutMs` is over. Raises `TypeError` for what JSON can't say, and sends nothing
        then. Cancelling doesn't take back what was sent.
        """
        ...

    async def send_to_thread(self, thread_id: str, message: Mapping[str, object]) -> Delivery:
        """Send a control frame to all who follow the thread; empty for another thread.

        Otherwise as `send_to_user`. Cancelling doesn't take back what was sent.
        """
        ...

    async def emit_critical_event(
        self, user_id: str, event_type: str, data: Mapping[str, object]
    ) -> EventId:
        """Put a CUSTOM event into the log of the run under way and return its id once committed.

        Raises `NoActiveRun` outside a run, and for another user; `NotFound` when the thread is
        deleted meanwhile. Cancelling doesn't take it back.
        """
        ...

    async def close(self) -> None:
        """Close the sockets that still want something of the thread, and let all go.

        Their clients resume elsewhere. Idempotent, also twice at once and during a send. Cancelled,
        the manager is closed, and a second call finishes what is left.
        """
        ...


@runtime_checkable
class AgentServiceProtocol(Protocol):
    """Starts, follows, aborts and recovers runs."""

    async def start(self, context: UserExecutionContext, run_input: RunAgentInput) -> RunTicket:
        """Take a run on, at once or in its turn; the same run id attaches to the one there is.

        So does a question that an unfinished run holds already: the ticket's context names that
        run, and the new id leads to it.

        Raises `RunConflict`, `LimitExceeded`, `InvalidInput`, `Unavailable`. Cancelling
        the caller changes nothing for the run: it is taken on, and the same id attaches to it.
        """
        ...

    def follow(
        self, context: UserExecutionContext, *, after: EventId | None = None
    ) -> AsyncGenerator[Record, None]:
        """Yield the records of the context's run to its end, or of its whole thread, then live.

        Strictly after `after`; None is from the start. Raises `NotFound`, `CursorExpired`,
        `InvalidCursor`, and `InvalidContext` when the run belongs to another thread. Safe to cancel
        and to close at any record.
        """
        ...

    async def abort(self, context: UserExecutionContext) -> None:
        """Stop the context's run; returns at once, the run's own end follows. Idempotent.

        Raises `InvalidContext` when the run belongs to another thread. Safe to cancel.
        """
        ...

    async def recover(self) -> int:
        """End the runs that another life left open; return how many.

        Cancelled, the rest stays open until the next call.
        """
        ...
