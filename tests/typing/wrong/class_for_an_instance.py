# gate: ensure
"""A class that was named in a configuration and never called."""

from typing import Any

from isolane.engines.memory.bell import LocalBell
from isolane.contracts import Bell, ensure


def enter() -> Bell:
    configured: dict[str, Any] = {"bell": LocalBell}
    bell: Bell = configured["bell"]
    return ensure(bell, Bell)  # here
