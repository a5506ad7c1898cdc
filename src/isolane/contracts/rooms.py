"""The contracts of the rooms: what a host may bring of its own."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any, Protocol, TypeAlias, runtime_checkable

from ag_ui.core import RunAgentInput

from isolane.context import EventId, UserExecutionContext
from isolane.contracts.shapes import ConnectionHealth, Delivery, RunTicket
from isolane.events import Record

Socket: TypeAlias = Any
"""A `WebSocketConnection`: its room is above this one, so its name can't be used here."""


@runtime_checkable
class WebSocketManagerProtocol(Protocol):
    """The live read side of one thread of one user on this node.

    After `close()` every method but `close()` raises `ManagerClosed`. Ids of other users are
    answered as if nothing were there.
    """

    async def add_connection(self, connection: Socket, *, after: EventId | None = None) -> None:
        """Feed `connection` what comes strictly after `after`; None is from the start.

        Replaces what it was fed here before. Raises `ContractError` for a connection of
        another user.
        """
        ...

    async def remove_connection(self, connection_id: str) -> None:
        """Stop feeding it, and wait until its follower is gone. Idempotent; unknown ids too."""
        ...

    def get_connection(self, connection_id: str) -> Socket | None:
        """Return the connection of that id, if it is here."""
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
        """Send a control frame to the user's greeted connections here; a verdict for each."""
        ...

    async def send_to_thread(self, thread_id: str, message: Mapping[str, object]) -> Delivery:
        """Send a control frame to all who follow the thread; empty for another thread."""
        ...

    async def emit_critical_event(
        self, user_id: str, event_type: str, data: Mapping[str, object]
    ) -> EventId:
        """Put a CUSTOM event into the log of the run under way and return its id once committed.

        Raises `NoActiveRun` outside a run, and for another user.
        """
        ...

    async def close(self) -> None:
        """Let every connection go. Idempotent, also twice at once."""
        ...


@runtime_checkable
class AgentServiceProtocol(Protocol):
    """Starts, follows, aborts and recovers runs."""

    async def start(self, context: UserExecutionContext, run_input: RunAgentInput) -> RunTicket:
        """Take a run on, at once or in its turn; the same run id attaches to the one there is.

        Raises `RunConflict`, `LimitExceeded`, `InvalidInput`, `Unavailable`.
        """
        ...

    def follow(
        self, context: UserExecutionContext, *, after: EventId | None = None
    ) -> AsyncGenerator[Record, None]:
        """Yield the records of the context's run, or of its whole thread, then live."""
        ...

    async def abort(self, context: UserExecutionContext) -> None:
        """Stop the context's run; returns at once, the run's own end follows. Idempotent."""
        ...

    async def recover(self) -> int:
        """End the runs that another life left open; return how many."""
        ...
