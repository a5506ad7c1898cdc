"""The factory of the running app, for whoever has no other way to it."""

from __future__ import annotations

from isolane.context import UserExecutionContext
from isolane.contracts import WebSocketManagerProtocol, ensure
from isolane.errors import ContractError
from isolane.sockets.factory import WebSocketManagerFactory

_open_factories: list[WebSocketManagerFactory] = []


def open_factory(factory: WebSocketManagerFactory) -> None:
    """Make `factory` the one that is found; the app's lifespan calls this."""
    _open_factories.append(factory)


def close_factory(factory: WebSocketManagerFactory) -> None:
    """Take `factory` back. Idempotent."""
    if factory in _open_factories:
        _open_factories.remove(factory)


def get_websocket_manager_factory() -> WebSocketManagerFactory:
    """Return the factory of the running app. Plain, not async: there is nothing to wait for.

    Raises:
        ContractError: No app is running, or several are. One app's factory knows nothing of
            another's users, so none of several is the right one.
    """
    if not _open_factories:
        raise ContractError(
            "no WebSocketManagerFactory is open; it opens with the app's lifespan, so run the app "
            "(or enter its lifespan) before you ask for managers"
        )
    if len(_open_factories) > 1:
        raise ContractError(
            f"{len(_open_factories)} apps are open in this process, so none is the running one; "
            "write create_websocket_manager(context, factory=…) with the factory that is meant"
        )
    return _open_factories[0]


async def create_websocket_manager(
    context: UserExecutionContext, *, factory: WebSocketManagerFactory | None = None
) -> WebSocketManagerProtocol:
    """Return the live manager of the context's thread. Await it.

    `factory` is the running app's unless another is given. Safe to cancel.

    Raises:
        ContractError: `context` is no context, the factory's product doesn't keep
            `WebSocketManagerProtocol`, or no app is running.
        InvalidContext: The context names no thread.
        LimitExceeded: The user has as many threads open as allowed, and all have sockets.
        Unavailable: The gateway is draining.
    """
    if not isinstance(context, UserExecutionContext):
        raise ContractError(
            f"create_websocket_manager wants a UserExecutionContext, got {type(context).__name__}"
        )
    chosen = get_websocket_manager_factory() if factory is None else factory
    manager = await chosen.create_manager(context)
    return ensure(manager, WebSocketManagerProtocol)
