"""Isolane gives every signed-in user their own lane to an AI agent."""

from isolane.context import UserExecutionContext
from isolane.contracts import (
    AgentServiceProtocol,
    Authenticator,
    Identity,
    WebSocketManagerProtocol,
    ensure,
)
from isolane.errors import IsolaneError
from isolane.runs import AgentService
from isolane.sockets.connection import WebSocketConnection
from isolane.sockets.factory import WebSocketManagerFactory
from isolane.sockets.manager import IsolatedWebSocketManager
from isolane.sockets.open_factory import create_websocket_manager, get_websocket_manager_factory

__all__ = [
    "AgentService",
    "AgentServiceProtocol",
    "Authenticator",
    "Identity",
    "IsolaneError",
    "IsolatedWebSocketManager",
    "UserExecutionContext",
    "WebSocketConnection",
    "WebSocketManagerFactory",
    "WebSocketManagerProtocol",
    "create_websocket_manager",
    "ensure",
    "get_websocket_manager_factory",
]
