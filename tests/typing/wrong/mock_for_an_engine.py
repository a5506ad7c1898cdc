# gate: ensure
"""A mock answers to every name, and a type checker takes it for anything."""

from unittest.mock import AsyncMock

from isolane.contracts import Authenticator, ensure


def enter() -> Authenticator:
    return ensure(AsyncMock(), Authenticator)  # here
