"""Contracts of the two parts that a host may replace with its own: the manager and the service."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any, Protocol, TypeAlias, runtime_checkable

from ag_ui.core import RunAgentInput

from isolane.context import EventId, UserExecutionContext
from isolane.contracts.shapes import ConnectionHealth, Delivery, RunTicket
from isolane.events.event import Record

Socket: TypeAlias = Any
"""A `WebSocketConnection`. Its module is on a higher floor, so it can't be imported here."""


@runtime_checkable
class WebSocketManagerProtocol(Protocol):
    """The live read side of one thread of one user on this node.

    Methods called `get_` and `is_` don't wait. They answer from memory and change nothing, neither
    a count nor a timeout. Every returned value is the caller's own copy. A method that is asked
    about another user answers as if that user had nothing here. After `close()` every method
    except `close()` fails with `ManagerClosed`.
    """

    async def add_connection(self, connection: Socket, *, after: EventId | None = None) -> None:
        """Send the thread's records after `after` to `connection`; None means from the start.

        A connection that is already fed starts again at the new place. The method returns before
        anything is delivered. A cancelled call may leave the connection unfed; remove the
        connection then.

        Raises:
            ContractError: The connection belongs to another user.
        """
        ...

    async def remove_connection(self, connection_id: str) -> None:
        """Stop feeding a connection and wait until its follower is gone; the socket stays open.

        The method is idempotent, and an unknown id is no error. The manager closes with its last
        connection. After a cancelled call the connection may be unfed and still registered; remove
        it again.
        """
        ...

    def get_connection(self, connection_id: str) -> Socket | None:
        """Return the connection with this id, or None; only the user's own connections are here."""
        ...

    def get_user_connections(self, user_id: str) -> frozenset[str]:
        """Return the ids of the user's connections on this manager; empty for another user."""
        ...

    def is_connection_active(self, user_id: str) -> bool:
        """Say whether the user has an open socket on this manager; False for another user."""
        ...

    def get_connection_health(self, user_id: str) -> ConnectionHealth:
        """Return the counts that this manager holds for the user; reading them changes nothing."""
        ...

    async def send_to_user(self, user_id: str, message: Mapping[str, object]) -> Delivery:
        """Send a control frame to the greeted connections of the user; return a verdict per id.

        The result is empty for another user. The frame goes to all connections at once. The method
        returns when the slowest connection has taken the frame, or after its `sendTimeoutMs`.
        Cancelling doesn't take back a frame that was sent.

        Raises:
            TypeError: JSON can't express the message. Nothing was sent.
        """
        ...

    async def send_to_thread(self, thread_id: str, message: Mapping[str, object]) -> Delivery:
        """Send a control frame to every connection that follows the thread.

        Empty for another thread.

        Verdicts, timeout and errors are those of `send_to_user`. Cancelling doesn't take back a
        frame that was sent.
        """
        ...

    async def emit_critical_event(
        self, user_id: str, event_type: str, data: Mapping[str, object]
    ) -> EventId:
        """Append a CUSTOM event to the log of the active run and return its id after the commit.

        Cancelling doesn't take the event back.

        Raises:
            NoActiveRun: The thread has no active run, or the user is another one.
            NotFound: The thread was deleted meanwhile.
        """
        ...

    async def close(self) -> None:
        """Close every socket that still follows the thread, and release all memory of the manager.

        Clients resume on another connection. The method is idempotent, also during another
        `close()` and during a send. A cancelled call leaves the manager closed; a second call
        finishes the rest.
        """
        ...


@runtime_checkable
class AgentServiceProtocol(Protocol):
    """The part that starts, follows, aborts and recovers runs."""

    async def start(self, context: UserExecutionContext, run_input: RunAgentInput) -> RunTicket:
        """Accept a run, which starts now or waits in the thread's queue.

        A run id that is already known attaches to the known run. A question that an unfinished run
        has asked already attaches to that run too: the ticket's context names that run, and the new
        id leads to it. A cancelled caller changes nothing for the run: the run is accepted, and a
        second call with the same id attaches to it.

        Raises:
            RunConflict: The thread is busy under policy `reject`, or the id was used with other
                content.
            LimitExceeded: The user has too many runs.
            InvalidInput: A field of the input is wrong.
            Unavailable: The gateway starts, drains, or can't reach its database.
        """
        ...

    def follow(
        self, context: UserExecutionContext, *, after: EventId | None = None
    ) -> AsyncGenerator[Record, None]:
        """Yield the records of the context's run until its end.

        Without a run id, of the whole thread.

        A whole thread is followed without an end. Records come strictly after `after`; None means
        from the start. A caller may cancel or close the iterator at any record.

        Raises:
            NotFound: The user has no such thread or run.
            CursorExpired: The log no longer keeps what came after `after`.
            InvalidCursor: The place `after` is ahead of the log.
            InvalidContext: The run belongs to another thread.
        """
        ...

    async def abort(self, context: UserExecutionContext) -> None:
        """Ask the context's run to stop and return at once; the run's end event comes later.

        The method is idempotent and safe to cancel.

        Raises:
            InvalidContext: The run belongs to another thread.
        """
        ...

    async def recover(self) -> int:
        """End the runs that an earlier process left open, and return how many there were.

        After a cancelled call the other runs stay open until the next call.
        """
        ...
