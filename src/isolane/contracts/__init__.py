"""Every contract between the rooms, and `ensure`, which checks one where an object enters.

Unless a method says otherwise: arguments are trusted (the door checked them), an `async` method
may be cancelled at any await and then either did all of its work or none of it, and times are
milliseconds since 1970.
"""

from isolane.contracts.engines import (
    Agent,
    Authenticator,
    Bell,
    EventLog,
    Limits,
    RunQueue,
    StopSignal,
    Store,
)
from isolane.contracts.ensure import ensure
from isolane.contracts.rooms import AgentServiceProtocol, WebSocketManagerProtocol
from isolane.contracts.shapes import (
    NO_DRAFT,
    PLAIN,
    BegunRun,
    ConnectionHealth,
    Delivery,
    Disposition,
    Identity,
    KnownMessage,
    LogBounds,
    RunDraft,
    RunEnd,
    RunState,
    RunStop,
    RunTicket,
    Scope,
    StoppedBy,
    StoredRun,
    ThreadPage,
    ThreadSnapshot,
    ThreadSummary,
    Verdict,
)

__all__ = [
    "NO_DRAFT",
    "PLAIN",
    "Agent",
    "AgentServiceProtocol",
    "Authenticator",
    "BegunRun",
    "Bell",
    "ConnectionHealth",
    "Delivery",
    "Disposition",
    "EventLog",
    "Identity",
    "KnownMessage",
    "Limits",
    "LogBounds",
    "RunDraft",
    "RunEnd",
    "RunQueue",
    "RunState",
    "RunStop",
    "RunTicket",
    "Scope",
    "StopSignal",
    "StoppedBy",
    "Store",
    "StoredRun",
    "ThreadPage",
    "ThreadSnapshot",
    "ThreadSummary",
    "Verdict",
    "WebSocketManagerProtocol",
    "ensure",
]
